"""Paints scenes: backgrounds and antialiased shapes, with the pixels that each shape covers.

This module knows no captions or splits. Every random number comes from the generator that the caller passes, and only
through plain draws (``random``, ``integers``, ``permutation``), so a seed gives the same image on every platform.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from visprompt.utils.renamed import renamed_parameters

# Saturated and far apart in RGB. Grey, brown and every pale tone are left to the backgrounds.
COLOUR_RGB: dict[str, tuple[int, int, int]] = {
    "red": (214, 36, 42),
    "yellow": (244, 216, 40),
    "green": (40, 158, 56),
    "cyan": (54, 206, 222),
    "blue": (36, 72, 208),
    "purple": (148, 48, 178),
    "white": (246, 246, 246),
    "black": (14, 14, 16),
}
SUPERSAMPLING = 4
MAX_TILT_RAD = 0.3  # about 17 degrees: more would turn a cross into an X
_FRACTION_BITS = 4


def _arc(start: float, stop: float, n: int, radius: float = 1.0, centre_x: float = 0.0) -> NDArray[np.float64]:
    angles = np.linspace(start, stop, n)
    return np.stack([centre_x + radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _heart() -> NDArray[np.float64]:
    t = np.linspace(0.0, 2.0 * np.pi, 40, endpoint=False)
    x = 16.0 * np.sin(t) ** 3
    y = -(13.0 * np.cos(t) - 5.0 * np.cos(2 * t) - 2.0 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x / 16.5, (y - 2.5) / 16.5], axis=1)


def _star() -> NDArray[np.float64]:
    angles = -np.pi / 2 + np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _cross() -> NDArray[np.float64]:
    a, b = 0.92, 0.3
    corners = [
        (-b, -a),
        (b, -a),
        (b, -b),
        (a, -b),
        (a, b),
        (b, b),
        (b, a),
        (-b, a),
        (-b, b),
        (-a, b),
        (-a, -b),
        (-b, -b),
    ]
    return np.array(corners, dtype=np.float64)


def _moon() -> NDArray[np.float64]:
    # A disc minus a disc shifted to the right; 1.0 and 0.82 are the radii, 0.45 the shift.
    x = (1.0 - 0.82**2 + 0.45**2) / (2 * 0.45)
    outer_angle, inner_angle = np.arccos(x), np.arccos((x - 0.45) / 0.82)
    outer = _arc(outer_angle, 2 * np.pi - outer_angle, 28)
    inner = _arc(2 * np.pi - inner_angle, inner_angle, 22, radius=0.82, centre_x=0.45)
    return np.concatenate([outer, inner]) + np.array([0.2, 0.0])


# Contours in units of the object's radius, y down; a second contour is a hole.
SHAPE_CONTOURS: dict[str, tuple[NDArray[np.float64], ...]] = {
    "circle": (_arc(0.0, 2 * np.pi, 40, radius=0.9),),
    "square": (np.array([(-0.74, -0.74), (0.74, -0.74), (0.74, 0.74), (-0.74, 0.74)]),),
    "triangle": (_arc(-np.pi / 2, 5 * np.pi / 6, 3) + np.array([0.0, 0.15]),),
    "star": (_star(),),
    "cross": (_cross(),),
    "ring": (_arc(0.0, 2 * np.pi, 40, radius=0.95), _arc(0.0, 2 * np.pi, 32, radius=0.52)),
    "heart": (_heart(),),
    "moon": (_moon(),),
}


def background(rng: np.random.Generator, size_wh: tuple[int, int]) -> NDArray[np.float32]:
    """Paints a muted background: flat with noise, a gradient, stripes, a checkerboard or soft blobs.

    Args:
        rng: Random generator for all choices.
        size_wh: Width and height in pixels.

    Returns:
        float32 array ``(height, width, 3)`` of RGB values, nominally 0 to 255.
    """
    width, height = size_wh
    first, second = (_muted(rng) for _ in range(2))
    kind = int(rng.integers(5))
    amount: NDArray[Any]
    if kind == 0:
        amount = np.zeros((height, width), dtype=np.float32)
    elif kind == 4:
        # A tiny random field, blown up: blobs.
        field = rng.random((5, 5), dtype=np.float32)
        amount = cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC).clip(0.0, 1.0)
    else:
        angle = float(rng.random()) * 2 * np.pi
        x = np.arange(width, dtype=np.float32)[None, :] / min(size_wh)
        y = np.arange(height, dtype=np.float32)[:, None] / min(size_wh)
        along = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
        if kind == 1:
            amount = (along - along.min()) / max(float(np.ptp(along)), 1e-6)
        else:
            frequency = 2.0 + 5.0 * float(rng.random())
            wave = np.floor(along * 2 * frequency)
            if kind == 3:
                across = np.float32(-np.sin(angle)) * x + np.float32(np.cos(angle)) * y
                wave = wave + np.floor(across * 2 * frequency)
            # Stripes and checks stay faint, so that their edges are not mistaken for objects.
            amount = 0.45 * np.mod(wave, 2.0)
    image = first + amount[..., None].astype(np.float32) * (second - first)
    grain = float(rng.random()) * 16.0
    noise = rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8).astype(np.float32)
    return np.asarray(image + (noise - 127.5) * np.float32(grain / 127.5), dtype=np.float32)


def _muted(rng: np.random.Generator) -> NDArray[np.float32]:
    level = 75.0 + 100.0 * float(rng.random())
    return (level + (rng.random(3, dtype=np.float32) - 0.5) * 44.0).astype(np.float32)


def shape_alpha(shape: str, radius_px: float, offset_xy: tuple[float, float], tilt_rad: float) -> NDArray[np.float32]:
    """Draws one antialiased shape on a small square canvas.

    Args:
        shape: One of the names in ``SHAPE_CONTOURS``.
        radius_px: Radius in pixels of the circle around the shape.
        offset_xy: Position of the shape's centre within the canvas's centre pixel, 0 to 1 in x and y.
        tilt_rad: Clockwise rotation in radians.

    Returns:
        float32 array ``(side, side)`` in [0, 1] with ``side = 2 * ceil(radius_px) + 3``; the centre pixel is in the
            middle.
    """
    half = int(np.ceil(radius_px)) + 1
    side = 2 * half + 1
    canvas = np.zeros((side * SUPERSAMPLING, side * SUPERSAMPLING), dtype=np.uint8)
    cos, sin = np.cos(tilt_rad), np.sin(tilt_rad)
    rotation = np.array([[cos, sin], [-sin, cos]])
    scale = SUPERSAMPLING * (1 << _FRACTION_BITS)
    contours = []
    for contour in SHAPE_CONTOURS[shape]:
        points = contour @ rotation * radius_px + np.array(offset_xy) + half
        # Pixel centres sit at integers in OpenCV and at halves in our coordinates.
        contours.append(np.rint(points * scale - (1 << _FRACTION_BITS) / 2).astype(np.int32))
    cv2.fillPoly(canvas, contours, 255, lineType=cv2.LINE_8, shift=_FRACTION_BITS)
    alpha = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(alpha, dtype=np.float32) / np.float32(255.0)


@renamed_parameters(picture="image")
def paint(
    rng: np.random.Generator,
    image: NDArray[np.float32],
    shape: str,
    colour: str,
    centre_xy: tuple[float, float],
    radius_px: float,
) -> NDArray[np.bool_]:
    """Paints one object over ``image``, in place, and returns the pixels that it covers.

    Args:
        rng: Random generator for tilt, shade and shading.
        image: float32 array ``(height, width, 3)``, changed in place.
        shape: A name in ``SHAPE_CONTOURS``.
        colour: A name in ``COLOUR_RGB``.
        centre_xy: Centre in pixels; the pixel (0, 0) covers 0 to 1.
        radius_px: Radius in pixels of the circle around the shape.

    Returns:
        Boolean array ``(height, width)``: true for pixels that the object covers by half or more.
    """
    height, width = image.shape[:2]
    tilt, slope_x, slope_y = ((rng.random(3) - 0.5) * 2.0).tolist()
    shade = (rng.random(3, dtype=np.float32) - 0.5) * 24.0
    column, row = int(np.floor(centre_xy[0])), int(np.floor(centre_xy[1]))
    alpha = shape_alpha(shape, radius_px, (centre_xy[0] - column, centre_xy[1] - row), tilt * MAX_TILT_RAD)
    half = alpha.shape[0] // 2
    x0, y0, x1, y1 = (
        max(column - half, 0),
        max(row - half, 0),
        min(column + half + 1, width),
        min(row + half + 1, height),
    )
    alpha = alpha[y0 - row + half : y1 - row + half, x0 - column + half : x1 - column + half]
    # A slight slant of brightness across the object, so that no object is one flat value.
    x = (np.arange(x0, x1, dtype=np.float32) - column)[None, :, None] / radius_px
    y = (np.arange(y0, y1, dtype=np.float32) - row)[:, None, None] / radius_px
    paint_rgb = np.array(COLOUR_RGB[colour], dtype=np.float32) + shade + 12.0 * (slope_x * x + slope_y * y)
    under = image[y0:y1, x0:x1]
    image[y0:y1, x0:x1] = under + alpha[..., None] * (paint_rgb - under)
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[y0:y1, x0:x1] = alpha >= 0.5
    return mask
