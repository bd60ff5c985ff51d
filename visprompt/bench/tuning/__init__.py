"""Suites of ways of tuning: methods × sets × seeds on one model. A unit is one run of training."""

from __future__ import annotations

from visprompt.bench.kind import Kind
from visprompt.bench.rows import Row, point_label
from visprompt.bench.tuning import unit
from visprompt.bench.tuning.document import document
from visprompt.bench.tuning.examples import illustrate
from visprompt.bench.tuning.spec import TuningSuite, parse_tuning
from visprompt.bench.tuning.summary import rows


def _line(row: Row) -> str:
    where = "test" if row.get("test") else "validation"
    values = row.get(where)
    told = "diverged" if not values else f"{100 * values[row['metric']]:.1f} % {row['metric']} on {where}"
    name = " · ".join(filter(None, (row["set"], row["method"], point_label(row["point"]))))
    return f"{name} · seed {row['seed']}: {told} ({row['seconds']:.0f} s)"


KIND = Kind(
    name="tuning",
    suite_type=TuningSuite,
    parse=parse_tuning,
    listed="methods",
    row="method",
    table=lambda suite: {one.key: [method.label for method in suite.methods] for one in suite.sets},
    stages=("choose", "report"),
    prepare=unit.prepare,
    open=lambda context, _: unit.opened(context).name,
    files=lambda model, _: ["runs.jsonl", "prompts", "images"] if model is None else [],
    units=unit.units,
    run=unit.run,
    line=_line,
    summarise=rows,
    document=document,
    illustrate=illustrate,
    parallel=lambda suite: len(suite.sets) * len(suite.methods),
    extra=lambda context: {"runs": unit.present(context)},
    # The table has one model, and all of it follows from the runs.
    outdated=lambda context, row, made: bool(row.get("suite") == context.suite.name),
    most_models=1,
)
