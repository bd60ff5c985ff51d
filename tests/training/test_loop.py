"""The loop: what it changes and what it leaves alone, and that a run is the same however it is run."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import visprompt as vp
from visprompt.data.labelled.dataset import Labelled, Splits
from visprompt.testing import conformance
from visprompt.testing.conformance import differences, snapshot
from visprompt.testing.toy_dataset import toy_dataset
from visprompt.training import evaluation
from visprompt.training import loop as fitting
from visprompt.training import run_checkpoints as checkpoints
from visprompt.training.loop import DivergedError
from visprompt.training.metrics_log import read
from visprompt.training.objectives.classification import Classification

#: a short run
SHORT: dict[str, Any] = {"epochs": 3, "batch_size": 8, "lr": 0.1, "warmup_epochs": 1, "progress": False}


DATA = Splits(toy_dataset(20), toy_dataset(12, 1), toy_dataset(12, 2), "made up")


def model_of(name: str = "timm-vit-mean") -> vp.Model:
    return conformance.wrapped(name)[1]  # type: ignore[no-any-return]


def gated(**options: Any) -> Any:
    return vp.Prompter.from_name("gated", **{"prompts": 3, **options})


def fitted(model: vp.Model | None = None, **settings: Any) -> tuple[Any, Any]:
    prompter = gated()
    return prompter, prompter.fit(model or model_of(), DATA, **{**SHORT, **settings})


def same(one: dict[str, Tensor], two: dict[str, Tensor], tolerance: float = 0.0) -> bool:
    return one.keys() == two.keys() and all(
        torch.allclose(item, two[name], atol=tolerance, rtol=0) for name, item in one.items()
    )


# -- what it does -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timm-vit-mean", "transformers-clip", "open-clip-vit", "transformers-dinov3"])
def test_prompt_and_head_learn_and_the_model_stays(name: str) -> None:
    made, model = conformance.wrapped(name)
    flags = [item.requires_grad for item in made.module.parameters()]
    state, before = snapshot(made.module), conformance.encode(model, None, conformance.requests())
    prompter, found = fitted(model, epochs=8)
    start = gated()
    start.build(model)
    for key, item in start.tensors().items():
        assert not torch.equal(prompter.tensors()[key], item), f"{key} did not move"
    losses = [row["train"]["loss"] for row in found.history]
    assert losses[-1] < losses[0]
    assert found.test.keys() == {"loss", "accuracy", "class_accuracy"}
    assert found.parameters["prompt"] == sum(item.numel() for item in start.tensors().values())
    assert not differences(state, snapshot(made.module))
    assert [item.requires_grad for item in made.module.parameters()] == flags
    assert all(item.grad is None for item in made.module.parameters())
    assert torch.equal(before, conformance.encode(model, None, conformance.requests()))


def test_the_model_stays_when_training_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    made, model = conformance.wrapped("timm-vit-mean")
    state, flags = snapshot(made.module), [item.requires_grad for item in made.module.parameters()]
    monkeypatch.setattr(Classification, "figures", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fitted(model)
    assert not differences(state, snapshot(made.module))
    assert [item.requires_grad for item in made.module.parameters()] == flags
    assert all(item.grad is None for item in made.module.parameters())


def test_no_gradient_is_kept_for_the_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = model_of(), []
    original = fitting._Run._share_gradients

    def look(self: Any, *args: Any) -> Any:
        seen.append(all(item.grad is None and not item.requires_grad for item in model.module.parameters()))
        return original(self, *args)

    monkeypatch.setattr(fitting._Run, "_share_gradients", look)
    fitted(model, epochs=1)
    assert seen
    assert all(seen)


def test_the_users_random_state_is_left_alone() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    fitted(epochs=1)
    assert torch.equal(torch.rand(2), wanted)


# -- a run is the same however it is run ------------------------------------------------------------------------------


def test_a_seed_makes_a_run() -> None:
    one, two, three = fitted()[0], fitted()[0], fitted(seed=1)[0]
    assert same(one.state(), two.state())
    assert not same(one.state(), three.state())


def test_accumulated_batches_are_one_batch() -> None:
    one, two = fitted(batch_size=8)[0], fitted(batch_size=4, accumulate=2)[0]
    assert same(one.state(), two.state(), 1e-5)


def test_workers_change_nothing() -> None:
    assert same(fitted(epochs=1)[0].state(), fitted(epochs=1, workers=1)[0].state())


def test_many_images_are_measured_with_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []
    original = evaluation.loader

    def look(objective: Any, split: str, keys: Any, workers: int) -> Any:
        seen.append((split, workers))
        return original(objective, split, keys, workers)  # type: ignore[arg-type]

    wanted = fitted(epochs=1)[1]
    monkeypatch.setattr(evaluation, "loader", look)
    fitted(epochs=1, workers=1)
    assert dict(seen) == {"train": 1, "validation": 0, "test": 0}
    monkeypatch.setattr(evaluation, "FEW", 11)
    found = fitted(epochs=1, workers=1)[1]
    assert dict(seen) == {"train": 1, "validation": 1, "test": 1}
    assert (found.validation, found.test) == (wanted.validation, wanted.test)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("step", [1, 4, 8])
def test_a_run_that_died_goes_on_as_if_it_had_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, optimizer: str
) -> None:
    """Dies after a step whose checkpoint it has (4), whose checkpoint is older (8 of 9), and before the first."""
    settings: dict[str, Any] = {"optimizer": optimizer, "checkpoint_every": 2, "lr": 0.05}
    whole, wanted = fitted(out=tmp_path / "whole", **settings)
    original = fitting._Run._step

    def dying(self: Any, *args: Any) -> float:
        if self.state.step == step:
            raise KeyboardInterrupt
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(fitting._Run, "_step", dying)
        with pytest.raises(KeyboardInterrupt):
            fitted(out=tmp_path / "died", **settings)
    assert not (tmp_path / "died" / "config.json").exists()
    prompter, found = fitted(out=tmp_path / "died", **settings)
    assert same(whole.state(), prompter.state())
    rows = [[row["train"] | row["validation"] for row in read(tmp_path / name)] for name in ("whole", "died")]
    assert rows[0] == rows[1]
    assert (found.validation, found.test, found.best_epoch) == (wanted.validation, wanted.test, wanted.best_epoch)
    assert not [path for path in (tmp_path / "died").iterdir() if "checkpoint" in path.name]


def train(folder: str, out: str, batch_size: int) -> None:
    """Also run from the script below, in other processes."""
    import visprompt as vp
    from visprompt.data.labelled.splits import load_splits
    from visprompt.testing import tiny_model

    made = tiny_model("timm-vit-mean")
    model = vp.wrap(made.module, made.processor)
    vp.Prompter.from_name("gated", prompts=2).fit(
        model, load_splits(folder), out=out, epochs=12, batch_size=batch_size, lr=0.05, warmup_epochs=1,
        checkpoint_every=1, evaluate_every=6, progress=False,
    )  # fmt: skip


_SCRIPT = inspect.getsource(train) + "\nimport sys\ntrain(sys.argv[1], sys.argv[2], int(sys.argv[3]))\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with 12 images to train on and 4 to validate."""
    root = tmp_path_factory.mktemp("blotches")
    for split, n in (("train", 12), ("val", 6)):
        data = toy_dataset(n, len(split))
        for index in range(n):
            path = root / split / data.classes[data.labels[index]] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            data.image(index).save(path)
    return root


def _start(arguments: Sequence[Any], processes: int = 1) -> subprocess.Popen[bytes]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)


def _finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()[-2000:]


def test_kill_9_and_two_processes(folder: Path, tmp_path: Path) -> None:
    """Killed in the middle and started again: the same file, byte for byte. Two processes with half the batch: the same
    curve to 1e-5 (sums are added in another order).
    """
    script = tmp_path / "train.py"
    script.write_text(_SCRIPT)
    killed = _start([script, folder, tmp_path / "killed", 4])
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not list((tmp_path / "killed").glob("checkpoint-*[1-9]?")):
        assert killed.poll() is None, killed.communicate()[1].decode()[-2000:]
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "killed" / "prompt.safetensors").exists(), "it had ended before the kill"
    again = _start([script, folder, tmp_path / "killed", 4])
    two = _start([script, folder, tmp_path / "two", 2], processes=2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train(str(folder), str(tmp_path / "whole"), 4)
    torch.set_num_threads(threads)
    _finish(again)
    files = [(tmp_path / name / "prompt.safetensors").read_bytes() for name in ("whole", "killed")]
    assert files[0] == files[1]
    _finish(two)
    curves = [[row["train"]["loss"] for row in read(tmp_path / name)] for name in ("whole", "two")]
    assert len(curves[0]) == 12
    np.testing.assert_allclose(curves[1], curves[0], atol=1e-5)
    weights = [vp.Prompter.from_pretrained(tmp_path / name).state() for name in ("whole", "two")]  # type: ignore[attr-defined]
    assert same(*weights, tolerance=1e-4)


def test_processes_that_see_different_folders_do_not_wait_for_ever(folder: Path, tmp_path: Path) -> None:
    """As on two machines without a common disk: the main process finds its run ended, the other one nothing."""
    script = tmp_path / "train.py"
    script.write_text(
        _SCRIPT.replace("epochs=12", "epochs=1").replace("out=out", "out=out + __import__('os').environ['RANK']")
    )
    _finish(_start([script, folder, tmp_path / "own", 2], processes=2))
    assert (tmp_path / "own0" / "config.json").exists()
    again = _start([script, folder, tmp_path / "own", 2], processes=2)
    _, errors = again.communicate(timeout=120)
    assert again.returncode != 0
    assert b"not every process sees the same run" in errors


# -- choosing ---------------------------------------------------------------------------------------------------------


def _scripted(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    """Validation accuracies as they are told, one per evaluation."""
    rest = iter(values)
    original = Classification.figures

    def figures(self: Any, sums: dict[str, Tensor]) -> dict[str, float]:
        return {**original(self, sums), "accuracy": next(rest)}

    monkeypatch.setattr(Classification, "figures", figures)


def test_the_best_on_validation_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[dict[str, Tensor]] = []
    original = checkpoints.clone
    monkeypatch.setattr(checkpoints, "clone", lambda weights: kept.append(original(weights)) or kept[-1])
    _scripted(monkeypatch, [0.3, 0.6, 0.6, 0.5, 0.6, 0.1])
    prompter, found = fitted(epochs=4)
    assert found.best_epoch == 2
    assert len(kept) == 2
    assert same({k: v for k, v in prompter.state().items() if k in kept[1]}, kept[1])
    assert found.validation["accuracy"] == 0.6
    assert [row["best"] for row in found.history] == [True, True, False, False]


def test_keep_last(monkeypatch: pytest.MonkeyPatch) -> None:
    _scripted(monkeypatch, [0.9, 0.1, 0.1, 0.1, 0.1])
    _, found = fitted(keep="last")
    assert found.best_epoch == 3


def test_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    _scripted(monkeypatch, [0.3, 0.5, 0.4, 0.5, 0.5, 0.5])
    _, found = fitted(epochs=9, patience=2)
    assert found.stopped_early
    assert (found.epochs, found.best_epoch) == (4, 2)


def test_evaluate_every_and_max_steps() -> None:
    _, found = fitted(epochs=5, evaluate_every=2)
    assert ["validation" in row for row in found.history] == [False, True, False, True, True]
    _, found = fitted(epochs=5, max_steps=4)
    assert [row["step"] for row in found.history] == [3, 4]


def test_without_validation_the_last_weights_count() -> None:
    prompter = gated()
    found = prompter.fit(model_of(), DATA.train, **SHORT)
    assert (found.validation, found.test, found.best_epoch) == ({}, {}, 3)


# -- precision, memory, trouble ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timm-vit-mean", "transformers-clip", "open-clip-vit"])
def test_bf16_learns_float32_numbers(name: str) -> None:
    prompter, found = fitted(model_of(name), precision="bf16", epochs=6)
    assert {item.dtype for item in prompter.state().values() if item.is_floating_point()} == {torch.float32}
    assert found.history[-1]["train"]["loss"] < found.history[0]["train"]["loss"]
    fitted(model_of(name), epochs=1)  # another precision in the same process


def test_fp16_on_a_cpu_says_what_to_do() -> None:
    with pytest.raises(vp.InvalidInputError, match='take "bf16"'):
        fitted(precision="fp16")


@pytest.mark.parametrize("name", ["timm-vit-mean", "transformers-clip", "open-clip-vit"])
def test_checkpointing_gives_the_same(name: str) -> None:
    made, model = conformance.wrapped(name)
    state = snapshot(made.module)
    one, two = fitted(model, epochs=1)[0], fitted(model, epochs=1, checkpointing=True)[0]
    assert same(one.state(), two.state(), 1e-5)
    assert not differences(state, snapshot(made.module))


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="try a lower one"):
        fitted(lr=1e30, out=tmp_path, epochs=6)
    assert not (tmp_path / "config.json").exists()


def test_bad_images_are_skipped_and_the_rest_counts_in_full(tmp_path: Path) -> None:
    """A step with a bad image is the step of the good ones."""
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    good = toy_dataset(7)
    items = [(good.image(i), good.labels[i]) for i in range(7)]
    with_bad = Labelled([*items, (bad, 0)], good.classes, name="mixed", on_bad="skip")
    one, two = gated(), gated()
    with pytest.warns(UserWarning, match=r"bad\.png"):
        one.fit(model_of(), with_bad, **{**SHORT, "epochs": 1, "batch_size": 8})
    two.fit(model_of(), good, **{**SHORT, "epochs": 1, "batch_size": 8})
    moved = [float((p.tensors()["temperatures"].detach() - 1).abs().sum()) for p in (one, two)]
    assert moved[0] == pytest.approx(moved[1], rel=0.05)  # dropout and order differ, the scale does not
    with pytest.raises(vp.InvalidInputError, match=r"bad\.png"):
        gated().fit(model_of(), Labelled([*items, (bad, 0)], good.classes), **SHORT)


def test_nothing_to_train_says_so() -> None:
    prompter = vp.Prompter.from_name("vpt", prompts=0)
    with pytest.raises(vp.InvalidInputError, match="nothing to train"):
        prompter.fit(model_of("transformers-clip"), DATA, **SHORT, head="zero-shot")


def test_strategies_that_learn_nothing_say_so() -> None:
    with pytest.raises(vp.UnsupportedError, match="nothing to learn"):
        vp.Prompter.from_name("circle").fit(model_of(), DATA)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs is a whole number"),
        ({"lr": -1.0}, "lr is a number"),
        ({"lr": 0.1, "base_lr": 0.1}, "give one of them"),
        ({"optimizer": "lion"}, "optimizer is one of"),
        ({"precision": "int8"}, "precision is one of"),
        ({"templates": ("a photo",)}, "templates are texts"),
        ({"epoch": 3}, "did you mean 'epochs'"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((vp.InvalidInputError, vp.UnknownNameError), match=message):
        gated().fit(model_of(), DATA, **settings)


def test_base_lr_scales_with_the_images_of_a_step() -> None:
    from visprompt.training.settings import FitSettings

    assert FitSettings(base_lr=0.1).learning_rate(64) == pytest.approx(0.025)
    assert FitSettings(lr=0.3).learning_rate(64) == 0.3


def test_temperatures_are_within_their_range_after_the_last_step() -> None:
    """Without anything to measure on, no forward comes after it."""
    prompter = gated()
    prompter.fit(model_of(), toy_dataset(8), **{**SHORT, "lr": 500.0, "epochs": 2})
    values = prompter.tensors()["temperatures"].detach()
    assert values.min() >= torch.tensor(0.01)
    assert values.max() <= 10


def test_the_warm_up_is_a_tenth_unless_said() -> None:
    from visprompt.training.settings import FitSettings

    assert FitSettings().warmup_steps(1000, 10) == 100
    assert FitSettings(warmup_epochs=3).warmup_steps(1000, 10) == 30
    assert FitSettings(warmup_epochs=0).warmup_steps(1000, 10) == 0
