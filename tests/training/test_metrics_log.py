"""Rows of a training run survive kills, and what follows a checkpoint is not written twice."""

import json
import sys
from pathlib import Path

import pytest

from visprompt.errors import UnsupportedError
from visprompt.training.metrics_log import FILE, Metrics, read
from visprompt.training.progress import FitProgress


def test_rows_are_on_the_disk_at_once(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "run")
    metrics.write({"epoch": 1, "validation": {"accuracy": 0.5, "name": "a\u2028b"}})
    assert read(tmp_path / "run") == [{"epoch": 1, "validation": {"accuracy": 0.5, "name": "a\u2028b"}}]
    metrics.write({"epoch": 2, "loss": float("nan"), "bounds": [1.0, float("inf")]})
    for line in (tmp_path / "run" / FILE).read_text("utf-8").strip().split("\n"):
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert read(tmp_path / "run")[1] == {"epoch": 2, "loss": None, "bounds": [1.0, None]}


def test_going_on_after_a_checkpoint(tmp_path: Path) -> None:
    first = Metrics(tmp_path)
    for epoch in range(4):
        first.write({"epoch": epoch})
    again = Metrics(tmp_path)
    assert again.lines == 4
    again.truncate(2)
    again.write({"epoch": 2, "again": True})
    assert [row["epoch"] for row in read(tmp_path)] == [0, 1, 2]
    assert read(tmp_path)[2]["again"]
    again.truncate(7)
    assert again.lines == 3


def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path) -> None:
    Metrics(tmp_path).write({"epoch": 1})
    with (tmp_path / FILE).open("a") as file:
        file.write('{"epoch": 2, "lo')
    assert [row["epoch"] for row in read(tmp_path)] == [1]
    Metrics(tmp_path).write({"epoch": 2})
    assert [row["epoch"] for row in read(tmp_path)] == [1, 2]


def test_nothing_is_written_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    metrics = Metrics(None, tensorboard=True)
    metrics.write({"epoch": 1})
    metrics.truncate(0)
    assert metrics.rows == []
    assert not list(tmp_path.iterdir())


def test_tensorboard_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UnsupportedError, match=r'pip install "visprompt-toolkit\[tensorboard\]"'):
        Metrics(tmp_path, tensorboard=True)
    Metrics(tmp_path).write({"epoch": 1})


def test_tensorboard_gets_every_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float, int]] = []
    purged: list[int] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            purged.append(purge_step)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            seen.append((name, value, step))

        def flush(self) -> None: ...

        def close(self) -> None: ...

    monkeypatch.setattr("visprompt.training.metrics_log._summary_writer", lambda: Writer)
    with Metrics(tmp_path, tensorboard=True) as metrics:
        metrics.write({"step": 8, "epoch": 1, "train": {"loss": 0.5}, "best": True, "kept": None})
        metrics.write({"step": 16, "epoch": 2, "validation": {"accuracy": 0.75}})
        metrics.truncate(1)
        metrics.write({"step": 12, "epoch": 2, "lr": 0.1})
    assert seen == [("train/loss", 0.5, 8), ("validation/accuracy", 0.75, 16), ("lr", 0.1, 12)]
    assert purged == [8, 12]


def test_events_are_written(tmp_path: Path) -> None:
    with Metrics(tmp_path, tensorboard=True) as metrics:
        metrics.write({"step": 1, "loss": 0.5})
    assert list((tmp_path / "tensorboard").glob("events.*"))


class TestProgress:
    @staticmethod
    def _run(progress: FitProgress) -> None:
        with progress:
            for epoch in (1, 2):
                progress.epoch(epoch, 2)
                for step in (1, 2):
                    progress.step(2 * (epoch - 1) + step, 4, loss=1.0 / epoch, lr=0.05)
                progress.evaluated({"loss": 0.8, "accuracy": 0.25 * epoch}, best=epoch == 1)

    def test_a_log_gets_one_line_per_evaluation(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._run(FitProgress(True, title="lr=0.1"))
        first, second = capsys.readouterr().err.splitlines()
        assert first.startswith("lr=0.1 epoch 1/2  loss 1.0000  lr 0.05  validation accuracy 25.0 %  (best 25.0 %")
        assert "validation accuracy 50.0 %  (best 25.0 %, epoch 1)" in second
        assert "\x1b" not in first

    @pytest.mark.parametrize("wanted", [False, None])
    def test_nothing_is_said_where_nobody_watches(
        self, wanted: bool | None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._run(FitProgress(wanted))
        assert capsys.readouterr().err == ""

    def test_a_terminal_gets_a_bar(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "140")
        self._run(FitProgress(None))
        shown = capsys.readouterr().err
        assert "epoch 2/2" in shown
        assert "validation accuracy 50.0 %" in shown
