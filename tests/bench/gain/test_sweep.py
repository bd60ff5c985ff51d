"""The sweep of a gain suite: patches learned anew for every size, shape and λ."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

import visprompt as vp
from tests.bench.gain.test_run import small, wrapped
from visprompt.bench.gain.document import document, sweep_table
from visprompt.bench.kind import ProgressCallback
from visprompt.bench.pipeline import run_suite
from visprompt.bench.report import markdown, write_report
from visprompt.plots import gain as plots_gain
from visprompt.tasks.gain import attention_gain
from visprompt.utils.jsonl import read_jsonl


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The sweep's small form, interrupted after two points and run again; result, points before that, suite."""
    out = tmp_path_factory.mktemp("swept")
    grid = {"size": [2.0, 3.0], "shape": ["circle", "full"], "ratio": [0.5]}
    sweep = {"model": "tiny", "grid": grid, "settings": {"max_steps": 1, "batch_size": 2}, "n": 5}
    suite = small(models=[], compare_with=None, sweep=sweep)
    assert suite.sweep is not None
    model = wrapped("transformers-clip", "tiny-clip")
    suite = dataclasses.replace(suite, sweep=dataclasses.replace(suite.sweep, model=model))

    class Interrupted(ProgressCallback):
        begun = 0

        def starts(self, title: str) -> None:
            self.begun += 1
            if self.begun == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_suite(suite, out=out, progress=Interrupted())
    assert len(read_jsonl(out / "results.jsonl")) == 2
    first = len(list(out.glob("patches/sweep-*")))
    return run_suite(suite, out=out), first, suite


class TestSweep:
    def test_every_point_is_learned_once_and_measured_on_validation(self, swept: Any) -> None:
        result, first, _ = swept
        rows = result.rows
        assert first == 2
        assert [(row["options"]["size"], row["options"]["shape"]) for row in rows] == [
            (2.0, "circle"), (2.0, "full"), (3.0, "circle"), (3.0, "full")
        ]  # fmt: skip
        assert all(row["images"]["split"] == "validation" and row["n"] == 5 for row in rows)
        assert len(list(result.out.glob("patches/sweep-*"))) == 4
        for row in rows:
            assert row["ratio"] == pytest.approx(row["value"] / row["circle"])
        # circles of one size are the same, of two sizes are not
        assert rows[0]["circle"] == rows[1]["circle"] != rows[2]["circle"] == rows[3]["circle"]

    def test_a_point_is_what_its_saved_patch_gains(self, swept: Any) -> None:
        from visprompt.data.scenes.unlabelled import generated

        result, _, suite = swept
        runs = [run for file in result.out.glob("runs-*.jsonl") for run in read_jsonl(file)]
        run = next(run for run in runs if run["point"] == {"size": 3.0, "shape": "full"})
        data = generated((64, 64), seed=3, sizes={"train": 1, "validation": 5, "test": 0}).validation
        assert data is not None
        saved = vp.Prompter.from_pretrained(result.out / "patches" / run["patch"])
        images = [data.image(number) for number in range(5)]
        found = attention_gain(suite.sweep.model, saved, images, size_tokens=3.0, seed=5)
        assert run["gain"] == pytest.approx(found.blocks[-1].gain)

    def test_it_is_not_learned_again(self, swept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        result, _, suite = swept
        monkeypatch.setattr("visprompt.bench.gain.sweep.Sweep._unit", lambda *_: pytest.fail("learned again"))
        again = run_suite(suite, out=result.out)
        assert again.rows == json.loads(json.dumps(result.rows))

    def test_the_report_has_it(self, swept: Any) -> None:
        result, _, _ = swept
        report = document(result)
        rows = result.rows
        assert "gain-sweep.png" in {path.name for path in write_report(report, result.out)}
        first, second = sweep_table(rows).rows[:2]
        assert (first.label, first.cells[0].text) == ("circle, λ 0.5", "2")
        assert second.label == "full"
        assert "validation scenes" in markdown(report)
        figure = plots_gain.sweep_figure(rows)
        assert figure is not None
        left, right = figure.axes
        assert [text.get_text() for text in left.get_xticklabels()] == ["ring\nλ 0.5", "full", "drawn\ncircle"]
        shown = {text.get_text() for text in left.texts}
        assert {f"{row['value']:.2f}" for row in result.rows} | {f"{row['circle']:.2f}" for row in result.rows} == shown
        assert {text.get_text() for text in right.texts} == {f"{row['ratio']:.2f}" for row in result.rows}
