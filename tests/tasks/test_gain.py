"""Attention gain: the same places for every marker, and what plain code gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import visprompt as vp
from visprompt.data.scenes.unlabelled import generated
from visprompt.tasks.gain import GainMeter, attention_gain, marked_square, random_patch
from visprompt.testing import conformance, conformance_lvlm


def images(n: int = 6) -> list[Any]:
    return [conformance.image([(64, 64), (96, 64), (64, 128)][number % 3], number) for number in range(n)]


def test_gain_is_what_plain_code_gives() -> None:
    _, model = conformance.wrapped("transformers-clip")
    circle = vp.Prompter.from_name("circle", width=4)
    found = attention_gain(model, circle, images(), size_tokens=3.0, seed=5)
    assert [item.block for item in found.blocks] == list(range(model.num_blocks))
    last = model.num_blocks - 1
    masses = []
    for number, image in enumerate(images()):
        geometry = model.geometry(image.size)
        box = marked_square(geometry, 3.0, [603304, 5, number])
        item = vp.Request(image, region=box)
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
    found = attention_gain(model, vp.Prompter.from_name("circle", width=0), images(3))
    assert [item.block for item in found.blocks] == list(range(model.num_blocks))
    assert [item.gain for item in found.blocks] == [pytest.approx(0.0, abs=1e-6)] * model.num_blocks


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


def untrained_patch(model: vp.Model, **options: Any) -> Any:
    """A patch of colours as they are drawn; enough for what does not hang on what was learned."""
    made: Any = vp.Prompter.from_name("patch", **options)
    made.build(model)
    return made


def test_several_markers_look_at_plain_images_once() -> None:
    _, model = conformance.wrapped("transformers-clip")
    forwards = []
    hook = model.module.vision_model.register_forward_hook(lambda *_: forwards.append(1))
    try:
        meter = GainMeter(model, images(4), seed=1)
        first = meter.measure(vp.Prompter.from_name("circle", width=4))
        plain_and_first = len(forwards)
        second = meter.measure(vp.Prompter.from_name("box", width=4))
    finally:
        hook.remove()
    assert len(forwards) - plain_and_first == plain_and_first / 2
    assert first.without is second.without
    alone = attention_gain(model, vp.Prompter.from_name("box", width=4), images(4), seed=1)
    np.testing.assert_allclose(second.masses, alone.masses, rtol=1e-6)


def test_plain_masses_of_an_earlier_meter_are_taken_as_they_are() -> None:
    _, model = conformance.wrapped("transformers-clip")
    first = GainMeter(model, images(3))
    again = GainMeter(model, images(3), without=first.without)
    assert (
        again.measure(vp.Prompter.from_name("circle", width=4)).blocks
        == first.measure(vp.Prompter.from_name("circle", width=4)).blocks
    )


def test_of_several_prompters_each_marks_its_turn() -> None:
    _, model = conformance.wrapped("transformers-clip")
    meter = GainMeter(model, images(5))
    red, blue = (vp.Prompter.from_name("circle", width=4, colour=colour) for colour in ("red", "blue"))
    both, ones, twos = meter.masses([red, blue]), meter.masses(red), meter.masses(blue)
    np.testing.assert_allclose(both[::2], ones[::2], rtol=1e-6)
    np.testing.assert_allclose(both[1::2], twos[1::2], rtol=1e-6)
    assert not np.allclose(ones, twos)


def test_a_language_model_is_measured_on_its_vision_tower() -> None:
    from visprompt.models.lvlm.vision_encoder import encoder_of

    _, model = conformance_lvlm.wrapped("llava")
    circle = vp.Prompter.from_name("circle", width=4)
    found = attention_gain(model, circle, images(3))
    np.testing.assert_array_equal(found.masses, attention_gain(encoder_of(model), circle, images(3)).masses)
    assert found.masses.shape == (3, len(found.blocks))
    assert not np.allclose(found.masses, found.without)


def test_random_patch_differs_in_its_colours_alone() -> None:
    _, model = conformance.wrapped("transformers-clip")
    patch = untrained_patch(model, shape="circle", ratio=0.5)
    before = patch.array().copy()
    noise, other = random_patch(patch, 0), random_patch(patch, 1)
    np.testing.assert_array_equal(patch.array(), before)
    np.testing.assert_array_equal(noise.array()[3], before[3])
    assert noise.options == patch.options
    assert noise.backbone == patch.backbone
    assert not np.allclose(noise.array()[:3], before[:3])
    assert not np.allclose(noise.array()[:3], other.array()[:3])
    np.testing.assert_array_equal(noise.array(), random_patch(patch, 0).array())
    colours = noise.array()[:3]
    assert colours.mean() == pytest.approx(0.5, abs=0.06)
    assert colours.std() == pytest.approx(12**-0.5, abs=0.04)


def test_what_cannot_be_measured_says_so() -> None:
    _, model = conformance.wrapped("transformers-clip")
    with pytest.raises(vp.InvalidInputError, match="there are none"):
        attention_gain(model, vp.Prompter.from_name("circle"), [])
    with pytest.raises(vp.InvalidInputError, match="a square of 20 tokens"):
        attention_gain(model, vp.Prompter.from_name("circle"), images(1), size_tokens=20.0)
    _, convolutional = conformance.wrapped("open-clip-resnet")
    with pytest.raises(vp.UnsupportedError, match="no attention"):
        attention_gain(convolutional, vp.Prompter.from_name("circle"), images(1))
    with pytest.raises(vp.InvalidInputError, match="alpha of a learned one"):
        random_patch(vp.Prompter.from_name("patch"), 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": "photos"}, "images is a list of paths"),
        ({"images": generated((64, 64), sizes={"train": 1, "validation": 0, "test": 1})}, "got Splits"),
        ({"size_tokens": 0}, "size_tokens is a number above 0"),
        ({"size_tokens": "3"}, "size_tokens is a number above 0"),
        ({"blocks": []}, "a list of blocks"),
        ({"blocks": -1}, "a list of blocks"),
    ],
)
def test_a_meter_says_what_it_takes(arguments: dict[str, Any], message: str) -> None:
    _, model = conformance.wrapped("transformers-clip")
    with pytest.raises(vp.InvalidInputError, match=message):
        GainMeter(model, **{"images": images(1), **arguments})


@pytest.mark.parametrize("marker", ["circle", [], ["circle"]])
def test_a_marker_is_a_strategy(marker: Any) -> None:
    _, model = conformance.wrapped("transformers-clip")
    with pytest.raises(vp.InvalidInputError, match="a marker is a strategy"):
        GainMeter(model, images(1)).measure(marker)


def test_the_random_control_is_that_of_a_patch() -> None:
    with pytest.raises(vp.InvalidInputError, match="alpha of a learned one"):
        random_patch(vp.Prompter.from_name("circle"), 0)
