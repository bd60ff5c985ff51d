"""An image in a model's input: all of it seen, and the map says where."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from visprompt.errors import InvalidInputError
from visprompt.geometry.fit import MAX_ASPECT, MIN_SIDE_PX, canvas_for, check_processable, fit_image


def marked(wh: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """Black, with a white box."""
    image = Image.new("RGB", wh)
    image.paste((255, 255, 255), box)
    return image


@pytest.mark.parametrize("fit", ["pad", "squash"])
@pytest.mark.parametrize("wh", [(200, 100), (100, 200), (120, 120), (37, 91)])
def test_the_map_says_where_a_box_lands(fit: str, wh: tuple[int, int]) -> None:
    box = (wh[0] // 4, wh[1] // 4, wh[0] // 2, wh[1] // 2)
    fitted, scale, offset = fit_image(marked(wh, box), fit, (128, 96), fill=(0, 0, 0))
    assert fitted.size == (96, 128)
    rows, columns = np.nonzero(np.asarray(fitted)[..., 0] > 127)
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    wanted = [side * scale[axis % 2] + offset[axis % 2] for axis, side in enumerate(box)]
    assert found == pytest.approx(wanted, abs=1)


def test_padding_keeps_the_aspect_ratio_and_has_the_colour_asked_for() -> None:
    fitted, scale, offset = fit_image(Image.new("RGB", (200, 100), "white"), "pad", (100, 100), fill=(1, 2, 3))
    assert scale[0] == scale[1] == 0.5
    assert offset == (0.0, 25.0)
    assert fitted.getpixel((50, 10)) == (1, 2, 3)
    assert fitted.getpixel((50, 50)) == (255, 255, 255)


def test_on_a_larger_canvas_the_input_is_where_it_is_said_to_be() -> None:
    image = Image.new("RGB", (50, 50), "white")
    centred, _, offset = fit_image(image, "squash", (32, 32), canvas_hw=(40, 48))
    assert (centred.size, offset) == ((48, 40), (8.0, 4.0))
    placed, _, offset = fit_image(image, "squash", (32, 32), canvas_hw=(40, 48), origin_xy=(1, 2))
    assert offset == (1.0, 2.0)
    assert placed.getpixel((1, 2)) == (255, 255, 255)
    assert placed.getpixel((0, 2)) == (124, 116, 104)


def test_the_canvas_of_a_processor_that_cuts_a_border() -> None:
    assert canvas_for((224, 224), (256 / 224, 256 / 224)) == (256, 256)
    assert canvas_for((224, 112), (1.0, 1.0)) == (224, 112)


def test_another_way_of_fitting_is_refused() -> None:
    with pytest.raises(InvalidInputError, match='"pad" or "squash", not \'crop\''):
        fit_image(Image.new("RGB", (20, 20)), "crop", (8, 8))


@pytest.mark.parametrize(
    ("wh", "message"),
    [((MIN_SIDE_PX - 1, 40), "enlarge it first"), ((int(16 * MAX_ASPECT) + 1, 16), "longer than 50 to 1")],
)
def test_images_that_say_nothing_are_refused(wh: tuple[int, int], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        check_processable(wh)
    check_processable((MIN_SIDE_PX, MIN_SIDE_PX))
    check_processable((int(16 * MAX_ASPECT), 16))
