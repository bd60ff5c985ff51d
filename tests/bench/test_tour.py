"""The tour of all suites: `visprompt bench tour`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from visprompt.bench import list_suites, load_suite
from visprompt.bench.rows import read_rows
from visprompt.bench.suite import KINDS, Stop, kind_of, stops


def test_the_tour_has_every_kind_and_folders_of_its_own() -> None:
    assert {kind_of(load_suite(stop.suite)).name for stop in stops()} == set(KINDS)
    assert len({stop.folder(Path("runs/bench")) for stop in stops()}) == len(stops())
    assert {stop.folder(Path("runs/bench")).as_posix() for stop in stops()} == {
        "runs/bench", "runs/bench/vqa", "runs/bench/tuning", "runs/bench/gain"
    }  # fmt: skip
    assert "tour" not in list_suites()


def test_it_shows_the_table_of_every_suite_and_what_each_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from visprompt.cli.app import app

    few = [Stop("scenes-quick", 2), Stop("scenes-quick", 3, "again")]
    monkeypatch.setattr("visprompt.bench.suite.stops", lambda: few)
    words = ["bench", "tour", "--out", str(tmp_path), "--jobs", "1", "-s", "none"]
    result: Any = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("(smoke test)") == 2
    assert "│ none" in result.stdout
    assert "95 % intervals" in result.stdout
    assert "The tour took: scenes-quick" in result.stderr
    assert [row["n"] for row in read_rows(tmp_path / "results.jsonl")][:1] == [2]
    assert [row["n"] for row in read_rows(tmp_path / "again" / "results.jsonl")][:1] == [3]
    assert (tmp_path / "again" / "report.html").exists()
