"""One pool of processes for all kinds of suites.

A worker gets the settings of the run and batches of units; it loads models and data itself. What it made goes back to
the process that started it, or, for answers, straight into the folder. So a worker that dies loses at most the answers
of one chunk: its batch is made again by the process that started it, where an error is raised as it always is.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.context
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

from visprompt.bench.kind import ProgressCallback, RunContext, Settings, Unit
from visprompt.bench.rows import Row
from visprompt.bench.store import Store
from visprompt.bench.suite import KINDS


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def automatic_jobs(models: Sequence[Any], device: str, units: int = 1) -> int:
    """How many processes a run gets if nobody says it.

    Args:
        models: the models of the table.
        device: that was asked for.
        units: of one model that can be run at the same time.

    Returns:
        As many as there are units of bundled models, and cores; 1 if a model could be large, or is on a GPU.
    """
    count = len(models) * units
    small = count > 1 and all(isinstance(one, str) and one.startswith("bundled:") for one in models)
    if not small or device not in ("auto", "cpu"):
        return 1
    import torch

    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    return 1 if gpu and device == "auto" else min(count, cores())


@dataclass
class Made:
    """What a worker made of a batch.

    Attributes:
        rows: by key; a unit that failed is not among them, and is made again by the process that started the worker.
        problems: sentences for people.
    """

    rows: dict[str, Row | None] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Pool:
    """Runs batches of units in processes; `progress` is told what they do, from a thread of its own."""

    def __init__(self, settings: Settings, progress: ProgressCallback) -> None:
        self.settings, self.progress = settings, progress
        self._told: dict[str, int] = {}
        self._void: set[str] = set()
        self._lock = threading.Lock()

    def run(self, batches: Sequence[list[Unit]]) -> Generator[tuple[list[Unit], Made], None, None]:
        """Gives what became of every batch, as they end. Batches whose worker died come with nothing made."""
        waiting, fruitless = deque(batches), 0
        while waiting and fruitless < 2:
            ended = 0
            for batch, made in self._one_pool(waiting):
                ended += made is not None
                if made is None:
                    self._take_back(batch)
                yield batch, made or Made()
            fruitless = 0 if ended else fruitless + 1
        for batch in waiting:  # two pools died at once: processes cannot be started here
            yield batch, Made()

    def _one_pool(self, waiting: deque[list[Unit]]) -> Iterator[tuple[list[Unit], Made | None]]:
        """One pool, until all is done or one of its processes dies; never more batches in it than processes."""
        jobs = min(self.settings.jobs, len(waiting))
        context = _Context()
        events = context.SimpleQueue()
        pool = ProcessPoolExecutor(jobs, context, _begin, (self.settings, events))
        listener = threading.Thread(target=self._listen, args=(events,), daemon=True)
        listener.start()
        running: dict[Future[Made], list[Unit]] = {}
        broken = ended = False
        try:
            with _threads(max(1, cores() // self.settings.jobs)):
                while (waiting and not broken) or running:
                    while waiting and not broken and len(running) < jobs:
                        try:
                            future = pool.submit(_work, waiting[0])
                        except (BrokenProcessPool, OSError):  # OSError: it broke while a process was being started
                            broken = True
                            break
                        running[future] = waiting.popleft()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        batch = running.pop(future)
                        try:
                            yield batch, future.result()
                        except BrokenProcessPool:
                            broken = True
                            yield batch, None
            ended = not broken
        finally:  # also when the run is interrupted
            if ended:
                events.put(None)
                listener.join()
            else:
                for process in list((getattr(pool, "_processes", None) or {}).values()):
                    process.terminate()
            pool.shutdown(wait=ended, cancel_futures=True)

    def _listen(self, events: Any) -> None:
        while True:
            with contextlib.suppress(OSError, EOFError):
                event = events.get()
                if event is None:
                    return
                key, name, value = event
                with self._lock:
                    if key in self._void:
                        continue
                    if name == "advanced":
                        self._told[key] = self._told.get(key, 0) + value
                    getattr(self.progress, name)(value)

    def _take_back(self, batch: Sequence[Unit]) -> None:
        """What a dead worker had told is done again."""
        with self._lock:
            self._void.update(unit.key for unit in batch)
            count = sum(self._told.pop(unit.key, 0) for unit in batch)
            if count:
                self.progress.advanced(-count)


# -- in the worker ----------------------------------------------------------------------------------------------------


class _Telling(ProgressCallback):
    """Passes on what it is told, with the unit that it is about."""

    def __init__(self, events: Any) -> None:
        self.events, self.key = events, ""

    def starts(self, title: str) -> None:
        self.events.put((self.key, "starts", title))

    def advanced(self, count: int) -> None:
        self.events.put((self.key, "advanced", count))


_context: RunContext | None = None


def _begin(settings: Settings, events: Any) -> None:
    """Makes a process a worker: it keeps quiet, leaves interrupts to its parent, and ends when that is gone."""
    global _context
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    _context = RunContext(settings, Store(settings.out, fresh=True), _Telling(events))


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)


def _work(batch: list[Unit]) -> Made:
    assert _context is not None
    made, kind = Made(), KINDS[_context.settings.kind]
    for unit in batch:
        assert isinstance(_context.progress, _Telling)
        _context.progress.key = unit.key
        _context.progress.starts(unit.title)
        try:
            made.rows[unit.key] = kind.run(_context, unit)
        except Exception:
            continue  # the parent makes it again, and raises what is to be seen
    made.problems, _context.problems = _context.problems, []
    return made


# -- starting them ----------------------------------------------------------------------------------------------------


class _Process(multiprocessing.context.SpawnProcess):
    """A process that does not run the main script again: it need not be guarded, nor be a file."""

    def start(self) -> None:
        main = sys.modules["__main__"]
        kept = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
        try:
            main.__dict__.pop("__file__", None)
            main.__spec__ = None
            super().start()
        finally:
            for name, value in kept.items():
                setattr(main, name, value)


class _Context(multiprocessing.context.SpawnContext):
    Process = _Process  # type: ignore[assignment]


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Processes that are started inside use so many threads each."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
