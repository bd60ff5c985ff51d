"""A folder of results that 0.4.0 left: what is reused, what is made again, and that it is said."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from visprompt.bench import run_suite
from visprompt.bench.rows import read_rows
from visprompt.utils.jsonl import read_jsonl
from visprompt.utils.provenance import source_digest

FOLDERS = Path(__file__).parent / "data" / "folder-0.4.0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(FOLDERS, tmp_path / "runs")
    return tmp_path / "runs"


def by_row(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["task"], row["row"]): row for row in rows}


def test_rows_of_accuracy_are_kept_and_told_from_those_made_now(folder: Path) -> None:
    old = {row["strategy"]: row for row in read_jsonl(FOLDERS / "scenes" / "results.jsonl")}
    result = run_suite("scenes", models=["bundled:scenes-clip"], strategies=["none"], limit=12, out=folder / "scenes")
    rows = by_row(result.rows)
    made = rows["hard-attribute", "none"]
    assert (made["value"], [made["low"], made["high"]]) == (old["none"]["value"], old["none"]["ci95"])
    assert made["provenance"]["code"] == source_digest() != old["none"]["code"]
    assert made["reused"] == 0  # answers of other code are not taken
    for label in ("crop", "box", "falip"):
        kept = rows["hard-attribute", label]
        assert (kept["kind"], kept["value"]) == ("accuracy", old[label]["value"])
        assert [kept["low"], kept["high"]] == old[label]["ci95"]
        assert kept["provenance"]["versions"]["visprompt"] == "0.4.0"
        assert "strategy" not in kept
        assert "ci95" not in kept
    (told,) = result.problems
    assert told.startswith("3 rows are from an earlier run")
    assert "falip" in told
    assert "bundled:scenes-clip" in told
    assert "--fresh" in told
    assert {row["row"] for row in read_rows(folder / "scenes" / "results.jsonl")} == {"none", "crop", "box", "falip"}


def test_figures_of_gain_are_measured_again(folder: Path) -> None:
    old = {row["marker"]: row for row in read_jsonl(FOLDERS / "gain" / "results.jsonl")}
    result = run_suite("gain", models=["bundled:scenes-clip"], strategies=["circle"], limit=12, out=folder / "gain")
    rows = by_row(result.rows)
    assert rows["gain", "circle"]["value"] == pytest.approx(old["circle"]["value"], rel=1e-5)
    assert rows["gain", "circle"]["provenance"]["code"] == source_digest()
    assert rows["gain", "box"]["value"] == old["box"]["value"]
    assert rows["gain", "box"]["metric"] == "attention_gain"
    (told,) = result.problems
    assert "(box on bundled:scenes-clip)" in told


def test_runs_of_tuning_are_reused_and_it_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visprompt.training.run.train", lambda *_, **__: pytest.fail("trained again"))
    result = run_suite("tuning", limit=40, out=folder / "tuning")
    old = [
        (run["set"], run["method"], run["test"]["accuracy"]) for run in read_jsonl(FOLDERS / "tuning" / "runs.jsonl")
    ]
    assert len(old) == len(result.rows) == 8
    assert sorted((row["task"], row["row"], row["value"]) for row in result.rows) == sorted(old)
    assert {row["model"] for row in result.rows} == {"bundled:scenes-mae"}
    (told,) = result.problems
    assert told.startswith("8 rows rest on runs with other code")
    assert "--fresh" in told
