"""Suites of accuracies: tasks × ways of prompting × models. A unit is one row of one task on one model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from visprompt.bench.accuracy.spec import Suite, parse_accuracy
from visprompt.bench.kind import RunContext, Unit
from visprompt.bench.rows import Row
from visprompt.errors import InvalidInputError, unknown_name

if TYPE_CHECKING:
    from visprompt.bench.pipeline import SuiteResult
    from visprompt.bench.report.document import Document

#: what a report reads of a row; rows without it (of an older version) stay in the file but are not shown
_SHOWN = ("control", "value", "n", "pointing", "model_identity", "data", "boxes", "settings", "provenance")


class AccuracyKind:
    """See `visprompt.bench.kind.Kind`."""

    name = "accuracy"
    suite_type = Suite
    made_with = ("suite_hash", "limit")

    def parse(self, content: Mapping[str, Any], name: str) -> Suite:
        return parse_accuracy(content, name)

    def with_images(self, suite: Suite, images: Any) -> Suite:
        return suite

    def chosen(self, suite: Suite, labels: Sequence[str] | None) -> Suite:
        if not labels:
            return suite
        known = [row.condition.label for row in suite.rows]
        for name in labels:
            if name not in known:
                raise unknown_name(f"row of suite {suite.name}", name, known)
        rows = tuple(row for row in suite.rows if row.condition.label in labels)
        needed = {row.tuned_as or row.condition.label for row in rows}
        # A row may take its options from one that is tuned but, here, not asked for.
        return dataclasses.replace(suite, rows=rows, tune=tuple(one for one in suite.tune if one.strategy in needed))

    def models(self, suite: Suite, given: Sequence[Any] | None) -> list[Any]:
        found = list(given or suite.models)
        if not found:
            raise InvalidInputError(
                f"suite {suite.name} names no model: give one, e.g. --model open_clip:ViT-B-16/openai."
            )
        return found

    def parallel(self, suite: Suite) -> int:
        return len(suite.tasks)

    def prepare(self, context: RunContext) -> int:
        from visprompt.bench.accuracy import unit
        from visprompt.bench.accuracy.examples import ReportExamples

        context.examples = ReportExamples()
        return unit.prepare(context)

    def open(self, context: RunContext, spec: Any) -> str:
        from visprompt.bench.accuracy import unit

        model = unit.opened(context, spec)
        unit.say_refused(context, model)
        return model.name

    def files(self, model: str | None, context: RunContext) -> list[str]:
        from visprompt.bench.accuracy.answers import answers_file

        tasks = [] if model is None else context.settings.whole.tasks
        return [f"{answers_file(task.key, tuning, str(model))}.jsonl" for task in tasks for tuning in (False, True)]

    def stages(self, context: RunContext) -> Sequence[str]:
        return ("tune", "rows", "maps")

    def units(self, context: RunContext, stage: str, models: Sequence[Any]) -> list[Unit]:
        from visprompt.bench.accuracy import unit

        listed = {"tune": unit.tune_units, "rows": unit.row_units, "maps": unit.map_units}[stage]
        return [one for spec in models for one in listed(context, unit.opened(context, spec))]

    def run(self, context: RunContext, unit: Unit) -> Row | None:
        from visprompt.bench.accuracy import unit as units

        return {"tune": units.run_tune, "rows": units.run_row, "maps": units.run_maps}[unit.stage](context, unit)

    def line(self, row: Row) -> str | None:
        if row.get("value") is None or "row" not in row:
            return None
        value = f"{100 * row['value']:.1f} % of {row['n']} ({row['seconds']:.0f} s)"
        return f"{row['model']} · {row['task']} · {row['row']}: {value}"

    def rows(self, context: RunContext) -> list[Row]:
        from visprompt.bench.accuracy.summary import rows

        return rows(context)

    def place(self, context: RunContext, row: Row) -> tuple[Any, ...] | None:
        suite = context.settings.whole
        tasks, labels = [task.key for task in suite.tasks], [one.condition.label for one in suite.rows]
        if row.get("suite") != suite.name or row.get("task") not in tasks or row.get("row") not in labels:
            return None
        if any(key not in row for key in _SHOWN):
            return None
        return *context.model_place(row["model"]), tasks.index(row["task"]), labels.index(row["row"])

    def outdated(self, context: RunContext, row: Row, made: Sequence[Row]) -> bool:
        return False

    def extra(self, context: RunContext) -> dict[str, list[Row]]:
        from visprompt.bench.accuracy.summary import tuning_records

        return {"tuning": tuning_records(context), "maps": [row for _, row in context.results_of("maps")]}

    def illustrate(self, context: RunContext, models: Sequence[Any]) -> None:
        from visprompt.bench.accuracy.examples import illustrate

        for spec in models:
            illustrate(context, spec)

    def document(self, result: SuiteResult) -> Document:
        from visprompt.bench.accuracy.document import document

        return document(result)
