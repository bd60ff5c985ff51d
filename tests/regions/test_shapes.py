"""Regions: every notation, and every kind of invalid input."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

import visprompt as vp
from visprompt.errors import InvalidInputError
from visprompt.request import POINT_RADIUS_SHARE, Box, Mask, Point, Region, as_regions

# -- boxes ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (Box(1, 2, 3, 4), (1, 2, 3, 4)),
        (Box(np.float32(1), np.int64(2), 3.5, 4), (1, 2, 3.5, 4)),  # type: ignore[arg-type]
        (Box.from_xywh(10, 20, 30, 40), (10, 20, 40, 60)),
        (Box.from_cxcywh(10, 20, 4, 8), (8, 16, 12, 24)),
        (Box.from_normalised(0.25, 0.5, 0.75, 1, wh=(200, 100)), (50, 50, 150, 100)),
        (Box.from_qwen(100, 0, 1000, 500, wh=(200, 100)), (20, 0, 200, 50)),
    ],
)
def test_box_notations(box: Box, expected: tuple[float, ...]) -> None:
    assert box.xyxy == pytest.approx(expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Box(30, 10, 20, 40), "inverted.*Box.from_xywh"),
        (lambda: Box(10, 40, 20, 30), "inverted"),
        (lambda: Box(10, 10, 10, 40), "no area"),
        (lambda: Box(float("nan"), 0, 1, 1), "finite"),
        (lambda: Box(0, 0, float("inf"), 1), "finite"),
        (lambda: Box("a", 0, 1, 1), "needs numbers"),  # type: ignore[arg-type]
        (lambda: Box(None, 0, 1, 1), "needs numbers"),  # type: ignore[arg-type]
        (lambda: Box.from_xywh(1, 2, 0, 5), "positive width and height"),
        (lambda: Box.from_xywh(1, 2, -3, 5), "positive width and height"),
        (lambda: Box.from_normalised(10, 20, 200, 180, wh=(640, 480)), "0 to 1 were expected"),
        (lambda: Box.from_qwen(0, 0, 1900, 20, wh=(640, 480)), "0 to 1000 were expected"),
        (lambda: Box.from_normalised(0, 0, 1, 1, wh=(0, 4)), "must be positive"),
        (lambda: Box.from_normalised(0, 0, 1, 1, wh=5), "wh is"),  # type: ignore[arg-type]
    ],
)
def test_bad_boxes(make: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make()


def test_box_rasterises_fractions_exactly() -> None:
    share = Box(0.5, 1, 2.25, 3).rasterise((4, 4))
    assert share.dtype == np.float32
    assert share[1].tolist() == [0.5, 1, 0.25, 0]
    assert share.sum() == pytest.approx(1.75 * 2)


def test_clip_and_transform_of_a_box() -> None:
    assert Box(-5, -5, 10, 10).clip((8, 20)) == Box(0, 0, 8, 10)
    inside = Box(1, 1, 2, 2)
    assert inside.clip((8, 8)) is inside
    with pytest.raises(InvalidInputError, match="outside the image, which is 8×8"):
        Box(9, 0, 12, 4).clip((8, 8))
    assert Box(10, 10, 20, 20).transform((2, 0.5), (-10, 1), (100, 100)) == Box(10, 6, 30, 11)
    assert Box(10, 10, 20, 20).transform((1, 1), (-15, 0), (4, 100)) == Box(0, 10, 4, 20)


# -- points ----------------------------------------------------------------


def test_point_covers_its_disc() -> None:
    share = Point(20, 15, radius=6).rasterise((40, 30))
    assert share.sum() == pytest.approx(math.pi * 36, rel=2e-3)
    assert share.max() == 1
    assert share[15, 20] == 1
    assert share[15, 27] == 0


def test_point_smaller_than_a_pixel_still_covers_something() -> None:
    assert Point(3.5, 3.5, radius=0.1).rasterise((8, 8)).sum() == pytest.approx(math.pi * 0.01, rel=0.1)


def test_default_radius_is_a_share_of_the_shorter_side() -> None:
    assert Point(5, 5).clip((200, 100)).radius == POINT_RADIUS_SHARE * 100
    assert Point(5, 5).clip((16, 16)).radius == 1
    with pytest.raises(InvalidInputError, match="no radius yet"):
        _ = Point(5, 5).xyxy


@pytest.mark.parametrize(
    "make",
    [
        lambda: Point(float("nan"), 1),
        lambda: Point(1, 1, radius=0),
        lambda: Point(1, 1, radius=-2),
        lambda: Point(1, 1, radius=float("inf")),
        lambda: Point(-3, 4).clip((10, 10)),
        lambda: Point(-3, 4, radius=2).clip((10, 10)),
        lambda: Point(10.5, 4, radius=None).clip((10, 10)),
    ],
)
def test_bad_points(make: Any) -> None:
    with pytest.raises(InvalidInputError):
        make()


def test_point_transform_keeps_its_area() -> None:
    moved = Point(10, 10, radius=3).transform((2, 0.5), (1, 0), (100, 100))
    assert moved == Point(21, 5, radius=3)


# -- masks ----------------------------------------------------------------


def test_mask_is_a_frozen_copy() -> None:
    array = np.zeros((4, 6), dtype=bool)
    array[1:3, 2:5] = True
    mask = Mask(array)
    array[:] = False
    assert mask.xyxy == (2, 1, 5, 3)
    assert mask.rasterise((6, 4)).sum() == 6
    with pytest.raises(ValueError, match="read-only"):
        mask.array[0, 0] = True
    assert "6×4" in repr(mask)
    assert "array" not in repr(mask)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, bool])
def test_mask_dtypes(dtype: Any) -> None:
    assert Mask(np.eye(3, dtype=dtype)).array.dtype == bool
    assert Mask(np.eye(3, dtype=np.uint8)[None] * 255).array.sum() == 3


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4), bool), "is empty"),
        (np.zeros((4, 4, 3), bool), r"array \[H, W\]"),
        (np.full((4, 4), 0.5), "threshold it first"),
        (np.full((4, 4), np.nan), "NaN"),
        (np.full((4, 4), "x"), "boolean array"),
    ],
)
def test_bad_masks(array: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Mask(array)


def test_mask_must_be_as_large_as_the_image() -> None:
    with pytest.raises(InvalidInputError, match="4×6 pixels and the image 6×4"):
        Mask(np.ones((6, 4), bool)).clip((6, 4))


def test_rle_plain_and_compressed_agree_with_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    array = np.random.default_rng(1).random((13, 17)) > 0.6
    compressed = coco.encode(np.asfortranarray(array.astype(np.uint8)))
    assert np.array_equal(Mask.from_rle(compressed).array, array)
    as_text = {"size": compressed["size"], "counts": compressed["counts"].decode()}
    assert np.array_equal(Mask.from_rle(as_text).array, array)
    flat = array.T.reshape(-1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(int), [flat[-1]]])))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    assert np.array_equal(Mask.from_rle({"size": [13, 17], "counts": counts}).array, array)


def test_compressed_rle_without_pycocotools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(InvalidInputError, match=r"visprompt-toolkit\[coco\]"):
        Mask.from_rle({"size": [2, 2], "counts": b"11111"})


@pytest.mark.parametrize(
    "rle",
    [
        {},
        {"size": [2, 2]},
        {"size": [2], "counts": [4]},
        {"size": [2, 2], "counts": [1, 2]},
        {"size": [2, 2], "counts": [-1, 5]},
        {"size": [2, 2], "counts": b"\xff\xff"},
    ],
)
def test_bad_rle(rle: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        Mask.from_rle(rle)


def test_polygon_fills_pixels_whose_centre_is_inside() -> None:
    mask = Mask.from_polygon([[1, 1, 5, 1, 5, 4, 1, 4]], wh=(8, 6))
    assert np.array_equal(mask.array, Box(1, 1, 5, 4).rasterise((8, 6)) > 0.5)
    assert np.array_equal(Mask.from_polygon([1, 1, 5, 1, 5, 4, 1, 4], wh=(8, 6)).array, mask.array)
    two = Mask.from_polygon([[0, 0, 2, 0, 2, 2, 0, 2], [4, 4, 7, 4, 7, 6, 4, 6]], wh=(8, 6))
    assert two.array.sum() == 4 + 6
    triangle = Mask.from_polygon([[0, 0, 100, 0, 0, 100]], wh=(100, 100))
    assert triangle.array.sum() == pytest.approx(5000, rel=0.02)
    outside = Mask.from_polygon([[-50, -50, 4, -50, 4, 4, -50, 4]], wh=(8, 6))
    assert outside.array.sum() == 16


def test_polygon_agrees_with_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.mask")
    corners = [12.3, 7.5, 80.2, 15.1, 64.0, 70.8, 30.5, 55.5]
    theirs = coco.decode(coco.merge(coco.frPyObjects([corners], 90, 100))).astype(bool)
    ours = Mask.from_polygon([corners], wh=(100, 90)).array
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.96


@pytest.mark.parametrize(
    "polygons", [[[1, 1, 2, 2]], [[1, 1, 2, 2, 3]], [[0, 0, float("nan"), 1, 2, 2]], [[20, 20, 30, 20, 30, 30]], []]
)
def test_bad_polygons(polygons: list[Any]) -> None:
    with pytest.raises(InvalidInputError):
        Mask.from_polygon(polygons, wh=(8, 6))


def test_mask_transform_moves_and_scales() -> None:
    array = np.zeros((10, 10), bool)
    array[2:4, 3:6] = True
    moved = Mask(array).transform((2, 2), (-4, -2), (10, 10))
    assert moved.xyxy == (2, 2, 8, 6)
    assert moved.array.sum() == 24
    with pytest.raises(InvalidInputError, match="empty"):
        Mask(array).transform((1, 1), (-9, 0), (10, 10))


# -- as_regions ----------------------------------------------------------------


def test_region_is_usable_in_isinstance() -> None:
    assert isinstance(Box(0, 0, 1, 1), Region)
    assert isinstance(vp.Box(0, 0, 1, 1), vp.Region)
    assert not isinstance((0, 0, 1, 1), Region)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Box(0, 0, 4, 4), (Box(0, 0, 4, 4),)),
        ((0, 0, 4, 4), (Box(0, 0, 4, 4),)),
        ([0, 0, 4, 4], (Box(0, 0, 4, 4),)),
        (np.array([0.0, 0.0, 4.0, 4.0]), (Box(0, 0, 4, 4),)),
        ((3, 5), (Point(3, 5),)),
        (np.array([[0, 0, 4, 4], [1, 1, 2, 2]]), (Box(0, 0, 4, 4), Box(1, 1, 2, 2))),
        ([(0, 0, 4, 4), Point(1, 2)], (Box(0, 0, 4, 4), Point(1, 2))),
        ([(1, 2), (3, 4)], (Point(1, 2), Point(3, 4))),
        ([np.array([0, 0, 4, 4])], (Box(0, 0, 4, 4),)),
    ],
)
def test_as_regions(value: Any, expected: tuple[Region, ...]) -> None:
    assert as_regions(value) == expected


def test_as_regions_of_masks_and_tensors() -> None:
    stack = np.zeros((2, 5, 4), bool)
    stack[0, 0, 0] = stack[1, 1, 1] = True
    first, second = as_regions(stack)
    assert (first.xyxy, second.xyxy) == ((0, 0, 1, 1), (1, 1, 2, 2))
    assert isinstance(as_regions(stack[0])[0], Mask)
    assert isinstance(as_regions({"size": [2, 2], "counts": [1, 3]})[0], Mask)
    torch = pytest.importorskip("torch")
    assert as_regions(torch.tensor([[0, 0, 4, 4]])) == (Box(0, 0, 4, 4),)


def test_as_regions_of_supervision_detections() -> None:
    supervision = pytest.importorskip("supervision")
    boxes = np.array([[0, 0, 4, 4], [1, 1, 3, 3]], dtype=np.float32)
    assert as_regions(supervision.Detections(xyxy=boxes)) == (Box(0, 0, 4, 4), Box(1, 1, 3, 3))
    masks = np.ones((2, 5, 5), bool)
    found = as_regions(supervision.Detections(xyxy=boxes, mask=masks))
    assert all(isinstance(region, Mask) for region in found)
    with pytest.raises(InvalidInputError, match="no region in it"):
        as_regions(supervision.Detections.empty())


@pytest.mark.parametrize(
    "value",
    [
        [],
        np.zeros((0, 4)),
        "dog",
        b"dog",
        7,
        (1, 2, 3),
        (1, 2, 3, 4, 5),
        np.zeros((5, 5)),
        np.ones((3, 3), np.uint8),
        (1, 2, 3, "4"),
        [None],
        Image.new("L", (4, 4)),
        {"x": 1},
        (4, 4, 0, 0),
        [(0, 0, 4, 4), (float("nan"), 0, 1, 1)],
    ],
)
def test_not_regions(value: Any) -> None:
    with pytest.raises(InvalidInputError):
        as_regions(value)
