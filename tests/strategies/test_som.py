"""Set-of-Mark: where labels stand, that one can read them, and that nothing else changes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from helpers import noise
from PIL import Image
from scipy import ndimage
from visprompt.strategies.som import PALETTE, _ink, _letters

import visprompt as vp
from visprompt.errors import InvalidInputError
from visprompt.prompter import Prompter
from visprompt.request import Box, Mask, Point, Region, Request
from visprompt.visual_prompt import VisualPrompt

WH = (240, 160)
BIG, SMALL = Box(20, 20, 220, 140), Box(100, 60, 140, 100)


def prompt_of(*regions: Region, image: Image.Image | None = None) -> VisualPrompt:
    return VisualPrompt(noise(WH) if image is None else image, regions=regions)


def draw(*regions: Region, image: Image.Image | None = None, **options: Any) -> np.ndarray:
    made = Prompter.from_name("som", **options)
    return np.asarray(made.edit(prompt_of(*regions, image=image), None).image).astype(int)  # type: ignore[arg-type]


def marks(*regions: Region, image: Image.Image | None = None, **options: Any) -> list[Any]:
    made: Any = Prompter.from_name("som", **options)
    return list(made.marks(prompt_of(*regions, image=image)))


def random_boxes(number: int, wh: tuple[int, int], low: float, high: float) -> list[Region]:
    generator = np.random.default_rng(number)
    sides = generator.uniform(low, high, (number, 2))
    corners = generator.uniform(0, 1, (number, 2)) * (np.array(wh) - sides)
    return [Box(*corner, *(corner + side)) for corner, side in zip(corners, sides, strict=True)]


# -- labels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wh", "number", "low", "high"),
    [
        ((240, 160), 12, 10, 90),
        ((64, 64), 5, 4, 40),
        ((120, 400), 30, 1, 60),
        ((1900, 1300), 25, 20, 900),
        (WH, 1, 1, 9),
    ],
)
def test_labels_do_not_overlap_nor_leave_the_image(wh: tuple[int, int], number: int, low: float, high: float) -> None:
    found = marks(*random_boxes(number, wh, low, high), image=noise(wh))
    assert [mark.text for mark in found] == [str(index) for index in range(1, number + 1)]
    for mark in found:
        x0, y0, x1, y1 = mark.xyxy
        assert 0 <= x0 < x1 <= wh[0]
        assert 0 <= y0 < y1 <= wh[1]
    for one, two in itertools.combinations((mark.xyxy for mark in found), 2):
        assert one[2] <= two[0] or two[2] <= one[0] or one[3] <= two[1] or two[3] <= one[1], (one, two)


def test_a_mask_is_labelled_at_its_deepest_pixel() -> None:
    """The paper's rule in plain code: the maximum of the distance transform of what smaller masks leave."""
    yy, xx = np.mgrid[:160, :240]
    pear = (np.hypot(xx - 60, yy - 80) < 40) | ((abs(yy - 80) < 12) & (xx > 60) & (xx < 220))
    hole = np.hypot(xx - 50, yy - 80) < 20
    found = marks(Mask(pear), Mask(hole), text_px=8)
    for mark, region in zip(found, (pear & ~hole, hole), strict=True):
        x0, y0, x1, y1 = mark.xyxy
        assert region[y0:y1, x0:x1].all(), "the label stands outside its region"
    deepest = np.unravel_index(np.argmax(ndimage.distance_transform_edt(hole)), hole.shape)
    x0, y0, x1, y1 = found[1].xyxy
    assert np.hypot((y0 + y1) / 2 - deepest[0], (x0 + x1) / 2 - deepest[1]) <= 2


def test_a_box_is_labelled_in_its_middle_and_a_region_in_it_keeps_clear() -> None:
    (only,) = marks(BIG)
    assert np.hypot(sum(only.xyxy[::2]) / 2 - 120, sum(only.xyxy[1::2]) / 2 - 80) <= 2
    around, inner = marks(BIG, SMALL)
    assert SMALL.x0 <= inner.xyxy[0] <= inner.xyxy[2] <= SMALL.x1
    assert around.xyxy[2] <= SMALL.x0 or around.xyxy[0] >= SMALL.x1


def test_a_region_too_small_for_its_label_has_it_beside_it() -> None:
    tiny = Box(117, 77, 123, 83)
    (mark,) = marks(tiny, text_px=12)
    x0, y0, x1, y1 = mark.xyxy
    gap = max(tiny.x0 - x1, x0 - tiny.x1, 0, tiny.y0 - y1, y0 - tiny.y1, 0)
    hidden = max(0, min(x1, tiny.x1) - max(x0, tiny.x0)) * max(0, min(y1, tiny.y1) - max(y0, tiny.y0))
    assert gap <= 3
    assert hidden <= tiny.area / 3
    # in a corner, where there is room on two sides only
    (mark,) = marks(Box(0, 0, 4, 4), text_px=12)
    assert max(mark.xyxy[0], mark.xyxy[1]) <= 6


def test_more_labels_than_room_shrink_then_refuse() -> None:
    wh = (96, 96)
    few, many = random_boxes(3, wh, 20, 40), random_boxes(30, wh, 20, 40)
    assert {mark.text_px for mark in marks(*few, image=noise(wh), text_px=20)} == {20}
    assert {mark.text_px for mark in marks(*many, image=noise(wh), text_px=20)} < {8, 9, 10, 11, 12, 13}
    with pytest.raises(InvalidInputError, match="no room for 90 labels of 8 pixels"):
        draw(*random_boxes(90, wh, 20, 40), image=noise(wh))


def test_text_grows_with_the_image_and_letters_count_on() -> None:
    assert marks(BIG)[0].text_px == 10
    large = noise((1000, 700))
    assert marks(BIG, image=large)[0].text_px == 40
    assert marks(BIG, image=large, text_px=17)[0].text_px == 17
    assert [mark.text for mark in marks(BIG, SMALL, labels="letters")] == ["a", "b"]
    assert [_letters(number) for number in (1, 26, 27, 52, 53, 702, 703)] == ["a", "z", "aa", "az", "ba", "zz", "aaa"]


# -- colours ---------------------------------------------------------------------------------------------------


def contrast(one: tuple[int, ...], two: tuple[int, ...]) -> float:
    """WCAG 2.1's contrast ratio."""

    def luminance(rgb: tuple[int, ...]) -> float:
        share = np.array(rgb) / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return float(linear @ (0.2126, 0.7152, 0.0722))

    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_is_legible_on_any_plate() -> None:
    generator = np.random.default_rng(1)
    for colour in (*PALETTE, *map(tuple, generator.integers(0, 256, (200, 3)))):
        ink = {"black": (0, 0, 0), "white": (255, 255, 255)}[_ink(colour)]
        assert contrast(colour, ink) >= 4.5, colour


@pytest.mark.parametrize("ground", [*PALETTE, (255, 255, 255), (0, 0, 0), (128, 128, 128)])
def test_marks_stand_out_from_what_is_under_them(ground: tuple[int, int, int]) -> None:
    pixels = draw(BIG, image=Image.new("RGB", WH, ground), labels="none", alpha=0, width=2)
    drawn = {tuple(pixel) for pixel in pixels.reshape(-1, 3).tolist()} - {ground}
    assert len(drawn) == 1
    assert np.linalg.norm(np.subtract(drawn.pop(), ground)) > 150


def test_every_region_has_a_colour_of_its_own_until_there_are_none_left() -> None:
    boxes = [Box(4 + 18 * i, 10, 18 + 18 * i, 40) for i in range(13)]
    pixels = draw(*boxes, labels="none", alpha=0, width=2)
    colours = [tuple(pixels[10, int(box.x0) + 5]) for box in boxes]
    assert len({*colours[:12]}) == 12
    assert {*colours} == {*PALETTE}
    one = draw(*boxes, labels="none", alpha=0, width=2, colour="lime")
    assert {tuple(one[10, int(box.x0) + 5]) for box in boxes} == {(0, 255, 0)}


# -- what is drawn ---------------------------------------------------------------------------------------------


def test_fill_and_outline_are_where_they_should_be() -> None:
    ground = Image.new("RGB", WH)
    pixels = draw(BIG, image=ground, labels="none", alpha=0.5, width=3, colour=(200, 100, 0))
    expected = np.zeros((160, 240, 3), int)
    expected[20:140, 20:220] = (200, 100, 0)
    expected[23:137, 23:217] = (100, 50, 0)
    assert np.abs(pixels - expected).max() <= 1
    small_on_top = draw(SMALL, BIG, image=ground, labels="none", alpha=1, width=0)
    assert len({tuple(small_on_top[y, x]) for y, x in ((80, 120), (40, 40))}) == 2


def test_a_mask_with_a_hole_is_outlined_inside_and_outside() -> None:
    yy, xx = np.mgrid[:160, :240]
    ring = (np.hypot(xx - 120, yy - 80) < 60) & (np.hypot(xx - 120, yy - 80) > 30)
    pixels = draw(Mask(ring), image=Image.new("RGB", WH), labels="none", alpha=0, width=2, colour="red")[..., 0] > 0
    inner = ndimage.binary_erosion(ring, iterations=3)
    assert not pixels[inner].any()
    assert not pixels[~ring].any()
    assert pixels[80, 120 + 31]
    assert pixels[80, 120 + 59]


def test_every_kind_of_region_and_the_request_keeps_its_image() -> None:
    image = noise(WH)
    pixels = draw(BIG, Point(60, 50), Box(0.2, 0.2, 0.6, 0.7), Box(0, 100, 240, 160), Mask(np.eye(160, 240) > 0))
    assert (pixels != np.asarray(image)).any()
    draw(BIG, image=image)
    assert np.array_equal(image, noise(WH))
    assert np.array_equal(draw(BIG, SMALL), draw(BIG, SMALL))


def test_switched_off_gives_the_very_prompt_back() -> None:
    made = Prompter.from_name("som", **type(Prompter.from_name("som")).neutral)  # type: ignore[arg-type]
    prompt = prompt_of(BIG)
    assert made.edit(prompt, None) is prompt  # type: ignore[arg-type]


def test_together_is_one_image_and_each_is_one_mark() -> None:
    model = vp.load_model("bundled:scenes-clip")
    made: Any = Prompter.from_name("som")
    together = Request(noise(WH), region=[BIG, SMALL], regions_as="together")
    (prompt,) = made.prompt(together, model)
    assert np.array_equal(np.asarray(prompt.image), draw(BIG, SMALL))
    one, two = made.prompt(Request(noise(WH), region=[BIG, SMALL]), model)
    assert np.array_equal(np.asarray(two.image), draw(SMALL))
    assert one.label == "som"


BAD = [
    ({"labels": "roman"}, "labels is one of numbers, letters, none"),
    ({"alpha": 2}, "alpha is a number, between 0 and 1"),
    ({"width": -1}, "width is a number of pixels"),
    ({"width": True}, "width"),
    ({"text_px": 7}, "text_px is a number of pixels, 8 or more"),
    ({"colour": "rde"}, "no colour"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[str(options) for options, _ in BAD])
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Prompter.from_name("som", **options)


def test_no_region_is_an_error() -> None:
    with pytest.raises(InvalidInputError, match="needs a region"):
        draw()
