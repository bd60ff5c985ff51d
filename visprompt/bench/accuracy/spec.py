"""Suites: which models, tasks, data and ways of pointing belong into one table, as a YAML file says it.

Reading and checking only; nothing here loads a model, and a misspelt key is an error before anything is computed.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, cast

import yaml

from visprompt.bench.gain.spec import KIND as GAIN
from visprompt.bench.gain.spec import GainSuite, parse_gain
from visprompt.bench.schema import check_text, check_types, listed, mapping, require_other_data, texts, whole
from visprompt.bench.tuning.spec import KIND as TUNING
from visprompt.bench.tuning.spec import TuningSuite, parse_tuning
from visprompt.errors import InvalidInputError, UnknownNameError, VispromptError, unknown_name
from visprompt.tasks import TASKS, Pointing, Task
from visprompt.tasks.data_sources import SOURCE_KEYS
from visprompt.utils.hashing import digest

_PACKAGE = "visprompt.benchmarks"
_NOT_SUITES = ("published",)
#: task keys become parts of file names
_TASK_KEY = re.compile(r"[A-Za-z0-9_.+-]+")


@dataclass(frozen=True)
class TaskSpec:
    """One column of the table: a task on a data split."""

    key: str
    title: str
    task: Task
    data: dict[str, Any]
    note: str = ""
    published: str | None = None


@dataclass(frozen=True)
class RowSpec:
    """One row of the table: a way of pointing, on the tasks named (all, if none is)."""

    pointing: Pointing
    tasks: tuple[str, ...] = ()
    tuned_as: str | None = None


@dataclass(frozen=True)
class TuneSpec:
    """Options of one row that are chosen on the validation split.

    The combination with the highest mean accuracy over `tasks` is taken, for every model on its own.
    """

    pointing: Pointing
    grid: dict[str, list[Any]]
    tasks: tuple[str, ...]
    data: dict[str, Any]
    metric: str = "accuracy"

    @property
    def strategy(self) -> str:
        """The label of the row."""
        return self.pointing.label

    def points(self) -> Iterator[dict[str, Any]]:
        """All combinations of the grid, in the order of the file."""
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))


@dataclass(frozen=True)
class MapSpec:
    """Maps that are held against the box that a question is about, on the first `n` questions of the tasks named."""

    tasks: tuple[str, ...]
    n: int = 400
    auxiliaries: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suite:
    """A checked suite.

    Attributes:
        name: file name without `.yaml`.
        models: specifications for `load_model`; may be empty, then they are given on the command line.
        compare_with: labels of the rows that all others are compared with, item by item.
        examples: right and wrong answers per strategy in the report.
        maps: whether maps lie where questions point; None: not asked.
    """

    name: str
    title: str
    description: str
    models: tuple[str, ...]
    tasks: tuple[TaskSpec, ...]
    rows: tuple[RowSpec, ...]
    tune: tuple[TuneSpec, ...] = ()
    compare_with: tuple[str, ...] = ("none", "falip")
    examples: int = 2
    maps: MapSpec | None = None
    hash: str = field(default="", compare=False)

    def task(self, key: str) -> TaskSpec:
        """The task with that key."""
        for one in self.tasks:
            if one.key == key:
                return one
        raise unknown_name("task", key, [one.key for one in self.tasks])


def list_suites() -> list[str]:
    """Names of the suites that ship with the package."""
    names = (Path(item.name) for item in resources.files(_PACKAGE).iterdir())
    return sorted(name.stem for name in names if name.suffix == ".yaml" and name.stem not in _NOT_SUITES)


def load_suite(name: str | Path) -> Suite | TuningSuite | GainSuite:
    """Reads a suite by path, or by the name of one that ships with the package.

    Raises:
        UnknownNameError: if there is no such suite, or it has a key, task or source that does not exist.
        InvalidInputError: if the file is not a suite.
    """
    path = Path(name)
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InvalidInputError(f"{name} is not a suite: it is not UTF-8 text ({error.reason}).") from None
        except OSError as error:
            raise InvalidInputError(f"cannot read {name}: {error.strerror or error}.") from error
    else:
        # `benchmarks/scenes.yaml` is how the documentation names it; outside of a checkout the packaged one is meant.
        bare = path.stem if str(path.parent) in (".", "benchmarks") else None
        if bare not in list_suites():
            raise unknown_name("suite", str(name), list_suites(), "Or give the path of a YAML file.")
        text = resources.files(_PACKAGE).joinpath(f"{bare}.yaml").read_text(encoding="utf-8")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInputError(f"{name} is not readable YAML: {error}") from error
    return parse_suite(content, path.stem)


def load_published() -> list[dict[str, Any]]:
    """The papers' figures (`benchmarks/published.yaml`), each with its source and how sure it is."""
    content = yaml.safe_load(resources.files(_PACKAGE).joinpath("published.yaml").read_text(encoding="utf-8"))
    return [{**figure, "source": content["papers"][figure["paper"]]} for figure in content["figures"]]


def parse_suite(content: Any, name: str) -> Suite | TuningSuite | GainSuite:
    """Checks what a YAML file holds; `load_suite` says what is raised."""
    if isinstance(content, Mapping) and "kind" in content:
        kinds: dict[str, Any] = {TUNING: parse_tuning, GAIN: parse_gain}
        if content["kind"] not in kinds:
            raise unknown_name(f"kind of suite {name}", str(content["kind"]), kinds)
        parsed: TuningSuite | GainSuite = kinds[content["kind"]](content, name)
        return parsed
    known = (
        "title",
        "description",
        "models",
        "tasks",
        "strategies",
        "controls",
        "tune",
        "compare_with",
        "examples",
        "fit",
        "maps",
    )
    top = mapping(content, f"suite {name}", known)
    for key in ("title", "description"):
        check_text(top, key, f"suite {name}")
    tasks = tuple(_task(key, value) for key, value in mapping(top.get("tasks"), "tasks").items())
    if not tasks:
        raise InvalidInputError(f"suite {name} has no tasks.")
    keys = [one.key for one in tasks]
    fit = str(top.get("fit", "model"))
    rows = [
        _row(value, keys, fit, control=part == "controls")
        for part in ("strategies", "controls")
        for value in listed(top.get(part), part)
    ]
    if not rows:
        raise InvalidInputError(f"suite {name} has no strategies.")
    labels = [row.pointing.label for row in rows]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise InvalidInputError(f"suite {name} has two rows called {', '.join(twice)}: give them a label of their own.")
    tune = tuple(_tune(value, tasks, [row.pointing for row in rows]) for value in listed(top.get("tune"), "tune"))
    for row in rows:
        _runnable(row.pointing, f"row {row.pointing.label!r}")
    for one in tune:
        for options in one.points():
            shown = ", ".join(f"{key} {value}" for key, value in options.items())
            where = f"tune of {one.strategy!r}, {shown}"
            _runnable(dataclasses.replace(one.pointing, options={**one.pointing.options, **options}), where)
        for key in one.tasks:
            data = next(task.data for task in tasks if task.key == key)
            _data({**data, **one.data}, f"data of tune of {one.strategy!r}")
    for row in rows:
        if row.tuned_as is not None and row.tuned_as not in [one.strategy for one in tune]:
            raise unknown_name("tuned row", row.tuned_as, [one.strategy for one in tune])
    return Suite(
        name=name,
        title=str(top.get("title", name)),
        description=str(top.get("description", "")).strip(),
        models=tuple(texts(top.get("models"), "models")),
        tasks=tasks,
        rows=tuple(rows),
        tune=tune,
        compare_with=_compare_with(top, labels),
        examples=whole(top.get("examples", 2), "examples", least=0),
        maps=_maps(top.get("maps"), tasks),
        hash=digest(content),
    )


def _task(key: str, content: Any) -> TaskSpec:
    where = f"task {key}"
    if not _TASK_KEY.fullmatch(key):
        raise InvalidInputError(
            f"task {key!r}: a task's key goes into file names; use letters, digits and _ . + - only."
        )
    if not isinstance(content, Mapping):
        raise InvalidInputError(f"{where}: expected keys with values, got {content!r:.60}.")
    name = content.get("task")
    if not isinstance(name, str) or name not in TASKS:
        raise unknown_name(f"task of {where!r}", name, TASKS)
    kind = TASKS[name]
    settings = [item.name for item in dataclasses.fields(kind) if item.name not in ("negatives", "boxes")]
    values = mapping(content, where, ["task", "title", "data", "note", "published", *settings])
    check_types(values, where)
    data = _data(mapping(values.get("data"), f"data of {where}"), f"data of {where}")
    chosen = {name: values[name] for name in settings if name in values}
    if chosen.get("labels") == "scenes":
        from visprompt.data.scenes.world import all_names

        chosen["labels"] = tuple(all_names())
    elif "labels" in chosen:
        if isinstance(chosen["labels"], str):
            raise InvalidInputError(f"{where}: labels is a list of names, or scenes; got {chosen['labels']!r}.")
        chosen["labels"] = tuple(texts(chosen["labels"], f"labels of {where}"))
    published = values.get("published")
    try:
        task = kind(**chosen)
    except (UnknownNameError, InvalidInputError) as error:
        raise type(error)(f"{where}: {error}") from error
    return TaskSpec(
        key=key,
        title=str(values.get("title", key)),
        task=task,
        data=data,
        note=str(values.get("note", "")).strip(),
        published=published,
    )


def _data(values: dict[str, Any], where: str) -> dict[str, Any]:
    source = values.get("source")
    if not isinstance(source, str) or source not in SOURCE_KEYS:
        raise unknown_name(f"source in {where}", source, SOURCE_KEYS)
    mapping(values, where, ("source", *SOURCE_KEYS[source]))
    check_types(values, where)
    for key in ("kind", "split", "file", "folder", "detections", "images", "refs", "instances"):
        check_text(values, key, where)
    if not isinstance(values.get("merge_sides", False), bool):
        raise InvalidInputError(f"{where}: merge_sides is true or false; got {values['merge_sides']!r}.")
    if "kinds" in values:
        texts(values["kinds"], f"kinds in {where}")
    size = values.get("size_wh", (64, 64))
    if not isinstance(size, list | tuple) or len(size) != 2:
        raise InvalidInputError(f"{where}: size_wh is [width, height] in pixels; got {size!r}.")
    for side in size:
        whole(side, f"size_wh in {where}", least=1)
    return values


def _maps(content: Any, tasks: Sequence[TaskSpec]) -> MapSpec | None:
    if content is None:
        return None
    values = mapping(content, "maps", ("tasks", "n", "auxiliaries"))
    asking = [task.key for task in tasks if task.task.writes]
    chosen = tuple(texts(values.get("tasks"), "tasks of maps")) or tuple(asking)
    for key in chosen:
        if key not in asking:
            raise unknown_name("task of maps (one that asks in words)", key, asking)
    n = whole(values.get("n", MapSpec.n), "n of maps", least=1)
    return MapSpec(chosen, n, tuple(texts(values.get("auxiliaries"), "auxiliaries of maps")))


def _runnable(pointing: Pointing, where: str) -> None:
    """Makes the strategies once, so that a wrong name or option is said now and not after the rows before it."""
    try:
        pointing.members()
    except VispromptError as error:
        raise type(error)(f"{where}: {error}") from error
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{where}: the options {pointing.options} cannot be used: {error}.") from error


def _compare_with(top: Mapping[str, Any], labels: Sequence[str]) -> tuple[str, ...]:
    given = top.get("compare_with")
    if given is None:
        return Suite.compare_with
    chosen = [given] if isinstance(given, str) else texts(given, "compare_with")
    for one in chosen:
        if one not in labels:
            raise unknown_name("row in compare_with", one, labels)
    return tuple(chosen)


def _row(content: Any, tasks: Sequence[str], fit: str, control: bool) -> RowSpec:
    if isinstance(content, str):
        return RowSpec(Pointing(content, fit=cast(Any, fit), control=control))
    known = ("strategy", "options", "preset", "label", "aggregate", "region", "seed", "fit", "tasks", "tuned_as")
    values = mapping(content, "a strategy", known)
    if not isinstance(values.get("strategy"), str):
        raise InvalidInputError(f"a row needs strategy: its name; got {values}.")
    where = f"row of {values['strategy']!r}"
    only = tuple(texts(values.get("tasks"), f"tasks of {where}"))
    for one in only:
        if one not in tasks:
            raise unknown_name("task", one, tasks)
    for key in ("preset", "label", "aggregate", "region", "fit", "tuned_as"):
        check_text(values, key, where)
    check_types(values, where)
    optional = ("preset", "label", "aggregate", "region", "seed", "fit")
    given = {"fit": fit, "control": control, **{key: values[key] for key in optional if key in values}}
    pointing = Pointing(values["strategy"], mapping(values.get("options"), f"options of {where}"), **given)
    return RowSpec(pointing, only, values.get("tuned_as"))


def _tune(content: Any, tasks: Sequence[TaskSpec], pointings: Sequence[Pointing]) -> TuneSpec:
    values = mapping(content, "tune", ("strategy", "grid", "tasks", "data", "metric"))
    label = str(values.get("strategy"))
    pointing = next((one for one in pointings if one.label == label), None)
    if pointing is None:
        raise unknown_name("row to tune", label, [one.label for one in pointings])
    by_key = {task.key: task for task in tasks}
    only = tuple(str(one) for one in listed(values.get("tasks"), "tasks of tune")) or tuple(by_key)
    for one in only:
        if one not in by_key:
            raise unknown_name("task", one, by_key)
    grid = {key: listed(value, f"grid of {key}") for key, value in mapping(values.get("grid"), "grid").items()}
    if not grid or not all(grid.values()):
        raise InvalidInputError(f"tune of {label} needs a grid: every option with a list of values.")
    metric = str(values.get("metric", "accuracy"))
    if metric != "accuracy":
        raise unknown_name("metric", metric, ["accuracy"])
    data = dict(mapping(values.get("data"), "data of tune"))
    for key in only:
        require_other_data(label, by_key[key], data, tasks)
    return TuneSpec(pointing, grid, only, data, metric)
