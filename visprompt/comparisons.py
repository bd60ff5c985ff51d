"""What is said about the rows of a task once all of them are there: differences on the same items, and what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from visprompt.statistics import paired
from visprompt.tasks.base import Row


def add_comparisons(rows: Sequence[Row], answers: Mapping[str, Sequence[Row]], labels: Sequence[str]) -> None:
    """Writes into every row its paired difference to the rows called `labels`, on the items that both answered.

    Args:
        rows: of one model and task.
        answers: by label, what was answered; a row without loses what it was compared with before.
        labels: the rows to compare with.
    """
    for row in rows:
        this = answers.get(row["strategy"])
        row["comparisons"] = {}
        for label in labels:
            other = answers.get(label)
            if this is None or other is None or label == row["strategy"]:
                continue
            correct = {item["id"]: bool(item["correct"]) for item in other}
            both = [item for item in this if item["id"] in correct]
            if not both:
                continue
            result = paired(
                [bool(item["correct"]) for item in both],
                [correct[item["id"]] for item in both],
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
    """One sentence for all rows of a task: a missing picture is missing in every one of them.

    Another for candidates that lie outside of their picture or are cropped away, and were therefore never chosen.
    """
    told = []
    failed = [row for row in rows if row.get("errors")]
    if failed:
        worst, names = max(failed, key=lambda row: row["errors"]), ", ".join(row["strategy"] for row in failed)
        count = f"{worst['errors']} of {worst['errors'] + worst['n']} items"
        where = f"{worst['model']}, {worst['task']}"
        told.append(f"{where}: {count} could not be asked ({names}); the first: {worst['error_example']}")
    partly = [row for row in rows if row.get("unpointable")]
    if partly:
        worst, names = max(partly, key=lambda row: row["unpointable"]), ", ".join(row["strategy"] for row in partly)
        told.append(
            f"{worst['model']}, {worst['task']}: in {worst['unpointable']} of {worst['n']} items a candidate lies "
            f"outside the picture or is cropped away, and cannot be chosen ({names}); fit: squash shows it whole."
        )
    return told
