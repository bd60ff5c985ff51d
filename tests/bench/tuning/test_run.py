"""Suites that compare ways of tuning, on a tiny model and a handful of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import visprompt as vp
from visprompt.bench.kind import ProgressCallback
from visprompt.bench.old_names import run_gain, run_tuning
from visprompt.bench.pipeline import run_suite
from visprompt.bench.report import markdown, terminal, write_report
from visprompt.bench.suite import Suite, list_suites, load_suite, parse_suite
from visprompt.bench.tuning.document import document, summary_table
from visprompt.bench.tuning.spec import TuningSuite, merged
from visprompt.bench.tuning.summary import summaries
from visprompt.errors import InvalidInputError, UnknownNameError
from visprompt.plots.tuning import insertion_points
from visprompt.testing.tiny import tiny
from visprompt.utils.jsonl import read_jsonl

METHODS: list[dict[str, Any]] = [
    {"label": "linear", "strategy": "vpt", "options": {"prompts": 0}},
    {"label": "shallow", "strategy": "vpt", "options": {"prompts": 2}, "grid": {"lr": [0.001, 0.03]}},
    {"label": "gated", "strategy": "gated", "options": {"prompts": 2}, "choice_of": "shallow"},
]


def content(folder: Path | str = "blots", **change: Any) -> dict[str, Any]:
    """A suite on the images in a folder."""
    return {
        "kind": "tuning",
        "title": "Blots",
        "model": "tiny",
        "sets": {"blots": {"title": "Dark or bright?", "data": str(folder)}},
        "settings": {"epochs": 1, "batch_size": 4, "optimizer": "adamw", "lr": 0.01, "warmup_epochs": 0},
        "seeds": [0, 1],
        "methods": METHODS,
        "compare_with": None if "methods" in change else "shallow",
        **change,
    }


def parsed(**change: Any) -> TuningSuite:
    """The suite, checked."""
    suite = parse_suite(content(**change), "blots")
    assert isinstance(suite, TuningSuite)
    return suite


@pytest.fixture(scope="module")
def blots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark and bright images in folders of classes, with train, val and test parts."""
    root = tmp_path_factory.mktemp("blots")
    generator = np.random.default_rng(0)
    for part, count in (("train", 4), ("val", 2), ("test", 3)):
        for label, level in (("bright", 150), ("dark", 0)):
            (root / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = (generator.integers(0, 90, (40, 40, 3)) + level).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / label / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def model() -> vp.Model:
    made = tiny("transformers-vit-mae")
    return vp.wrap(made.module, made.processor, name="tiny")


class Counting(ProgressCallback):
    """Remembers which runs were made."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def finished(self, row: dict[str, Any]) -> None:
        self.rows.append(row)


@pytest.fixture(scope="module")
def finished(blots: Path, model: vp.Model, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A suite with everything in it, run once."""
    methods = [
        *METHODS,
        {"label": "later", "strategy": "vpt", "options": {"prompts": 2, "first_block": 1}, "table": False},
        {"label": "latest", "strategy": "vpt", "options": {"prompts": 2, "first_block": 2}, "table": False},
        {"label": "full", "how": "full", "seeds": [0]},
    ]
    controls = [{"label": "untrained", "how": "untrained", "strategy": "vpt", "options": {"prompts": 2}, "seeds": [0]}]
    suite = parsed(folder=blots, methods=methods, controls=controls, examples=2, compare_with="shallow")
    return run_suite(suite, models=[model], out=tmp_path_factory.mktemp("out"), examples=True)


class TestSuiteFiles:
    def test_both_suites_that_ship_are_listed_and_readable(self) -> None:
        for name in ("tuning", "tuning-full"):
            assert name in list_suites()
            suite = load_suite(name)
            assert isinstance(suite, TuningSuite)
            assert suite.models == ("bundled:scenes-mae",)
            assert [task.key for task in suite.tasks]

    def test_the_whole_comparison_has_what_the_paper_compares(self) -> None:
        suite = load_suite("tuning-full")
        assert isinstance(suite, TuningSuite)
        assert suite.seeds == (0, 1, 2)
        ways = {
            (one.how, one.strategy, one.options.get("deep", False), one.options.get("shaping")) for one in suite.methods
        }
        assert {("full", "vpt", False, None), ("prompt", "vpt", True, None), ("prompt", "gated", False, None),
                ("prompt", "gated", False, False)} <= ways  # fmt: skip
        blocks = {one.options.get("first_block", 0) for one in suite.methods if one.options.get("prompts")}
        assert blocks == set(range(6))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"kind": "tunning"}, "did you mean 'tuning'"),
            ({"modle": "x"}, "did you mean 'model'"),
            ({"model": None}, "needs model"),
            ({"sets": {}}, "no sets"),
            ({"sets": {"a": {"title": "x"}}}, "needs data"),
            ({"sets": {"a": {"data": "x", "trian": 3}}}, "did you mean 'train'"),
            ({"methods": []}, "no methods"),
            ({"methods": METHODS[:1] * 2}, "two methods called linear"),
            ({"methods": [{"strategy": "gatd"}]}, "did you mean 'gated'"),
            ({"methods": [{"strategy": "vpt", "options": {"promts": 1}}]}, "did you mean 'prompts'"),
            ({"methods": [{"strategy": "vpt", "how": "ful"}]}, "did you mean 'full'"),
            ({"methods": [{"strategy": "vpt", "grid": {"prompts": [1, -1]}}]}, "method 'vpt'.*at least 0"),
            ({"methods": [{"strategy": "vpt", "sets": ["blot"]}]}, "did you mean 'blots'"),
            ({"methods": [{"strategy": "vpt", "choice_of": "gated"}]}, "choice_of"),
            ({"methods": [{"label": "a", "grid": {"lr": [1.0]}, "choice_of": "a"}]}, "give one of them"),
            ({"settings": {"epoch": 3}}, "did you mean 'epochs'"),
            ({"settings": {"epochs": 0}}, "epochs"),
            ({"seeds": [0, 0]}, "different"),
            ({"compare_with": "shalow"}, "did you mean 'shallow'"),
        ],
    )
    def test_what_is_wrong_is_said_before_anything_runs(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises((UnknownNameError, InvalidInputError), match=f"(?s){message}"):
            parse_suite(content(**change), "blots")

    def test_of_two_ways_to_say_a_rate_the_later_stands(self) -> None:
        assert merged({"lr": 0.1}, {"base_lr": 0.2}) == {"base_lr": 0.2}
        assert merged({"lr": 0.1, "epochs": 2}, {"lr": 0.3}) == {"lr": 0.3, "epochs": 2}

    def test_the_functions_of_0_4_0_are_told_the_kind(self, tmp_path: Path) -> None:
        for old in (run_tuning, run_gain):
            with (
                pytest.warns(DeprecationWarning, match="run_suite"),
                pytest.raises(InvalidInputError, match="run_suite"),
            ):
                old("scenes-quick", out=tmp_path)
        assert isinstance(load_suite("scenes-quick"), Suite)


class TestRunning:
    def test_figures_are_means_over_seeds_on_test(self, finished: Any) -> None:
        rows = {row["row"]: row for row in finished.rows}
        assert set(rows) == {"linear", "shallow", "gated", "later", "latest", "full", "untrained"}
        for row in rows.values():
            assert row["n"] == 6
            assert row["seeds"] == ([0] if row["row"] in ("full", "untrained") else [0, 1])
            assert row["value"] == pytest.approx(np.mean(row["values"]))
            assert row["low"] <= row["value"] <= row["high"]
            assert row["chance"] == 0.5
        assert rows["linear"]["parameters"]["prompt"] == 0
        assert rows["full"]["parameters"]["model"] > 1000
        assert rows["untrained"]["parameters"]["prompt"] == 0
        assert rows["untrained"]["control"]
        assert rows["gated"]["blocks"][0]["selection"] is not None
        assert not finished.problems

    def test_every_answer_is_kept_and_adds_up(self, finished: Any) -> None:
        for run in finished.files["runs"]:
            if run["stage"] == "report":
                assert run["right"].count("1") / len(run["right"]) == pytest.approx(run["test"]["accuracy"])

    def test_a_grid_is_searched_on_validation_and_never_on_test(self, finished: Any) -> None:
        tried = [run for run in finished.files["runs"] if run["stage"] == "choose"]
        assert {run["point"]["lr"] for run in tried} == {0.001, 0.03}
        assert all("test" not in run and run["method"] == "shallow" for run in tried)
        best = max(tried, key=lambda run: run["validation"]["accuracy"])
        rows = {row["row"]: row for row in finished.rows}
        assert rows["shallow"]["point"] == rows["gated"]["point"] == best["point"]
        assert rows["shallow"]["settings"]["lr"] == best["point"]["lr"]

    def test_a_saved_prompt_gives_the_figures_again(self, finished: Any, model: vp.Model, blots: Path) -> None:
        from visprompt.data.labelled.splits import load_splits
        from visprompt.learned.strategy import Learned

        run = next(run for run in finished.files["runs"] if run["method"] == "gated" and run["stage"] == "report")
        prompter = vp.Prompter.from_pretrained(finished.out / "prompts" / f"blots-{run['key']}")
        assert isinstance(prompter, Learned)
        test = load_splits(str(blots)).test
        assert test is not None
        assert prompter.evaluate(model, test)["accuracy"] == pytest.approx(run["test"]["accuracy"])

    def test_a_killed_run_goes_on_and_a_finished_one_does_nothing(
        self, blots: Path, model: vp.Model, tmp_path: Path
    ) -> None:
        suite = parsed(folder=blots, methods=METHODS[:2], seeds=[0])

        class Killed(Counting):
            """Dies after two runs."""

            def finished(self, row: dict[str, Any]) -> None:
                super().finished(row)
                if len(self.rows) == 2:
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_suite(suite, models=[model], out=tmp_path, progress=Killed())
        with open(tmp_path / "runs.jsonl", "a", encoding="utf-8") as file:
            file.write('{"cut off')
        second, third = Counting(), Counting()
        first = run_suite(suite, models=[model], out=tmp_path, progress=second)
        assert len(second.rows) == 2
        again = run_suite(suite, models=[model], out=tmp_path, progress=third)
        assert not third.rows
        assert again.rows == first.rows
        assert len(read_jsonl(tmp_path / "runs.jsonl")) == 4

    def test_methods_by_name_leave_the_others_in_the_table(self, blots: Path, model: vp.Model, tmp_path: Path) -> None:
        suite = parsed(folder=blots, methods=[METHODS[0], {"strategy": "vpt", "options": {"prompts": 1}}], seeds=[0])
        with pytest.raises(UnknownNameError, match="did you mean 'linear'"):
            run_suite(suite, models=[model], out=tmp_path, strategies=["liner"])
        run_suite(suite, models=[model], out=tmp_path, strategies=["linear"])
        listener = Counting()
        result = run_suite(suite, models=[model], out=tmp_path, strategies=["vpt"], progress=listener)
        assert [row["method"] for row in listener.rows] == ["vpt"]
        assert [row["value"] is not None for row in result.rows] == [True, True]

    def test_processes_give_what_one_gives(self, tmp_path: Path) -> None:
        methods = [METHODS[0], {"strategy": "vpt", "options": {"prompts": 1}}]
        sets = {"count": {"data": "scenes:count", "train": 12, "validation": 6, "test": 6}}
        made = content(model="bundled:scenes-mae", sets=sets, methods=methods, seeds=[0])
        file = tmp_path / "two.yaml"
        file.write_text(yaml.safe_dump(made), encoding="utf-8")
        several = run_suite(file, out=tmp_path / "several", jobs=2)
        one = run_suite(file, out=tmp_path / "one")
        for a, b in zip(several.rows, one.rows, strict=True):
            assert a["values"] == b["values"]
            assert a["validation"] == pytest.approx(b["validation"])


class TestReports:
    def test_table_and_terminal(self, finished: Any) -> None:
        from rich.console import Console

        found = summary_table(finished.rows)
        assert [row.label for row in found.rows] == ["linear", "shallow", "gated", "full", "untrained", "chance"]
        assert found.rows[2].cells[0].text.startswith("7")  # 2 tokens of 32, gates and temperatures
        assert [cell.text for cell in found.rows[-1].cells] == ["", "50.0"]
        console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        console.print(terminal(document(finished)))
        text = console.export_text()
        assert "±" in text
        assert "temperatures" in text

    def test_pages_and_images(self, finished: Any) -> None:
        report = document(finished)
        written = {path.name for path in write_report(report, finished.out)}
        assert {"report.html", "report.md", "methods.png", "gates.png", "insertion.png"} <= written
        page = (finished.out / "report.html").read_text(encoding="utf-8")
        assert page.count("data:image/png;base64,") >= 4
        assert "<script" not in page
        assert "http" not in page.replace("http-equiv", "")
        told = markdown(report)
        for words in ("| method | trained |", "Differences to shallow", "Chosen on validation", "block 1:"):
            assert words in told

    def test_only_plain_prompts_are_points_of_the_insertion_figure(self, finished: Any) -> None:
        points = insertion_points(finished.rows)["blots"]
        assert [(block, row["row"]) for block, row in points] == [(0, "shallow"), (1, "later"), (2, "latest")]

    def test_what_is_not_run_yet_is_a_dash(self, finished: Any) -> None:
        rows = summaries(finished.suite, [])
        assert all(cell.text == "–" for row in summary_table(rows).rows for cell in row.cells[1:])

    def test_rows_are_json(self, finished: Any) -> None:
        for line in (finished.out / "results.jsonl").read_text(encoding="utf-8").splitlines():
            assert {"kind", "task", "row", "model", "value", "low", "high", "n", "provenance"} <= json.loads(
                line
            ).keys()


def test_on_the_command_line(blots: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from visprompt.cli.app import app

    sets = {"count": {"data": "scenes:count", "train": 12, "validation": 6, "test": 6}}
    methods = [METHODS[0]]
    made = content(model="bundled:scenes-mae", sets=sets, methods=methods, seeds=[0])
    file = tmp_path / "one.yaml"
    file.write_text(yaml.safe_dump(made), encoding="utf-8")
    result = CliRunner().invoke(app, ["bench", str(file), "--out", str(tmp_path / "out"), "--jobs", "1"])
    assert result.exit_code == 0, result.output
    assert "linear" in result.output
    assert (tmp_path / "out" / "report.html").exists()
    wrong = CliRunner().invoke(app, ["bench", str(file), "--out", str(tmp_path / "out"), "-m", "a", "-m", "b"])
    assert wrong.exit_code != 0
