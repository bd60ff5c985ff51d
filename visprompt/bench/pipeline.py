"""One run of a suite, whatever its kind: what is there is not made again, the rest is made, summarised and kept.

A run can be killed at any time: the next one goes on with the answers and units that are in the folder. When it is
interrupted, the rows that follow from what is finished are written; rows of earlier runs stay in the table until they
are made again.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from visprompt.bench.kind import Kind, ProgressCallback, RunContext, Settings, Unit
from visprompt.bench.rows import Row, key_of
from visprompt.bench.store import RESULTS, Store
from visprompt.bench.suite import kind_of, load_suite
from visprompt.bench.workers import Pool
from visprompt.errors import VispromptError
from visprompt.tasks.condition import RunnerFactory, default_runner
from visprompt.utils.files import require_folder
from visprompt.utils.hashing import digest
from visprompt.utils.provenance import provenance
from visprompt.utils.renamed import warn_replaced

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True, eq=False)
class SuiteResult:
    """What came out of a suite of any kind.

    Attributes:
        suite: the parsed suite, with all of its rows.
        rows: as in `results.jsonl`; rows of earlier runs of the suite in the same folder are among them.
        problems: sentences for people: what failed, was left out, or is out of date.
        out: the folder.
        examples: images for the report, as the kind has them.
        files: rows of the other files by stem: of accuracy suites `tuning` and `maps`, of tuning suites `runs`.
        seconds: wall time of the run.
    """

    suite: Any
    rows: list[Row]
    problems: list[str]
    out: Path
    examples: Any = None
    files: dict[str, list[Row]] = field(default_factory=dict)
    seconds: float = 0.0

    def __getattr__(self, name: str) -> Any:
        """The names of 0.4.0."""
        if name not in _OLD_ATTRIBUTES:
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        new = f'files["{name}"]' if name in ("tuning", "maps", "runs") else "examples"
        warn_replaced(f"SuiteResult.{name}", new)
        return self.examples if new == "examples" else self.files.get(name, [])


_OLD_ATTRIBUTES = ("tuning", "maps", "runs", "exhibits", "pictures")


class RunOptions(TypedDict, total=False):
    """Further arguments of `run_suite`.

    Attributes:
        images, annotations: folders, for suites on data that do not ship with the package; for a gain suite, `images`
            takes the place of the suite's images.
        limit: only the first so many images of every task, or of every part of a data set.
        device: for models that are loaded here: auto, cpu, cuda, mps.
        make_runner: makes the runner of a model and a prompter, see `visprompt.tasks.condition.Pointer`.
        images, listener: the names of `examples` and `progress` in 0.4.0.
    """

    images: str | Path | None
    annotations: str | Path | None
    limit: int | None
    device: str
    make_runner: RunnerFactory
    pictures: bool
    listener: ProgressCallback | None


def run_suite(
    suite: Any,
    *,
    models: Sequence[Any] | None = None,
    out: str | Path | None = None,
    strategies: Sequence[str] | None = None,
    fresh: bool = False,
    jobs: int = 1,
    examples: bool = False,
    progress: ProgressCallback | None = None,
    **options: Unpack[RunOptions],
) -> SuiteResult:
    """Runs a suite of any kind and writes `results.jsonl` and what it rests on into `out`.

    What is in `out` already and depends on the same model, strategy, data and code is not made again. Rows that are
    not asked for (`models`, `strategies`) stay in the table.

    Args:
        suite: a parsed suite, its name, or the path of its file.
        models: instead of the suite's: specifications for `load_model`, or models.
        out: by default `runs/<suite>`.
        strategies: only the rows with these labels.
        fresh: forget what is there, once data and models are loaded.
        jobs: processes at a time; 1 for models that are given as objects.
        examples: collect images for the report.
        progress: is told how it goes.
        options: see `RunOptions`.

    Raises:
        UnknownNameError: for names that do not exist.
        InvalidInputError: for data that cannot be read, a folder that cannot be written, or no model to run.
        UnsupportedError: if none of the models can be used.
    """
    started = time.monotonic()
    _check_options(options)
    whole = load_suite(suite) if isinstance(suite, str | Path) else suite
    kind, images = kind_of(whole), options.get("images")
    if images is not None and kind.with_images is not None:
        whole = kind.with_images(whole, images)
    chosen = kind.chosen(whole, strategies)
    asked = tuple(kind.models(chosen, models))
    settings = Settings(
        kind=kind.name,
        suite=chosen,
        whole=whole,
        models=asked,
        out=Path(out) if out is not None else Path("runs") / whole.name,
        images=images,
        annotations=options.get("annotations"),
        limit=options.get("limit"),
        device=options.get("device", "auto"),
        fresh=fresh,
        jobs=jobs if all(isinstance(one, str) for one in asked) else 1,
    )
    store, how = Store(require_folder(settings.out), fresh), options.get("make_runner", default_runner)
    context = RunContext(settings, store, options.get("listener", progress) or ProgressCallback(), how)
    rows = _Run(context, kind, options.get("pictures", examples)).run()
    files, seconds = kind.extra(context), time.monotonic() - started
    return SuiteResult(whole, rows, context.problems, settings.out, context.examples, files, seconds)


def _check_options(options: Any) -> None:
    """Warns of the names that two arguments had in 0.4.0, and refuses arguments that do not exist."""
    for old, new in (("pictures", "examples"), ("listener", "progress")):
        if old in options:
            warn_replaced(f"run_suite({old}=…)", f"{new}=…", stacklevel=4)
    unknown = set(options) - set(RunOptions.__annotations__)
    if unknown:
        raise TypeError(f"run_suite() got an unexpected keyword argument {sorted(unknown)[0]!r}")


class _Run:
    """One run; `run_suite` is the way in."""

    def __init__(self, context: RunContext, kind: Kind, examples: bool) -> None:
        self.context, self.kind, self.examples = context, kind, examples
        self.settings, self.store, self.progress = context.settings, context.store, context.progress
        self._forgotten = False

    def run(self) -> list[Row]:
        """Makes what is not there, and gives the rows of the table."""
        self.progress.planned(self.kind.prepare(self.context))
        try:
            failed = self._models()
        except BaseException:
            with contextlib.suppress(Exception):  # what interrupted the run is what people must see
                self._write(self.kind.summarise(self.context))
            raise
        if self.settings.fresh and not failed:
            self.store.forget_untouched()
        made = self.kind.summarise(self.context)
        shown = [row for row in self._write(made) if self.kind.place(self.context, row) is not None]
        for text in stale(shown, made, self.kind.made_with):
            self.context.problem(text)
        return shown

    def _models(self) -> list[VispromptError]:
        """All stages, model by model, or with several processes all models at once; gives why models were left out.

        Raises:
            VispromptError: if no model can be used.
        """
        errors: list[VispromptError] = []
        models = list(self.settings.models)
        for group in [models] if self.settings.jobs > 1 or not models else [[one] for one in models]:
            usable = [one for one in group if self._opened(one, errors)]
            if group and not usable:
                continue
            for stage in self.kind.stages:
                self._make(self.kind.units(self.context, stage, usable))
            if self.examples:
                self.kind.illustrate(self.context, usable)
        if models and len(errors) == len(models):
            raise errors[0]
        return errors

    def _opened(self, spec: Any, errors: list[VispromptError]) -> bool:
        try:
            name = self.kind.open(self.context, spec)
        except VispromptError as error:
            errors.append(error)
            self.context.problem(f"model {spec} was left out: {error}")
            return False
        if self.settings.fresh:
            shared = [] if self._forgotten else self.kind.files(None, self.context)
            self.store.forget([*shared, *self.kind.files(name, self.context)], name)
            self._forgotten = True
        return True

    def _make(self, units: Sequence[Unit]) -> None:
        """Makes the units that the folder does not have."""
        context = self.context
        context.units.update((unit.key, unit) for unit in units)
        waiting: dict[str, list[Unit]] = {}
        for unit in units:
            row = self.store.known(unit.key) if unit.file is not None else None
            if row is not None:
                context.results[unit.key] = row
                self.progress.advanced(unit.size)
            elif unit.ready or self.settings.jobs == 1:
                self._here(unit)
            else:
                waiting.setdefault(unit.batch or unit.key, []).append(unit)
        batches = list(waiting.values())
        for unit in self._apart(batches) if len(batches) > 1 else itertools.chain(*batches):
            self._here(unit)

    def _here(self, unit: Unit) -> None:
        self.progress.starts(unit.title)
        self._take(unit, self.kind.run(self.context, unit))

    def _apart(self, batches: list[list[Unit]]) -> list[Unit]:
        """Makes batches in other processes; gives what failed there and is made here, so that its reason is seen."""
        again: list[Unit] = []
        with contextlib.closing(Pool(self.settings, self.progress).run(batches)) as made_batches:
            for batch, made in made_batches:
                for text in made.problems:
                    self.context.problem(text)
                for unit in batch:
                    if unit.key in made.rows:
                        self._take(unit, made.rows[unit.key])
                    else:
                        again.append(unit)
        self.store.reread()
        return again

    def _take(self, unit: Unit, row: Row | None) -> None:
        if row is None:
            return
        self.context.results[unit.key] = row
        if unit.file is not None:
            self.store.add(unit.file, row)
        if not unit.ready:
            self.progress.finished(row)

    def _write(self, made: Sequence[Row]) -> list[Row]:
        """Writes `results.jsonl`: rows made now, and those of earlier runs that have not gone; gives them in order."""
        if not made:
            return []
        again = {key_of(row) for row in made}
        every = self.store.merged(made)
        kept = [row for row in every if key_of(row) in again or not self.kind.outdated(self.context, row, made)]
        rows = in_order(kept, lambda row: self.kind.place(self.context, row))
        self.store.write(rows, RESULTS)
        return rows


def in_order(rows: Sequence[Row], place: Callable[[Row], tuple[Any, ...] | None]) -> list[Row]:
    """Rows by their place in the table; those without one last, as they were."""

    def key(row: Row) -> tuple[Any, ...]:
        where = place(row)
        return where is None, where or ()

    return sorted(rows, key=key)


def stale(rows: Sequence[Row], made: Sequence[Row], made_with: Sequence[str]) -> list[str]:
    """Sentences for people if rows were made in another way than today's.

    Args:
        rows: the rows of the table.
        made: those that this run made or found complete.
        made_with: keys of a row, besides code, that must be as in the rows made now.
    """
    if not made:
        return []
    code, now, told = provenance()["code"], {key_of(row) for row in made}, []
    by_task = {row["task"]: row for row in reversed(made)}
    mixed = [row for row in made if row["value"] is not None and _code(row) != code]
    if mixed:
        count = f"{len(mixed)} rows rest" if len(mixed) > 1 else "1 row rests"
        told.append(
            f"{count} on runs with other code{_versions(mixed)} ({_labels(mixed)}): run the suite with --fresh "
            "to make all of them with today's."
        )

    def other(row: Row) -> bool:
        like = by_task.get(row["task"])
        keys = made_with if like is not None else [key for key in made_with if key in ("suite_hash", "limit")]
        like = like or made[0]
        return _code(row) != code or any(digest(row.get(key)) != digest(like.get(key)) for key in keys)

    old = [row for row in rows if key_of(row) not in now and other(row)]
    if old:
        told.append(
            f"{len(old)} rows are from an earlier run{_versions(old)} with other code, another suite file or another "
            f"limit ({_labels(old)}): run the suite without --strategy and --model to make them again, or --fresh to "
            "forget them."
        )
    return told


def _code(row: Mapping[str, Any]) -> str:
    return str((row.get("provenance") or {}).get("code"))


def _labels(rows: Sequence[Row]) -> str:
    by_model: dict[str, list[str]] = {}
    for row in rows:
        by_model.setdefault(str(row["model"]), []).append(str(row["row"]))
    return "; ".join(f"{', '.join(dict.fromkeys(labels))} on {model}" for model, labels in by_model.items())


def _versions(rows: Sequence[Row]) -> str:
    """Which other versions of the package made the rows."""
    now = provenance()["versions"]["visprompt"]
    found = {str((row.get("provenance") or {}).get("versions", {}).get("visprompt", now)) for row in rows} - {now}
    return f" of visprompt {', '.join(sorted(found))}" if found else ""
