"""Units of accuracy suites: a point of a grid on validation, a row of a task, and maps held against boxes.

Answers are kept one by one in `items-<task>-<model>.jsonl` by `visprompt.tasks.evaluate`, so a unit that was cut off
goes on with the answers that it has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from visprompt.bench.accuracy.answers import answers_file, images, load
from visprompt.bench.accuracy.spec import RowSpec, Suite, TaskSpec, with_options
from visprompt.bench.accuracy.summary import choices, kinds_of
from visprompt.bench.kind import Opened, RunContext, Unit
from visprompt.bench.rows import Row, dated, ends, point_label, result_row
from visprompt.errors import UnsupportedError, VispromptError
from visprompt.tasks import Condition, Outcome, Referring, Task, evaluate
from visprompt.tasks.base import kept_answers, run_hash
from visprompt.tasks.data_sources import Data
from visprompt.utils.hashing import digest
from visprompt.utils.provenance import source_digest


@dataclass(frozen=True)
class Ask:
    """What one evaluation needs to know; it can be sent to another process.

    Attributes:
        model: specification of the model.
        name: its name in the table.
        task: key of the task.
        condition: how to point, with the options of the row or the grid's point.
        data: keys that the tuning data have otherwise than the task's; None: the task's own data.
        point: the grid's point.
        tuned: what was chosen for the row on validation.
    """

    model: Any
    name: str
    task: str
    condition: Condition
    data: Mapping[str, Any] | None = None
    point: Row | None = None
    tuned: Row | None = None


def prepare(context: RunContext) -> int:
    """Reads all data and counts the images of all units."""
    return sum(_total(context, task) for task in context.suite.tasks) * len(context.settings.models)


def _total(context: RunContext, task: TaskSpec) -> int:
    """Images of all units of a task on one model."""
    total = len(images(context, task.data)) * len(rows_of(context.suite, task))
    for tune in context.suite.tune:
        if task.key in tune.tasks:
            total += len(images(context, {**task.data, **tune.data})) * len(list(tune.points()))
    return total


def rows_of(suite: Suite, task: TaskSpec) -> list[RowSpec]:
    """The rows that a task has."""
    return [row for row in suite.rows if not row.tasks or task.key in row.tasks]


def refused(context: RunContext, model: Opened) -> dict[str, str]:
    """Why a model cannot do a task at all, by the task's key."""

    def ask() -> dict[str, str]:
        reasons = {task.key: task.task.refusal(context.model(model.spec)) for task in context.suite.tasks}
        return {key: reason for key, reason in reasons.items() if reason is not None}

    return context.cached(("refused", model.name), ask)


def open_model(context: RunContext, spec: Any) -> str:
    """Says once, not for every row, which tasks the model cannot do at all; gives its name."""
    model = context.opened(spec)
    reasons = refused(context, model)
    for reason in dict.fromkeys(reasons.values()):
        keys = ", ".join(key for key, why in reasons.items() if why == reason)
        context.problem(f"{keys}: left out, because {reason}")
    context.progress.advanced(sum(_total(context, context.suite.task(key)) for key in reasons))
    return model.name


# -- what there is to do ----------------------------------------------------------------------------------------------


def units(context: RunContext, stage: str, models: Sequence[Any]) -> list[Unit]:
    """The units of a stage."""
    listed = {"tune": tune_units, "rows": row_units, "maps": map_units}[stage]
    return [one for spec in models for one in listed(context, context.opened(spec))]


def tune_units(context: RunContext, model: Opened) -> Iterator[Unit]:
    """Every point of every grid on every task that it is tuned on."""
    for tune in context.suite.tune:
        for options in tune.points():
            condition = with_options(tune.condition, options)
            for key in tune.tasks:
                if key not in refused(context, model):
                    title = f"{model.name} · tuning · {tune.strategy} · {point_label(options)}"
                    ask = Ask(model.spec, model.name, key, condition, tune.data, options)
                    yield _unit(context, model, "tune", title, ask)


def row_units(context: RunContext, model: Opened) -> Iterator[Unit]:
    """Every row of every task, with the options that were chosen on validation."""
    chosen = choices(context, model.name)
    for task in context.suite.tasks:
        for row in rows_of(context.suite, task) if task.key not in refused(context, model) else ():
            tuned, condition = chosen.get(row.tuned_as or row.condition.label), row.condition
            if tuned is not None:
                condition = with_options(condition, tuned["options"])
                tuned = {key: tuned[key] for key in ("options", "validation", "data", "metric")}
            ask = Ask(model.spec, model.name, task.key, condition, tuned=tuned)
            yield _unit(context, model, "rows", f"{model.name} · {task.key} · {condition.label}", ask)


def map_units(context: RunContext, model: Opened) -> Iterator[Unit]:
    """Where the model's maps lie, on every task that the suite asks it of."""
    from visprompt.tasks.fingerprint import library_versions, model_files

    wanted = context.suite.maps
    for key in wanted.tasks if wanted is not None else ():
        if key in refused(context, model):
            continue
        data = load(context, context.suite.task(key).data)
        count = context.settings.limited(wanted.n)
        auxiliaries = {name: model_files(name) for name in wanted.auxiliaries}
        run = digest([model.identity, data.identity, count, auxiliaries, source_digest(), library_versions()])
        title = f"{model.name} · {key} · do maps lie where the question points?"
        what = {"model": model.spec, "name": model.name, "task": key, "count": count, "run": run}
        yield Unit("maps", f"{run}/{model.name}/{key}", title, what, file="maps")


def _unit(context: RunContext, model: Opened, stage: str, title: str, ask: Ask) -> Unit:
    task, data = _asked(context, ask)
    asked, file = data.images[: context.settings.limit], answers_file(ask.task, ask.data is not None, ask.name)
    prepared = context.cached(("task", ask.task, digest(data.identity)), lambda: task.prepare(data.images))
    run = run_hash(prepared, model.identity, ask.condition, data.identity)
    kept = len(kept_answers(prepared, asked, context.store.log(file), run))
    wanted = sum(len(prepared.questions(image)) for image in asked)
    key = digest([stage, run, ask.name, ask.task, ask.condition.label, context.settings.limit])
    return Unit(stage, key, title, ask, len(asked), file, ready=0 < wanted == kept, kept=kept)


def _asked(context: RunContext, ask: Ask) -> tuple[Task, Data]:
    task = context.suite.task(ask.task)
    data = load(context, task.data if ask.data is None else {**task.data, **ask.data})
    if isinstance(task.task, Referring):
        return dataclasses.replace(task.task, boxes=data.boxes), data  # type: ignore[arg-type]
    return task.task, data


# -- doing it ---------------------------------------------------------------------------------------------------------


def run(context: RunContext, unit: Unit) -> Row | None:
    """Makes a unit of any stage."""
    return {"tune": run_tune, "rows": run_row, "maps": run_maps}[unit.stage](context, unit)


def run_tune(context: RunContext, unit: Unit) -> Row:
    """One point of a grid on one task: `value` on validation, None if the model cannot run it."""
    ask: Ask = unit.what
    try:
        outcome = _evaluate(context, unit)
    except UnsupportedError as error:
        context.problem(f"{ask.condition.label} was not tuned on {ask.name}: {error}")
        context.progress.advanced(unit.size)
        return {"value": None}
    if not outcome.rows:
        first = outcome.errors[0]["error"] if outcome.errors else "there are no items"
        shown = point_label(ask.point or {})
        context.problem(f"{ask.condition.label} with {shown} counts as 0 % on {ask.name}, {ask.task}: {first}")
    return {"value": round(outcome.accuracy, 5) if outcome.rows else 0.0}


def run_row(context: RunContext, unit: Unit) -> Row:
    """One row of `results.jsonl`, without its comparisons; its value is None if the model cannot run it."""
    ask: Ask = unit.what
    task, data = _asked(context, ask)
    spec, interval, tuned = context.suite.task(ask.task), None, {} if ask.tuned is None else {"tuned": ask.tuned}
    try:
        outcome = _evaluate(context, unit)
    except UnsupportedError as error:
        context.problem(f"{ask.condition.label} cannot run on {ask.name}: {error}")
        context.progress.advanced(unit.size)
        found: Row = {"value": None, "n": 0, "unsupported": str(error)}
    else:
        shown = len({item["image"] for item in outcome.rows})
        if outcome.interval:
            interval = ends(outcome.interval.low, outcome.interval.high, shown, 5)
        found = {
            "value": round(outcome.accuracy, 5) if outcome.rows else None,
            "ci_method": outcome.interval.method if outcome.interval and shown > 1 else None,
            "n": len(outcome.rows),
            "correct": sum(bool(item["correct"]) for item in outcome.rows),
            "images": shown,
            "chance": round(outcome.chance, 5),
            "errors": len(outcome.errors),
            "error_example": outcome.errors[0]["error"] if outcome.errors else None,
            "unpointable": outcome.unpointable,
            **kinds_of(outcome.rows),
            "run": outcome.run,
            "reused": outcome.reused if unit.kept is None else unit.kept,
            "seconds": round(outcome.seconds, 2),
        }
    return result_row(
        "accuracy",
        context.suite,
        interval,
        id=f"{ask.name}/{ask.task}/{ask.condition.label}",
        task=ask.task,
        task_title=spec.title,
        model=ask.name,
        row=ask.condition.label,
        control=ask.condition.is_control,
        metric=task.metric,
        **found,
        settings=task.settings(),
        pointing=ask.condition.describe(),
        model_identity=context.opened(ask.model).identity,
        data=data.identity,
        boxes=data.boxes,
        limit=context.settings.limit,
        published=spec.published,
        **tuned,
        provenance=dated(),
    )


def _evaluate(context: RunContext, unit: Unit) -> Outcome:
    ask: Ask = unit.what
    task, data = _asked(context, ask)
    return evaluate(
        task,
        context.model(ask.model),
        ask.condition,
        data.images,
        data=data.identity,
        identity=context.opened(ask.model).identity,
        log=context.store.log(answers_file(ask.task, ask.data is not None, ask.name)),
        limit=context.settings.limit,
        progress=context.progress.advanced,
        make_runner=context.make_runner,
    )


def run_maps(context: RunContext, unit: Unit) -> Row | None:
    """Where the model's maps, and those of auxiliary models, lie: a line of `maps.jsonl`."""
    from visprompt.tasks.map_quality import map_quality

    what, wanted = unit.what, context.suite.maps
    data = load(context, context.suite.task(what["task"]).data)
    try:
        rows = map_quality(context.model(what["model"]), data.images[: what["count"]], wanted.auxiliaries)
    except VispromptError as error:
        context.problem(f"{what['name']}, {what['task']}: no figures on maps: {error}")
        return None
    key = f"{what['name']}/{what['task']}"
    head = {"run": what["run"], "id": key, "suite": context.suite.name}
    return {**head, "model": what["name"], "task": what["task"], "maps": rows}
