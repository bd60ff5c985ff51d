"""What results depend on, as names and values for the end of a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from visprompt.bench.report.document import Row
from visprompt.bench.report.tables import pairs


def provenance_fields(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Versions, commit, code and machine that rows were made with; several where rows of earlier runs are reused.

    Args:
        rows: with a `provenance`, as in `results.jsonl`.
    """
    known = [row["provenance"] for row in rows if row.get("provenance")]
    if not known:
        return []
    fields = [
        ("versions", _each(pairs(one["versions"]) for one in known)),
        ("git commit", _each(str(one["git_commit"] or "none") for one in known)),
        ("code hash", _each(str(one["code"]) for one in known)),
        ("machine", _each(str(one["machine"]) for one in known)),
    ]
    dates = sorted(str(one["date"]) for one in known if one.get("date"))
    if dates:
        fields.append(("written", dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"))
    return fields


def identity(content: Any) -> str:
    """The identity of a model as text; what is nested is left to `results.jsonl`."""
    return pairs({key: value for key, value in content.items() if not isinstance(value, dict)})


def _each(texts: Iterable[str]) -> str:
    """Every text once; versions that several runs share are not said twice."""
    return "; ".join(dict.fromkeys(texts))
