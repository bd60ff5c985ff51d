"""COCO's masks: runs down the columns, and polygons by pixel centres."""

from __future__ import annotations

import numpy as np
import pytest

from visprompt.errors import InvalidInputError
from visprompt.regions.coco import decode_rle, fill_polygons, short


def runs_of(mask: np.ndarray) -> list[int]:
    """The lengths of runs of equal pixels down the columns, beginning with those outside."""
    runs, inside, count = [], False, 0
    for value in mask.T.ravel():
        if bool(value) != inside:
            runs.append(count)
            inside, count = bool(value), 0
        count += 1
    return [*runs, count]


def test_runs_and_back() -> None:
    mask = np.random.default_rng(0).random((7, 5)) > 0.5
    assert (decode_rle({"size": [7, 5], "counts": runs_of(mask)}) == mask).all()


def test_compressed_runs() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(1).random((9, 6)) > 0.4
    packed = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert (decode_rle({"size": [9, 6], "counts": packed["counts"].decode()}) == mask).all()


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [2, 2]}, "an RLE mask is"),
        ({"size": [2, 2], "counts": [1, 2]}, "do not add up to 2 × 2"),
        ({"size": [2, 2], "counts": [5, -1]}, "do not add up"),
    ],
)
def test_runs_that_are_none(rle: dict, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        decode_rle(rle)


def test_a_polygon_holds_the_pixels_whose_centres_it_holds() -> None:
    found = fill_polygons([[1, 1, 4, 1, 4, 3, 1, 3]], (6, 5))
    wanted = np.zeros((5, 6), dtype=bool)
    wanted[1:3, 1:4] = True
    assert (found == wanted).all()
    triangle = fill_polygons([0, 0, 8, 0, 0, 8], (8, 8))
    y, x = np.mgrid[:8, :8] + 0.5
    inside = x + y < 8
    on_the_edge = x + y == 8
    assert (triangle == inside)[~on_the_edge].all()


def test_several_polygons_are_joined_and_bad_ones_refused() -> None:
    both = fill_polygons([[0, 0, 2, 0, 2, 2, 0, 2], [4, 4, 6, 4, 6, 6, 4, 6]], (6, 6))
    assert both.sum() == 8
    with pytest.raises(InvalidInputError, match="at least three corners"):
        fill_polygons([[0, 0, 1, 1]], (4, 4))
    with pytest.raises(InvalidInputError, match="holds no pixel of a 4×4 image"):
        fill_polygons([[9, 9, 12, 9, 9, 12]], (4, 4))


def test_a_long_value_is_cut() -> None:
    assert short("x") == "'x'"
    assert len(short(list(range(200)))) == 118
