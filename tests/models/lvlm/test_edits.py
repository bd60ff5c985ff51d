"""Edits of several images in one chat: widened to all image tokens, and merged if they are equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

import visprompt as vp
from visprompt.models.chat import Chat
from visprompt.models.lvlm.edits import decoder_edits, prompts_with_layouts, vision_edits
from visprompt.models.lvlm.inputs import prepare
from visprompt.testing.tiny_lvlm import tiny_lvlm


@pytest.fixture(scope="module")
def model() -> Any:
    small = tiny_lvlm("llava")
    return vp.wrap(small.module, small.processor)


def prompts(model: Any, *edits: tuple[vp.AttentionEdit, ...]) -> tuple[vp.VisualPrompt, ...]:
    return tuple(
        vp.VisualPrompt(
            Image.fromarray(np.random.default_rng(seed).integers(0, 256, (96, 96, 3), dtype=np.uint8)), attention=group
        )
        for seed, group in enumerate(edits)
    )


def edit(model: Any, tower: str = "decoder", **form: Any) -> vp.AttentionEdit:
    return vp.AttentionEdit(tower=tower, **form)


def patches(model: Any, tower: str = "decoder") -> int:
    return model.geometry((96, 96), tower=tower).num_patches


def layouts(model: Any, count: int) -> list[Any]:
    return [model.layout((96, 96), "model", count) for _ in range(count)]


def test_each_image_has_its_own_columns(model: Any) -> None:
    count = patches(model)
    first, second = np.arange(1.0, count + 1), -np.arange(1.0, count + 1)
    chat = Chat(prompts(model, (edit(model, bias=first),), (edit(model, bias=second, first_block=1),)), "which")
    found = decoder_edits(model, chat, layouts(model, 2))
    assert [item.first_block for item in found] == [0, 1]
    np.testing.assert_array_equal(found[0].bias, np.concatenate([first, np.zeros(count)]))
    np.testing.assert_array_equal(found[1].bias, np.concatenate([np.zeros(count), second]))


def test_edits_that_say_the_same_become_one(model: Any) -> None:
    count = patches(model)
    ones = np.zeros(count)
    ones[3] = 1.0
    masses = [(edit(model, target_mass=0.6, weights=ones),)] * 2
    (mass,) = decoder_edits(model, Chat(prompts(model, *masses), "which"), layouts(model, 2))
    np.testing.assert_array_equal(mass.weights, np.concatenate([ones, ones]))
    biases = [(edit(model, bias=ones * 2),), (edit(model, bias=-3 * ones),)]
    (bias,) = decoder_edits(model, Chat(prompts(model, *biases), "which"), layouts(model, 2))
    np.testing.assert_array_equal(bias.bias, np.concatenate([2 * ones, -3 * ones]))
    warm = [(edit(model, temperature=2.0),)] * 2
    assert len(decoder_edits(model, Chat(prompts(model, *warm), "which"), layouts(model, 2))) == 1


@pytest.mark.parametrize("other", [{"target_mass": 0.7}, {"target_mass": 0.6, "first_block": 1}])
def test_others_stay_apart(model: Any, other: dict[str, Any]) -> None:
    weights = np.zeros(patches(model))
    weights[0] = 1.0
    groups = [(edit(model, target_mass=0.6, weights=weights),), (edit(model, weights=weights, **other),)]
    assert len(decoder_edits(model, Chat(prompts(model, *groups), "which"), layouts(model, 2))) == 2


def test_what_a_decoder_cannot_take(model: Any) -> None:
    with pytest.raises(vp.UnsupportedError, match="compares heads with a run without the prompt"):
        decoder_edits(model, Chat(prompts(model, (edit(model, gain=1.0),)), "what"), layouts(model, 1))
    short = (edit(model, bias=np.ones(3)),)
    with pytest.raises(vp.InvalidInputError, match="3 patch columns"):
        decoder_edits(model, Chat(prompts(model, short), "what"), layouts(model, 1))


def test_the_vision_towers_edits_are_cut_into_tiles() -> None:
    small = tiny_lvlm("llava-next")
    model: Any = vp.wrap(small.module, small.processor)
    count = patches(model, "vision")
    chat = Chat(prompts(model, (edit(model, "vision", bias=np.arange(1.0, count + 1)),)), "what")
    inputs = prepare(model, [chat])
    found = vision_edits(model, [chat], inputs)
    (sizes,) = inputs.vision_patches
    assert len(found) == len(sizes) > 1
    np.testing.assert_array_equal(np.concatenate([group[0].bias for group in found]), np.arange(1.0, count + 1))


def test_frames_that_share_tokens_share_a_layout(model: Any) -> None:
    chat = Chat(prompts(model, (), (), (), ()), "what")
    assert [number for number, _ in prompts_with_layouts(chat, layouts(model, 2))] == [0, 0, 1, 1]
