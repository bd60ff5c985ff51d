"""The rows of `results.jsonl`: one schema for every kind of suite, and rows of 0.4.0 brought into it.

Every row has `kind`, `suite`, `suite_hash`, `task`, `row` (its label in the table), `model`, `metric`, `value`, the
ends `low` and `high` of the 95 % interval (None where there is none), `n`, `control`, and `provenance` (`versions`,
`git_commit`, `code`, `machine`, `date`). What else is in it, each kind of suite says itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from visprompt.errors import InvalidInputError
from visprompt.utils.jsonl import read_jsonl
from visprompt.utils.provenance import provenance

Row = dict[str, Any]
PROVENANCE = ("versions", "git_commit", "code", "machine", "date")


class RowKey(NamedTuple):
    """What a row is known by: a row that is made again replaces the one with the same key."""

    suite: str
    model: str
    task: str
    row: str


def key_of(row: Mapping[str, Any]) -> RowKey:
    """The key of a row."""
    return RowKey(*(str(row.get(name, "")) for name in RowKey._fields))


def ends(low: float, high: float, independent: int, digits: int | None = None) -> list[float] | None:
    """The ends of an interval, or None: from one image alone nothing follows about others.

    Args:
        low, high: the ends.
        independent: images that the interval is over.
        digits: to round to.

    >>> ends(0.123456, 0.5, 10, 3), ends(0.2, 0.9, 1)
    ([0.123, 0.5], None)
    """
    if independent < 2:
        return None
    return [low, high] if digits is None else [round(low, digits), round(high, digits)]


def result_row(kind: str, suite: Any, interval: Sequence[float | None] | None, **values: Any) -> Row:
    """A row with what all rows have, in one order.

    Args:
        kind: of the suite.
        suite: the suite, with `name` and `hash`.
        interval: the ends of the interval, or None.
        values: `task`, `row`, `model`, `metric`, `value`, `n`, `control`, and what this kind of row has besides.
    """
    low, high = interval or (None, None)
    first = {name: values.pop(name) for name in ("task", "row", "model", "metric", "value")}
    return {"kind": kind, "suite": suite.name, "suite_hash": suite.hash, **first, "low": low, "high": high, **values}


def dated() -> Row:
    """The provenance of what is made now: versions, commit, code, machine and the date."""
    return {**provenance(), "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def point_label(point: Mapping[str, Any]) -> str:
    """A point of a grid in words.

    >>> point_label({"size": 2, "shape": "circle"})
    'size 2, shape circle'
    """
    return ", ".join(f"{name} {value}" for name, value in point.items())


def upgrade(row: Row) -> Row:
    """A row of 0.4.0 in today's schema; other rows as they are. Rows of 0.4.0 are read until 0.6.0.

    >>> new = upgrade({"suite": "s", "task": "t", "strategy": "falip", "value": 0.5, "ci95": [0.4, 0.6], "code": "1"})
    >>> new["kind"], new["row"], new["low"], new["high"], new["provenance"]
    ('accuracy', 'falip', 0.4, 0.6, {'code': '1'})
    """
    if "kind" in row:
        return row
    rest = dict(row)
    if "part" in row:
        label = rest.pop("marker", None) or point_label(row.get("point") or {})
        head = {"kind": "gain", "task": rest.pop("part"), "row": label, "metric": "attention_gain", "control": False}
    elif "method" in row:
        head = {"kind": "tuning", "task": rest.pop("set", None), "row": rest.pop("method"), "model": "", "metric": None}
    elif "strategy" in row and "task" in row:
        head = {"kind": "accuracy", "row": rest.pop("strategy")}
    else:  # of another schema: it stays in the file, and is not shown
        return row
    if "pictures" in rest:
        rest["images"] = rest.pop("pictures")
    low, high = rest.pop("ci95", None) or (None, None)
    found = {name: rest.pop(name) for name in PROVENANCE if name in rest}
    return {**head, **rest, "low": low, "high": high, "provenance": found}


def read_rows(path: Path) -> list[Row]:
    """The rows of a `results.jsonl`, those of 0.4.0 in today's schema; none if there is no such file."""
    return [upgrade(row) for row in read_jsonl(path)] if path.exists() else []


def read_rows_or_none(path: Path, fresh: bool) -> list[Row]:
    """As `read_rows`; of a file that is about to be replaced (`fresh`) anything is taken."""
    try:
        return read_rows(path)
    except InvalidInputError:
        if not fresh:
            raise
        return []
