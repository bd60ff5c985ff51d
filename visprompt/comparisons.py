"""What is said about the rows of a task once all of them are there: differences on the same items, and what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from visprompt.statistics import paired
from visprompt.tasks import Outcome
from visprompt.tasks.base import Row


def add_comparisons(rows: Sequence[Row], outcomes: Mapping[str, Outcome], labels: Sequence[str]) -> None:
    """Writes into every row its paired difference to the rows called `labels`, on the items that both answered."""
    for row in rows:
        this = outcomes.get(row["strategy"])
        row["comparisons"] = {}
        for label in labels:
            other = outcomes.get(label)
            if this is None or other is None or label == row["strategy"]:
                continue
            answers = {item["id"]: bool(item["correct"]) for item in other.rows}
            both = [item for item in this.rows if item["id"] in answers]
            if not both:
                continue
            result = paired(
                [bool(item["correct"]) for item in both],
                [answers[item["id"]] for item in both],
                [item["image"] for item in both],
            )
            row["comparisons"][label] = {
                "difference": round(result.difference, 5),
                "ci95": [round(result.interval.low, 5), round(result.interval.high, 5)],
                "ci_method": result.interval.method,
                "mcnemar_p": result.p_value,
                "wins": result.wins,
                "losses": result.losses,
                "n": result.n,
            }


def failures(rows: Sequence[Row]) -> list[str]:
    """One sentence for all rows of a task: a missing picture is missing in every one of them."""
    failed = [row for row in rows if row.get("errors")]
    if not failed:
        return []
    worst, names = max(failed, key=lambda row: row["errors"]), ", ".join(row["strategy"] for row in failed)
    count = f"{worst['errors']} of {worst['errors'] + worst['n']} items"
    where = f"{worst['model']}, {worst['task']}"
    return [f"{where}: {count} could not be asked ({names}); the first: {worst['error_example']}"]
