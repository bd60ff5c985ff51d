"""Units of tuning suites: one run of training, on validation to choose from a grid, or with a seed that is reported.

Every run is a line of `runs.jsonl`. What is asked for in it:

- `stage` "choose": one point of a grid, validation values only; "report": one seed with the point that was best;
- `key`: a hash over model, data, method and settings, by which a run is known again. Code is no part of it: a run takes
  minutes, so runs of other code stay in the table, and a sentence says so.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visprompt.bench.kind import Opened, RunContext, Unit
from visprompt.bench.rows import Row, dated, point_label
from visprompt.bench.tuning.spec import PARTS, MethodSpec, SetSpec, split
from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.utils.hashing import digest
from visprompt.utils.provenance import provenance

if TYPE_CHECKING:
    from visprompt.data.labelled.dataset import Labelled
    from visprompt.data.labelled.splits import Splits
    from visprompt.learned.strategy import Learned
    from visprompt.models.base import Model
    from visprompt.training.settings import FitSettings

PROMPTS = "prompts"


@dataclass(frozen=True)
class Training:
    """What one run needs to know: a method on a set with a seed, at one point of its grid."""

    method: MethodSpec
    set: SetSpec
    seed: int
    point: dict[str, Any]
    settings: dict[str, Any]

    @property
    def options(self) -> Row:
        """Options of the strategy: the method's own, and those of the point."""
        return {**self.method.options, **split(self.point)[1]}


# -- what there is to do ----------------------------------------------------------------------------------------------


def prepare(context: RunContext) -> int:
    """Counts the runs. Leaves out sets that need what is not installed, unless none is left: that is an error."""
    from visprompt.data.labelled.splits import load_splits

    suite, missing = context.settings.whole, {}
    for one in suite.sets:
        try:
            load_splits(one.data)
        except UnsupportedError as error:
            missing[one.key] = error
    if len(missing) == len(suite.sets):
        raise next(iter(missing.values()))
    context.cache["left out"] = frozenset(missing)
    for key, reason in missing.items():
        context.problem(f"set {key} was left out: {reason}")
    grids = [method for method in _searched(context, context.suite.methods) for _ in method.points()]
    seeds = [method for method in context.suite.methods for _ in suite.seeds_of(method)]
    return sum(len(_sets_of(context, method)) for method in grids + seeds)


def _sets_of(context: RunContext, method: MethodSpec) -> list[SetSpec]:
    return [one for one in context.suite.sets_of(method) if one.key not in context.cache["left out"]]


def _searched(context: RunContext, methods: Sequence[MethodSpec]) -> list[MethodSpec]:
    """The methods whose grids the choices of these methods depend on."""
    found = {one.label: one for one in map(context.settings.whole.searched, methods)}
    return [method for method in found.values() if len(list(method.points())) > 1]


def units(context: RunContext, stage: str, models: Sequence[Any] = (), every: bool = False) -> list[Unit]:
    """The units of a stage, for the one model: every point of every grid, or every seed with what was chosen.

    `every`: also those of methods that were not asked for; then nothing is said about what is left out.
    """
    suite, found = context.settings.whole, []
    methods = suite.methods if every else context.suite.methods
    if stage == "choose":
        for method in _searched(context, methods):
            for one, point in itertools.product(_sets_of(context, method), method.points()):
                found.append(_unit(context, stage, method, one, suite.choose_seed, point))
        return found
    pairs = [(one, method) for one in suite.sets for method in methods if one in _sets_of(context, method)]
    # One seed after the other: what is not finished is complete for some seeds.
    for seed in dict.fromkeys(seed for method in methods for seed in suite.seeds_of(method)):
        for one, method in pairs:
            point = _choice(context, method, one) if seed in suite.seeds_of(method) else None
            if point is not None:
                found.append(_unit(context, stage, method, one, seed, point))
            elif seed in suite.seeds_of(method) and not every:
                context.problem(f"{method.label} on {one.key} was left out: every point of its grid diverged.")
    return found


def _choice(context: RunContext, method: MethodSpec, one: SetSpec) -> Row | None:
    """The point of a grid with the best validation value, the first of equals; None if there is none."""
    suite = context.settings.whole
    method = suite.searched(method)
    points = list(method.points())
    if len(points) == 1:
        return points[0]
    keys = [_unit(context, "choose", method, one, suite.choose_seed, point).key for point in points]
    rows = [(point, context.store.known(key)) for point, key in zip(points, keys, strict=True)]
    tried = [(point, row) for point, row in rows if row is not None and "diverged" not in row]
    best = max(tried, key=lambda pair: float(pair[1]["validation"][pair[1]["metric"]]), default=None)
    return None if best is None else best[0]


def _unit(context: RunContext, stage: str, method: MethodSpec, one: SetSpec, seed: int, point: Row) -> Unit:
    settings = context.suite.settings_of(method, one, point, stage == "choose")
    what = [
        opened(context).identity["weights"],
        [one.data, sorted(one.sizes.items()), context.settings.limit],
        [method.how, method.strategy, method.options, point, settings, seed, stage],
    ]
    shown = point_label(point) if stage == "choose" else f"seed {seed}"
    title = f"{one.key} · {method.label} · {shown}"
    return Unit(stage, digest(what), title, Training(method, one, seed, point, settings), size=1, file="runs")


def opened(context: RunContext) -> Opened:
    """The model of the suite."""
    return context.opened(context.settings.models[0], alone=True)


def present(context: RunContext) -> list[Row]:
    """Runs of the suite as it is now, in its order; of all its methods, whatever was asked for."""
    every = [unit for stage in ("choose", "report") for unit in units(context, stage, every=True)]
    rows = [(unit.what, context.store.known(unit.key)) for unit in every]
    # What a run is called may have changed since; what it is has not.
    return [{**row, "method": what.method.label, "set": what.set.key} for what, row in rows if row is not None]


# -- doing it ---------------------------------------------------------------------------------------------------------


def splits_of(context: RunContext, one: SetSpec) -> Splits:
    """The data of a set, its images in memory: they are read again and again."""
    from visprompt.data.labelled.splits import load_splits

    def read() -> Splits:
        made, parts = load_splits(one.data), dict[str, Any]()
        for part in PARTS:
            data = getattr(made, part)
            if data is None:
                raise InvalidInputError(f"set {one.key}: {one.data} has no {part} part, and all three are needed.")
            sizes = [size for size in (one.sizes.get(part), context.settings.limit) if size is not None]
            parts[part] = _in_memory(data.limited(min(sizes), 0) if sizes else data)
        return dataclasses.replace(made, **parts)

    return context.cached(("set", one.key), read)


def run(context: RunContext, unit: Unit) -> Row:
    """Trains and measures; a learning rate with which the loss is no number any more is a result too."""
    from visprompt.training.loop import DivergedError

    started, used, what = time.monotonic(), time.process_time(), unit.what
    row: Row = {
        "id": unit.key,
        "run": unit.stage,
        "suite": context.suite.name,
        "stage": unit.stage,
        "key": unit.key,
        "method": what.method.label,
        "set": what.set.key,
        "seed": what.seed,
        "point": what.point,
        "settings": what.settings,
        "options": what.options,
    }
    try:
        row |= _trained(context, unit)
    except DivergedError as error:
        row["diverged"] = str(error)
    context.progress.advanced(unit.size)
    return row | {
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time() - used, 1),
        "model": opened(context).identity,
        "provenance": provenance(),
        "limit": context.settings.limit,
        "date": dated()["date"],
    }


def _trained(context: RunContext, unit: Unit) -> Row:
    from visprompt.learned.baselines import fine_tuned
    from visprompt.training.run import train
    from visprompt.training.settings import FitSettings

    what, frozen = unit.what, context.model(context.settings.models[0])
    splits, settings = splits_of(context, what.set), FitSettings(**what.settings, seed=what.seed)
    if what.method.how == "full":
        tuned = fine_tuned(frozen, splits, settings, progress=False, test=False)
        model, prompter, fitted = tuned.model, tuned.prompter, tuned.fitted
    else:
        model, prompter = frozen, _prompter(what)
        fitted = train(prompter, model, splits, settings, progress=False, test=False)
    shown = ("epoch", "train", "validation")
    row = {
        "metric": fitted.metric,
        "validation": fitted.validation,
        "best_epoch": fitted.best_epoch,
        "epochs": fitted.epochs,
        "parameters": fitted.parameters,
        "history": [{name: row[name] for name in shown if name in row} for row in fitted.history],
        "sizes": {part: len(getattr(splits, part)) for part in PARTS},
        "classes": list(splits.train.classes),
    }
    blocks = getattr(prompter, "blocks_table", None)
    if blocks is not None and what.method.how == "prompt":
        row["blocks"] = blocks()
    if unit.stage == "report":
        assert splits.test is not None
        row["test"], right = tested(prompter, model, splits.test, settings)
        if right:
            row["right"] = "".join("1" if one else "0" for one in right)
        if what.method.how == "prompt":
            prompter.save_pretrained(prompt_folder(context.store.out, {"set": what.set.key, "key": unit.key}))
    return row


def _in_memory(data: Labelled) -> Labelled:
    from visprompt.data.labelled.dataset import Labelled

    items = [(data.image(i), data.label(i)) for i in range(len(data))]
    return Labelled(items, data.classes, kind=data.kind, name=data.name, ignore_index=data.ignore_index)


def _prompter(what: Training) -> Learned:
    from visprompt.learned.baselines import untrained
    from visprompt.learned.strategy import Learned
    from visprompt.prompter import Prompter

    if what.method.how == "untrained":
        return untrained(what.method.strategy, **what.options)
    made = Prompter.from_name(what.method.strategy, **what.options)
    if not isinstance(made, Learned):
        raise InvalidInputError(f"{what.method.strategy!r} learns nothing: a suite of tuning compares what is trained.")
    return made


def tested(
    prompter: Learned, model: Model, data: Labelled, settings: FitSettings
) -> tuple[dict[str, float], list[bool]]:
    """Values on other data, and for classes whether each image was right, in the order of the data."""
    import torch

    from visprompt.training.loop import evaluate
    from visprompt.training.objectives.base import batches_of
    from visprompt.training.objectives.classification import Classification

    kind, head = prompter.objective(model, data), prompter.head
    objective = kind(model, prompter, {"train": data, "test": data}, settings)
    objective.head = prompter.head = head
    if not isinstance(objective, Classification):
        return evaluate(objective, "test"), []
    right: list[bool] = []
    loss, samples, labels = 0.0, objective.samples("test"), data.labels
    for part in batches_of(range(len(data)), settings.batch_size):
        batch = objective.collate([samples[index, 0] for index in part])
        if batch is None or len(batch["index"]) != len(part):
            raise InvalidInputError(f"{data.name}: an image cannot be read.")
        moved: Any = {name: item.to(model.device) if hasattr(item, "to") else item for name, item in batch.items()}
        half = torch.autocast(model.device.type, torch.bfloat16, settings.precision == "bf16")
        with torch.no_grad(), half, objective.encoded(moved, None) as encoding:
            logits = objective.head(encoding.embeddings)
        loss += float(torch.nn.functional.cross_entropy(logits, moved["label"], reduction="sum"))
        right += [bool(one) for one in logits.argmax(dim=-1) == moved["label"]]
    return {"loss": loss / len(labels), "accuracy": sum(right) / len(right)}, right


def prompt_folder(out: Path, row: Mapping[str, Any]) -> Path:
    """Where the prompt of a reported run is kept."""
    return out / PROMPTS / f"{row['set']}-{row['key']}"
