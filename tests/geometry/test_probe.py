"""Maps that are measured with painted images, for preprocessing that states nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from visprompt.errors import InvalidInputError
from visprompt.geometry import probe


def cropping(box: tuple[int, int, int, int], hw: tuple[int, int]) -> Callable[[Image.Image], np.ndarray]:
    """Cuts a box out and resizes it, with a normalisation of its own."""

    def run(image: Image.Image) -> np.ndarray:
        cut = image.crop(box).resize((hw[1], hw[0]), Image.Resampling.BILINEAR)
        return (np.asarray(cut, dtype=np.float32).transpose(2, 0, 1) / 255 - 0.4) / 0.3

    return run


@pytest.mark.parametrize(
    ("box", "hw"), [((0, 0, 160, 120), (60, 80)), ((20, 0, 140, 120), (96, 96)), ((8, 16, 152, 104), (88, 144))]
)
def test_a_crop_is_found(box: tuple[int, int, int, int], hw: tuple[int, int]) -> None:
    found = probe(cropping(box, hw), (160, 120))
    scale = (hw[1] / (box[2] - box[0]), hw[0] / (box[3] - box[1]))
    assert found.input_hw == hw
    assert found.scale_xy == pytest.approx(scale, rel=2e-3)
    assert found.offset_xy == pytest.approx((-box[0] * scale[0], -box[1] * scale[1]), abs=0.25)


def test_what_is_no_single_image_or_turned_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="its layout is unknown"):
        probe(lambda image: np.zeros((4, 3, 8, 8)), (64, 64))
    with pytest.raises(InvalidInputError, match="flips, turns or rearranges"):
        probe(lambda image: np.asarray(image, dtype=np.float32).transpose(2, 0, 1)[:, :, ::-1], (64, 64))
