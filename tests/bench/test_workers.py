"""The pool of processes: what it makes, and what is left when one of its processes dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from visprompt.bench import ProgressCallback, load_suite, run_suite
from visprompt.bench.kind import Settings, Unit
from visprompt.bench.workers import Pool
from visprompt.utils.jsonl import read_jsonl

SUITE: dict[str, Any] = {
    "title": "Two tasks",
    "models": ["bundled:scenes-clip"],
    "tasks": {
        kind: {"task": "referring", "template": "{}", "data": {"source": "scenes", "kind": kind, "n": 4}}
        for kind in ("hard", "position")
    },
    "strategies": ["none", "falip"],
    "controls": ["random"],
}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(SUITE), encoding="utf-8")
    return path


class Counting(ProgressCallback):
    def __init__(self) -> None:
        self.total = self.seen = self.rows = 0

    def planned(self, total: int) -> None:
        self.total = total

    def advanced(self, count: int) -> None:
        self.seen += count

    def finished(self, row: dict[str, Any]) -> None:
        self.rows += 1


def test_processes_give_what_one_gives_and_a_second_run_reuses_it(suite: Path, tmp_path: Path) -> None:
    progress = Counting()
    several = run_suite(suite, out=tmp_path / "several", jobs=2, progress=progress)
    assert progress.seen == progress.total == 4 * 3 * 2
    assert progress.rows == len(several.rows) == 6
    one = run_suite(suite, out=tmp_path / "one")
    keys = ("id", "value", "low", "high", "n", "run", "comparisons", "reused")
    assert [[row[key] for key in keys] for row in several.rows] == [[row[key] for key in keys] for row in one.rows]
    assert {row["reused"] for row in several.rows} == {0}
    again = run_suite(suite, out=tmp_path / "several", jobs=2)
    assert {row["reused"] for row in again.rows} == {4}
    assert [row["seconds"] for row in again.rows] == [row["seconds"] for row in several.rows]


def test_a_process_that_dies_loses_no_answer(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker kills itself when it comes to the first row of the second task; the run makes the rest."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal\n"
        "import visprompt.bench.accuracy.unit as unit\n"
        "made = unit.run_row\n"
        "def run_row(context, one):\n"
        "    row = made(context, one)\n"
        f"    if one.what.task == 'position' and not os.path.exists({str(tmp_path / 'died')!r}):\n"
        f"        open({str(tmp_path / 'died')!r}, 'w').close()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return row\n"
        "unit.run_row = run_row\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    progress = Counting()
    result = run_suite(suite, out=tmp_path / "out", jobs=2, progress=progress)
    assert (tmp_path / "died").exists()
    assert [row["n"] for row in result.rows] == [4] * 6
    assert progress.seen == progress.total
    assert not result.problems
    for file in (tmp_path / "out").glob("items-*.jsonl"):
        assert len(file.read_text().splitlines()) == 4 * 3, "answers that the dead process gave are not asked again"


def test_where_no_process_starts_everything_is_left_to_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multiprocessing.spawn._python_exe", b"/bin/false")
    whole = load_suite("scenes-quick")
    settings = Settings("accuracy", whole, whole, ("bundled:scenes-clip",), tmp_path, jobs=2)
    batches = [[Unit("rows", str(number), "", None)] for number in range(7)]
    made = list(Pool(settings, ProgressCallback()).run(batches))
    assert sorted(batch[0].key for batch, _ in made) == sorted(batch[0].key for batch in batches)
    assert all(not one.rows for _, one in made)


SCRIPT = """
import sys
from visprompt.bench import run_suite
print("begun", flush=True)
run_suite(sys.argv[1], out=sys.argv[2], jobs=2, limit=int(sys.argv[3]))
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_killed_takes_its_processes_along(suite: Path, tmp_path: Path, how: signal.Signals) -> None:
    """The script is not guarded against being imported again, and comes from standard input."""
    long = {**SUITE, "tasks": {key: {**task, "data": {**task["data"], "n": 300}}
                               for key, task in SUITE["tasks"].items()}}  # fmt: skip
    suite.write_text(yaml.safe_dump(long), encoding="utf-8")
    command = [sys.executable, "-", str(suite), str(tmp_path / "out"), "300"]
    run = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert run.stdin is not None
    run.stdin.write(SCRIPT)
    run.stdin.close()
    files = [tmp_path / "out" / f"items-{key}-bundled-scenes-clip.jsonl" for key in SUITE["tasks"]]
    wait_until(lambda: all(file.exists() for file in files))
    children = children_of(run.pid)
    assert len(children) >= 2
    run.send_signal(how)
    run.wait(60)
    wait_until(lambda: not any(os.path.exists(f"/proc/{child}") for child in children))
    answers = sum(len(read_jsonl(file)) for file in files)
    assert answers >= 2 * 64
    suite.write_text(yaml.safe_dump(SUITE), encoding="utf-8")
    result = run_suite(suite, out=tmp_path / "out")
    assert {row["n"] for row in result.rows} == {4}


def wait_until(what: Any, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def children_of(parent: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(folder.name))
        except OSError:
            continue
    return found
