"""What is said about the rows of a task once all of them are there: differences on the same items, and what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from visprompt.tasks.base import Row
from visprompt.utils.statistics import accuracy_interval, paired


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
            row["comparisons"][label] = _compared(both, correct)
            kinds = {
                kind: _compared([item for item in both if item.get("kind") == kind], correct) for kind in _kinds(both)
            }
            if kinds:
                row["comparisons"][label]["kinds"] = kinds


def kinds_of(items: Sequence[Row]) -> dict[str, Any]:
    """`{"kinds": {kind: figures}}` where items are of several kinds, else nothing.

    >>> kinds_of([{"kind": kind, "correct": True, "image": kind} for kind in "aab"])["kinds"]["a"]["n"]
    2
    """
    found = {}
    for kind in _kinds(items):
        own = [item for item in items if item.get("kind") == kind]
        interval = accuracy_interval([bool(item["correct"]) for item in own], [item["image"] for item in own])
        right = sum(bool(item["correct"]) for item in own)
        found[kind] = {
            "value": round(right / len(own), 5),
            "ci95": [round(interval.low, 5), round(interval.high, 5)],
            "correct": right,
            "n": len(own),
        }
    return {"kinds": found} if found else {}


def _kinds(items: Sequence[Row]) -> list[str]:
    found = list(dict.fromkeys(str(item["kind"]) for item in items if item.get("kind")))
    return found if len(found) > 1 else []


def _compared(items: Sequence[Row], correct: Mapping[str, bool]) -> Row:
    result = paired(
        [bool(item["correct"]) for item in items],
        [correct[item["id"]] for item in items],
        [item["image"] for item in items],
    )
    return {
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
