"""From `fit(out=…)` to a finished folder: going on, refusing other runs, measuring."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import interrupt, vpt
from PIL import Image

import visprompt as vp
from visprompt.data.labelled.dataset import Labelled, Splits
from visprompt.testing import conformance
from visprompt.testing.toy_dataset import toy_dataset
from visprompt.training import run_checkpoints as checkpoints

SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 8, "lr": 0.1, "warmup_epochs": 0, "progress": False}


DATA = Splits(toy_dataset(12), toy_dataset(9, 1), toy_dataset(9, 2), "made up")


# -- the folder -------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_not_run_again(model: vp.Model, tmp_path: Path, measured: list[str]) -> None:
    one, two = vpt(), vpt()
    first = one.fit(model, DATA, out=tmp_path, **SHORT)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md", "config.json", "metrics.jsonl", "prompt.safetensors", "run.json",
    ]  # fmt: skip
    assert measured.count("test") == 1
    before = len(measured)
    second = two.fit(model, DATA, out=tmp_path, workers=3, checkpoint_every=7, **SHORT)  # neither changes a result
    assert len(measured) == before
    assert second == first
    assert all(torch.equal(item, two.state()[name]) for name, item in one.state().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 0.2}, r"settings\.lr was 0\.1 and is 0\.2"),
        ({"seed": 3}, r"settings\.seed was 0 and is 3"),
        ({"prompts": 3}, r"options\.prompts was 2 and is 3"),
        ({"data": Splits(toy_dataset(12, 5), None, None, "other")}, r"data\.train\.name"),
    ],
)
def test_another_run_is_not_written_over(model: vp.Model, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    vpt().fit(model, DATA, out=tmp_path, **SHORT)
    weights = (tmp_path / "prompt.safetensors").read_bytes()
    data = change.pop("data", DATA)
    options = {"prompts": change.pop("prompts", 2)}
    with pytest.raises(vp.InvalidInputError, match=message):
        vpt(**options).fit(model, data, out=tmp_path, **{**SHORT, **change})
    assert (tmp_path / "prompt.safetensors").read_bytes() == weights
    found = vpt(**options).fit(model, data, out=tmp_path, restart=True, **{**SHORT, **change})
    assert len(found.history) == 2


def test_a_saved_strategy_is_not_written_over(model: vp.Model, tmp_path: Path) -> None:
    vp.Prompter.from_name("circle").save_pretrained(tmp_path)
    with pytest.raises(vp.InvalidInputError, match="holds a saved strategy"):
        vpt().fit(model, DATA, out=tmp_path, **SHORT)


def test_a_kill_in_the_middle_of_a_restart_does_not_mix_two_runs(
    model: vp.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was left of the old run was gone on with, under the new one's name."""
    save, other = checkpoints.save, {**SHORT, "lr": 0.2}
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", lambda *args: (save(*args), interrupt()))
        with pytest.raises(KeyboardInterrupt):
            vpt().fit(model, DATA, out=tmp_path, **SHORT)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "remove", interrupt)
        with pytest.raises(KeyboardInterrupt):
            vpt().fit(model, DATA, out=tmp_path, restart=True, **other)
    with pytest.raises(vp.InvalidInputError, match=r"checkpoints of an unknown run.*--restart"):
        vpt().fit(model, DATA, out=tmp_path, **other)
    found, wanted = vpt(), vpt()
    found.fit(model, DATA, out=tmp_path, restart=True, **other)
    wanted.fit(model, DATA, **other)
    assert all(torch.equal(item, wanted.state()[name]) for name, item in found.state().items())


def test_a_kill_behind_the_result_leaves_no_checkpoint_for_good(
    model: vp.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "remove", interrupt)
        patch.setattr(checkpoints, "save", lambda *_: (tmp_path / "checkpoint-4").mkdir(exist_ok=True))
        with pytest.raises(KeyboardInterrupt):
            vpt().fit(model, DATA, out=tmp_path, **SHORT)
    assert (tmp_path / "checkpoint-4").exists()
    vpt().fit(model, DATA, out=tmp_path, **SHORT)
    assert not (tmp_path / "checkpoint-4").exists()


def test_a_broken_run_file_can_be_started_anew(model: vp.Model, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(vp.InvalidInputError, match="restart=True"):
        vpt().fit(model, DATA, out=tmp_path, **SHORT)
    vpt().fit(model, DATA, out=tmp_path, restart=True, **SHORT)
    assert (tmp_path / "config.json").exists()


def test_other_programs_checkpoints_are_refused_and_stay(model: vp.Model, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-500").mkdir()
    (tmp_path / "checkpoint-500" / "model.safetensors").write_bytes(b"theirs")
    with pytest.raises(vp.InvalidInputError, match="another program's"):
        vpt().fit(model, DATA, out=tmp_path, restart=True, **SHORT)
    assert (tmp_path / "checkpoint-500" / "model.safetensors").exists()


def test_a_file_is_no_folder(model: vp.Model, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(vp.InvalidInputError, match="is a file"):
        vpt().fit(model, DATA, out=tmp_path / "out", **SHORT)


def test_the_home_folder_may_be_short(model: vp.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    prompter = vpt()
    prompter.fit(model, DATA, out="~/run", **SHORT)
    prompter.save_pretrained("~/saved")
    assert (tmp_path / "run" / "run.json").exists()
    assert vp.Prompter.from_pretrained("~/saved").name == "vpt"
    assert not (tmp_path / "~").exists()


def test_a_run_goes_on_where_sums_are_rounded_otherwise(model: vp.Model, tmp_path: Path) -> None:
    """Another number of threads or another GPU adds the backbone's weights up in another order."""
    vpt().fit(model, DATA, out=tmp_path, **SHORT)
    file = tmp_path / "run.json"
    content = json.loads(file.read_text())
    marks = content["run"]["model"]["marks"]
    content["run"]["model"]["marks"] = [[value * (1 + 1e-5) for value in mark] for mark in marks]
    file.write_text(json.dumps(content))
    vpt().fit(model, DATA, out=tmp_path, **SHORT)
    content["run"]["model"]["marks"] = [[value * 1.1 for value in mark] for mark in marks]
    file.write_text(json.dumps(content))
    with pytest.raises(vp.InvalidInputError, match=r"model\.marks"):
        vpt().fit(model, DATA, out=tmp_path, **SHORT)


def test_an_unfinished_run_is_no_saved_strategy(model: vp.Model, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(vp.InvalidInputError, match="the same fit command goes on"):
        vp.Prompter.from_pretrained(tmp_path)


def test_what_is_known_afterwards(model: vp.Model, tmp_path: Path) -> None:
    prompter = vpt()
    found = prompter.fit(model, DATA, out=tmp_path, **SHORT)
    record = vp.Prompter.from_pretrained(tmp_path).record  # type: ignore[attr-defined]
    assert record == prompter.record
    assert record["classes"] == ["red", "green", "blue"]
    assert record["test"] == found.test
    assert record["data"]["test"]["n"] == 9
    assert record["parameters"] == {"prompt": 64, "head": 99}
    assert record["settings"]["lr"] == 0.1
    json.dumps(record)


def test_data_of_other_kinds(model: vp.Model, tmp_path: Path) -> None:
    with pytest.raises(vp.InvalidInputError, match="data is a folder"):
        vpt().fit(model, [1, 2, 3])
    with pytest.raises(vp.InvalidInputError, match="does not exist"):
        vpt().fit(model, tmp_path / "nowhere")


# -- measuring --------------------------------------------------------------------------------------------------------


def test_evaluate_on_other_images(model: vp.Model, tmp_path: Path) -> None:
    prompter = vpt()
    found = prompter.fit(model, DATA, out=tmp_path, **SHORT)
    loaded: Any = vp.Prompter.from_pretrained(tmp_path)
    assert loaded.evaluate(model, DATA.test) == pytest.approx(found.test)
    other = Labelled([(Image.new("RGB", (48, 48)), 0)], ("red", "blue"))
    with pytest.raises(vp.InvalidInputError, match="must be the same"):
        loaded.evaluate(model, other)
    with pytest.raises(vp.InvalidInputError, match="learned nothing yet"):
        vpt().evaluate(model, DATA.test)


def test_measuring_leaves_the_users_random_state_alone(model: vp.Model) -> None:
    prompter, before = vpt(), torch.get_rng_state()
    prompter.fit(model, DATA, **SHORT)
    prompter.evaluate(model, DATA.test)
    vpt(prompts=0).fit(model, DATA, **SHORT)  # embeds its images once, with a loader of its own
    assert torch.equal(torch.get_rng_state(), before)


def test_other_tasks_are_refused(model: vp.Model) -> None:
    prompter = vpt()
    prompter.fit(model, DATA, **SHORT)
    masks = Labelled(
        [(Image.new("RGB", (48, 48)), np.zeros((48, 48), np.uint8))], DATA.train.classes, kind="segmentation"
    )
    with pytest.raises(vp.InvalidInputError, match="was taught classification, and the data are for segmentation"):
        prompter.evaluate(model, masks)


def test_a_zero_shot_head_is_measured_without_a_text_tower(monkeypatch: pytest.MonkeyPatch) -> None:
    model = conformance.wrapped("transformers-clip")[1]
    prompter = vpt()
    prompter.fit(model, DATA, **SHORT, head="zero-shot")
    wanted = prompter.evaluate(model, DATA.test)
    monkeypatch.setattr(model, "parts", dataclasses.replace(model.parts, embed_text=None))
    assert prompter.evaluate(model, DATA.test) == wanted


def test_two_runs_do_not_share_a_folder(model: vp.Model, tmp_path: Path) -> None:
    from filelock import FileLock

    with (
        FileLock(tmp_path / ".lock"),
        pytest.raises(vp.InvalidInputError, match="another process is training into"),
    ):
        vpt().fit(model, DATA, out=tmp_path, **SHORT)
    assert not (tmp_path / "run.json").exists()
    vpt().fit(model, DATA, out=tmp_path, **SHORT)
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("sweep", [None, {"lr": [0.1]}])
@pytest.mark.parametrize("restart", [False, True])
def test_files_of_others_are_not_written_over(
    model: vp.Model, tmp_path: Path, restart: bool, sweep: dict[str, Any] | None
) -> None:
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(vp.InvalidInputError, match=r"holds config\.json, README\.md, and no run of visprompt"):
        vpt().fit(model, DATA, out=tmp_path, restart=restart, sweep=sweep, **SHORT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json"]
    assert (tmp_path / "README.md").read_text() == "mine"
