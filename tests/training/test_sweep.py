"""Sweeps: every setting is trained, validation chooses, and test images are looked at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import interrupt, vpt
from PIL import Image

import visprompt as vp
from visprompt.data.labelled.dataset import Splits
from visprompt.testing.toy_dataset import toy_dataset
from visprompt.training import loop as fitting
from visprompt.training.objectives.classification import Classification

SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 8, "lr": 0.1, "warmup_epochs": 0, "progress": False}


DATA = Splits(toy_dataset(12), toy_dataset(9, 1), toy_dataset(9, 2), "made up")


def test_a_sweep_chooses_on_validation_and_looks_at_test_once(
    model: vp.Model, tmp_path: Path, measured: list[str]
) -> None:
    prompter = vpt()
    found = prompter.fit(model, DATA, out=tmp_path, sweep={"lr": [1e-6, 0.3], "prompts": [1, 4]}, **SHORT)
    assert measured.count("test") == 1
    assert len(found.sweep) == 4
    scores = [entry["accuracy"] for entry in found.sweep]
    assert scores == sorted(scores, reverse=True)
    assert found.validation["accuracy"] == scores[0]
    assert prompter.options.prompts == found.sweep[0]["prompts"]
    assert len(list((tmp_path / "sweep").iterdir())) == 4
    loaded: Any = vp.Prompter.from_pretrained(tmp_path)
    assert loaded.options == prompter.options
    assert loaded.record["sweep"] == found.sweep
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2  # the winner's
    assert loaded.evaluate(model, DATA.test) == pytest.approx(found.test)
    before = len(measured)
    again = vpt().fit(model, DATA, out=tmp_path, sweep={"lr": [1e-6, 0.3], "prompts": [1, 4]}, **SHORT)
    assert again.sweep == found.sweep
    assert measured[before:] == ["test"]  # nothing was trained again


def test_a_setting_that_diverges_loses(model: vp.Model) -> None:
    found = vpt().fit(model, DATA, sweep={"lr": [1e30, 0.1]}, **{**SHORT, "epochs": 4})
    assert [entry["lr"] for entry in found.sweep] == [0.1, 1e30]
    assert "try a lower one" in found.sweep[1]["diverged"]
    with pytest.raises(vp.InvalidInputError, match="every setting of the sweep diverged"):
        vpt().fit(model, DATA, sweep={"lr": [1e30, 1e31]}, **{**SHORT, "epochs": 4})


def test_final_trains_on_all_images(model: vp.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = Classification.__init__

    def look(self: Any, model: Any, prompter: Any, splits: Any, settings: Any) -> None:
        sizes.append(len(splits["train"]))
        original(self, model, prompter, splits, settings)

    monkeypatch.setattr(Classification, "__init__", look)
    found = vpt().fit(model, DATA, out=tmp_path, sweep={"lr": [0.01, 0.1]}, final=True, **SHORT)
    assert sizes == [12, 12, 21]
    assert found.validation == {}
    assert found.test
    assert len(found.sweep) == 2


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"rate": [1]}, "setting or option to sweep 'rate'"),
        ({"lr": []}, "needs a list of values"),
        ({"lr": "0.1"}, "needs a list of values"),
        ({"lr": [0.1, -1]}, "lr is a number"),
        ({"prompts": [-1]}, "prompts is a number of tokens"),
    ],
)
def test_bad_sweeps_are_refused_before_anything_is_trained(
    model: vp.Model, sweep: dict[str, Any], message: str, measured: list[str]
) -> None:
    with pytest.raises((vp.InvalidInputError, vp.UnknownNameError), match=message):
        vpt().fit(model, DATA, sweep=sweep, **SHORT)
    assert measured == []


def test_a_setting_whose_figure_is_no_number_does_not_win(model: vp.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = Classification.figures

    def broken(self: Classification, sums: Any) -> dict[str, float]:
        return {**figures(self, sums), **({"loss": float("nan")} if self.settings.lr == 0.1 else {})}

    monkeypatch.setattr(Classification, "figures", broken)
    monkeypatch.setattr(Classification, "metric", "loss")
    monkeypatch.setattr(Classification, "higher_is_better", False)
    without = {name: value for name, value in SHORT.items() if name != "lr"}
    found = vpt().fit(model, DATA, sweep={"lr": [0.1, 0.2]}, **without)
    assert [entry["lr"] for entry in found.sweep] == [0.2, 0.1]


def test_a_sweep_that_is_stopped_leaves_nothing_half_trained(model: vp.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    prompter = vpt(prompts=2)
    monkeypatch.setattr(fitting._Run, "_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prompter.fit(model, DATA, sweep={"prompts": [3]}, **SHORT)
    assert prompter.options.prompts == 2
    with pytest.raises(vp.InvalidInputError, match="has learned nothing yet"):
        vp.Runner(model, prompter).encode(vp.Request(Image.new("RGB", (48, 48))))


def test_a_sweep_needs_validation(model: vp.Model) -> None:
    with pytest.raises(vp.InvalidInputError, match="no validation part"):
        vpt().fit(model, DATA.train, sweep={"lr": [0.1]}, **SHORT)
