"""Runs a suite of ways of tuning: grids are searched on validation, what is reported is measured on test.

Every run is a line in `runs.jsonl`, and is not made again when it is there. What is asked for in `runs.jsonl`:

- `stage` "choose": one point of a grid, validation figures only; "report": one seed with the point that was best;
- `key`: a hash over model, data, method and settings, by which a run is known again.

>>> from visprompt.bench.tuning.run import run_tuning
>>> result = run_tuning("tuning", out="runs/bench/tuning")  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visprompt.bench.suite import load_suite
from visprompt.bench.tuning.spec import MethodSpec, SetSpec, TuningSuite, merged
from visprompt.bench.tuning.unit import PROMPTS, Row, Unit, Worker, Workshop
from visprompt.bench.workers import cores
from visprompt.data.labelled.splits import load_splits
from visprompt.errors import InvalidInputError, UnsupportedError, VispromptError, unknown_name
from visprompt.utils.files import require_folder
from visprompt.utils.hashing import digest
from visprompt.utils.jsonl import RowLog, write_jsonl

RUNS, RESULTS = "runs.jsonl", "results.jsonl"


class TuningListener:
    """What a run tells those who watch it; sub-classes show it."""

    def planned(self, runs: int) -> None:
        """How many runs there are, those that are there already left out."""

    def begins(self, text: str) -> None:
        """Which run is at work."""

    def done(self, row: Row) -> None:
        """A run has ended."""


@dataclass(frozen=True, eq=False)
class TuningResult:
    """What came out.

    Attributes:
        rows: one per method and set (`visprompt.bench.tuning.summary.summaries`), as in `results.jsonl`.
        runs: all that is behind them, as in `runs.jsonl`.
        problems: sentences for people.
        out: the folder.
        pictures: per set, what the report shows of single pictures: data URI and alternative text.
    """

    suite: TuningSuite
    rows: list[Row]
    runs: list[Row]
    problems: list[str]
    out: Path
    pictures: dict[str, tuple[str, str]] = field(default_factory=dict)


def run_tuning(
    suite: TuningSuite | str | Path,
    *,
    model: Any = None,
    out: str | Path | None = None,
    limit: int | None = None,
    methods: Sequence[str] | None = None,
    fresh: bool = False,
    device: str = "auto",
    pictures: bool = False,
    jobs: int = 1,
    listener: TuningListener | None = None,
) -> TuningResult:
    """Runs a suite and writes `runs.jsonl` and `results.jsonl` into `out`; prompts go to `out/prompts`.

    Args:
        suite: a suite, its name, or the path of its file.
        model: instead of the suite's: a name, or a model (then `jobs` is 1).
        out: by default `runs/<suite>`.
        limit: at most so many pictures of every part of every set.
        methods: only those with these labels.
        fresh: forget the runs that are there.
        device: for a model that is loaded here.
        pictures: draw test pictures with the attention before and after, for the report.
        jobs: runs at a time, a process each.
        listener: is told how it goes.

    Raises:
        UnknownNameError: for names that do not exist.
        InvalidInputError: for a suite of another kind, or a folder that cannot be written.
    """
    from visprompt.bench.tuning.summary import summaries

    loaded = suite if isinstance(suite, TuningSuite) else load_suite(suite)
    if not isinstance(loaded, TuningSuite):
        raise InvalidInputError(
            f"suite {loaded.name} compares no ways of tuning: visprompt.bench.accuracy.run.run_suite runs it."
        )
    if limit is not None and limit < 1:
        raise InvalidInputError(f"limit must be at least 1; got {limit}.")
    place = require_folder(Path(out) if out is not None else Path("runs") / loaded.name)
    if fresh:
        (place / RUNS).unlink(missing_ok=True)
        shutil.rmtree(place / PROMPTS, ignore_errors=True)
    workshop = Workshop(loaded, model if model is not None else loaded.model, device, limit, place)
    source = None if isinstance(suite, TuningSuite) else str(suite)
    bench = _Bench(workshop, source, _chosen(loaded, methods), RowLog(place / RUNS), listener or TuningListener())
    bench.run(jobs if source and isinstance(workshop.name, str) else 1)
    runs = bench.present()
    rows = summaries(loaded, runs)
    write_jsonl(place / RESULTS, rows)
    problems = [*bench.problems, *_stale(runs)]
    shown: dict[str, tuple[str, str]] = {}
    if pictures and loaded.examples:
        from visprompt.bench.tuning.examples import tuned_pictures

        shown = tuned_pictures(workshop, runs, problems)
    return TuningResult(loaded, rows, runs, problems, place, shown)


def _chosen(suite: TuningSuite, labels: Sequence[str] | None) -> list[MethodSpec]:
    known = [one.label for one in suite.methods]
    for label in labels or ():
        if label not in known:
            raise unknown_name(f"method of suite {suite.name}", label, known)
    return [one for one in suite.methods if not labels or one.label in labels]


def _stale(runs: Sequence[Row]) -> list[str]:
    codes = list(dict.fromkeys(row["provenance"]["code"] for row in runs))
    if len(codes) < 2:
        return []
    return [
        f"the runs were made with {len(codes)} states of the code ({', '.join(codes)}): run the suite with --fresh to "
        "make them all with today's."
    ]


class _Bench:
    """One run of a suite; `run_tuning` is the way in."""

    def __init__(
        self, workshop: Workshop, source: str | None, methods: list[MethodSpec], log: RowLog, listener: TuningListener
    ) -> None:
        self.workshop, self.source, self.methods, self.log, self.listener = workshop, source, methods, log, listener
        self.suite = workshop.suite
        self.problems: list[str] = []
        self._rows = {str(row["key"]): row for row in log.rows()}
        self._lock = threading.Lock()
        self._workers: list[Worker] = []
        self._left_out: frozenset[str] = frozenset()
        self._ended = False

    def run(self, jobs: int) -> None:
        """First all grids, then what is reported: that needs what was chosen."""
        self._leave_out_sets()
        try:
            self._do(self._choosing(self.methods), jobs)
            self._do(self._reporting(self.methods, self.problems), jobs)
        finally:
            self._ended = True
            for worker in self._workers:
                worker.end()

    def present(self) -> list[Row]:
        """Rows of the suite as it is now, in its order; of all its methods, whatever was asked for."""
        units = [*self._choosing(self.suite.methods), *self._reporting(self.suite.methods, [])]
        found = []
        for unit in units:
            if unit.key in self._rows:
                # What a run is called may have changed since; what it is has not.
                found.append({**self._rows[unit.key], "method": unit.method.label, "set": unit.set.key})
        return found

    def _leave_out_sets(self) -> None:
        """Sets that need what is not installed here; what else is wrong with data is said now, before anything runs.

        Raises:
            UnsupportedError: if no set is left.
        """
        errors: dict[str, UnsupportedError] = {}
        for one in self.suite.sets:
            try:
                load_splits(one.data)
            except UnsupportedError as error:
                errors[one.key] = error
        if len(errors) == len(self.suite.sets):
            raise next(iter(errors.values()))
        self._left_out = frozenset(errors)
        self.problems += [f"set {key} was left out: {error}" for key, error in errors.items()]

    def _sets_of(self, method: MethodSpec) -> list[SetSpec]:
        return [one for one in self.suite.sets_of(method) if one.key not in self._left_out]

    # -- what there is to do ------------------------------------------------------------------------------------------

    def _choosing(self, methods: Sequence[MethodSpec]) -> list[Unit]:
        labels = dict.fromkeys(one.choice_of or one.label for one in methods)
        units = []
        for method in map(self.suite.method, labels):
            points = list(method.points())
            if len(points) == 1:
                continue
            for one, point in itertools.product(self._sets_of(method), points):
                units.append(self._unit("choose", method, one, self.suite.choose_seed, point))
        return units

    def _reporting(self, methods: Sequence[MethodSpec], problems: list[str]) -> list[Unit]:
        """One seed after the other: what is not finished is complete for some seeds."""
        units = []
        pairs = [(one, method) for one in self.suite.sets for method in methods if one in self._sets_of(method)]
        for seed in dict.fromkeys(seed for method in methods for seed in self.suite.seeds_of(method)):
            for one, method in pairs:
                if seed not in self.suite.seeds_of(method):
                    continue
                point = self._choice(method, one)
                if point is not None:
                    units.append(self._unit("report", method, one, seed, point))
                else:
                    text = f"{method.label} on {one.key} was left out: every point of its grid diverged."
                    problems += [] if text in problems else [text]
        return units

    def _choice(self, method: MethodSpec, one: SetSpec) -> Row | None:
        """The point of a grid with the best validation figure, the first of equals; None if there is none."""
        method = self.suite.method(method.choice_of) if method.choice_of else method
        points = list(method.points())
        if len(points) == 1:
            return points[0]
        best: tuple[float, Row] | None = None
        for point in points:
            row = self._rows.get(self._unit("choose", method, one, self.suite.choose_seed, point).key)
            if row is None or "diverged" in row:
                continue
            value = float(row["validation"][row["metric"]])
            if best is None or value > best[0]:
                best = value, point
        return None if best is None else best[1]

    def _unit(self, stage: str, method: MethodSpec, one: SetSpec, seed: int, point: Row) -> Unit:
        suite = self.suite
        names = {item.name for item in dataclasses.fields(_fit_settings())}
        own = {name: value for name, value in point.items() if name in names}
        short = suite.choose_settings if stage == "choose" else {}
        settings = merged(suite.settings, one.settings, short, method.settings, own)
        what = [
            self.workshop.identity["weights"],
            [one.data, sorted(one.sizes.items()), self.workshop.limit],
            [method.how, method.strategy, method.options, point, settings, seed, stage],
        ]
        return Unit(stage, method, one, seed, point, settings, digest(what))

    # -- doing it -----------------------------------------------------------------------------------------------------

    def _do(self, units: list[Unit], jobs: int) -> None:
        waiting = [unit for unit in units if unit.key not in self._rows]
        self.listener.planned(len(waiting))
        if jobs == 1 or len(waiting) < 2:
            for unit in waiting:
                self.listener.begins(unit.title)
                self._take(self.workshop.run(unit))
            return
        assert self.source is not None
        workshop = self.workshop
        told = {"model": workshop.name, "device": workshop.device, "limit": workshop.limit, "out": str(workshop.out)}
        while len(self._workers) < jobs:
            self._workers.append(Worker(self.source, told, max(1, cores() // jobs)))
        failures: list[BaseException] = []

        def work(worker: Worker) -> None:
            while not failures:
                with self._lock:
                    if not waiting:
                        return
                    unit = waiting.pop(0)
                    self.listener.begins(unit.title)
                row = worker.run(unit)
                if row is None and self._ended:
                    return
                if row is None:  # it died: here the reason is seen, by those who can do something about it
                    try:
                        row = workshop.run(unit)
                    except VispromptError as error:
                        failures.append(error)
                        return
                self._take(row)

        threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in self._workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]

    def _take(self, row: Row) -> None:
        with self._lock:
            self._rows[str(row["key"])] = row
            self.log.append([{**row, "id": row["key"], "run": row["stage"]}])
            self.listener.done(row)


def _fit_settings() -> type:
    from visprompt.training.settings import FitSettings

    return FitSettings
