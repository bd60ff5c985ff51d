"""What a kind of suite defines, and what it is given: the rest of a run is the same for all kinds (`pipeline`).

A kind lists units of work in stages. A unit has a key, a hash of all that its result depends on: what the folder holds
under that key already is not made again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from visprompt.bench.rows import Row
from visprompt.bench.schema import all_of
from visprompt.errors import InvalidInputError
from visprompt.tasks.condition import RunnerFactory, default_runner

if TYPE_CHECKING:
    from visprompt.bench.pipeline import SuiteResult
    from visprompt.bench.report.document import Document
    from visprompt.bench.store import Store

T = TypeVar("T")


class ProgressCallback:
    """Is told how a run goes; sub-classes show it. Every method does nothing here."""

    def planned(self, total: int) -> None:
        """How much there is to do: images to look at, and runs of training, all units together."""

    def starts(self, title: str) -> None:
        """Which unit is at work now."""

    def advanced(self, count: int) -> None:
        """How much was done since the last call; negative if a process died and its work is done again."""

    def finished(self, row: Row) -> None:
        """A unit that was made in this run is finished; `row` is what came out of it."""


@dataclass(frozen=True)
class Unit:
    """One piece of work; it can be sent to another process.

    Attributes:
        stage: one of the kind's stages.
        key: a hash of all that the result depends on.
        title: for people.
        what: what the kind needs to know to run it.
        size: how much of the progress it is, as images; 0: it is not counted.
        batch: units with the same batch are run in order by one process, because they write to one file.
        file: stem of the `.jsonl` file that its row is kept in; None: the kind keeps what it makes itself.
        ready: the folder has everything, so running it costs nothing; for kinds that keep what they make.
        kept: answers that were there before this run started; None: that is not known, and nobody else writes.
    """

    stage: str
    key: str
    title: str
    what: Any
    size: int = 0
    batch: str = ""
    file: str | None = None
    ready: bool = False
    kept: int | None = None


@dataclass(frozen=True)
class Settings:
    """What was asked for; it can be sent to another process if the models are names.

    Attributes:
        kind: name of the kind.
        suite: the suite, of which only the rows that were asked for are left.
        whole: the suite as it is in its file.
        models: specifications for `load_model`, or models.
        out: the folder of the results.
        images, annotations: folders of the data, for suites whose data do not ship with the package.
        limit: only the first so many images of every task.
        device: for models that are loaded here.
        fresh: what is in the folder is forgotten.
        jobs: processes at a time.
    """

    kind: str
    suite: Any
    whole: Any
    models: tuple[Any, ...]
    out: Path
    images: str | Path | None = None
    annotations: str | Path | None = None
    limit: int | None = None
    device: str = "auto"
    fresh: bool = False
    jobs: int = 1

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InvalidInputError(f"limit must be at least 1; got {self.limit}.")

    def limited(self, n: int) -> int:
        """So many images, or fewer if there is a limit."""
        return min(n, self.limit or n)


@dataclass(frozen=True, eq=False)
class Opened:
    """A model of the table: its specification, its name there, and what `model.describe()` says of it."""

    spec: Any
    name: str
    identity: Row


@dataclass(eq=False)
class RunContext:
    """One run of a suite in one process: what was asked for, the folder, and what is in memory.

    Attributes:
        results: rows of finished units by key, those of earlier runs included.
        units: all units so far by key, in the order of the suite.
        problems: sentences for people.
        cache: what a kind keeps for the whole run, as its data.
        examples: images for the report, as the kind has them.
        names: hashes of the weights of the run's models, by their names in the table.
    """

    settings: Settings
    store: Store
    progress: ProgressCallback
    make_runner: RunnerFactory = default_runner
    results: dict[str, Row] = field(default_factory=dict)
    units: dict[str, Unit] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    cache: dict[Any, Any] = field(default_factory=dict)
    examples: Any = None
    names: dict[str, str] = field(default_factory=dict)
    _held: dict[Any, Any] = field(default_factory=dict)

    @property
    def suite(self) -> Any:
        """The suite, of which only the rows that were asked for are left."""
        return self.settings.suite

    def problem(self, text: str) -> None:
        """Adds a sentence to the problems, once."""
        if text not in self.problems:
            self.problems.append(text)

    def cached(self, key: Any, make: Callable[[], T]) -> T:
        """What `make` gives, made once."""
        if key not in self.cache:
            self.cache[key] = make()
        found: T = self.cache[key]
        return found

    def held(self, spec: Any, make: Callable[[], T]) -> T:
        """A model, or what `make` makes of one, kept until another large one is needed; bundled ones are all kept."""
        key = spec if isinstance(spec, str) else id(spec)
        if key not in self._held:
            for other in [one for one in self._held if not str(one).startswith("bundled:")]:
                del self._held[other]
            self._held[key] = make()
        found: T = self._held[key]
        return found

    def model(self, spec: Any) -> Any:
        """The model of a specification; a model is given back."""
        return self.held(spec, lambda: loaded(spec, self.settings.device))

    def opened(self, spec: Any, alone: bool = False) -> Opened:
        """A model with its name in the table; made once, because its description hashes all weights.

        `alone`: all rows of the table are of this model, so that no other one can have its name.
        """

        def make() -> Opened:
            model = self.model(spec)
            identity = model.describe()
            weights = str(identity.get("weights", ""))
            if alone:
                self.names[model.name] = weights
            return Opened(spec, self.name(model.name, weights), identity)

        return self.cached(("model", spec if isinstance(spec, str) else id(spec)), make)

    def name(self, own: str, weights: str) -> str:
        """The name of a model in the table: its own, or with a piece of its weights' hash where that is taken."""
        name = self.store.label(self.suite.name, own, weights, self.names)
        self.names.setdefault(name, weights)
        return name

    def model_place(self, name: str) -> tuple[int, int, str]:
        """Where a model stands in the table: the suite's first, then those of this run."""
        suite, run = list(self.settings.whole.models), list(self.names)
        first = suite.index(name) if name in suite else len(suite)
        return first, run.index(name) if name in run else len(run), name

    def results_of(self, stage: str) -> list[tuple[Unit, Row]]:
        """The finished units of a stage with their rows."""
        found = [unit for unit in self.units.values() if unit.stage == stage and unit.key in self.results]
        return [(unit, self.results[unit.key]) for unit in found]


def slug(name: str) -> str:
    """A model's name as part of a file's name.

    >>> slug("open_clip:ViT-B-16/openai")
    'open-clip-ViT-B-16-openai'
    """
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")


def loaded(spec: Any, device: str) -> Any:
    """The model of a specification; a model is given back."""
    if not isinstance(spec, str):
        return spec
    from visprompt.models import load_model

    return load_model(spec, device=device)


@dataclass(frozen=True)
class Kind:
    """A kind of suite; `visprompt.bench.suite.KINDS` lists them. It keeps no state: all of it is in the context.

    Attributes:
        name: as in `kind:` of a suite's file.
        suite_type: class of its parsed suites.
        parse: checks what a suite's file holds; given the content and the suite's name.
        listed, row: the field of a suite with the rows of its table, and what messages call one of them.
        table: labels of the rows of `results.jsonl` in order, by task in order.
        stages: in order; units of a stage may depend on results of the stages before it.
        prepare: reads all data, so that what is wrong with it is said before a model is loaded; gives the size of all
            units together.
        open: loads a model to see whether it can be used, and gives the name that it has in the table.
        files: patterns of the files and folders that hold what was made of a model; None: of no single model.
        units: the units of a stage of some of the models, in the order of the suite.
        run: makes a unit, in any process. None if nothing came out, and `context.problem` has the reason; raises a
            VispromptError if the whole run has to end.
        line: what came out of a unit as one line for people; None: no line.
        summarise: the rows of `results.jsonl` that follow from the units' results.
        document: the report of a result.
        illustrate: adds images of some of the models for the report to `context.examples`.
        parallel: units of one model that can be run at the same time.
        extra: rows of the other files, by stem: `SuiteResult.files`.
        outdated: whether a row of an earlier run goes, although it is not among the rows that were made now.
        trimmed: a suite of which only some rows are left, without what these do not need.
        with_images: the suite on a folder of images of the user's; None: that does not change the suite.
        without_model: whether the suite has something to run without a model.
        most_models: models that a table can have; None: any number.
        example_model: for the message that there is none.
        shown: keys that a report reads; rows without them, of other versions, stay in the file but are not shown.
        task_first: rows are in order of their tasks and then of their models, not the other way round.
        made_with: keys of a row, besides code, whose values must be today's, or the row is stale.
    """

    name: str
    suite_type: type
    parse: Callable[[Mapping[str, Any], str], Any]
    listed: str
    row: str
    table: Callable[[Any], dict[str, list[str]]]
    stages: tuple[str, ...]
    prepare: Callable[[RunContext], int]
    open: Callable[[RunContext, Any], str]
    files: Callable[[str | None, RunContext], list[str]]
    units: Callable[[RunContext, str, Sequence[Any]], list[Unit]]
    run: Callable[[RunContext, Unit], Row | None]
    line: Callable[[Row], str | None]
    summarise: Callable[[RunContext], list[Row]]
    document: Callable[[SuiteResult], Document]
    illustrate: Callable[[RunContext, Sequence[Any]], None]
    parallel: Callable[[Any], int]
    extra: Callable[[RunContext], dict[str, list[Row]]] = lambda context: {}
    outdated: Callable[[RunContext, Row, Sequence[Row]], bool] = lambda context, row, made: False
    trimmed: Callable[[Any], Any] = lambda suite: suite
    with_images: Callable[[Any, str | Path], Any] | None = None
    without_model: Callable[[Any], bool] = lambda suite: False
    most_models: int | None = None
    example_model: str = ""
    shown: tuple[str, ...] = ()
    task_first: bool = True
    made_with: tuple[str, ...] = ("suite_hash", "limit")

    def chosen(self, suite: Any, labels: Sequence[str] | None) -> Any:
        """The suite with only the rows of these labels, all of them for None; an unknown label is an error."""
        rows = getattr(suite, self.listed)
        all_of(labels or (), [one.label for one in rows], f"{self.row} of suite {suite.name}")
        if not labels:
            return suite
        return self.trimmed(replace(suite, **{self.listed: tuple(one for one in rows if one.label in labels)}))

    def models(self, suite: Any, given: Sequence[Any] | None) -> list[Any]:
        """The models that the table has: those given, or the suite's; none, or too many, are an error."""
        found = list(given or suite.models)
        if self.most_models is not None and len(found) > self.most_models:
            raise InvalidInputError(f"suite {suite.name} tunes one model: give --model once.")
        if not found and not self.without_model(suite):
            example = f"--model {self.example_model}"
            raise InvalidInputError(f"suite {suite.name} names no model: give one, e.g. {example}.")
        return found

    def place(self, context: RunContext, row: Row) -> tuple[Any, ...] | None:
        """Where a row stands in the table, to sort by; None if it has no place in it any more."""
        suite = context.settings.whole
        table, task = self.table(suite), str(row.get("task"))
        known = row.get("suite") == suite.name and row.get("row") in table.get(task, ())
        if not known or any(key not in row for key in self.shown):
            return None
        at, model = (list(table).index(task),), context.model_place(row["model"])
        return *(at + model if self.task_first else model + at), table[task].index(row["row"])
