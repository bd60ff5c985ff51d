"""Suites of the kind `gain`: which markers' attention gain is measured, on which models and images.

`benchmarks/gain-full.yaml` is such a file; its keys are the fields of the dataclasses below. Beside them, `controls`
are markers that others have to beat; a marker may be a strategy's name alone; a sweep that names no `strategy` is of
the one that a marker of the suite learns. Reading and checking only; nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import Strict

from visprompt.bench import schema
from visprompt.bench.schema import Count, Keys, Says, Text, Whole, all_of, checked, known_settings, types_of, within
from visprompt.errors import InvalidInputError
from visprompt.training.settings import FitSettings
from visprompt.visual_prompt import Fit

_SIDE = Annotated[int, Strict(), Ge(24)]
_PIXELS = Annotated[
    list[_SIDE], MinLen(2), MaxLen(2), Says("{at}{key} is [width, height] in pixels, each a whole number, at least 24")
]
_SOURCES: dict[str, dict[str, Any]] = {
    "scenes": {"n": Count, "seed": Whole, "size_wh": _PIXELS},
    "folder": {"folder": Text, "n": Count, "seed": Whole},
}
_BLOCKS = Annotated[
    tuple[schema.Integer, ...], MinLen(1), Says("{key}{of} is a list of whole numbers, negative ones from the end")
]
_TOKENS = Annotated[float, Strict(), Ge(0.25), Le(64), Says("{key}{of} is a number from 0.25 to 64")]
_MODEL = Annotated[Text, Says("{at}{key} is a text", "the name of one, e.g. bundled:scenes-clip")]


def learners() -> list[str]:
    """Names of the strategies that learn from images without labels, and so on any model that is measured.

    Such a class says which images it learns from (`splits`) where it is given none.
    """
    from visprompt.registry import get_class, list_strategies

    return [one.name for one in list_strategies() if hasattr(get_class(one.name), "splits")]


def is_learned(name: str) -> bool:
    """Whether a strategy by that name has to be trained before it does anything."""
    from visprompt.registry import get_class

    return "training" in get_class(name.strip()).needs


@dataclass(frozen=True)
class MarkerSpec:
    """One row of the table: a marker. One of `strategy`, `saved` and `random` says what it is.

    Attributes:
        label: its name in the table.
        strategy, preset, options: as in `Prompter.from_name`; a patch is the one bundled with the model, and goes on
            the middle of the square unless `place` says otherwise.
        saved: a saved strategy: a folder, `bundled:patch-…` or a hub id; `options` are those of use.
        random: label of a marker that is a learned patch; this one has its shape, size and alpha, and random colours.
        draws: of those colours; images take them in turn.
        learn: how it is learned on a model for which none is bundled: `data` and settings of `fit`. None: it is not.
        control: a row that others have to beat.
    """

    label: str
    strategy: str | None = None
    preset: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    saved: str | None = None
    random: str | None = None
    draws: Count = 16
    learn: dict[str, Any] | None = None
    control: bool = False

    @property
    def learnable(self) -> bool:
        """Whether it can be learned on any model; of such a strategy one may ship for a model."""
        return self.strategy in learners()

    @property
    def drawn(self) -> bool:
        """Whether it is the same on every model: nothing in it was learned."""
        return self.strategy is not None and not any(map(is_learned, self.strategy.replace("|", "+").split("+")))


@dataclass(frozen=True)
class SweepSpec:
    """Patches learned anew at every point of a grid, and measured on validation images.

    Attributes:
        model: for `load_model`, or a model.
        grid: options of the strategy with their values.
        settings: of `FitSettings`, over the strategy's own.
        seeds: every point is learned once with each.
        n: validation images that gain is measured on.
        strategy: what is learned at every point.
    """

    model: Any
    grid: schema.Grid = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    seeds: schema.Seeds = (0,)
    n: Count = 200
    strategy: str = ""

    def points(self) -> Iterator[dict[str, Any]]:
        """All different combinations of the grid: a full patch has no hole, and a frame without a hole is full."""
        seen = []
        for point in schema.combinations(self.grid):
            if point.get("shape") == "square" and point.get("ratio") == 0:
                point["shape"] = "full"
            if point.get("shape") == "full":
                point.pop("ratio", None)
            if point not in seen:
                seen.append(point)
                yield point


@dataclass(frozen=True)
class GainSuite:
    """A checked suite of markers.

    Attributes:
        name: file name without `.yaml`.
        models: for `load_model`.
        images: `source` scenes (`n`, `seed`, `size_wh`) or folder (`folder`, `n`, `seed`).
        size_tokens: side of the marked square; None: that of the patch that is measured, for drawn markers of the
            model's own.
        blocks: whose attention; None: all.
        seed: of the places.
        fit: how images are brought into the model.
        compare_with: label of the marker that others are compared with on the same places, or None.
        transfer: patches by name that are tried on every model.
        examples: images per model in the report.
    """

    name: str
    title: str
    description: str
    models: tuple[str, ...]
    images: dict[str, Any]
    markers: tuple[MarkerSpec, ...]
    size_tokens: _TOKENS | None = None
    blocks: _BLOCKS | None = None
    seed: Whole = 0
    fit: Fit = "model"
    compare_with: str | None = None
    transfer: Annotated[dict[str, str], Says("{key}{of}: expected names with texts")] = field(default_factory=dict)
    sweep: SweepSpec | None = None
    examples: Whole = 3
    hash: str = field(default="", compare=False)

    @property
    def tasks(self) -> tuple[TaskName, ...]:
        """What is measured, under the name that columns have in other suites."""
        parts = {"gain": True, "transfer": bool(self.transfer), "sweep": self.sweep is not None}
        return tuple(TaskName(name) for name, there in parts.items() if there)

    def marker(self, label: str) -> MarkerSpec:
        """The marker with that label."""
        return schema.labelled(self.markers, label, "marker")


@dataclass(frozen=True)
class TaskName:
    """A column of `visprompt list suites`."""

    key: str


def parse_gain(content: Mapping[str, Any], name: str) -> GainSuite:
    """Checks what a suite's file holds, as `visprompt.bench.suite.parse_suite` says."""
    top = schema.opened(content, "gain", name, _TOP)
    markers = schema.rows_of(top, "markers", _marker)
    shaped = [one.label for one in markers if one.random is None]
    for marker in markers:
        all_of([marker.random] if marker.random else [], shaped, f"marker in random of {marker.label!r}")
    if "compare_with" in top:
        all_of([top["compare_with"]], [one.label for one in markers], "marker in compare_with")
    if "sweep" in top:
        top["sweep"] = _sweep(top["sweep"], markers)
    images = _images(top.pop("images", {}))
    suite = GainSuite(**{"models": (), **top}, images=images, markers=markers)
    require_unseen(suite)
    return suite


def _marker(content: Any, control: bool) -> MarkerSpec:
    from visprompt.prompter import Prompter

    given = schema.mapping({"strategy": content} if isinstance(content, str) else content, "a marker")
    kinds = [key for key in ("strategy", "saved", "random") if given.get(key)]
    if len(kinds) != 1:
        raise InvalidInputError(f"a marker has one of strategy, saved and random; got {given or 'nothing'}.")
    where = f"marker {given.get('label') or given[kinds[0]]!r}"
    values = checked(given, types_of(MarkerSpec, "control"), where)
    made = MarkerSpec(**{"label": values[kinds[0]], **values}, control=control)
    if made.strategy is None and (made.preset or made.learn is not None):
        raise InvalidInputError(f"{where}: preset and learn go with strategy alone.")
    if made.random is not None and made.options:
        raise InvalidInputError(f"{where}: its options are those of {made.random!r}.")
    if made.random is None and "draws" in values:
        raise InvalidInputError(f"{where}: draws goes with random alone.")
    if made.learn is not None:
        if not made.learnable:
            known = " or ".join(learners())
            raise InvalidInputError(f"{where}: learn goes with strategy: {known}, which needs no labels.")
        _check_learn(made.learn, f"learn of {where}")
    if made.strategy is not None:
        with within(where, TypeError, ValueError):
            Prompter.from_name(made.strategy, preset=made.preset, **made.options)
    return made


def _check_learn(content: Mapping[str, Any], where: str) -> None:
    if not isinstance(content.get("data", ""), str):
        raise InvalidInputError(f"{where}: data is a folder of images; got {content['data']!r:.60}.")
    _settings({key: value for key, value in content.items() if key != "data"}, where)


def _settings(content: Any, where: str) -> dict[str, Any]:
    values = known_settings(content, where)
    with within(where, TypeError, ValueError):
        FitSettings(**values)
    return values


def _images(content: Mapping[str, Any]) -> dict[str, Any]:
    source = content.get("source", "scenes")
    all_of([source], _SOURCES, "source of images")
    values = checked(content, {"source": Text, **_SOURCES[source]}, "images")
    if source == "folder" and "folder" not in values:
        raise InvalidInputError("images from a folder need folder: where they are.")
    usual = {"n": 500, "seed": 0, **({"size_wh": [64, 64]} if source == "scenes" else {})}
    return {"source": source, **usual, **values}


def _sweep(content: Mapping[str, Any], markers: tuple[MarkerSpec, ...]) -> SweepSpec:
    learned = [one.strategy for one in markers if one.learnable]
    values = checked(content, {**types_of(SweepSpec), "model": _MODEL}, "sweep")
    made = SweepSpec(**{"strategy": [*learned, *learners()][0], **values})
    if not made.grid:
        raise InvalidInputError(f"sweep needs a grid: options of {made.strategy}, each with a list of values.")
    all_of([made.strategy], learners(), "strategy of sweep (one that is learned without labels)")
    _settings(made.settings, "settings of sweep")
    for point in made.points():
        _marker({"strategy": made.strategy, "options": point, "label": f"sweep, {point}"}, control=False)
    return made


def require_unseen(suite: GainSuite) -> None:
    """Refuses to measure on a folder that a patch is learned from; parts of a folder are told apart by their names."""
    if suite.images["source"] != "folder":
        return
    measured = Path(suite.images["folder"]).expanduser().resolve()
    for marker in suite.markers:
        data = (marker.learn or {}).get("data")
        if data is None:
            continue
        learned = Path(data).expanduser().resolve()
        overlap = learned == measured or learned in measured.parents or measured in learned.parents
        if overlap and not (learned == measured and _has_test(measured)):
            raise InvalidInputError(
                f"marker {marker.label!r} would be learned on {data} and measured on {suite.images['folder']}: give "
                "images of their own to measure on, or a folder with the parts train and test."
            )


def _has_test(folder: Path) -> bool:
    from visprompt.data.labelled.label_names import PARTS

    return folder.is_dir() and any(PARTS.get(one.name.casefold()) == "test" for one in folder.iterdir() if one.is_dir())


_TOP: dict[str, Any] = {
    **types_of(GainSuite, "name", "images", "hash"),
    **{"images": Keys, "markers": schema.Listed, "controls": schema.Listed, "sweep": Keys},
}
