"""Tinting: a colour where the map is positive, its complement where it is negative, unchanged where it is 0."""

from __future__ import annotations

import numpy as np
from PIL import Image

import visprompt as vp
from visprompt.imaging.tint import rendered, tint
from visprompt.testing.tiny import tiny


def test_colours() -> None:
    image = Image.new("RGB", (3, 1), (100, 100, 100))
    done = tint(image, np.array([[1.0, 0.0, -2.0]]), rgb=(200, 0, 55), opacity=0.5)
    assert [done.getpixel((x, 0)) for x in range(3)] == [(150, 50, 78), (100, 100, 100), (78, 178, 150)]
    assert image.getpixel((0, 0)) == (100, 100, 100)


def test_edits_over_patches_are_shown_where_they_act() -> None:
    small = tiny("transformers-clip")
    model = vp.wrap(small.module, small.processor, small.tokenizer)
    image = Image.new("RGB", (64, 64))
    bias = np.zeros(64)
    bias[9] = 5.0
    prompt = vp.VisualPrompt(image).adding(vp.AttentionEdit(bias=bias))
    changed = np.asarray(rendered(prompt, model)).any(axis=-1)
    box = model.geometry(image.size).patch_box(9)
    expected = np.zeros((64, 64), dtype=bool)
    expected[int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = True
    np.testing.assert_array_equal(changed, expected)
    weights = np.zeros(64)
    weights[9] = 1.0
    mass = vp.VisualPrompt(image).adding(vp.AttentionEdit(target_mass=0.5, weights=weights))
    np.testing.assert_array_equal(np.asarray(rendered(mass, model)), np.asarray(rendered(prompt, model)))


def test_edits_of_all_patches_are_not_shown() -> None:
    small = tiny("transformers-clip")
    model = vp.wrap(small.module, small.processor, small.tokenizer)
    image = Image.new("RGB", (64, 64))
    assert rendered(vp.VisualPrompt(image).adding(vp.AttentionEdit(temperature=2.0)), model) is image
