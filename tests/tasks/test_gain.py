"""Attention gain: the same places for every marker, and what plain code gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import visprompt as vp
from visprompt.tasks.gain import attention_gain, marked_square
from visprompt.testing import conformance, conformance_lvlm


def pictures(n: int = 6) -> list[Any]:
    return [conformance.picture([(64, 64), (96, 64), (64, 128)][number % 3], number) for number in range(n)]


def test_gain_is_what_plain_code_gives() -> None:
    _, model = conformance.wrapped("transformers-clip")
    circle = vp.Prompter.from_name("circle", width=4)
    found = attention_gain(model, circle, pictures(), size_tokens=3.0, seed=5)
    assert [item.block for item in found.blocks] == list(range(model.num_blocks))
    last = model.num_blocks - 1
    masses = []
    for number, picture in enumerate(pictures()):
        geometry = model.geometry(picture.size)
        box = marked_square(geometry, 3.0, [603304, 5, number])
        item = vp.Request(picture, region=box)
        for prompts in (circle.prompt(item, model), item.units()):
            with torch.no_grad():
                mean = model.encode(prompts, read=[last]).attention[last][0].mean(dim=0).numpy()
            masses.append(float(mean @ geometry.coverage(box) / mean.sum()))
    with_marker, without = np.array(masses).reshape(-1, 2).T
    assert found.masses[:, -1] == pytest.approx(with_marker, rel=1e-4)
    assert found.blocks[-1].gain == pytest.approx(with_marker.mean() / without.mean() - 1, rel=1e-3)
    assert found.blocks[-1].low <= found.blocks[-1].gain <= found.blocks[-1].high


def test_nothing_gains_nothing() -> None:
    _, model = conformance.wrapped("open-clip-siglip")
    found = attention_gain(model, vp.Prompter.from_name("circle", width=0), pictures(3))
    assert [item.block for item in found.blocks] == [model.num_blocks - 1]
    assert found.blocks[0].gain == pytest.approx(0.0, abs=1e-6)


def test_squares_are_visible_and_of_one_size() -> None:
    _, model = conformance.wrapped("transformers-clip")
    for wh in ((64, 64), (192, 64), (64, 192)):
        geometry = model.geometry(wh)
        boxes = [marked_square(geometry, 2.5, [number]) for number in range(20)]
        assert all(geometry.visible_fraction(box) > 0.999 for box in boxes)
        assert np.ptp([geometry.coverage(box).sum() for box in boxes]) < 1e-3
        assert boxes[0] != boxes[1]
    with pytest.raises(vp.InvalidInputError, match="a square of 20 tokens"):
        marked_square(model.geometry((64, 64)), 20.0, [0])


def test_what_cannot_be_measured_says_so() -> None:
    _, model = conformance.wrapped("transformers-clip")
    with pytest.raises(vp.InvalidInputError, match="there are none"):
        attention_gain(model, vp.Prompter.from_name("circle"), [])
    _, lvlm = conformance_lvlm.wrapped("llava")
    with pytest.raises(vp.UnsupportedError, match="image encoders"):
        attention_gain(lvlm, vp.Prompter.from_name("circle"), pictures(1))
