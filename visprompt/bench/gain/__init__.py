"""Suites of markers: how much attention they gain. A unit is a marker measured on a model, or a point of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from visprompt.bench.gain import unit
from visprompt.bench.gain.document import document
from visprompt.bench.gain.examples import illustrate
from visprompt.bench.gain.markers import marked_model
from visprompt.bench.gain.spec import GainSuite, parse_gain, require_unseen
from visprompt.bench.gain.summary import rows
from visprompt.bench.kind import Kind, RunContext, slug
from visprompt.bench.rows import Row, point_label


def _with_images(suite: GainSuite, images: str | Path) -> GainSuite:
    own = {key: suite.images[key] for key in ("n", "seed")}
    changed = replace(suite, images={"source": "folder", "folder": str(images), **own})
    require_unseen(changed)
    return changed


def _table(suite: Any) -> dict[str, list[str]]:
    points = [] if suite.sweep is None else [point_label(point) for point in suite.sweep.points()]
    return {"gain": [one.label for one in suite.markers], "transfer": list(suite.transfer), "sweep": points}


def _line(row: Row) -> str | None:
    if row.get("run") == "sweep":
        return f"sweep · {point_label(row['point'])} · seed {row['seed']}: {row['gain']:.2f}"
    if row.get("identity") is None:
        return None
    mass = sum(image[-1] for image in row["masses"]) / len(row["masses"])
    return f"{row['model']} · {row['marker']}: {100 * mass:.1f} % of the attention on it ({row['seconds']:.0f} s)"


def _outdated(context: RunContext, row: Row, made: Sequence[Row]) -> bool:
    if row.get("suite") != context.suite.name:
        return False
    # All markers were asked for: of the models measured now, no old rows are kept.
    again = {(one["task"], one["model"]) for one in made}
    complete = len(context.suite.markers) == len(context.settings.whole.markers)
    return KIND.place(context, row) is None or (complete and (row["task"], row["model"]) in again)


KIND = Kind(
    name="gain",
    suite_type=GainSuite,
    parse=parse_gain,
    listed="markers",
    row="marker",
    table=_table,
    stages=("learn", "measure", "sweep"),
    prepare=unit.prepare,
    open=lambda context, spec: marked_model(context, spec).name,
    files=lambda model, _: ["patches", "runs-sweep-*.jsonl"] if model is None else [f"runs-{slug(model)}.jsonl"],
    units=unit.units,
    run=unit.run,
    line=_line,
    summarise=rows,
    document=document,
    illustrate=illustrate,
    parallel=lambda suite: len(suite.markers) + (2 if suite.sweep is not None else 0),
    outdated=_outdated,
    trimmed=lambda suite: replace(suite, transfer={}, sweep=None),
    with_images=_with_images,
    without_model=lambda suite: suite.sweep is not None,
    example_model="transformers:facebook/dinov2-small",
    shown=("value",),
    made_with=("suite_hash", "limit", "images"),
)
