"""Runs a suite: tunes on validation, evaluates on test, compares rows, and writes down what every figure depends on.

>>> import visprompt.bench.accuracy.run as bench
>>> "scenes" in bench.list_suites()
True
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from visprompt.bench.accuracy.examples import Exhibits
from visprompt.bench.accuracy.model_run import ModelRun, tuning_of
from visprompt.bench.accuracy.spec import RowSpec, Suite, TaskSpec
from visprompt.bench.store import MAPS, RESULTS, TUNING, Earlier, stale
from visprompt.bench.suite import list_suites, load_published, load_suite
from visprompt.bench.workers import run_workers
from visprompt.errors import InvalidInputError, VispromptError, unknown_name
from visprompt.tasks.base import Row
from visprompt.tasks.condition import RunnerFactory, default_runner
from visprompt.tasks.data_sources import Data, load_data
from visprompt.utils.files import require_folder
from visprompt.utils.hashing import digest
from visprompt.utils.jsonl import RowLog, read_jsonl, write_jsonl
from visprompt.utils.provenance import provenance

__all__ = ["Bench", "BenchResult", "Listener", "list_suites", "load_published", "load_suite", "run_suite"]


Stage = Literal["all", "tuning", "rows"]


class Listener:
    """What a run tells those who watch it; sub-classes show it."""

    def planned(self, pictures: int) -> None:
        """How many pictures will be looked at, all rows together."""

    def row(self, text: str) -> None:
        """Which row is at work."""

    def done(self, pictures: int) -> None:
        """Pictures done since the last call."""

    def result(self, row: Row) -> None:
        """A finished row."""


@dataclass(frozen=True, eq=False)
class BenchResult:
    """What came out of a suite.

    Attributes:
        rows: as in `results.jsonl`, one per model, task and way of pointing; those of earlier runs of the suite in the
            same folder are among them.
        tuning: one per tuned row and model: the grid with its validation figures, and what was chosen.
        problems: sentences for people: items that failed, rows that a model cannot run.
        out: the folder.
        exhibits: pictures for the report, if they were asked for.
        maps: as in `maps.jsonl`: per model and task, whether maps lie where questions point.
    """

    suite: Suite
    rows: list[Row]
    tuning: list[Row]
    problems: list[str]
    out: Path
    exhibits: Exhibits
    maps: list[Row] = field(default_factory=list)


def run_suite(
    suite: Suite | str | Path,
    *,
    models: Sequence[Any] | None = None,
    images: str | Path | None = None,
    annotations: str | Path | None = None,
    out: str | Path | None = None,
    limit: int | None = None,
    strategies: Sequence[str] | None = None,
    fresh: bool = False,
    device: str = "auto",
    pictures: bool = False,
    jobs: int = 1,
    part: bool = False,
    share: str | None = None,
    stage: Stage = "all",
    listener: Listener | None = None,
    make_runner: RunnerFactory = default_runner,
) -> BenchResult:
    """Runs a suite and writes `results.jsonl`, `tuning.jsonl` and `items-*.jsonl` into `out`.

    Rows that are in `out` already and depend on the same model, strategy, data and code are not made again. Rows that
    are not asked for (`models`, `strategies`) stay in the summaries.

    Args:
        suite: a suite, its name, or the path of its file.
        models: instead of the suite's: specifications for `load_model`, or models.
        images, annotations: folders, for suites on data that does not ship with the package.
        out: by default `runs/<suite>`.
        limit: only the first so many pictures of every task (and of the tuning data).
        strategies: only rows with these labels.
        fresh: forget the rows that are there, once data and model are loaded.
        device: for models that are loaded here.
        pictures: collect examples and attention maps for the report.
        jobs: models at a time, a process each (`visprompt.bench.workers`), or tasks of a model where there are fewer
            models than that; for suites given by name or path.
        part: this is such a process: leave the summaries alone.
        share: the only task that such a process is to do.
        stage: and of it the tuning, or the rows, whose options others may have tuned; all of it.
        listener: is told how it goes.
        make_runner: see `visprompt.tasks.condition.Pointer`.

    Raises:
        UnknownNameError: for names that do not exist.
        InvalidInputError: for data that cannot be read, a folder that cannot be written, or no model to run.
    """
    source = None if isinstance(suite, Suite) else str(suite)
    loaded = suite if isinstance(suite, Suite) else load_suite(suite)
    if not isinstance(loaded, Suite):
        raise InvalidInputError(
            f"suite {loaded.name} is of another kind: visprompt.bench.tuning.run.run_tuning or "
            "visprompt.bench.gain.run.run_gain runs it, and 'visprompt bench' any."
        )
    suite = loaded
    if limit is not None and limit < 1:
        raise InvalidInputError(f"limit must be at least 1; got {limit}.")
    bench = Bench(
        suite=_chosen(suite, strategies),
        whole=suite,
        out=Path(out) if out is not None else Path("runs") / suite.name,
        images=images,
        annotations=annotations,
        limit=limit,
        pictures=pictures,
        part=part,
        share=share,
        stage=stage,
        listener=listener or Listener(),
        make_runner=make_runner,
    )
    specs = list(models) if models else list(suite.models)
    if not specs:
        raise InvalidInputError(f"suite {suite.name} names no model: give one, e.g. --model open_clip:ViT-B-16/openai.")
    require_folder(bench.out)
    bench.begin(fresh)
    several = len(specs) > 1 or len(suite.tasks) > 1
    if jobs > 1 and source and several and all(isinstance(spec, str) for spec in specs):
        bench.prepare(specs)  # what is wrong with the data is said here, once
        if fresh:
            bench.forget(specs, device)
        told: Row = {"suite": source, "images": images, "annotations": annotations, "out": bench.out, "limit": limit}
        told = {key: str(value) if isinstance(value, Path) else value for key, value in told.items()}
        told = {**told, "strategies": strategies, "device": device}
        for units in _units(bench.suite, specs, jobs):
            run_workers(units, told, jobs, bench.listener)
        bench.warmed = True
    return bench.run(specs, device, fresh)


def _units(suite: Suite, specs: Sequence[str], jobs: int) -> Iterator[list[Row]]:
    """What workers do, one list after the other: models, or where those are few, tasks of models.

    The options of a row hang on all tasks it is tuned on, so these come first, every task's tuning in one process.
    """
    if len(specs) >= jobs or len(suite.tasks) == 1:
        yield [{"models": [spec]} for spec in specs]
        return
    if suite.tune:
        tuned = [task.key for task in suite.tasks if any(task.key in tune.tasks for tune in suite.tune)]
        yield [{"models": [spec], "share": key, "stage": "tuning"} for spec in specs for key in tuned]
    yield [{"models": [spec], "share": task.key, "stage": "rows"} for spec in specs for task in suite.tasks]


@dataclass(eq=False)
class Bench:
    """One run of a suite; `run_suite` is the way in."""

    suite: Suite
    whole: Suite
    out: Path
    images: str | Path | None = None
    annotations: str | Path | None = None
    limit: int | None = None
    pictures: bool = False
    part: bool = False
    share: str | None = None
    stage: Stage = "all"
    warmed: bool = False
    listener: Listener = field(default_factory=Listener)
    make_runner: RunnerFactory = default_runner
    rows: list[Row] = field(default_factory=list)
    tuning: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    maps: list[Row] = field(default_factory=list)
    exhibits: Exhibits = field(default_factory=Exhibits)
    _name: str = ""
    _forgotten: set[str] = field(default_factory=set)
    _data: dict[str, Data] = field(default_factory=dict)
    _logs: dict[Path, RowLog] = field(default_factory=dict)
    before: dict[tuple[str, str], Row] = field(default_factory=dict)
    provenance: Row = field(default_factory=dict)
    earlier: dict[str, Earlier] = field(default_factory=dict)

    def begin(self, fresh: bool) -> None:
        """Reads what earlier runs left."""
        self.earlier = {name: Earlier(self.out / name, self.whole, fresh) for name in (RESULTS, TUNING)}

    def run(self, specs: Sequence[Any], device: str, fresh: bool) -> BenchResult:
        """Runs everything."""
        handed_over = sorted(self.out.glob(f"part-*-{RESULTS}"))
        # Not by the run alone: "random" is the same run for every model.
        for row in itertools.chain(self.earlier[RESULTS].rows, *map(read_jsonl, handed_over)):
            self.before[str(row.get("model")), str(row.get("run"))] = row
        self.provenance = provenance()
        self.prepare(specs)
        errors: list[VispromptError] = []
        for spec in specs:
            try:
                model = _model(spec, device)
            except VispromptError as error:
                errors.append(error)
                self.problems.append(f"model {spec} was left out: {error}")
                continue
            self._one_model(model, fresh)
        if len(errors) == len(specs):
            raise errors[0]
        if not self.part:
            if fresh and not errors:
                self._forget_others()
            self.forget_parts()
        rows, tuning = self.earlier[RESULTS].shown(self.rows), self.earlier[TUNING].shown(self.tuning)
        self.problems += stale(rows, self.rows)
        return BenchResult(self.suite, rows, tuning, self.problems, self.out, self.exhibits, self.maps)

    def prepare(self, specs: Sequence[Any]) -> None:
        """Reads all data, because a missing folder should not show after an hour of work on another task."""
        sizes = {task.key: len(self.data(task.data).pictures[: self.limit]) for task in self.suite.tasks}
        per_model = sum(sizes[task.key] for row in self.suite.rows for task in self._tasks(row))
        for tune in self.suite.tune:
            tuned = [self.data({**self.suite.task(key).data, **tune.data}) for key in tune.tasks]
            per_model += sum(len(data.pictures[: self.limit]) for data in tuned) * len(list(tune.points()))
        self.listener.planned(per_model * len(specs))

    def data(self, spec: dict[str, Any]) -> Data:
        """The data of a description, read once."""
        key = digest(spec)
        if key not in self._data:
            self._data[key] = data = load_data(spec, self.images, self.annotations)
            self.problems += [problem for problem in data.problems if problem not in self.problems]
        return self._data[key]

    def _one_model(self, model: Any, fresh: bool) -> None:
        identity = model.describe()
        self._name = self.earlier[RESULTS].label(model.name, str(identity.get("weights", "")), self.rows)
        if fresh and self._name not in self._forgotten:
            self._forget()
        ModelRun(self, model, identity, self._name).run()

    def forget(self, specs: Sequence[Any], device: str) -> None:
        """Removes what earlier runs left of these models, before workers start; those that are not there stay for `run`
        to complain about.
        """
        self.forget_parts()
        for spec in specs:
            with contextlib.suppress(VispromptError):
                model = _model(spec, device)
                weights = str(model.describe().get("weights", ""))
                self._name = self.earlier[RESULTS].label(model.name, weights, self.rows)
                self._forget()

    def add(self, name: str, row: Row) -> None:
        """Takes a finished row of `results.jsonl` or `tuning.jsonl`, tells it and writes it."""
        (self.rows if name == RESULTS else self.tuning).append(row)
        if name == RESULTS and not (self.warmed and row.get("reused") == row["n"]):
            self.listener.result(row)
        self.write(name)

    def log(self, kind: str, name: str) -> RowLog:
        """The answers of a model to a task (or in tuning)."""
        path = self.out / f"items-{kind}-{_slug(name)}.jsonl"
        return self._logs.setdefault(path, RowLog(path))

    def map_logs(self) -> list[RowLog]:
        """Where figures on maps are: the file they go to first, and those that workers handed over."""
        name = self._part(MAPS) if self.part else MAPS
        return [RowLog(path) for path in (self.out / name, *sorted(self.out.glob(f"part-*-{MAPS}")))]

    def forget_parts(self) -> None:
        """Removes what workers handed over."""
        for file in self.out.glob("part-*.jsonl"):
            file.unlink()

    def _forget(self) -> None:
        """Removes what earlier runs left of the model at work."""
        self._forgotten.add(self._name)
        for task in self.whole.tasks:
            for kind in (task.key, tuning_of(task.key)):
                self.log(kind, self._name).path.unlink(missing_ok=True)
        for earlier in self.earlier.values():
            earlier.forget(self._name)
        if (self.out / MAPS).exists():
            write_jsonl(self.out / MAPS, [row for row in read_jsonl(self.out / MAPS) if row.get("model") != self._name])

    def _forget_others(self) -> None:
        """Removes what earlier runs left of everything that was not asked for."""
        for file in self.out.glob("items-*.jsonl"):
            if file not in self._logs:
                file.unlink()
        for (name, earlier), made in zip(self.earlier.items(), (self.rows, self.tuning), strict=True):
            earlier.forget()
            if (self.out / name).exists():
                write_jsonl(self.out / name, made)

    def _part(self, name: str) -> str:
        return f"part-{_slug(self._name)}-{self.share or 'all'}-{name}"

    def write(self, name: str) -> None:
        """Writes a summary."""
        rows = self.rows if name == RESULTS else self.tuning
        # A worker's summary is only there to hand over how long its rows took.
        if self.part:
            write_jsonl(self.out / self._part(name), rows)
        else:
            write_jsonl(self.out / name, self.earlier[name].merged(rows))

    def _tasks(self, row: RowSpec) -> list[TaskSpec]:
        return [task for task in self.suite.tasks if not row.tasks or task.key in row.tasks]


def _chosen(suite: Suite, strategies: Sequence[str] | None) -> Suite:
    if not strategies:
        return suite
    labels = [row.pointing.label for row in suite.rows]
    for name in strategies:
        if name not in labels:
            raise unknown_name(f"row of suite {suite.name}", name, labels)
    rows = tuple(row for row in suite.rows if row.pointing.label in strategies)
    needed = {row.tuned_as or row.pointing.label for row in rows}
    # A row may borrow its options from one that is tuned but, here, not asked for.
    tune = tuple(one for one in suite.tune if one.strategy in needed)
    return dataclasses.replace(suite, rows=rows, tune=tune)


def _model(spec: Any, device: str) -> Any:
    if not isinstance(spec, str):
        return spec
    from visprompt.models import load_model

    return load_model(spec, device=device)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")
