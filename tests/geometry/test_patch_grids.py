"""The arithmetic of `Geometry`: from regions to patches, and from patches to pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from visprompt.errors import InvalidInputError
from visprompt.geometry import Geometry, InputMap, Tile, fit_image
from visprompt.request import Box, Mask, Point

CROPPED = Geometry((300, 100), (Tile((1.12, 1.12), (-112.0, 0.0), (112, 112), (7, 7)),))
WHOLE = Geometry((300, 100), (Tile((112 / 300, 1.12), (0.0, 0.0), (112, 112), (7, 7)),))


def test_coverage_of_boxes_is_exact() -> None:
    assert WHOLE.coverage(Box(0, 0, 300, 100)).tolist() == [1.0] * 49
    patch = WHOLE.patch_box(8)
    only = WHOLE.coverage(patch)
    assert only[8] == pytest.approx(1, abs=1e-6)
    assert np.delete(only, 8).max() < 1e-6
    half = Box(patch.x0, patch.y0, (patch.x0 + patch.x1) / 2, patch.y1)
    assert WHOLE.coverage(half)[8] == pytest.approx(0.5, abs=1e-6)
    assert WHOLE.coverage(Box(10.3, 20.7, 120.9, 60.1)).sum() * (300 * 100 / 49) == pytest.approx(
        (120.9 - 10.3) * (60.1 - 20.7), rel=1e-5
    )


@pytest.mark.parametrize("geometry", [CROPPED, WHOLE])
def test_mask_and_point_agree_with_box_and_disc(geometry: Geometry) -> None:
    box = Box(120, 20, 170, 75)
    as_mask = Mask(box.rasterise((300, 100)) > 0.5)
    assert np.allclose(geometry.coverage(as_mask), geometry.coverage(box), atol=1e-5)
    yy, xx = np.mgrid[:100, :300] + 0.5
    disc = Mask((xx - 150) ** 2 + (yy - 50) ** 2 < 30**2)
    assert np.abs(geometry.coverage(disc) - geometry.coverage(Point(150, 50, 30))).max() < 0.06
    assert geometry.coverage(Point(150, 50)).sum() > 0
    assert geometry.coverage(disc).dtype == np.float32


def test_coverage_against_a_fine_grid() -> None:
    generator = np.random.default_rng(3)
    mask = Mask(generator.random((37, 53)) > 0.5)
    geometry = Geometry((53, 37), (Tile((1.7, 2.3), (-9.0, -4.0), (80, 75), (5, 5)),))
    expected = np.zeros((5, 5))
    for row in range(5):
        for column in range(5):
            x = (column * 15 + (np.arange(600) + 0.5) / 40 + 9.0) / 1.7
            y = (row * 16 + (np.arange(640) + 0.5) / 40 + 4.0) / 2.3
            inside = (x < 53)[None, :] & (y < 37)[:, None]
            picked = mask.array[np.minimum(y.astype(int), 36)[:, None], np.minimum(x.astype(int), 52)[None, :]]
            expected[row, column] = (picked & inside).mean()
    assert np.abs(geometry.coverage(mask).reshape(5, 5) - expected).max() < 2e-3


def test_padding_is_never_covered() -> None:
    _, scale_xy, offset_xy = fit_image(Image.new("RGB", (300, 100)), "pad", (112, 112))
    geometry = Geometry.single((300, 100), InputMap(scale_xy, offset_xy, (112, 112)), 16)
    cover = geometry.coverage(Box(0, 0, 300, 100)).reshape(7, 7)
    assert (cover[:2] == 0).all()
    assert (cover[3] == 1).all()
    with pytest.raises(InvalidInputError, match="padding only"):
        geometry.patch_box(0)
    with pytest.raises(InvalidInputError, match="no patch 49"):
        geometry.patch_box(49)


def test_there_and_back() -> None:
    points = np.random.default_rng(0).random((5, 2)) * 100
    assert np.allclose(CROPPED.to_image(CROPPED.to_input(points)), points)
    assert CROPPED.to_input((100, 0)).tolist() == pytest.approx([0, 0])


def test_region_cropped_away_is_refused_with_the_way_out() -> None:
    assert CROPPED.visible_xyxy() == pytest.approx((100, 0, 200, 100))
    CROPPED.require_visible(Box(90, 10, 120, 40))
    assert CROPPED.visible_fraction(Box(90, 10, 120, 40)) == pytest.approx(2 / 3)
    for region in (Box(0, 0, 60, 50), Point(20, 20, 10), Mask(Box(0, 0, 40, 40).rasterise((300, 100)) > 0)):
        with pytest.raises(InvalidInputError, match=r'(?s)request 7: .*crops .*away.*fit="pad" or fit="squash"'):
            CROPPED.require_visible(region, "request 7")
        WHOLE.require_visible(region)
    assert WHOLE.visible_fraction(Point(20, 20, 10)) == pytest.approx(1)
    assert CROPPED.visible_fraction(Point(100, 50, 20)) == pytest.approx(0.5, abs=1e-3)


def test_maps_go_back_to_pixels() -> None:
    values = np.zeros(49)
    values[24] = 1
    nearest = CROPPED.to_map(values, "nearest", outside=-1)
    assert nearest.shape == (100, 300)
    assert nearest.dtype == np.float32
    assert (nearest[:, :100] == -1).all()
    assert (nearest[:, 200:] == -1).all()
    box = CROPPED.patch_box(24)
    covered = np.argwhere(nearest == 1)
    assert covered.min(axis=0).tolist() == [round(box.y0), round(box.x0)]
    smooth = CROPPED.to_map(values)
    assert np.unravel_index(smooth.argmax(), smooth.shape) == pytest.approx((50, 150), abs=1)
    ramp = WHOLE.to_map(np.tile(np.arange(7.0), 7))
    assert (np.diff(ramp[50]) >= 0).all()
    assert ramp[50, 0] == 0
    assert ramp[50, -1] == 6
    for bad in ({"values": np.zeros(48)}, {"values": values, "resample": "cubic"}):
        with pytest.raises(InvalidInputError):
            CROPPED.to_map(**bad)  # type: ignore[arg-type]


def test_map_of_coverage_is_the_region() -> None:
    box = WHOLE.patch_box(24)
    back = WHOLE.to_map(WHOLE.coverage(box), "nearest")
    assert (back > 0.5).sum() == pytest.approx(box.area, rel=0.1)


def test_tiles_one_after_the_other() -> None:
    left = Tile((1, 1), (0, 0), (100, 100), (2, 2))
    right = Tile((1, 1), (-100, 0), (100, 100), (2, 2))
    both = Tile((0.5, 1), (0, 0), (100, 100), (2, 2))
    geometry = Geometry((200, 100), (left, right, both))
    assert geometry.num_patches == 12
    assert geometry.coverage(Box(100, 0, 150, 50)).tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0.5, 0, 0]
    assert geometry.visible_xyxy() == (0, 0, 200, 100)
    assert geometry.patch_box(4) == Box(100, 0, 150, 50)
    values = np.array([1, 1, 1, 1, 3, 3, 3, 3, 5, 5, 5, 5.0])
    assert geometry.to_map(values, "nearest")[0, [10, 190]].tolist() == [3, 4]
    with pytest.raises(InvalidInputError, match="3 tiles"):
        _ = geometry.grid_hw
    with pytest.raises(InvalidInputError, match="at least one tile"):
        Geometry((10, 10), ())
    with pytest.raises(InvalidInputError, match="positive"):
        Tile((0, 1), (0, 0), (4, 4), (2, 2))


def test_patches_that_do_not_fill_the_input() -> None:
    geometry = Geometry.single((120, 120), InputMap((1, 1), (0, 0), (120, 120)), 16)
    assert geometry.grid_hw == (7, 7)
    assert geometry.visible_xyxy() == (0, 0, 112, 112)
    assert geometry.coverage(Box(0, 0, 16, 16))[0] == 1
    given = Geometry.single((120, 120), InputMap((1, 1), (0, 0), (120, 120)), grid_hw=(6, 6))
    assert given.patch_box(0) == Box(0, 0, 20, 20)
    for arguments in ({}, {"patch_size": 16, "grid_hw": (7, 7)}, {"patch_size": 200}):
        with pytest.raises(InvalidInputError):
            Geometry.single((120, 120), InputMap((1, 1), (0, 0), (120, 120)), **arguments)  # type: ignore[arg-type]
