"""Suites of markers: how much attention they gain. A unit is a marker measured on a model, or a point of a sweep."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from visprompt.bench.gain.spec import GainSuite, parse_gain, require_unseen
from visprompt.bench.kind import RunContext, Unit, slug
from visprompt.bench.rows import Row, point_label
from visprompt.errors import InvalidInputError, unknown_name

if TYPE_CHECKING:
    from visprompt.bench.pipeline import SuiteResult
    from visprompt.bench.report.document import Document

_TASKS = ("gain", "transfer", "sweep")


class GainKind:
    """See `visprompt.bench.kind.Kind`."""

    name = "gain"
    suite_type = GainSuite
    made_with = ("suite_hash", "limit", "images")

    def parse(self, content: Mapping[str, Any], name: str) -> GainSuite:
        return parse_gain(content, name)

    def with_images(self, suite: GainSuite, images: Any) -> GainSuite:
        if images is None:
            return suite
        own = {key: suite.images[key] for key in ("n", "seed")}
        changed = dataclasses.replace(suite, images={"source": "folder", "folder": str(images), **own})
        require_unseen(changed)
        return changed

    def chosen(self, suite: GainSuite, labels: Sequence[str] | None) -> GainSuite:
        if not labels:
            return suite
        known = [one.label for one in suite.markers]
        for label in labels:
            if label not in known:
                raise unknown_name(f"marker of suite {suite.name}", label, known)
        markers = tuple(one for one in suite.markers if one.label in labels)
        return dataclasses.replace(suite, markers=markers, transfer={}, sweep=None)

    def models(self, suite: GainSuite, given: Sequence[Any] | None) -> list[Any]:
        found = list(given or suite.models)
        if not found and suite.sweep is None:
            raise InvalidInputError(
                f"suite {suite.name} names no model: give one, e.g. --model transformers:facebook/dinov2-small."
            )
        return found

    def parallel(self, suite: GainSuite) -> int:
        return len(suite.markers) + (2 if suite.sweep is not None else 0)

    def prepare(self, context: RunContext) -> int:
        from visprompt.bench.gain import unit

        return unit.prepare(context)

    def open(self, context: RunContext, spec: Any) -> str:
        from visprompt.bench.gain.markers import marked_model

        return marked_model(context, spec).name

    def files(self, model: str | None, context: RunContext) -> list[str]:
        return ["patches", "runs-sweep-*.jsonl"] if model is None else [f"runs-{slug(model)}.jsonl"]

    def stages(self, context: RunContext) -> Sequence[str]:
        return ("learn", "measure", "sweep")

    def units(self, context: RunContext, stage: str, models: Sequence[Any]) -> list[Unit]:
        from visprompt.bench.gain import unit

        if stage == "sweep":
            return unit.sweep_units(context)
        listed = {"learn": unit.learn_units, "measure": unit.measure_units}[stage]
        return [one for spec in models for one in listed(context, spec)]

    def run(self, context: RunContext, unit: Unit) -> Row | None:
        from visprompt.bench.gain import unit as units

        return {"learn": units.learn, "measure": units.measure, "sweep": units.sweep}[unit.stage](context, unit)

    def line(self, row: Row) -> str | None:
        if row.get("run") == "sweep":
            return f"sweep · {point_label(row['point'])} · seed {row['seed']}: {row['gain']:.2f}"
        if row.get("identity") is None:
            return None
        mass = sum(image[-1] for image in row["masses"]) / len(row["masses"])
        return f"{row['model']} · {row['marker']}: {100 * mass:.1f} % of the attention on it ({row['seconds']:.0f} s)"

    def rows(self, context: RunContext) -> list[Row]:
        from visprompt.bench.gain.summary import rows

        return rows(context)

    def place(self, context: RunContext, row: Row) -> tuple[Any, ...] | None:
        suite = context.settings.whole
        labels = {"gain": [one.label for one in suite.markers], "transfer": list(suite.transfer), "sweep": []}
        if suite.sweep is not None:
            labels["sweep"] = [point_label(point) for point in suite.sweep.points()]
        task = row.get("task")
        if row.get("suite") != suite.name or "value" not in row or row.get("row") not in labels.get(str(task), ()):
            return None
        return _TASKS.index(str(task)), *context.model_place(row["model"]), labels[str(task)].index(row["row"])

    def outdated(self, context: RunContext, row: Row, made: Sequence[Row]) -> bool:
        if row.get("suite") != context.suite.name:
            return False
        # All markers were asked for: of the models measured now, no old rows are kept.
        again = {(one["task"], one["model"]) for one in made}
        complete = len(context.suite.markers) == len(context.settings.whole.markers)
        return self.place(context, row) is None or (complete and (row["task"], row["model"]) in again)

    def extra(self, context: RunContext) -> dict[str, list[Row]]:
        return {}

    def illustrate(self, context: RunContext, models: Sequence[Any]) -> None:
        from visprompt.bench.gain.examples import illustrate

        for spec in models:
            illustrate(context, spec)

    def document(self, result: SuiteResult) -> Document:
        from visprompt.bench.gain.document import document

        return document(result)
