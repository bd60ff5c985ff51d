"""Images inside a page."""

from __future__ import annotations

import numpy as np
from PIL import Image

from visprompt.bench.report.document import Figure
from visprompt.bench.report.images import boxed, data_uri, png_of, shown_as_is
from visprompt.plots import base as plots


def test_photographs_become_jpeg_and_small_images_png() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    assert data_uri(Image.fromarray(noise)).startswith("data:image/jpeg;base64,")
    assert data_uri(Image.new("RGB", (64, 64))).startswith("data:image/png;base64,")


def test_the_file_of_a_figure_is_its_image() -> None:
    assert png_of(Figure(data_uri(b"\x89PNG..."), "alt")) == b"\x89PNG..."


def test_small_images_keep_their_pixels_and_large_ones_get_a_cards_size() -> None:
    assert shown_as_is(Image.new("RGB", (64, 32))).size == (64, 32)
    assert max(shown_as_is(Image.new("RGB", (640, 320))).size) == 176
    framed = boxed(Image.new("RGB", (64, 64)), [(np.array([8, 8, 56, 56]), plots.RIGHT, False)])
    assert framed.getpixel((22, 88)) != (0, 0, 0)
    assert framed.getpixel((88, 88)) == (0, 0, 0)
