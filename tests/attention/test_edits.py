"""Attention edits and programs: validation and error messages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import visprompt as vp
from visprompt.attention import compile_programs

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of"),
        ({"gain": 1.0, "temperature": 2.0}, "exactly one of"),
        ({"target_mass": 0.5}, "needs weights"),
        ({"target_mass": 1.5, "weights": np.ones(4)}, "between 0 and 1"),
        ({"target_mass": 0.5, "weights": -np.ones(4)}, "negative"),
        ({"bias": np.array([0.0, np.nan])}, "finite"),
        ({"temperature": 0.0}, "positive"),
    ],
)
def test_a_malformed_edit_says_why(options: dict, message: str) -> None:
    with pytest.raises(vp.InvalidInputError, match=message):
        vp.AttentionEdit(**options)


def test_blocks_are_numbers_fractions_or_from_the_end() -> None:
    assert vp.AttentionEdit(temperature=2.0, first_block=2 / 3).blocks(12) == range(8, 12)
    assert vp.AttentionEdit(temperature=2.0, first_block=-1).blocks(12) == range(11, 12)
    assert vp.AttentionEdit(temperature=2.0, first_block=3, last_block=-2).blocks(6) == range(3, 5)
    with pytest.raises(vp.InvalidInputError, match="12 blocks"):
        vp.AttentionEdit(temperature=2.0, first_block=12).blocks(12)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"bias": np.ones(5)}, "5 patch columns"),
        ({"temperature": 2.0, "heads": (99,)}, "heads"),
        ({"target_mass": 0.5, "weights": np.zeros(64)}, "a region and a rest"),
        ({"target_mass": 0.5, "weights": np.ones(64)}, "a region and a rest"),
        ({"temperature": 2.0, "tower": "decoder"}, "tower"),
    ],
)
def test_an_edit_that_does_not_fit_the_model(clip: vp.Model, edit: dict, message: str) -> None:
    with pytest.raises(vp.VispromptError, match=message):
        clip.encode([vp.VisualPrompt(IMAGE, attention=(vp.AttentionEdit(**edit),))])


def test_an_edit_that_changes_nothing_is_not_installed(clip: vp.Model) -> None:
    edits = (
        vp.AttentionEdit(bias=np.zeros(64)),
        vp.AttentionEdit(gain=0.0),
        vp.AttentionEdit(temperature=1.0),
    )
    assert vp.VisualPrompt(IMAGE).adding(*edits).attention == ()
    assert compile_programs(clip.tower, [edits], [64]) == {}


def test_gradients_reach_the_pixels_and_a_learned_temperature(clip: vp.Model) -> None:
    temperature = torch.tensor(1.5, requires_grad=True)
    prompt = vp.VisualPrompt(IMAGE).adding(vp.AttentionEdit(temperature=temperature))
    pixels = torch.rand(1, 3, 64, 64, requires_grad=True)
    with clip.prompting([prompt]) as encode:
        encode(pixels).embeddings.square().sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0
    assert temperature.grad is not None
    assert temperature.grad.abs() > 0
