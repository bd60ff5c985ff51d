"""Accuracy suites: which models, tasks, data and ways of pointing belong into one table, as a YAML file says it.

Reading and checking only; nothing here loads a model, and a misspelt key is an error before anything is computed.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator

from visprompt.bench import schema
from visprompt.bench.rows import point_label
from visprompt.bench.schema import Count, Keys, Says, Text, Texts, all_of, checked, mapping, types_of, valid, within
from visprompt.errors import InvalidInputError, unknown_name
from visprompt.tasks import TASKS, Condition, Task
from visprompt.tasks.data_sources import SOURCE_DEFAULTS, SOURCE_KEYS
from visprompt.visual_prompt import Fit

#: task keys become parts of file names
_TASK_KEY = re.compile(r"[A-Za-z0-9_.+-]+")


def _label_names(value: Any) -> Any:
    from visprompt.data.scenes.world import all_names

    return all_names() if value == "scenes" else value


_PIXELS = Annotated[tuple[Count, Count], Says("{at}{key} is [width, height] in pixels")]
_LABELS = Annotated[Texts, BeforeValidator(_label_names), Says("{key}{of}: {key} is a list of names, or scenes")]
_NAME = Annotated[Text, Says("a row needs strategy: its name", "its name")]
_OneOrMore = Annotated[Texts, BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]
#: the types of what a data section may say; which keys a source has, `SOURCE_KEYS` tells
_DATA: dict[str, Any] = {
    **dict.fromkeys(("source", "kind", "split", "file", "folder", "detections"), Text | None),
    **dict.fromkeys(("images", "refs", "instances", "difficulty"), Text | None),
    **{"n": Count, "points": Count, "seed": schema.Whole, "merge_sides": schema.Flag, "size_wh": _PIXELS},
    "kinds": Annotated[Texts, Says("{key}{inside}: expected a list of texts")] | None,
}
#: settings of tasks that need more than their dataclass says
_TASK: dict[str, Any] = {"num_negatives": Count, "max_new_tokens": Count, "seed": schema.Whole, "labels": _LABELS}


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

    condition: Condition
    tasks: tuple[str, ...] = ()
    tuned_as: str | None = None

    @property
    def label(self) -> str:
        """Its name in the table."""
        return self.condition.label


@dataclass(frozen=True)
class TuneSpec:
    """Options of one row that are chosen on the validation split.

    The combination with the highest mean accuracy over `tasks` is taken, for every model on its own.
    """

    condition: Condition
    grid: schema.Grid
    tasks: tuple[str, ...]
    data: dict[str, Any]
    metric: Literal["accuracy"] = "accuracy"

    @property
    def strategy(self) -> str:
        """The label of the row."""
        return self.condition.label

    def points(self) -> Iterator[dict[str, Any]]:
        """All combinations of the grid, in the order of the file."""
        return schema.combinations(self.grid)


@dataclass(frozen=True)
class MapSpec:
    """Maps that are held against the box that a question is about, on the first `n` questions of the tasks named."""

    tasks: tuple[str, ...] = ()
    n: Annotated[Count, Says("{key}{of} is a whole number, at least 1")] = 400
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
    compare_with: _OneOrMore = ("none", "falip")
    examples: schema.Whole = 2
    maps: MapSpec | None = None
    hash: str = field(default="", compare=False)

    def task(self, key: str) -> TaskSpec:
        """The task with that key."""
        by_key = {one.key: one for one in self.tasks}
        all_of([key], by_key, "task")
        return by_key[key]


def parse_accuracy(content: Mapping[str, Any], name: str) -> Suite:
    """Checks what a suite's file holds, as `visprompt.bench.suite.parse_suite` says."""
    top = schema.opened(content, "accuracy", name, _TOP)
    tasks = tuple(_task(key, value) for key, value in top.pop("tasks", {}).items())
    if not tasks:
        raise InvalidInputError("there are no tasks.")
    keys, fit = [one.key for one in tasks], top.pop("fit", "model")
    rows = schema.rows_of(top, "strategies", lambda value, control: _row(value, keys, fit, control))
    labels = [row.label for row in rows]
    tune = tuple(_tune(value, tasks, [row.condition for row in rows]) for value in top.pop("tune", ()))
    for row in rows:
        _runnable(row.condition, f"row {row.label!r}")
    for one in tune:
        for options in one.points():
            _runnable(with_options(one.condition, options), f"tune of {one.strategy!r}, {point_label(options)}")
    all_of([row.tuned_as for row in rows if row.tuned_as is not None], [one.strategy for one in tune], "tuned row")
    all_of(top.get("compare_with", ()), labels, "row in compare_with")
    maps = _maps(top.pop("maps"), tasks) if "maps" in top else None
    return Suite(**{"models": (), **top}, tasks=tasks, rows=rows, tune=tune, maps=maps)


def _task(key: str, content: Any) -> TaskSpec:
    where = f"task {key}"
    if not _TASK_KEY.fullmatch(key):
        raise InvalidInputError(f"task {key!r}: its key goes into file names; use letters, digits and _ . + - only.")
    name = mapping(content, where).get("task")
    if not isinstance(name, str) or name not in TASKS:
        raise unknown_name(f"task of {where!r}", name, TASKS)
    fields = types_of(TASKS[name], "negatives", "boxes")
    fields |= {key: kind for key, kind in _TASK.items() if key in fields}
    values = checked(content, {**types_of(TaskSpec, "key"), "task": Text, **fields}, where)
    with within(where):
        task = TASKS[name](**{key: values.pop(key) for key in fields if key in values})
    data = _data(values.pop("data", {}), f"data of {where}")
    about = {"title": key, **values, "note": values.get("note", "").strip(), "task": task, "data": data}
    return TaskSpec(key, **about)


def _data(values: dict[str, Any], where: str) -> dict[str, Any]:
    """The data section as it is given: which of its keys are there goes into the identity of result rows."""
    source = values.get("source")
    if not isinstance(source, str) or source not in SOURCE_KEYS:
        raise unknown_name(f"source in {where}", source, SOURCE_KEYS)
    for key, value in mapping(values, where, ("source", *SOURCE_KEYS[source])).items():
        valid(value, _DATA[key], key, where)
    return values


def _maps(content: Any, tasks: Sequence[TaskSpec]) -> MapSpec:
    asking = [task.key for task in tasks if task.task.writes]
    found = MapSpec(**checked(content, types_of(MapSpec), "maps"))
    all_of(found.tasks, asking, "task of maps (one that asks in words)")
    return dataclasses.replace(found, tasks=found.tasks or tuple(asking))


def with_options(condition: Condition, options: Mapping[str, Any]) -> Condition:
    """A row's condition with these options over its own."""
    return dataclasses.replace(condition, options={**condition.options, **options})


def _runnable(condition: Condition, where: str) -> None:
    """Makes the strategies once, so that a wrong name or option is said now and not after the rows before it."""
    with within(f"{where}, options {condition.options}" if condition.options else where, TypeError, ValueError):
        condition.members()


def _row(content: Any, tasks: Sequence[str], fit: Fit, control: bool) -> RowSpec:
    content = mapping({"strategy": content} if isinstance(content, str) else content, "a row")
    where = f"row of {content.get('strategy')!r}"
    fields = {
        **types_of(Condition, "control"),
        **types_of(RowSpec, "condition"),
        "strategy": _NAME,
        "seed": schema.Whole,
    }
    values = {"tasks": (), "tuned_as": None, "fit": fit, "control": control, **checked(content, fields, where)}
    of_row = {key: values.pop(key) for key in ("tasks", "tuned_as")}
    all_of(of_row["tasks"], tasks, "task")
    with within(where):
        return RowSpec(Condition(**values), **of_row)


def _tune(content: Any, tasks: Sequence[TaskSpec], conditions: Sequence[Condition]) -> TuneSpec:
    fields = {"strategy": Text, "data": Keys, **types_of(TuneSpec, "condition", "data")}
    values = checked(content, fields, "tune")
    label = values.pop("strategy", None)
    condition = schema.labelled(conditions, label, "row to tune")
    by_key = {task.key: task for task in tasks}
    only = values.pop("tasks", ()) or tuple(by_key)
    all_of(only, by_key, "task")
    if not values.get("grid"):
        raise InvalidInputError(f"tune of {label} needs a grid: every option with a list of values.")
    data = values.pop("data", {})
    for key in only:
        _require_other_data(label, by_key[key], data, tasks)
    return TuneSpec(condition, tasks=only, data=data, **values)


def _require_other_data(label: str, task: TaskSpec, data: Mapping[str, Any], tasks: Sequence[TaskSpec]) -> None:
    """Refuses to tune on what a figure of the table is measured on, with whatever seed or number of images."""
    tuned = _images_of(_data({**task.data, **data}, f"data of tune of {label!r} for task {task.key}"))
    advice = "e.g. split: validation, or for ReCLIP's files another file"
    if str(tuned.get("split", "")).lower().startswith("test"):
        raise InvalidInputError(
            f"tune of {label} needs data with a split of its own, {advice}; for task {task.key} it would choose "
            f"options on split {tuned['split']}."
        )
    own = _images_of(task.data)
    if all(tuned.get(key) == own.get(key) for key in ("source", "split", "file")):
        raise InvalidInputError(
            f"tune of {label} needs data with a split of its own, {advice}; for task {task.key} neither differs from "
            "what is evaluated."
        )
    for other in tasks:
        if _images_of(other.data) == tuned:
            raise InvalidInputError(
                f"tune of {label} for task {task.key} would choose options on the data that task {other.key} is "
                f"evaluated on ({', '.join(f'{key}: {value}' for key, value in tuned.items())}); "
                f"give it a split of its own, {advice}."
            )


def _images_of(data: Mapping[str, Any]) -> dict[str, str]:
    """What decides which images are asked about: not how many, in which draw, or with which candidate boxes."""
    filled: dict[str, Any] = {**SOURCE_DEFAULTS.get(data["source"], {}), **data}
    left_out = ("n", "seed", "detections", "images")
    files = ("file", "refs", "instances")
    # The same file under another spelling is the same file.
    return {
        key: str(Path(os.path.normpath(str(value)))) if key in files else str(value)
        for key, value in sorted(filled.items())
        if key not in left_out
    }


_TOP: dict[str, Any] = {
    **dict.fromkeys(("strategies", "controls", "tune"), schema.Listed),
    **{"models": Texts, "examples": schema.Whole, "tasks": Keys, "maps": Keys, "fit": Fit, "compare_with": _OneOrMore},
}


def load_published() -> list[dict[str, Any]]:
    """The papers' values (`benchmarks/published.yaml`), each with its source and how sure it is."""
    text = resources.files("visprompt.benchmarks").joinpath("published.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    return [{**figure, "source": content["papers"][figure["paper"]]} for figure in content["figures"]]
