"""What learned prompts are compared with: the whole model, and prompts that nobody trained."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import wrapped_tiny
from PIL import Image

import visprompt as vp
from visprompt.data.labelled.dataset import Labelled
from visprompt.data.labelled.splits import Splits
from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.learned.baselines import fine_tuned, untrained
from visprompt.training.settings import FitSettings

FAST = FitSettings(epochs=2, batch_size=4, optimizer="adamw", lr=1e-2, warmup_epochs=0)


def data(per_class: int = 4) -> Splits:
    """Dark and bright images."""
    generator = np.random.default_rng(0)
    items = []
    for place in range(2 * per_class):
        pixels = generator.integers(0, 90, (48, 64, 3)) + 150 * (place % 2)
        items.append((Image.fromarray(pixels.astype(np.uint8)), place % 2))
    part = Labelled(items, ("dark", "bright"), name="blots")
    return Splits(part, part, part, "the same three times")


@pytest.mark.parametrize("name", ["transformers-vit-mae", "timm-vit", "open-clip-vit"])
def test_full_fine_tuning_changes_a_copy_and_nothing_else(name: str) -> None:
    model = wrapped_tiny(name)
    before, mode = model.weights_hash(), model.module.training
    flags = [item.requires_grad for item in model.module.parameters()]
    splits = data()
    tuned = fine_tuned(model, splits, FAST, progress=False)
    assert model.weights_hash() == before
    assert tuned.model.weights_hash() != before
    assert model.module.training == mode
    assert [item.requires_grad for item in model.module.parameters()] == flags
    assert all(item.grad is None for item in model.module.parameters())
    assert tuned.fitted.parameters["model"] == sum(item.numel() for item in model.module.parameters())
    assert tuned.fitted.parameters["prompt"] == 0
    # The head goes with the trained copy, and says what it said when it was measured.
    assert splits.test is not None
    assert tuned.prompter.evaluate(tuned.model, splits.test) == pytest.approx(tuned.fitted.test, abs=1e-5)
    with pytest.raises(UnsupportedError, match="another model"):
        tuned.prompter.evaluate(model, splits.test)


def test_full_fine_tuning_learns() -> None:
    settings = FitSettings(epochs=6, batch_size=4, optimizer="adamw", lr=1e-2, warmup_epochs=0)
    assert (
        fine_tuned(wrapped_tiny("transformers-vit-mae"), data(), settings, progress=False).fitted.test["accuracy"]
        == 1.0
    )


def test_full_fine_tuning_refuses_what_it_cannot_do() -> None:
    with pytest.raises(InvalidInputError, match="linear"):
        fine_tuned(wrapped_tiny("transformers-vit-mae"), data(), FitSettings(head="zero-shot"))


def test_untrained_prompts_stay_as_they_were_drawn() -> None:
    model, splits = wrapped_tiny("transformers-vit-mae"), data()
    prompter = untrained("gated", prompts=3)
    prompter.build(model, seed=0)
    drawn = prompter.state()
    fitted = prompter.fit(model, splits, epochs=2, batch_size=4, lr=0.1, warmup_epochs=0, progress=False)
    assert fitted.parameters["prompt"] == 0
    assert fitted.parameters["head"] > 0
    for key, value in drawn.items():
        assert torch.equal(prompter.state()[key], value), key
    assert prompter.name == "gated"


def test_untrained_needs_a_strategy_that_learns() -> None:
    with pytest.raises(UnsupportedError, match="learns nothing"):
        untrained("circle")
    assert isinstance(vp.Prompter.from_name("vpt"), type(untrained("vpt")).__mro__[1])
