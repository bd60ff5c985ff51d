"""Suites of ways of tuning: methods × sets × seeds on one model. A unit is one run of training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from visprompt.bench.kind import RunContext, Unit
from visprompt.bench.rows import Row
from visprompt.bench.tuning.spec import TuningSuite, parse_tuning
from visprompt.errors import InvalidInputError, unknown_name

if TYPE_CHECKING:
    from visprompt.bench.pipeline import SuiteResult
    from visprompt.bench.report.document import Document


class TuningKind:
    """See `visprompt.bench.kind.Kind`."""

    name = "tuning"
    suite_type = TuningSuite
    made_with = ("suite_hash", "limit")

    def parse(self, content: Mapping[str, Any], name: str) -> TuningSuite:
        return parse_tuning(content, name)

    def with_images(self, suite: TuningSuite, images: Any) -> TuningSuite:
        return suite

    def chosen(self, suite: TuningSuite, labels: Sequence[str] | None) -> TuningSuite:
        known = [one.label for one in suite.methods]
        for label in labels or ():
            if label not in known:
                raise unknown_name(f"method of suite {suite.name}", label, known)
        kept = [one for one in suite.methods if not labels or one.label in labels]
        return dataclasses.replace(suite, methods=tuple(kept))

    def models(self, suite: TuningSuite, given: Sequence[Any] | None) -> list[Any]:
        if given and len(given) > 1:
            raise InvalidInputError(f"suite {suite.name} tunes one model: give --model once.")
        return list(given or suite.models)

    def parallel(self, suite: TuningSuite) -> int:
        return len(suite.sets) * len(suite.methods)

    def prepare(self, context: RunContext) -> int:
        from visprompt.bench.tuning import unit

        return unit.prepare(context)

    def open(self, context: RunContext, spec: Any) -> str:
        from visprompt.bench.tuning import unit

        return unit.opened(context, spec).name

    def files(self, model: str | None, context: RunContext) -> list[str]:
        return ["runs.jsonl", "prompts", "images"] if model is None else []

    def stages(self, context: RunContext) -> Sequence[str]:
        return ("choose", "report")

    def units(self, context: RunContext, stage: str, models: Sequence[Any]) -> list[Unit]:
        from visprompt.bench.tuning import unit

        methods = context.suite.methods
        if stage == "choose":
            return unit.choosing(context, methods)
        return unit.reporting(context, methods, context.problem)

    def run(self, context: RunContext, unit: Unit) -> Row | None:
        from visprompt.bench.tuning import unit as units

        return units.run(context, unit)

    def line(self, row: Row) -> str | None:
        values = row.get("test") or row.get("validation")
        where = "test" if row.get("test") else "validation"
        point = ", ".join(f"{name} {value}" for name, value in row["point"].items())
        told = "diverged" if not values else f"{100 * values[row['metric']]:.1f} % {row['metric']} on {where}"
        name = f"{row['set']} · {row['method']}" + (f" · {point}" if point else "")
        return f"{name} · seed {row['seed']}: {told} ({row['seconds']:.0f} s)"

    def rows(self, context: RunContext) -> list[Row]:
        from visprompt.bench.tuning.summary import summaries
        from visprompt.bench.tuning.unit import present

        if not context.names:  # the run ended before the model was there
            return []
        (model,) = context.names
        return summaries(context.settings.whole, present(context), model, context.settings.limit)

    def place(self, context: RunContext, row: Row) -> tuple[Any, ...] | None:
        suite = context.settings.whole
        sets, labels = [one.key for one in suite.sets], [one.label for one in suite.methods]
        if row.get("suite") != suite.name or row.get("task") not in sets or row.get("row") not in labels:
            return None
        return sets.index(row["task"]), labels.index(row["row"])

    def outdated(self, context: RunContext, row: Row, made: Sequence[Row]) -> bool:
        # The table has one model, and all of it follows from the runs.
        return bool(row.get("suite") == context.suite.name)

    def extra(self, context: RunContext) -> dict[str, list[Row]]:
        from visprompt.bench.tuning.unit import present

        return {"runs": present(context)}

    def illustrate(self, context: RunContext, models: Sequence[Any]) -> None:
        from visprompt.bench.tuning.examples import tuned_images
        from visprompt.bench.tuning.unit import present

        if context.settings.whole.examples:
            context.examples = tuned_images(context, present(context))

    def document(self, result: SuiteResult) -> Document:
        from visprompt.bench.tuning.document import document

        return document(result)
