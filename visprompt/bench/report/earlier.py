"""Results of 0.4.0's three programs as `visprompt.bench.<kind>.document` takes them, until one pipeline makes them."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

_PROVENANCE = ("versions", "git_commit", "code", "machine", "date")


def upgraded(result: Any) -> SimpleNamespace:
    """A result of `run_suite`, `run_gain` or `run_tuning` with rows in today's schema."""
    rows = [upgrade(row) for row in result.rows]
    made = SimpleNamespace(suite=result.suite, rows=rows, problems=result.problems, out=result.out, files={})
    if hasattr(result, "exhibits"):
        made.examples, made.files = result.exhibits, {"tuning": result.tuning, "maps": result.maps}
    elif hasattr(result, "runs"):
        made.examples, made.files = result.pictures, {"runs": result.runs}
    else:
        made.examples = {"images": result.pictures, "patches": result.patches}
    return made


def upgrade(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of 0.4.0 in today's schema; other rows as they are."""
    if "row" in row:
        return dict(row)
    rest = dict(row)
    if "part" in row:
        label = rest.pop("marker", None) or ", ".join(f"{name} {value}" for name, value in row["point"].items())
        head = {"kind": "gain", "task": rest.pop("part"), "row": label, "control": False}
    elif "method" in row:
        head = {"kind": "tuning", "task": rest.pop("set"), "row": rest.pop("method")}
    else:
        head = {"kind": "accuracy", "row": rest.pop("strategy")}
    low, high = rest.pop("ci95", None) or (None, None)
    provenance = {name: rest.pop(name) for name in _PROVENANCE if name in rest}
    return {**head, **rest, "low": low, "high": high, "provenance": provenance}
