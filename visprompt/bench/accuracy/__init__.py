"""Suites of accuracies: tasks × ways of prompting × models. A unit is one row of one task on one model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from visprompt.bench.accuracy import unit
from visprompt.bench.accuracy.answers import answers_file
from visprompt.bench.accuracy.document import document
from visprompt.bench.accuracy.examples import ReportExamples, illustrate
from visprompt.bench.accuracy.spec import Suite, parse_accuracy
from visprompt.bench.accuracy.summary import rows, tuning_records
from visprompt.bench.kind import Kind, RunContext
from visprompt.bench.rows import Row


def _trimmed(suite: Suite) -> Suite:
    """A row may take its options from one that is tuned but, here, not asked for."""
    needed = {row.tuned_as or row.label for row in suite.rows}
    return replace(suite, tune=tuple(one for one in suite.tune if one.strategy in needed))


def _prepare(context: RunContext) -> int:
    context.examples = ReportExamples()
    return unit.prepare(context)


def _files(model: str | None, context: RunContext) -> list[str]:
    tasks = [] if model is None else context.settings.whole.tasks
    return [f"{answers_file(task.key, tuning, str(model))}.jsonl" for task in tasks for tuning in (False, True)]


def _line(row: Row) -> str | None:
    if row.get("value") is None or "row" not in row:
        return None
    value = f"{100 * row['value']:.1f} % of {row['n']} ({row['seconds']:.0f} s)"
    return f"{row['model']} · {row['task']} · {row['row']}: {value}"


def _extra(context: RunContext) -> dict[str, list[Row]]:
    return {"tuning": tuning_records(context), "maps": [row for _, row in context.results_of("maps")]}


def _table(suite: Any) -> dict[str, list[str]]:
    return {task.key: [row.label for row in suite.rows] for task in suite.tasks}


KIND = Kind(
    name="accuracy",
    suite_type=Suite,
    parse=parse_accuracy,
    listed="rows",
    row="row",
    table=_table,
    stages=("tune", "rows", "maps"),
    prepare=_prepare,
    open=unit.open_model,
    files=_files,
    units=unit.units,
    run=unit.run,
    line=_line,
    summarise=rows,
    document=document,
    illustrate=illustrate,
    parallel=lambda suite: len(suite.tasks),
    extra=_extra,
    trimmed=_trimmed,
    example_model="open_clip:ViT-B-16/openai",
    shown=("control", "value", "n", "pointing", "model_identity", "data", "boxes", "settings", "provenance"),
    task_first=False,
)
