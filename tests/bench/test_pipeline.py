"""One run, whatever the kind of suite: arguments, names of 0.4.0, and what stays of an interrupted run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import visprompt.bench as bench
from visprompt.bench import ProgressCallback, run_suite
from visprompt.bench.old_names import Listener, run_gain
from visprompt.bench.rows import read_rows
from visprompt.errors import InvalidInputError

OPTIONS: dict[str, Any] = {"models": ["bundled:scenes-clip"], "limit": 2}


class Events(ProgressCallback):
    def __init__(self) -> None:
        self.told: list[str] = []

    def planned(self, total: int) -> None:
        self.told.append(f"planned {total}")

    def starts(self, title: str) -> None:
        self.told.append(title)


def test_a_gain_suite_is_run_like_any(tmp_path: Path) -> None:
    events = Events()
    result = run_suite("gain", strategies=["circle"], out=tmp_path, progress=events, **OPTIONS)
    assert [(row["kind"], row["task"], row["row"], row["n"]) for row in result.rows] == [("gain", "gain", "circle", 2)]
    assert events.told[0] == "planned 2"
    assert "bundled:scenes-clip · circle" in events.told
    assert result.seconds > 0
    with pytest.warns(DeprecationWarning, match="run_gain is now") as caught:
        old = run_gain("gain", markers=["circle"], out=tmp_path, **OPTIONS)
    assert caught[0].filename == __file__
    assert old.rows == result.rows
    with pytest.warns(DeprecationWarning, match="pictures is now examples"):
        assert old.pictures == old.examples


def test_one_image_has_no_interval_in_any_row(tmp_path: Path) -> None:
    options = {**OPTIONS, "limit": 1}
    (gain,) = run_suite("gain", strategies=["circle"], out=tmp_path / "gain", **options).rows
    assert (gain["low"], gain["high"], gain["n"]) == (None, None, 1)
    assert {(block["low"], block["high"]) for block in gain["blocks"]} == {(None, None)}
    rows = run_suite("scenes-quick", strategies=["none", "falip"], out=tmp_path / "quick", **options).rows
    assert {(row["low"], row["high"]) for row in rows if row["n"] == 1} == {(None, None)}
    compared = [one for row in rows for one in row["comparisons"].values() if one["n"] == 1]
    assert compared
    assert {one["ci95"] for one in compared} == {None}


def test_an_interrupted_run_leaves_the_rows_that_are_finished(tmp_path: Path) -> None:
    class Interrupted(ProgressCallback):
        def finished(self, row: dict[str, Any]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_suite("scenes-quick", strategies=["none"], out=tmp_path, progress=Interrupted(), **OPTIONS)
    (kept,) = read_rows(tmp_path / "results.jsonl")
    result = run_suite("scenes-quick", strategies=["none"], out=tmp_path, **OPTIONS)
    assert len(result.rows) > 1
    assert result.rows[0]["value"] == kept["value"]
    assert [row["reused"] for row in result.rows] == [2] + [0] * (len(result.rows) - 1)


def test_names_of_0_4_0_in_the_package(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match=r"visprompt\.bench\.Listener"):
        assert bench.Listener is Listener
    with pytest.warns(DeprecationWarning, match="SuiteResult"):
        assert bench.BenchResult is bench.SuiteResult
    with pytest.raises(AttributeError, match="no attribute 'Lisener'"):
        _ = bench.Lisener

    class Old(Listener):
        told: list[str] = []

        def planned(self, images: int) -> None:
            self.told.append(f"planned {images}")

        def row(self, text: str) -> None:
            self.told.append("row")

        def done(self, images: int) -> None:
            self.told.append(f"done {images}")

        def result(self, row: Any) -> None:
            self.told.append(f"result {row['n']}")

    with pytest.warns(DeprecationWarning, match="listener=….* is now progress=…") as caught:
        run_suite("scenes-quick", strategies=["none"], out=tmp_path, listener=Old(), **OPTIONS)
    assert [one.filename for one in caught] == [__file__]
    assert {"row", "done 2", "result 2"} <= set(Old.told)


def test_arguments_are_checked_first(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="at least 1"):
        run_suite("gain", out=tmp_path, limit=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'limt'"):
        run_suite("gain", out=tmp_path, limt=3)  # type: ignore[call-arg]
    assert not list(tmp_path.iterdir())
