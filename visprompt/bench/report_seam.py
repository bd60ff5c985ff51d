"""Today's reports on the new rows, until `visprompt.bench.report` renders documents."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visprompt.bench.rows import Row


@dataclass(frozen=True, eq=False)
class Legacy:
    """What stands in for a document: the kind and the result."""

    kind: str
    result: Any


def old_row(row: Mapping[str, Any]) -> Row:
    """A row with the keys of 0.4.0 beside the new ones."""
    names = {"accuracy": ("task", "strategy"), "tuning": ("set", "method"), "gain": ("part", "marker")}[row["kind"]]
    ends = None if row["low"] is None and row["high"] is None else [row["low"], row["high"]]
    made = {**row, "ci95": ends, **(row["provenance"] or {}), names[0]: row["task"], names[1]: row["row"]}
    return made


def write_report(document: Legacy) -> list[Path]:
    """Writes the reports."""
    result = document.result
    rows = [old_row(row) for row in result.rows]
    changed = _Old(**{**vars_of(result), "rows": rows})
    if document.kind == "accuracy":
        from visprompt.bench.accuracy.report import write_report as write
    elif document.kind == "tuning":
        from visprompt.bench.tuning.report import write_report as write  # type: ignore[assignment]
    else:
        from visprompt.bench.gain.report import write_report as write  # type: ignore[assignment]
    return list(write(changed))  # type: ignore[arg-type]


def terminal(document: Legacy) -> Any:
    """What the terminal shows."""
    result = document.result
    rows = [old_row(row) for row in result.rows]
    if document.kind == "accuracy":
        from visprompt.bench.accuracy.report import terminal as show
    elif document.kind == "tuning":
        from visprompt.bench.tuning.report import terminal as show
    else:
        from visprompt.bench.gain.report import terminal as show
    return show(rows, result.suite.title)


def vars_of(result: Any) -> dict[str, Any]:
    return {item.name: getattr(result, item.name) for item in dataclasses.fields(result)}


@dataclass(frozen=True, eq=False)
class _Old:
    suite: Any
    rows: list[Row]
    problems: list[str]
    out: Path
    examples: Any
    files: dict[str, list[Row]]
    seconds: float

    @property
    def exhibits(self) -> Any:
        return self.examples

    @property
    def tuning(self) -> list[Row]:
        return self.files.get("tuning", [])

    @property
    def maps(self) -> list[Row]:
        return self.files.get("maps", [])

    @property
    def runs(self) -> list[Row]:
        return self.files.get("runs", [])

    @property
    def pictures(self) -> Any:
        return {name: one for name, one in (self.examples or {}).items() if not name.startswith("patch of ")}

    @property
    def patches(self) -> Any:
        return {
            name.removeprefix("patch of "): one
            for name, one in (self.examples or {}).items()
            if name.startswith("patch of ")
        }
