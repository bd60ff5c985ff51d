"""Units of gain suites: attention on marked regions with a marker or without, patches learned, points of a sweep.

What was measured stands in `runs-<model>.jsonl`, a line each, and is not measured again as long as model, marker,
images, regions and code are the same.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from visprompt.bench.gain.markers import MarkedModel, Marker, images_of, marked_model
from visprompt.bench.gain.sweep import Sweep
from visprompt.bench.kind import RunContext, Unit, slug
from visprompt.bench.rows import Row, dated
from visprompt.errors import InvalidInputError, VispromptError
from visprompt.utils.hashing import digest
from visprompt.utils.provenance import provenance

#: digits of a mass that are kept; a resumed run gives the same values as an uninterrupted one
_DIGITS = 7


@dataclass(frozen=True)
class Measurement:
    """What one measurement needs to know; it can be sent to another process.

    Attributes:
        model: specification of the model.
        name: its name in the table.
        task: "gain" or "transfer", where the marker is listed.
        label: of the marker; None: no marker.
        size: side of the marked square, tokens.
        needed: nothing can be said without it, so an error ends the run.
    """

    model: Any
    name: str
    task: str
    label: str | None
    size: float
    needed: bool = False


@dataclass(frozen=True, eq=False)
class Asked:
    """One row of the table, and the keys of the measurements that it follows from.

    Attributes:
        task: "gain" or "transfer".
        model: name of the model.
        marker: the marker on it.
        blocks: whose attention is measured.
        own, plain, compared: keys: with the marker, without any, and with the marker it is compared with.
    """

    task: str
    model: str
    marker: Marker
    blocks: tuple[int, ...]
    own: str
    plain: str
    compared: str | None


def prepare(context: RunContext) -> int:
    """Reads the images, and counts those that are looked at with a marker, and the points of the sweep."""
    suite, models = context.suite, len(context.settings.models)
    n = len(images_of(context)) if models else 0
    points = len(list(suite.sweep.points())) * len(suite.sweep.seeds) if suite.sweep is not None else 0
    context.examples = {"images": {}, "patches": {}}
    context.cache["asked"] = []
    return n * (len(suite.markers) + len(suite.transfer)) * models + points


def units(context: RunContext, stage: str, models: Sequence[Any]) -> list[Unit]:
    """The units of a stage; of the sweep once in a run, whatever its models are."""
    if stage == "sweep":
        swept = context.suite.sweep is None or "sweep" in context.cache
        return [] if swept else _sweep(context).units()
    listed = {"learn": learn_units, "measure": measure_units}[stage]
    return [one for spec in models for one in listed(context, spec)]


def run(context: RunContext, unit: Unit) -> Row | None:
    """Makes a unit of any stage."""
    if unit.stage == "sweep":
        return _sweep(context).run(unit)
    return {"learn": learn, "measure": measure}[unit.stage](context, unit)


def _sweep(context: RunContext) -> Sweep:
    return context.cached("sweep", lambda: Sweep(context))


# -- patches that are learned here ------------------------------------------------------------------------------------


def learn_units(context: RunContext, spec: Any) -> list[Unit]:
    """A unit for every marker that is learned on the model: the others are measured beside what it gives."""
    wanted = [one for one in context.settings.whole.markers if one.learn is not None]
    if not wanted:
        return []
    model = marked_model(context, spec)
    return [
        Unit("learn", digest(["learn", model.identity["weights"], label]), f"{model.name} · {label}", (spec, label))
        for label in (one.label for one in wanted if model.has_to_learn(one))
    ]


def learn(context: RunContext, unit: Unit) -> None:
    """Learns a patch and saves it; why that fails is said where it is measured."""
    spec, label = unit.what
    with contextlib.suppress(VispromptError):
        marked_model(context, spec).marker(context.settings.whole.marker(label))


# -- what is measured -------------------------------------------------------------------------------------------------


def measure_units(context: RunContext, spec: Any) -> list[Unit]:
    """Everything that the rows of a model follow from, each once; markers that cannot be used are a problem."""
    model, found, seen = marked_model(context, spec), dict[str, Unit](), set()
    listed = [("gain", one.label) for one in context.suite.markers]
    for task, label in [*listed, *(("transfer", label) for label in context.suite.transfer)]:
        try:
            marker = _marker(context, model, task, label)
            identity = digest([marker.identity, marker.size_tokens])
            # A patch "of another model" on that model is the model's own, which is there already.
            if task == "gain" and identity in seen:
                context.progress.advanced(len(model.images))
                continue
            seen.add(identity)
            _plan(context, model, task, marker, found)
        except VispromptError as error:
            context.problem(f"{model.name}, {label}: left out, because {error}")
            context.progress.advanced(len(model.images))
    return list(found.values())


def _plan(context: RunContext, model: MarkedModel, task: str, marker: Marker, found: dict[str, Unit]) -> None:
    """Adds the measurements of one row: without a marker, with it, and with the one it is compared with."""
    whole, size = context.settings.whole, marker.size_tokens
    alone = whole.compare_with is None or (task == "gain" and marker.label == whole.compare_with)
    beside = None if alone else model.marker(whole.marker(whole.compare_with))
    plain = _add(model, "gain", None, size, found)
    own = _add(model, task, marker, size, found, count=True)
    compared = None if beside is None else _add(model, "gain", beside, size, found)
    kept = replace(marker, prompters=[], patch=None)
    blocks = tuple(model.meter(size).read_blocks())
    context.cache["asked"].append(Asked(task, model.name, kept, blocks, own, plain, compared))


def _add(
    model: MarkedModel, task: str, marker: Marker | None, size: float, found: dict[str, Unit], count: bool = False
) -> str:
    told, known = provenance(), {name: value for name, value in model.identity.items() if name != "name"}
    key = digest([known, _depends(model, marker, size), told["code"], told["versions"]])
    images = len(model.images) if count else 0
    if key in found and (not count or found[key].size):
        model.context.progress.advanced(images)  # measured for another row
        return key
    label = None if marker is None else marker.label
    what = Measurement(model.spec, model.name, task, label, size, label is None and size == model.own_size)
    title = f"{model.name} · {label or 'no marker'}"
    found[key] = Unit("measure", key, title, what, images, file=f"runs-{slug(model.name)}")
    return key


def _depends(model: MarkedModel, marker: Marker | None, size: float) -> Row:
    return {
        "identity": None if marker is None else marker.identity,
        "size_tokens": size,
        "images": model.images.identity,
        "blocks": model.meter(size).read_blocks(),
        "seed": model.suite.seed,
        "fit": model.suite.fit,
    }


def measure(context: RunContext, unit: Unit) -> Row | None:
    """The attention on the marked region of every image: a line of `runs-<model>.jsonl`.

    Raises:
        InvalidInputError: if not even the images without a marker can be looked at.
    """
    what: Measurement = unit.what
    model, started = marked_model(context, what.model), time.monotonic()
    try:
        marker = None if what.label is None else _marker(context, model, what.task, what.label)
        prompters, told = marker and marker.prompters, context.progress.advanced if unit.size else None
        masses = model.meter(what.size).masses(prompters or None, told)
    except VispromptError as error:
        if what.needed:
            raise InvalidInputError(str(error)) from error
        context.problem(f"{what.name}, {what.label or 'no marker'}: left out, because {error}")
        context.progress.advanced(unit.size)
        return None
    return {
        "id": unit.key,
        "run": "gain",
        "model": what.name,
        "marker": what.label or "no marker",
        "masses": np.round(masses, _DIGITS).tolist(),
        "seconds": round(time.monotonic() - started, 2),
        "model_identity": model.identity,
        "limit": context.settings.limit,
        **_depends(model, marker, what.size),
        **dated(),
    }


def _marker(context: RunContext, model: MarkedModel, task: str, label: str) -> Marker:
    if task == "transfer":
        return model.saved(label, context.settings.whole.transfer[label])
    return model.marker(context.settings.whole.marker(label))
