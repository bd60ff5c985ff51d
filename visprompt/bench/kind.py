"""What a kind of suite defines, and what it is given: the rest of a run is the same for all kinds (`pipeline`).

A kind lists units of work in stages. A unit has a key, a hash of all that its result depends on: what the folder holds
under that key already is not made again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from visprompt.bench.rows import Row
from visprompt.tasks.condition import RunnerFactory, default_runner

if TYPE_CHECKING:
    from visprompt.bench.pipeline import SuiteResult
    from visprompt.bench.progress import ProgressCallback
    from visprompt.bench.report.document import Document
    from visprompt.bench.store import Store


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

    def cached(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once."""
        if key not in self.cache:
            self.cache[key] = make()
        return self.cache[key]

    def held(self, spec: Any, make: Callable[[], Any]) -> Any:
        """A model, or what a kind makes of one, kept until another large one is needed.

        Args:
            spec: specification of the model; bundled models are small, and are all kept.
            make: makes it.
        """
        key = spec if isinstance(spec, str) else id(spec)
        if key not in self._held:
            for other in [one for one in self._held if not str(one).startswith("bundled:")]:
                del self._held[other]
            self._held[key] = make()
        return self._held[key]

    def model(self, spec: Any) -> Any:
        """The model of a specification; a model is given back."""
        return self.held(spec, lambda: loaded(spec, self.settings.device))

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


class Kind(Protocol):
    """A kind of suite. `visprompt.bench.suite.KINDS` lists them; they keep no state, all of it is in the context.

    Attributes:
        name: as in `kind:` of a suite's file.
        suite_type: class of its parsed suites.
        made_with: keys of a row, besides code, whose values must be today's, or the row is stale.
    """

    @property
    def name(self) -> str: ...

    @property
    def suite_type(self) -> type: ...

    @property
    def made_with(self) -> Sequence[str]: ...

    def parse(self, content: Mapping[str, Any], name: str) -> Any:
        """Checks what a suite's file holds."""

    def with_images(self, suite: Any, images: str | Path | None) -> Any:
        """The suite on a folder of images of the user's, where that changes what the suite is."""

    def chosen(self, suite: Any, labels: Sequence[str] | None) -> Any:
        """The suite with only these rows; all of them for None.

        Raises:
            UnknownNameError: if a label is not in the suite.
        """

    def models(self, suite: Any, given: Sequence[Any] | None) -> list[Any]:
        """The models that the table has: those given, or the suite's.

        Raises:
            InvalidInputError: if there are none, or too many.
        """

    def parallel(self, suite: Any) -> int:
        """Units of one model that can be run at the same time."""

    def prepare(self, context: RunContext) -> int:
        """Reads all data, so that what is wrong with it is said before a model is loaded.

        Returns:
            The size of all units together.
        """

    def open(self, context: RunContext, spec: Any) -> str:
        """Loads a model to see whether it can be used, and gives the name that it has in the table."""

    def files(self, model: str | None, context: RunContext) -> list[str]:
        """Patterns of the files and folders that hold what was made of a model; None: of no single model."""

    def stages(self, context: RunContext) -> Sequence[str]:
        """The stages in order; units of a stage may depend on results of the stages before it."""

    def units(self, context: RunContext, stage: str, models: Sequence[Any]) -> list[Unit]:
        """The units of a stage of some of the models, in the order of the suite."""

    def run(self, context: RunContext, unit: Unit) -> Row | None:
        """Makes a unit, in any process. None if nothing came out; `context.problem` then has the reason.

        Raises:
            VispromptError: if the whole run has to end.
        """

    def line(self, row: Row) -> str | None:
        """What came out of a unit as one line for people; None: no line."""

    def rows(self, context: RunContext) -> list[Row]:
        """The rows of `results.jsonl` that follow from the units' results."""

    def place(self, context: RunContext, row: Row) -> tuple[Any, ...] | None:
        """Where a row stands in the table, to sort by; None if it has no place in it any more."""

    def outdated(self, context: RunContext, row: Row, made: Sequence[Row]) -> bool:
        """Whether a row of an earlier run goes, although it is not among the rows that were made now."""

    def extra(self, context: RunContext) -> dict[str, list[Row]]:
        """Rows of the other files, by stem: `SuiteResult.files`."""

    def illustrate(self, context: RunContext, models: Sequence[Any]) -> None:
        """Adds images for the report to `context.examples`."""

    def document(self, result: SuiteResult) -> Document:
        """The report of a result."""
