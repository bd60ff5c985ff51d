"""Suites of the kind `tuning`: which ways of tuning are compared, on which sets, with which seeds.

`benchmarks/tuning-full.yaml` is such a file; its keys are the fields of the dataclasses below. Beside them, `controls`
are methods that others have to beat, `choose: {seed, settings}` says how grids are searched on validation, and `train`,
`validation` and `test` of a set are its sizes. Reading and checking only; nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from visprompt.bench import schema
from visprompt.bench.schema import Keys, Says, Text, Whole, all_of, checked, known_settings, types_of, within
from visprompt.errors import InvalidInputError
from visprompt.training.settings import FitSettings

How = Literal["prompt", "full", "untrained"]
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class SetSpec:
    """One column of the table: a labelled data set.

    Attributes:
        key: its short name, part of file names.
        title: what is asked of an image.
        data: as in `visprompt.data.labelled.dataset.load_splits`.
        sizes: at most so many images of `train`, `validation` and `test`.
        settings: over those of the suite.
    """

    key: str
    title: str
    data: Annotated[Text, Says("{at}{key} is a text", "a folder or scenes:NAME, as in visprompt fit --data")]
    sizes: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MethodSpec:
    """One row of the table: a way of tuning.

    Attributes:
        label: its name in the table.
        how: `"prompt"`: a strategy is trained on the frozen model; `"untrained"`: its prompts stay as they are drawn
            and only the head learns; `"full"`: the whole model and a head.
        strategy, options: what is trained.
        settings: over those of suite and set.
        grid: settings or options with values to choose from, for every set on its own.
        sets: only on these; empty: on all.
        seeds: instead of the suite's.
        choice_of: label of the method whose choice it takes; it searches nothing itself.
        control: a row that others have to beat.
        table: False for rows that are only drawn in a figure.
    """

    label: str
    how: How
    strategy: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    grid: schema.Grid = field(default_factory=dict)
    sets: tuple[str, ...] = ()
    seeds: schema.Seeds = ()
    choice_of: str | None = None
    control: bool = False
    table: bool = True

    def points(self) -> Iterator[dict[str, Any]]:
        """All combinations of the grid; one empty one without a grid."""
        return schema.combinations(self.grid)


@dataclass(frozen=True)
class TuningSuite:
    """A checked suite of ways of tuning one model.

    Attributes:
        name: file name without `.yaml`.
        model: for `load_model`.
        settings: of `FitSettings`, for every run.
        choose_seed, choose_settings: of the runs that search grids; a method's own settings stand over these.
        seeds: of the runs that are reported.
        compare_with: label of the method that others are compared with on the same images, or None.
        examples: test images per set in the report.
    """

    name: str
    title: str
    description: str
    model: Annotated[Text, Says("{at}{key} is a text", "the name of one, e.g. bundled:scenes-mae")]
    sets: tuple[SetSpec, ...]
    methods: tuple[MethodSpec, ...]
    settings: dict[str, Any]
    choose_seed: int = 0
    choose_settings: dict[str, Any] = field(default_factory=dict)
    seeds: schema.Seeds = (0,)
    compare_with: str | None = None
    examples: Whole = 3
    hash: str = field(default="", compare=False)

    @property
    def tasks(self) -> tuple[SetSpec, ...]:
        """The sets, under the name that columns have in other suites."""
        return self.sets

    @property
    def models(self) -> tuple[str, ...]:
        """The one model, as other suites have it."""
        return (self.model,)

    def sets_of(self, method: MethodSpec) -> list[SetSpec]:
        """The sets that a method runs on."""
        return [one for one in self.sets if not method.sets or one.key in method.sets]

    def seeds_of(self, method: MethodSpec) -> tuple[int, ...]:
        """The seeds that a method runs with."""
        return method.seeds or self.seeds

    def settings_of(
        self, method: MethodSpec, one: SetSpec, point: Mapping[str, Any], choosing: bool = False
    ) -> dict[str, Any]:
        """Settings of a run at a point of the grid, `choosing` among the points or reported."""
        short, own = self.choose_settings if choosing else {}, split(point)[0]
        return merged(self.settings, one.settings, short, method.settings, own)

    def searched(self, method: MethodSpec) -> MethodSpec:
        """The method whose grid decides how a method is run: itself, or that of `choice_of`."""
        return self.method(method.choice_of or method.label)

    def method(self, label: str) -> MethodSpec:
        """The method with that label."""
        return schema.labelled(self.methods, label, "method")


def parse_tuning(content: Mapping[str, Any], name: str) -> TuningSuite:
    """Checks what a suite's file holds, as `visprompt.bench.suite.parse_suite` says."""
    top = schema.opened(content, "tuning", name, _TOP)
    top["sets"] = tuple(_set(key, value) for key, value in top.get("sets", {}).items())
    if not top["sets"]:
        raise InvalidInputError("there are no sets.")
    keys = [one.key for one in top["sets"]]
    methods = schema.rows_of(top, "methods", lambda value, control: _method(value, keys, control))
    compared = [("compare_with", top.get("compare_with"))]
    for what, label in [*compared, *((f"choice_of of {one.label}", one.choice_of) for one in methods)]:
        all_of([label] if label else [], [one.label for one in methods], f"method in {what}")
    choose = checked(top.pop("choose", {}), {"seed": Whole, "settings": Keys}, "choose")
    top["settings"] = known_settings(top.get("settings"), "settings")
    chosen = known_settings(choose.get("settings"), "settings of choose")
    suite = TuningSuite(**top, methods=methods, choose_seed=choose.get("seed", 0), choose_settings=chosen)
    _check_runs(suite)
    return suite


def _set(key: str, content: Any) -> SetSpec:
    where = f"set {key}"
    fields = {**types_of(SetSpec, "key", "sizes"), **dict.fromkeys(PARTS, schema.Count)}
    values = {"title": key, **checked(content, fields, where)}
    sizes = {part: values.pop(part) for part in PARTS if part in values}
    known_settings(values.get("settings"), f"settings of {where}")
    return SetSpec(key, sizes=sizes, **values)


def _method(content: Any, sets: Sequence[str], control: bool) -> MethodSpec:
    given = schema.mapping(content, "a method")
    label = given.get("label") or given.get("strategy")
    if not label:
        raise InvalidInputError(f"a method needs a label, or strategy: its name; got {content!r:.60}.")
    where = f"method {label!r}"
    values = checked(given, types_of(MethodSpec, "control"), where)
    all_of(values.get("sets", ()), sets, f"set of {where}")
    if values.get("grid") and values.get("choice_of"):
        raise InvalidInputError(f"{where} has a grid and choice_of: give one of them.")
    known_settings(values.get("settings"), f"settings of {where}")
    values = {"how": "prompt", "strategy": head_alone(), **values, "label": label}
    return MethodSpec(control=control, **values)


def head_alone() -> str:
    """The strategy with a preset `linear`: nothing but a head on the frozen model.

    Methods without a strategy of their own are of this one; whole models are tuned with its head.
    """
    from visprompt.registry import OWN_DISTRIBUTION, list_strategies

    found = [one for one in list_strategies() if "linear" in one.presets]
    own = [one.name for one in found if one.origin.split(" ")[0] == OWN_DISTRIBUTION]
    return [*own, *(one.name for one in found)][0]


def _check_runs(suite: TuningSuite) -> None:
    """Makes the settings and strategies of all runs once, so that what is wrong is said now and not in an hour."""
    from visprompt.prompter import Prompter

    for method in suite.methods:
        with within(f"method {method.label!r}", TypeError, ValueError):
            for one, point in itertools.product(suite.sets_of(method), suite.searched(method).points()):
                for choosing in (False, True):
                    FitSettings(**suite.settings_of(method, one, point, choosing))
                if method.how != "full":
                    Prompter.from_name(method.strategy, **{**method.options, **split(point)[1]})


def split(point: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A point of a grid as settings of `FitSettings` and options of the strategy."""
    known = {item.name for item in dataclasses.fields(FitSettings)}
    settings = {name: value for name, value in point.items() if name in known}
    return settings, {name: value for name, value in point.items() if name not in known}


def merged(*settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, later ones over earlier ones; of `lr` and `base_lr` the later one stands."""
    found: dict[str, Any] = {}
    for one in settings:
        for name, value in one.items():
            if name in ("lr", "base_lr"):
                found.pop("lr", None), found.pop("base_lr", None)
            found[name] = value
    return found


_TOP: dict[str, Any] = {
    **types_of(TuningSuite, "name", "choose_seed", "choose_settings", "hash"),
    **{"sets": Keys, "choose": Keys, "methods": schema.Listed, "controls": schema.Listed},
}
