"""Decodes COCO's two notations of a shape, run lengths and polygons, into boolean arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from visprompt.errors import InvalidInputError


def decode_rle(rle: dict[str, Any]) -> np.ndarray:
    """Decodes a run-length encoded mask; compressed counts need pycocotools.

    Args:
        rle: `{"size": [h, w], "counts": …}`, counts as a list or compressed.

    Returns:
        Boolean `[h, w]`.

    Raises:
        InvalidInputError: if it is malformed, or compressed and pycocotools is not installed.
    """
    try:
        height, width = (int(value) for value in rle["size"])
        counts = rle["counts"]
    except (KeyError, TypeError, ValueError):
        raise InvalidInputError(
            'an RLE mask is {"size": [height, width], "counts": …}; ' + f"got {short(rle)}."
        ) from None
    if isinstance(counts, str | bytes):
        try:
            from pycocotools import mask as coco
        except ImportError:
            raise InvalidInputError(
                "compressed RLE needs pycocotools: pip install 'visprompt-toolkit[coco]', or give uncompressed counts."
            ) from None
        data = counts.encode() if isinstance(counts, str) else counts
        try:
            decoded: np.ndarray = coco.decode({"size": [height, width], "counts": data})
            return decoded.astype(bool)
        except (ValueError, TypeError) as error:
            raise InvalidInputError(f"the compressed RLE {short(rle)} cannot be decoded ({error}).") from None
    runs = np.asarray(counts)
    if runs.ndim != 1 or runs.dtype.kind not in "iu" or (runs < 0).any() or int(runs.sum()) != height * width:
        raise InvalidInputError(f"the RLE counts do not add up to {height} × {width} pixels.")
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return inside.reshape(width, height).T  # COCO's runs go down the columns


def fill_polygons(polygons: Sequence[Any], wh: tuple[int, int]) -> np.ndarray:
    """Fills polygons; a pixel is inside if its centre is.

    Args:
        polygons: `[[x0, y0, x1, y1, …], …]` in pixels, or a single polygon.
        wh: width and height of the image, pixels.

    Returns:
        Boolean `[h, w]`, the union of the polygons.

    Raises:
        InvalidInputError: for fewer than three corners, numbers that are not finite, or polygons without a pixel
            inside.
    """
    width, height = wh
    inside = np.zeros((height, width), dtype=bool)
    parts = [polygons] if len(polygons) and np.ndim(polygons[0]) == 0 else polygons
    for part in parts:
        points = np.asarray(part, dtype=np.float64).reshape(-1)
        if len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
            raise InvalidInputError(f"a polygon is [x0, y0, x1, y1, …] with at least three corners; got {short(part)}.")
        _fill_polygon(inside, points.reshape(-1, 2))
    if not inside.any():
        raise InvalidInputError(f"the polygon holds no pixel of a {width}×{height} image; check its coordinates.")
    return inside


def _fill_polygon(inside: np.ndarray, points: np.ndarray) -> None:
    """Fills one polygon in place by the even-odd rule; a pixel belongs to it if its centre does."""
    height, width = inside.shape
    ends = np.roll(points, -1, axis=0)
    first = max(math.ceil(points[:, 1].min() - 0.5), 0)
    last = min(math.ceil(points[:, 1].max() - 0.5), height)
    part = np.zeros_like(inside)
    for row in range(first, last):
        y = row + 0.5
        crossed = (points[:, 1] <= y) != (ends[:, 1] <= y)
        a, b = points[crossed], ends[crossed]
        xs = np.sort(a[:, 0] + (y - a[:, 1]) / (b[:, 1] - a[:, 1]) * (b[:, 0] - a[:, 0]))
        columns = np.clip(np.ceil(xs - 0.5), 0, width).astype(int)
        for left, right in zip(columns[0::2], columns[1::2], strict=True):
            part[row, left:right] = True
    inside |= part


def short(value: Any) -> str:
    """The `repr` of a value, cut to fit into a message.

    Args:
        value: anything.

    Returns:
        At most 118 characters.
    """
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "…"
