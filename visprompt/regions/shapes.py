"""Regions: the part of an image that a request refers to.

Coordinates are pixels of the original image, upright as viewers show it, with x to the right and y down; pixel i spans
[i, i + 1], so a whole image of width W is the box from 0 to W. Every region has `xyxy`, `rasterise`, `clip` and
`transform`. The module imports no requests, models or strategies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from visprompt.errors import InvalidInputError, RegionNotVisibleError
from visprompt.regions.checks import Pair, Size, Xyxy, checked_size, finite_numbers, pixel_overlaps, plain_array
from visprompt.regions.coco import short
from visprompt.regions.masks import Mask

__all__ = ["POINT_RADIUS_SHARE", "Box", "Mask", "Pair", "Point", "Region", "Size", "Xyxy", "plain_array"]

#: default radius of a `Point`, as a fraction of the image's shorter side
POINT_RADIUS_SHARE = 0.05


@dataclass(frozen=True)
class Box:
    """An axis-aligned box, `xyxy` in pixels of the original image; fractional coordinates are allowed.

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
        values = finite_numbers("a box", "x0, y0, x1, y1", (self.x0, self.y0, self.x1, self.y1))
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
        """From the top left corner, width and height (COCO's `bbox`).

        Args:
            x: left edge, pixels.
            y: top edge, pixels.
            width: pixels.
            height: pixels.

        Returns:
            The box.

        Raises:
            InvalidInputError: for NaN, or a width or height that is not positive.
        """
        x, y, width, height = finite_numbers("a box", "x, y, width, height", (x, y, width, height))
        if width <= 0 or height <= 0:
            raise InvalidInputError(f"a box needs a positive width and height; got {width:g} × {height:g}.")
        return cls(x, y, x + width, y + height)

    @classmethod
    def from_cxcywh(cls, cx: float, cy: float, width: float, height: float) -> Box:
        """From centre, width and height.

        Args:
            cx: x of the centre, pixels.
            cy: y of the centre, pixels.
            width: pixels.
            height: pixels.

        Returns:
            The box.

        Raises:
            InvalidInputError: as in `from_xywh`.
        """
        cx, cy, width, height = finite_numbers("a box", "cx, cy, width, height", (cx, cy, width, height))
        return cls.from_xywh(cx - width / 2, cy - height / 2, width, height)

    @classmethod
    def from_normalised(cls, x0: float, y0: float, x1: float, y1: float, wh: Size) -> Box:
        """From corners as fractions of the image's width and height.

        >>> Box.from_normalised(0.1, 0.2, 0.5, 0.6, wh=(200, 100))
        Box(x0=20.0, y0=20.0, x1=100.0, y1=60.0)

        Args:
            x0: left edge, 0 to 1.
            y0: top edge, 0 to 1.
            x1: right edge, 0 to 1.
            y1: bottom edge, 0 to 1.
            wh: width and height of the image, pixels.

        Returns:
            The box, in pixels.

        Raises:
            InvalidInputError: for coordinates above 1.5, and as in `Box`.
        """
        return cls._from_grid((x0, y0, x1, y1), wh, 1.0, "0 to 1")

    @classmethod
    def from_qwen(cls, x0: float, y0: float, x1: float, y1: float, wh: Size) -> Box:
        """From corners on the 0 to 1000 grid of Qwen-VL and InternVL. Qwen2.5-VL writes pixels of its own resized input
        instead: scale those yourself.

        Args:
            x0: left edge, 0 to 1000.
            y0: top edge, 0 to 1000.
            x1: right edge, 0 to 1000.
            y1: bottom edge, 0 to 1000.
            wh: width and height of the image, pixels.

        Returns:
            The box, in pixels.

        Raises:
            InvalidInputError: for coordinates above 1500, and as in `Box`.
        """
        return cls._from_grid((x0, y0, x1, y1), wh, 1000.0, "0 to 1000")

    @classmethod
    def _from_grid(cls, xyxy: Xyxy, wh: Size, full: float, text: str) -> Box:
        x0, y0, x1, y1 = finite_numbers("a box", "x0, y0, x1, y1", xyxy)
        if max(x0, y0, x1, y1) > 1.5 * full:
            raise InvalidInputError(f"coordinates from {text} were expected; got ({x0:g}, {y0:g}, {x1:g}, {y1:g}).")
        width, height = checked_size(wh)
        sx, sy = width / full, height / full
        return cls(x0 * sx, y0 * sy, x1 * sx, y1 * sy)

    @property
    def xyxy(self) -> Xyxy:
        """Left, top, right and bottom edge, pixels."""
        return (self.x0, self.y0, self.x1, self.y1)

    @property
    def area(self) -> float:
        """Area in square pixels."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    def rasterise(self, wh: Size) -> np.ndarray:
        """The fraction of every pixel that lies in the box; exact, also for fractional corners.

        Args:
            wh: width and height of the image, pixels.

        Returns:
            `[H, W]` float32 in [0, 1].
        """
        width, height = checked_size(wh)
        return np.outer(pixel_overlaps(self.y0, self.y1, height), pixel_overlaps(self.x0, self.x1, width)).astype(
            np.float32
        )

    def clip(self, wh: Size) -> Box:
        """The part of the box inside an image.

        Args:
            wh: width and height of the image, pixels.

        Returns:
            The clipped box; the box itself if it lies inside.

        Raises:
            RegionNotVisibleError: if nothing is left.
        """
        width, height = checked_size(wh)
        x0, y0, x1, y1 = max(self.x0, 0.0), max(self.y0, 0.0), min(self.x1, float(width)), min(self.y1, float(height))
        if x1 <= x0 or y1 <= y0:
            raise RegionNotVisibleError(
                f"the box {short(self.xyxy)} lies outside the image, which is {width}×{height} pixels; check "
                "whether its coordinates are pixels of the original image."
            )
        return self if (x0, y0, x1, y1) == self.xyxy else Box(x0, y0, x1, y1)

    def transform(self, scale_xy: Pair, offset_xy: Pair, wh: Size) -> Box:
        """Maps the box to another image, where `xy_new = scale_xy · xy + offset_xy`, and clips it to that image.

        Args:
            scale_xy: scale of x and of y.
            offset_xy: pixels of the other image.
            wh: width and height of the other image, pixels.

        Returns:
            The box in pixels of the other image.

        Raises:
            RegionNotVisibleError: if it lies outside the other image.
        """
        (sx, sy), (ox, oy) = scale_xy, offset_xy
        return Box(sx * self.x0 + ox, sy * self.y0 + oy, sx * self.x1 + ox, sy * self.y1 + oy).clip(wh)


@dataclass(frozen=True)
class Point:
    """A disc around (x, y), in pixels of the original image.

    >>> Point(10, 20, radius=5).xyxy
    (5.0, 15.0, 15.0, 25.0)

    Args:
        x: x of the centre, pixels.
        y: y of the centre, pixels.
        radius: pixels; None: 5 % of the image's shorter side, at least one pixel, set by `clip`.

    Raises:
        InvalidInputError: for NaN or a radius that is not positive.
    """

    x: float
    y: float
    radius: float | None = None

    def __post_init__(self) -> None:
        x, y = finite_numbers("a point", "x, y", (self.x, self.y))
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", y)
        if self.radius is not None:
            (radius,) = finite_numbers("a radius", "one number", (self.radius,))
            if radius <= 0:
                raise InvalidInputError(
                    f"a point needs a positive radius in pixels; got {radius:g}. Leave it out for the default."
                )
            object.__setattr__(self, "radius", radius)

    @property
    def xyxy(self) -> Xyxy:
        """The square around the disc, pixels; it may reach beyond the image.

        Raises:
            InvalidInputError: if the radius is None.
        """
        if self.radius is None:
            raise InvalidInputError(f"{self!r} has no radius yet: give radius=, or take point.clip(image.size) first.")
        return (self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius)

    def rasterise(self, wh: Size) -> np.ndarray:
        """The fraction of every pixel that lies in the disc; exact along x, sampled along y.

        Args:
            wh: width and height of the image, pixels.

        Returns:
            `[H, W]` float32 in [0, 1].
        """
        point = self.clip(wh)
        width, height = checked_size(wh)
        x0, y0, x1, y1 = point.xyxy
        left, top = max(math.floor(x0), 0), max(math.floor(y0), 0)
        right, bottom = min(math.ceil(x1), width), min(math.ceil(y1), height)
        result = np.zeros((height, width), dtype=np.float32)
        assert point.radius is not None
        edges = np.arange(left, right + 1, dtype=np.float64)[None, :]
        # the chord of the disc at several heights within a pixel row; more of them for small discs
        heights = (np.arange(16 if point.radius < 32 else 4) + 0.5) / (16 if point.radius < 32 else 4)
        for row in range(top, bottom):
            half = np.sqrt(np.maximum(point.radius**2 - (row + heights - point.y) ** 2, 0.0))[:, None]
            share = np.minimum(edges[:, 1:], point.x + half) - np.maximum(edges[:, :-1], point.x - half)
            result[row, left:right] = np.clip(share, 0, None).mean(axis=0)
        return result

    def clip(self, wh: Size) -> Point:
        """Sets the default radius. A disc is not cut at the image's border, only refused when it lies outside.

        Args:
            wh: width and height of the image, pixels.

        Returns:
            A point with a radius.

        Raises:
            RegionNotVisibleError: if the disc does not touch the image, or a point without radius lies outside.
        """
        width, height = checked_size(wh)
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
        """Maps the point to another image, as `Box.transform`; where x and y scale differently the disc keeps its area.

        Args:
            scale_xy: scale of x and of y.
            offset_xy: pixels of the other image.
            wh: width and height of the other image, pixels.

        Returns:
            The point in pixels of the other image.

        Raises:
            RegionNotVisibleError: if it lies outside the other image.
        """
        (sx, sy), (ox, oy) = scale_xy, offset_xy
        radius = None if self.radius is None else self.radius * math.sqrt(sx * sy)
        return Point(sx * self.x + ox, sy * self.y + oy, radius).clip(wh)


Region: TypeAlias = Box | Point | Mask
