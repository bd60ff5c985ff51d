"""A patch in an image: where it lands, and the formulas of blending, re-derived pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import noise
from PIL import Image

from visprompt.errors import InvalidInputError
from visprompt.imaging.paste import centre_of, paste, random_colours, rim_of, shape_alpha, to_rgba
from visprompt.regions import Box, Mask, Point


def plain(colour: tuple[float, float, float], alpha: float = 1.0, side: int = 2) -> np.ndarray:
    """A patch of one colour, `[4, side, side]`."""
    return np.broadcast_to(np.array([*colour, alpha])[:, None, None], (4, side, side)).copy()


@pytest.mark.parametrize("blending", ["over", "add"])
def test_the_formulas(blending: Any) -> None:
    image, colour, opacity, alpha = noise((12, 10)), (0.8, 0.2, 0.5), 0.6, 0.5
    found = np.asarray(paste(image, plain(colour, alpha), (5.0, 4.0), (4.0, 2.0), opacity=opacity, blending=blending))
    before = np.asarray(image) / 255
    if blending == "over":
        wanted = (1 - opacity * alpha) * before + opacity * alpha * np.array(colour)
    else:
        wanted = np.clip(before + opacity * alpha * (2 * np.array(colour) - 1), 0, 1)
    inside = np.zeros((10, 12), dtype=bool)
    inside[3:5, 3:7] = True
    assert np.abs(found[inside] - wanted[inside] * 255).max() <= 0.51
    assert (found[~inside] == np.asarray(image)[~inside]).all()


def test_half_a_pixel_is_half_the_colour() -> None:
    done = paste(Image.new("RGB", (4, 1)), plain((1.0, 1.0, 1.0)), (2.0, 0.5), (1.0, 1.0))
    assert [done.getpixel((x, 0))[0] for x in range(4)] == [0, 128, 128, 0]


def test_what_reaches_beyond_the_image_is_cut_off() -> None:
    done = np.asarray(paste(Image.new("RGB", (4, 4)), plain((1.0, 1.0, 1.0)), (0.0, 0.0), (4.0, 4.0)))
    assert (done[:2, :2] == 255).all()
    assert done.sum() == 255 * 3 * 4


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.8])
def test_shapes_have_their_area(ratio: float) -> None:
    side = 64
    assert shape_alpha("full", ratio, side).mean() == 1
    assert shape_alpha("square", ratio, side).mean() == pytest.approx(1 - ratio**2, abs=0.02)
    assert shape_alpha("circle", ratio, side).mean() == pytest.approx(np.pi / 4 * (1 - ratio**2), abs=0.02)


@pytest.mark.parametrize(("shape", "ratio", "side"), [("star", 0.0, 4), ("circle", 1.0, 4), ("full", 0.0, 0)])
def test_shapes_that_are_none(shape: Any, ratio: float, side: int) -> None:
    with pytest.raises(InvalidInputError):
        shape_alpha(shape, ratio, side)


def test_the_middle_of_a_mask_lies_in_it() -> None:
    crescent = np.zeros((20, 20), dtype=bool)
    crescent[2:18, 2:6] = crescent[14:18, 2:18] = True
    x, y = centre_of(Mask(crescent))
    assert crescent[int(y), int(x)]
    assert centre_of(Box(2, 4, 10, 6)) == (6.0, 5.0)
    assert centre_of(Point(3, 4)) == (3.0, 4.0)


def test_places_on_a_rim_are_evenly_spaced() -> None:
    found = np.array(rim_of(Box(0, 0, 8, 4), 6))
    assert len(found) == 6
    assert tuple(found[0]) == (4.0, 0.0)
    on_a_side = np.isclose(found[:, 0] % 8, 0) | np.isclose(found[:, 1] % 4, 0)
    assert on_a_side.all()
    assert rim_of(Point(3, 4), 5) == [(3.0, 4.0)]


def test_a_control_keeps_shape_and_alpha() -> None:
    patch = plain((0.1, 0.2, 0.3), 0.5, side=8)
    control = random_colours(patch, seed=1)
    assert (control[3] == patch[3]).all()
    assert (control[:3] != patch[:3]).any()
    assert (control == random_colours(patch, seed=1)).all()
    assert to_rgba(patch).getpixel((0, 0)) == (26, 51, 76, 128)
