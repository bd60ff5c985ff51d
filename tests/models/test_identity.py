"""The identity of a learned prompt's backbone."""

from __future__ import annotations

import copy

import torch

import visprompt as vp
from visprompt.models.identity import difference, identity
from visprompt.testing.tiny_lvlm import tiny_lvlm


def test_answers_go_with_the_language_model_that_was_taught() -> None:
    """The same vision tower with another decoder is another model; so is another tower."""
    made = tiny_lvlm("llava")
    model = vp.wrap(made.module, made.processor)
    saved = identity(model)
    assert saved["decoder"]
    assert difference(saved, vp.wrap(copy.deepcopy(tiny_lvlm("llava").module), made.processor)) == ""
    module = copy.deepcopy(tiny_lvlm("llava").module)
    other = vp.wrap(module, made.processor)
    with torch.no_grad():
        for item in other.tower_named("decoder").blocks[0].parameters():
            item.add_(0.2 * torch.randn_like(item))
    assert "language model another" in difference(saved, other)
    with torch.no_grad():
        for item in other.tower_named("vision").blocks[0].parameters():
            item.add_(0.2 * torch.randn_like(item))
    assert "same shape, but other weights" in difference(saved, other)


def test_an_encoder_remembers_its_blocks_alone() -> None:
    assert "decoder" not in identity(vp.load_model("bundled:scenes-clip"))
