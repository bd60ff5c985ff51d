"""Regions: where in an image to look.

Coordinates are always pixels of the original image, upright as viewers show it, with x to the right and y down; pixel
i spans [i, i + 1], so a whole image of width W is the box from 0 to W. Every region has `xyxy`, `rasterise`, `clip`
and `transform`. Regions must not know requests, models or strategies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from visprompt.errors import InvalidInputError, RegionNotVisibleError
from visprompt.regions.coco import decode_rle, fill_polygons, short

#: radius of a `Point` that has none, as a share of the image's shorter side
POINT_RADIUS_SHARE = 0.05

Xyxy: TypeAlias = tuple[float, float, float, float]
Pair: TypeAlias = tuple[float, float]
Size: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Box:
    """An axis-aligned box, `xyxy` in pixels of the original image; fractions are fine.

    >>> Box.from_xywh(40, 30, 160, 150)
    Box(x0=40.0, y0=30.0, x1=200.0, y1=180.0)

    Raises:
        InvalidInputError: for NaN, x1 ≤ x0 or y1 ≤ y0.
    """

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        values = _numbers("a box", "x0, y0, x1, y1", (self.x0, self.y0, self.x1, self.y1))
        for name, value in zip(("x0", "y0", "x1", "y1"), values, strict=True):
            object.__setattr__(self, name, value)
        x0, y0, x1, y1 = values
        if x1 < x0 or y1 < y0:
            raise InvalidInputError(
                f"a box goes from its top left (x0, y0) to its bottom right (x1, y1), and "
                f"({x0:g}, {y0:g}, {x1:g}, {y1:g}) is inverted; if these are x, y, width, height, use Box.from_xywh."
            )
        if x1 == x0 or y1 == y0:
            raise InvalidInputError(
                f"the box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) has no area; give it some, or use Point(x, y, radius)."
            )

    @classmethod
    def from_xywh(cls, x: float, y: float, width: float, height: float) -> Box:
        """Top left corner, width and height in pixels (COCO's `bbox`)."""
        x, y, width, height = _numbers("a box", "x, y, width, height", (x, y, width, height))
        if width <= 0 or height <= 0:
            raise InvalidInputError(f"a box needs a positive width and height; got {width:g} × {height:g}.")
        return cls(x, y, x + width, y + height)

    @classmethod
    def from_cxcywh(cls, cx: float, cy: float, width: float, height: float) -> Box:
        """Centre, width and height in pixels."""
        cx, cy, width, height = _numbers("a box", "cx, cy, width, height", (cx, cy, width, height))
        return cls.from_xywh(cx - width / 2, cy - height / 2, width, height)

    @classmethod
    def from_normalised(cls, x0: float, y0: float, x1: float, y1: float, wh: Size) -> Box:
        """Corners as shares of the image's width and height, 0 to 1; `wh` is the image's size.

        >>> Box.from_normalised(0.1, 0.2, 0.5, 0.6, wh=(200, 100))
        Box(x0=20.0, y0=20.0, x1=100.0, y1=60.0)
        """
        return cls._from_grid((x0, y0, x1, y1), wh, 1.0, "0 to 1")

    @classmethod
    def from_qwen(cls, x0: float, y0: float, x1: float, y1: float, wh: Size) -> Box:
        """Corners on the 0 to 1000 grid of Qwen-VL and InternVL; `wh` is the image's size.

        Qwen2.5-VL writes pixels of its own resized input instead: scale those yourself.
        """
        return cls._from_grid((x0, y0, x1, y1), wh, 1000.0, "0 to 1000")

    @classmethod
    def _from_grid(cls, xyxy: Xyxy, wh: Size, full: float, text: str) -> Box:
        x0, y0, x1, y1 = _numbers("a box", "x0, y0, x1, y1", xyxy)
        if max(x0, y0, x1, y1) > 1.5 * full:
            raise InvalidInputError(f"coordinates from {text} were expected; got ({x0:g}, {y0:g}, {x1:g}, {y1:g}).")
        width, height = _size(wh)
        sx, sy = width / full, height / full
        return cls(x0 * sx, y0 * sy, x1 * sx, y1 * sy)

    @property
    def xyxy(self) -> Xyxy:
        """The box itself."""
        return (self.x0, self.y0, self.x1, self.y1)

    @property
    def area(self) -> float:
        """Area in pixels."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    def rasterise(self, wh: Size) -> np.ndarray:
        """Share of every pixel that lies in the box, float32 `[H, W]`; exact, also for fractional corners."""
        width, height = _size(wh)
        return np.outer(_overlap(self.y0, self.y1, height), _overlap(self.x0, self.x1, width)).astype(np.float32)

    def clip(self, wh: Size) -> Box:
        """The part inside an image of size `wh`.

        Raises:
            RegionNotVisibleError: if nothing is left.
        """
        width, height = _size(wh)
        x0, y0, x1, y1 = max(self.x0, 0.0), max(self.y0, 0.0), min(self.x1, float(width)), min(self.y1, float(height))
        if x1 <= x0 or y1 <= y0:
            raise RegionNotVisibleError(
                f"the box {short(self.xyxy)} lies outside the image, which is {width}×{height} pixels; check "
                "whether its coordinates are pixels of the original image."
            )
        return self if (x0, y0, x1, y1) == self.xyxy else Box(x0, y0, x1, y1)

    def transform(self, scale_xy: Pair, offset_xy: Pair, wh: Size) -> Box:
        """The box in another image of size `wh`, where `xy_there = scale_xy · xy_here + offset_xy`, clipped to it."""
        (sx, sy), (ox, oy) = scale_xy, offset_xy
        return Box(sx * self.x0 + ox, sy * self.y0 + oy, sx * self.x1 + ox, sy * self.y1 + oy).clip(wh)


@dataclass(frozen=True)
class Point:
    """A disc around (x, y), in pixels of the original image.

    Args:
        x: centre, pixels.
        y: centre, pixels.
        radius: pixels; None: 5 % of the image's shorter side, at least one pixel, filled in by `clip`.

    >>> Point(10, 20, radius=5).xyxy
    (5.0, 15.0, 15.0, 25.0)

    Raises:
        InvalidInputError: for NaN or a radius that is not positive.
    """

    x: float
    y: float
    radius: float | None = None

    def __post_init__(self) -> None:
        x, y = _numbers("a point", "x, y", (self.x, self.y))
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)
        if self.radius is not None:
            (radius,) = _numbers("a radius", "one number", (self.radius,))
            if radius <= 0:
                raise InvalidInputError(
                    f"a point needs a positive radius in pixels; got {radius:g}. Leave it out for the default."
                )
            object.__setattr__(self, "radius", radius)

    @property
    def xyxy(self) -> Xyxy:
        """The square around the disc; it may reach beyond the image."""
        if self.radius is None:
            raise InvalidInputError(f"{self!r} has no radius yet: give radius=, or take point.clip(image.size) first.")
        return (self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius)

    def rasterise(self, wh: Size) -> np.ndarray:
        """Share of every pixel that lies in the disc, float32 `[H, W]`; along x exact, along y sampled."""
        point = self.clip(wh)
        width, height = _size(wh)
        x0, y0, x1, y1 = point.xyxy
        left, top = max(math.floor(x0), 0), max(math.floor(y0), 0)
        right, bottom = min(math.ceil(x1), width), min(math.ceil(y1), height)
        result = np.zeros((height, width), dtype=np.float32)
        assert point.radius is not None
        edges = np.arange(left, right + 1, dtype=np.float64)[None, :]
        # the chord of the disc at several heights within a row; more of them where a row is much of the disc
        heights = (np.arange(16 if point.radius < 32 else 4) + 0.5) / (16 if point.radius < 32 else 4)
        for row in range(top, bottom):
            half = np.sqrt(np.maximum(point.radius**2 - (row + heights - point.y) ** 2, 0.0))[:, None]
            share = np.minimum(edges[:, 1:], point.x + half) - np.maximum(edges[:, :-1], point.x - half)
            result[row, left:right] = np.clip(share, 0, None).mean(axis=0)
        return result

    def clip(self, wh: Size) -> Point:
        """The point with its radius filled in; a disc is not cut, only refused when it misses the image."""
        width, height = _size(wh)
        radius = max(POINT_RADIUS_SHARE * min(width, height), 1.0) if self.radius is None else self.radius
        dx = max(-self.x, self.x - width, 0.0)
        dy = max(-self.y, self.y - height, 0.0)
        touches = (dx == 0 and dy == 0 and 0 <= self.x < width and 0 <= self.y < height) or math.hypot(dx, dy) < radius
        if not touches or (self.radius is None and (dx > 0 or dy > 0)):
            raise RegionNotVisibleError(
                f"the point ({self.x:g}, {self.y:g}) lies outside the image, which is {width}×{height} pixels; "
                "check whether its coordinates are pixels of the original image."
            )
        return self if self.radius is not None else Point(self.x, self.y, radius)

    def transform(self, scale_xy: Pair, offset_xy: Pair, wh: Size) -> Point:
        """The point in another image of size `wh`; where x and y scale differently the disc keeps its area."""
        (sx, sy), (ox, oy) = scale_xy, offset_xy
        radius = None if self.radius is None else self.radius * math.sqrt(sx * sy)
        return Point(sx * self.x + ox, sy * self.y + oy, radius).clip(wh)


@dataclass(frozen=True, eq=False)
class Mask:
    """Any shape: a boolean array as large as the original image, `[H, W]`.

    Integers count as inside where they are not 0; floats must be 0 or 1, so that nobody's soft map is cut unnoticed.

    >>> Mask(np.eye(4, dtype=bool)).xyxy
    (0.0, 0.0, 4.0, 4.0)

    Raises:
        InvalidInputError: for another number of axes, NaN, soft values, or nothing inside.
    """

    array: np.ndarray

    def __post_init__(self) -> None:
        array = plain_array(self.array)
        if array.ndim == 3 and array.shape[0] == 1:
            array = array[0]
        if array.ndim != 2:
            raise InvalidInputError(f"a mask is an array [H, W] as large as the image; got shape {array.shape}.")
        if np.issubdtype(array.dtype, np.floating):
            if not np.isfinite(array).all():
                raise InvalidInputError("the mask contains NaN or infinity; a mask is True inside and False outside.")
            if not np.isin(array, (0.0, 1.0)).all():
                raise InvalidInputError(
                    "the mask has values between 0 and 1; threshold it first, e.g. Mask(array > 0.5)."
                )
        elif array.dtype.kind not in "biu":
            raise InvalidInputError(f"a mask is a boolean array; got dtype {array.dtype}.")
        array = array.astype(bool)  # copies: later changes to the caller's array do not reach us
        if not array.any():
            raise InvalidInputError(f"the mask of shape {array.shape} is empty: no pixel is inside.")
        array.setflags(write=False)
        object.__setattr__(self, "array", array)

    @classmethod
    def from_rle(cls, rle: dict[str, Any]) -> Mask:
        """COCO's run-length encoding `{"size": [h, w], "counts": …}`, plain or compressed.

        >>> Mask.from_rle({"size": [2, 3], "counts": [2, 2, 2]}).array.astype(int).tolist()
        [[0, 1, 0], [0, 1, 0]]

        Raises:
            InvalidInputError: if it is malformed, or compressed and pycocotools is not installed.
        """
        return cls(decode_rle(rle))

    @classmethod
    def from_polygon(cls, polygons: Sequence[Any], wh: Size) -> Mask:
        """COCO's polygons `[[x0, y0, x1, y1, …], …]` in pixels; `wh` is the image's size.

        A pixel is inside if its centre is; several polygons are joined, each filled by the even-odd rule.
        """
        return cls(fill_polygons(polygons, _size(wh)))

    @cached_property
    def xyxy(self) -> Xyxy:
        """The smallest box around the inside."""
        columns, rows = np.flatnonzero(self.array.any(axis=0)), np.flatnonzero(self.array.any(axis=1))
        return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))

    def rasterise(self, wh: Size) -> np.ndarray:
        """1 inside, 0 outside, float32 `[H, W]`."""
        return self.clip(wh).array.astype(np.float32)

    def clip(self, wh: Size) -> Mask:
        """The mask itself, if it is as large as the image; otherwise an error."""
        width, height = _size(wh)
        if self.array.shape != (height, width):
            have = f"{self.array.shape[1]}×{self.array.shape[0]}"
            raise InvalidInputError(
                f"the mask is {have} pixels and the image {width}×{height}; "
                "a mask must be as large as the original image."
            )
        return self

    def transform(self, scale_xy: Pair, offset_xy: Pair, wh: Size) -> Mask:
        """The mask in another image of size `wh` (nearest neighbour)."""
        (sx, sy), (ox, oy) = scale_xy, offset_xy
        matrix = (1 / sx, 0.0, -ox / sx, 0.0, 1 / sy, -oy / sy)
        image = Image.fromarray(self.array.astype(np.uint8) * np.uint8(255))
        moved = image.transform(_size(wh), Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=0)
        return Mask(np.asarray(moved) > 0)

    def __repr__(self) -> str:
        height, width = self.array.shape
        return f"Mask({width}×{height}, {int(self.array.sum())} px inside)"


Region: TypeAlias = Box | Point | Mask


# -- helpers ----------------------------------------------------------------------------------------------------


def plain_array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    try:
        return np.asarray(value)
    except (ValueError, TypeError):
        raise InvalidInputError(f"{short(value)} is not an array of numbers.") from None


def _numbers(what: str, names: str, values: Sequence[Any]) -> tuple[Any, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise InvalidInputError(f"{what} needs numbers ({names}); got {short(tuple(values))}.") from None
    if not all(math.isfinite(number) for number in numbers):
        raise InvalidInputError(
            f"{what} needs finite numbers ({names}); got {numbers}. Leave out regions that are NaN."
        )
    return numbers


def _size(wh: Any) -> Size:
    try:
        width, height = wh
        width, height = int(width), int(height)
    except (TypeError, ValueError):
        raise InvalidInputError(f"wh is the image's (width, height) in pixels; got {short(wh)}.") from None
    if width <= 0 or height <= 0:
        raise InvalidInputError(
            f"wh is the image's (width, height) in pixels and must be positive; got ({width}, {height})."
        )
    return width, height


def _overlap(low: float, high: float, count: int) -> np.ndarray:
    """Length of [low, high] in each of the cells [0, 1], [1, 2], …"""
    edges = np.arange(count + 1, dtype=np.float64)
    return np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0.0, 1.0)
