"""The values of `AttentionMap` by block, head, tile, region and pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import visprompt as vp
from visprompt.geometry import Geometry, Tile
from visprompt.runner.attention_map import AttentionMap

ONE = Geometry((4, 4), (Tile((1.0, 1.0), (0.0, 0.0), (4, 4), (2, 2)),))
TWO = Geometry((8, 4), tuple(Tile((1.0, 1.0), (-4.0 * i, 0.0), (4, 4), (2, 2)) for i in range(2)))


def made(geometry: Geometry = ONE, regions: tuple[vp.Region, ...] = ()) -> AttentionMap:
    values = torch.arange(2 * 3 * geometry.num_patches, dtype=torch.float32).reshape(2, 3, -1) / 100
    return AttentionMap(values, (4, 7), geometry, (0, 0), regions)


def test_by_tile() -> None:
    assert made().maps.shape == (2, 3, 2, 2)
    two = made(TWO)
    assert torch.equal(torch.cat([two.tile(0).flatten(2), two.tile(1).flatten(2)], dim=-1), two.values)
    with pytest.raises(vp.InvalidInputError, match="no single patch grid"):
        _ = two.maps
    with pytest.raises(vp.InvalidInputError, match="there is no tile 2"):
        two.tile(2)


def test_by_region() -> None:
    left = vp.Box(0, 0, 2, 4)
    one = made(regions=(vp.Box(0, 0, 2, 2), vp.Box(1, 0, 2, 2)))
    torch.testing.assert_close(one.mass(left), one.values[..., 0] + one.values[..., 2])
    torch.testing.assert_close(one.mass(), one.values[..., 0])  # several regions: a patch counts once
    torch.testing.assert_close(one.mass(vp.Box(1, 0, 3, 2)), (one.values[..., 0] + one.values[..., 1]) / 2)
    with pytest.raises(vp.InvalidInputError, match="had no region"):
        made().mass()


def test_by_pixel() -> None:
    one = made()
    mean = one.image_map(7)
    assert mean.shape == (4, 4)
    np.testing.assert_allclose(mean, one.image_map(-1))
    np.testing.assert_allclose(mean, np.mean([one.image_map(7, head) for head in range(3)], axis=0), atol=1e-6)
    np.testing.assert_allclose(one.image_map(4, 0)[0, 0], 0.0)
    with pytest.raises(vp.InvalidInputError, match=r"block 5 was not read; blocks \[4, 7\]"):
        one.image_map(5)
    with pytest.raises(vp.InvalidInputError, match="head 3 of 3"):
        one.image_map(4, 3)
