"""Several models of a suite at once, or several tasks of one, a process each.

Small models leave cores idle. A worker runs the suite for one model, or one task of it, and leaves behind what it would
have left anyway, its rows in `items-*.jsonl`; the run that started it then finds them there. So a worker can only save
time: if one dies, its rows are made again, and an error that people should see is raised where it always is.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visprompt.bench.accuracy.run import Listener


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def automatic_jobs(models: Sequence[Any], device: str, tasks: int = 1) -> int:
    """As many as there are bundled models, or tasks of them, and cores; 1 if a model could be large, or is on a GPU."""
    count = len(models) * tasks
    small = count > 1 and all(isinstance(one, str) and one.startswith("bundled:") for one in models)
    if not small or device not in ("auto", "cpu"):
        return 1
    import torch

    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    return 1 if gpu and device == "auto" else min(count, cores())


def run_workers(
    units: Sequence[Mapping[str, Any]], arguments: Mapping[str, Any], jobs: int, listener: Listener
) -> None:
    """Runs parts of a suite in a process each, `jobs` at a time, and waits for all of them.

    Args:
        units: what is different for each of them: further arguments, as below.
        arguments: of `visprompt.bench.accuracy.run.run_suite`, ready for JSON; with `kind` "gain", of
            `visprompt.bench.gain.run.run_gain`.
        jobs: processes at a time.
        listener: is told what the workers tell.
    """
    waiting, lock = list(units), threading.Lock()
    running: list[subprocess.Popen[str]] = []
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores() // jobs))}

    def work() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                unit = waiting.pop(0)
                process = subprocess.Popen(
                    [sys.executable, "-m", "visprompt.bench.workers"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    env=environment,
                )
                running.append(process)
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # it died before it read what to do
                process.stdin.write(json.dumps({**arguments, **unit}))
                process.stdin.close()
            for line in process.stdout:
                with lock:
                    _pass_on(line, listener)
            process.wait()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(jobs, len(units)))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    finally:  # also when the run is interrupted
        for process in running:
            if process.poll() is None:
                process.terminate()


def _pass_on(line: str, listener: Listener) -> None:
    try:
        event, value = json.loads(line)
    except ValueError:  # a library that prints
        return
    if event == "done":
        listener.done(int(value))
    elif event == "row":
        listener.row(str(value))
    elif event == "result":
        listener.result(value)


def _main(source: IO[str], target: IO[str]) -> None:
    from visprompt.bench.accuracy.run import Listener, run_suite
    from visprompt.bench.gain.run import run_gain

    class Telling(Listener):
        """Writes a line for everything it is told."""

        def row(self, text: str) -> None:
            self._tell("row", text)

        def done(self, pictures: int) -> None:
            self._tell("done", pictures)

        def result(self, row: dict[str, Any]) -> None:
            shown = ("model", "task", "strategy", "value", "n", "seconds", "part", "marker", "ci95")
            self._tell("result", {key: row.get(key) for key in shown})

        def _tell(self, event: str, value: Any) -> None:
            print(json.dumps([event, value]), file=target, flush=True)

    told = json.load(source)
    run: Any = {"gain": run_gain, None: run_suite}[told.pop("kind", None)]
    run(**told, part=True, listener=Telling())


if __name__ == "__main__":
    _main(sys.stdin, sys.stdout)
