"""What accelerate keeps for a whole process: a run neither takes it over nor leaves any of it behind."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image

import visprompt as vp
from visprompt.data.labelled.dataset import Labelled
from visprompt.training.accelerator import accelerator_of
from visprompt.training.settings import FitSettings

DATA = Labelled([(Image.new("RGB", (32, 32), name), i) for i, name in enumerate(("red", "blue"))] * 4, ("red", "blue"))
SHORT: dict[str, Any] = {"epochs": 2, "batch_size": 4, "lr": 0.1, "warmup_epochs": 0, "progress": False}


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def learned(model: vp.Model, **settings: Any) -> torch.Tensor:
    prompter: Any = vp.Prompter.from_name("vpt", prompts=2)
    prompter.fit(model, DATA, **{**SHORT, **settings})
    return prompter.tensors()["tokens"].detach()  # type: ignore[no-any-return]


def test_a_run_leaves_nothing_behind(model: vp.Model) -> None:
    learned(model)
    states: list[Any] = [AcceleratorState, GradientState, PartialState]
    assert not any(kind._shared_state for kind in states)


def test_an_accelerator_of_the_users_stays_as_it_was_and_changes_nothing(model: vp.Model) -> None:
    wanted, in_bf16 = learned(model), learned(model, precision="bf16")
    own = Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=4)
    own.gradient_state._set_sync_gradients(False)  # in the middle of a step of its own
    assert torch.equal(learned(model), wanted)
    assert torch.equal(learned(model, precision="bf16"), in_bf16)
    assert own.state.mixed_precision == "bf16"
    assert own.gradient_state.num_steps == 4
    assert not own.gradient_state.sync_gradients
    assert own.is_main_process


def test_what_a_launcher_says_about_accumulation_does_not_shrink_gradients(
    model: vp.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = learned(model)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert torch.equal(learned(model), wanted)


def test_a_precision_that_cannot_be_had_does_not_stay(model: vp.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:  # comes when the precision is already written down for the whole process
        raise ValueError("bf16 mixed precision requires a supported device")

    with monkeypatch.context() as patch:
        patch.setattr("accelerate.accelerator.GradientState", refuse)
        with pytest.raises(vp.InvalidInputError, match="cannot be had here"):
            learned(model, precision="bf16")
    learned(model)


def test_a_model_elsewhere_than_accelerate_works_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Autocast would be for the wrong device, and silently do nothing."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    there: Any = SimpleNamespace(device=torch.device("cuda", 0))
    with (
        pytest.raises(vp.InvalidInputError, match="accelerate works on cpu"),
        accelerator_of(FitSettings(precision="bf16"), there),
    ):
        pass
