"""Suites of the kind `tuning`: which ways of tuning are compared, on which sets, with which seeds.

    kind: tuning
    title: Tuned prompts
    model: bundled:scenes-mae
    sets:
      count: {title: How many objects, data: "scenes:count", train: 400, validation: 200, test: 1000}
    settings: {epochs: 20, batch_size: 32, optimizer: adamw}     # of FitSettings, for all methods
    choose: {seed: 0, settings: {epochs: 6}}                     # how the grids below are searched, on validation
    seeds: [0, 1, 2]                                             # of the runs that are reported
    methods:
      - {label: linear, strategy: vpt, options: {prompts: 0}, grid: {lr: [0.003, 0.01]}}
      - {label: gated, strategy: gated, options: {prompts: 10}, sets: [count], grid: {lr: [0.01, 0.03]}}
      - {label: full, how: full, settings: {epochs: 10}}
    controls:
      - {label: untrained prompts, strategy: vpt, how: untrained}

Reading and checking only; nothing here imports torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from visprompt.bench.schema import check_text, listed, mapping, texts, whole
from visprompt.errors import InvalidInputError, unknown_name
from visprompt.utils.hashing import digest

How = Literal["prompt", "full", "untrained"]
KIND = "tuning"
_TOP: tuple[str, ...] = ("kind", "title", "description", "model", "sets", "settings", "choose", "seeds")
_TOP += ("methods", "controls", "compare_with", "examples")


@dataclass(frozen=True)
class SetSpec:
    """One column of the table: a labelled data set.

    Attributes:
        key: its short name, part of file names.
        title: what is asked of a picture.
        data: as in `visprompt.data.labelled.dataset.load_splits`.
        sizes: at most so many pictures of `train`, `validation` and `test`.
        settings: over those of the suite.
    """

    key: str
    title: str
    data: str
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
    strategy: str = "vpt"
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    sets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    choice_of: str | None = None
    control: bool = False
    table: bool = True

    def points(self) -> Iterator[dict[str, Any]]:
        """All combinations of the grid; one empty one without a grid."""
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))


@dataclass(frozen=True)
class TuningSuite:
    """A checked suite of ways of tuning one model.

    Attributes:
        name: file name without `.yaml`.
        model: for `load_model`.
        settings: of `FitSettings`, for every run.
        choose_seed, choose_settings: of the runs that search grids; a method's own settings stand over these.
        seeds: of the runs that are reported.
        compare_with: label of the method that others are compared with on the same pictures, or None.
        examples: test pictures per set in the report.
    """

    name: str
    title: str
    description: str
    model: str
    sets: tuple[SetSpec, ...]
    methods: tuple[MethodSpec, ...]
    settings: dict[str, Any]
    choose_seed: int = 0
    choose_settings: dict[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    compare_with: str | None = None
    examples: int = 3
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

    def method(self, label: str) -> MethodSpec:
        """The method with that label."""
        for one in self.methods:
            if one.label == label:
                return one
        raise unknown_name("method", label, [one.label for one in self.methods])


def parse_tuning(content: Mapping[str, Any], name: str) -> TuningSuite:
    """Checks what a YAML file holds.

    Raises:
        UnknownNameError: for keys, strategies, settings or options that do not exist.
        InvalidInputError: for values that cannot be used.
    """
    top = mapping(content, f"suite {name}", _TOP)
    for key in ("title", "description", "model"):
        check_text(top, key, f"suite {name}")
    if not top.get("model"):
        raise InvalidInputError(f"suite {name} needs model: the name of one, e.g. bundled:scenes-mae.")
    sets = tuple(_set(key, value) for key, value in mapping(top.get("sets"), "sets").items())
    if not sets:
        raise InvalidInputError(f"suite {name} has no sets.")
    keys = [one.key for one in sets]
    methods = [_method(value, keys, control=False) for value in listed(top.get("methods"), "methods")]
    methods += [_method(value, keys, control=True) for value in listed(top.get("controls"), "controls")]
    labels = [one.label for one in methods]
    if not methods:
        raise InvalidInputError(f"suite {name} has no methods.")
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise InvalidInputError(f"suite {name} has two methods called {', '.join(twice)}.")
    choose = mapping(top.get("choose"), "choose", ("seed", "settings"))
    compare = top.get("compare_with")
    for what, label in [("compare_with", compare), *((f"choice_of of {one.label}", one.choice_of) for one in methods)]:
        if label is not None and label not in labels:
            raise unknown_name(f"method in {what}", label, labels)
    suite = TuningSuite(
        name=name,
        title=str(top.get("title", name)),
        description=str(top.get("description", "")).strip(),
        model=str(top["model"]),
        sets=sets,
        methods=tuple(methods),
        settings=known_settings(top.get("settings"), "settings"),
        choose_seed=whole(choose.get("seed", 0), "seed of choose", least=0),
        choose_settings=known_settings(choose.get("settings"), "settings of choose"),
        seeds=_seeds(top.get("seeds", [0]), "seeds"),
        compare_with=compare,
        examples=whole(top.get("examples", 3), "examples", least=0),
        hash=digest(content),
    )
    _check_runs(suite)
    return suite


def _set(key: str, content: Any) -> SetSpec:
    where = f"set {key}"
    values = mapping(content, where, ("title", "data", "train", "validation", "test", "settings"))
    for name in ("title", "data"):
        check_text(values, name, where)
    if not values.get("data"):
        raise InvalidInputError(f"{where} needs data: a folder or scenes:NAME, as in visprompt fit --data.")
    sizes: dict[str, int] = {
        part: whole(values[part], f"{part} of {where}", least=1)
        for part in ("train", "validation", "test")
        if part in values
    }
    settings = known_settings(values.get("settings"), f"settings of {where}")
    return SetSpec(key, str(values.get("title", key)), str(values["data"]), sizes, settings)


def _method(content: Any, sets: Sequence[str], control: bool) -> MethodSpec:
    known = ("label", "how", "strategy", "options", "settings", "grid", "sets", "seeds", "choice_of", "table")
    values = mapping(content, "a method", known)
    for name in ("label", "how", "strategy", "choice_of"):
        check_text(values, name, "a method")
    how = values.get("how", "prompt")
    if how not in get_args(How):
        raise unknown_name("way of tuning (how)", how, get_args(How))
    label = values.get("label") or values.get("strategy")
    if not label:
        raise InvalidInputError(f"a method needs a label, or strategy: its name; got {values}.")
    where = f"method {label!r}"
    only = tuple(texts(values.get("sets"), f"sets of {where}"))
    for one in only:
        if one not in sets:
            raise unknown_name(f"set of {where}", one, sets)
    grid = {key: listed(value, f"grid of {where}") for key, value in mapping(values.get("grid"), "grid").items()}
    if not all(grid.values()):
        raise InvalidInputError(f"grid of {where}: every name needs a list of values.")
    if grid and values.get("choice_of"):
        raise InvalidInputError(f"{where} has a grid and choice_of: give one of them.")
    return MethodSpec(
        label=label,
        how=how,
        strategy=str(values.get("strategy", "vpt")),
        options=mapping(values.get("options"), f"options of {where}"),
        settings=known_settings(values.get("settings"), f"settings of {where}"),
        grid=grid,
        sets=only,
        seeds=_seeds(values["seeds"], f"seeds of {where}") if "seeds" in values else (),
        choice_of=values.get("choice_of"),
        control=control,
        table=bool(values.get("table", True)),
    )


def _seeds(content: Any, where: str) -> tuple[int, ...]:
    found = tuple(whole(one, where, least=0) for one in listed(content, where))
    if not found or len(set(found)) != len(found):
        raise InvalidInputError(f"{where}: a list of different whole numbers; got {content!r:.60}.")
    return found


def known_settings(content: Any, where: str) -> dict[str, Any]:
    """Settings of `FitSettings` without the seed, by name; values are not looked at."""
    import dataclasses

    from visprompt.training.settings import FitSettings

    known = [item.name for item in dataclasses.fields(FitSettings) if item.name != "seed"]
    return mapping(content, where, known)


def _check_runs(suite: TuningSuite) -> None:
    """Makes the settings and strategies of all runs once, so that what is wrong is said now and not in an hour."""
    import dataclasses

    from visprompt.errors import VispromptError
    from visprompt.prompter import Prompter
    from visprompt.training.settings import FitSettings

    known = {item.name for item in dataclasses.fields(FitSettings)}
    for method in suite.methods:
        where = f"method {method.label!r}"
        chosen = suite.method(method.choice_of) if method.choice_of else method
        try:
            for one, point in itertools.product(suite.sets_of(method), chosen.points()):
                given = {key: value for key, value in point.items() if key in known}
                FitSettings(**merged(suite.settings, one.settings, method.settings, given))
                FitSettings(**merged(suite.settings, one.settings, suite.choose_settings, method.settings, given))
                if method.how != "full":
                    options = {key: value for key, value in point.items() if key not in known}
                    Prompter.from_name(method.strategy, **{**method.options, **options})
        except VispromptError as error:
            raise type(error)(f"{where}: {error}") from error
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"{where}: {error}.") from error


def merged(*settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, later ones over earlier ones; of `lr` and `base_lr` the later one stands."""
    found: dict[str, Any] = {}
    for one in settings:
        for name, value in one.items():
            if name in ("lr", "base_lr"):
                found.pop("lr", None), found.pop("base_lr", None)
            found[name] = value
    return found
