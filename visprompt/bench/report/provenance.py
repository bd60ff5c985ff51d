"""What results depend on, as names and values for the end of a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from visprompt.bench.report.document import Row
from visprompt.bench.report.tables import pairs


def provenance_fields(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """Versions, commit, code and machine of rows with a `provenance`; several where rows of earlier runs are reused."""
    known = [row["provenance"] for row in rows if row.get("provenance")]
    texts = {
        "versions": [pairs(one["versions"]) for one in known],
        "git commit": [str(one["git_commit"] or "none") for one in known],
        "code hash": [str(one["code"]) for one in known],
        "machine": [str(one["machine"]) for one in known],
    }
    fields = [(name, "; ".join(dict.fromkeys(found))) for name, found in texts.items() if found]
    dates = sorted(str(one["date"]) for one in known if one.get("date"))
    return [*fields, ("written", " to ".join(dict.fromkeys((dates[0], dates[-1]))))] if dates else fields


def model_fields(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The identity of every model; what is nested is left to `results.jsonl`."""
    contents: dict[Any, Row] = {row["model"]: row["model_identity"] for row in rows}
    return [
        ("model", pairs({key: value for key, value in content.items() if not isinstance(value, dict)}))
        for content in contents.values()
    ]
