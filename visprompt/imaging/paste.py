"""Pastes patches (small images with an alpha channel) into larger images, at any position and size, with numpy.

A patch is `[4, r, r]` in [0, 1]: red, green, blue and opacity. When it is pasted, each of its pixels becomes a
rectangle of the image, and a pixel of the image gets the mean over its area. This is exact at fractional positions and
at any scale, also when the patch has more pixels than the area it is pasted on.

`visprompt.training.patch.pasting` does the same with gradients. This module does not use torch, and imports no models,
strategies or training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from PIL import Image

from visprompt.errors import InvalidInputError
from visprompt.regions.shapes import Box, Mask, Pair, Point, Region, Size, Xyxy
from visprompt.utils.renamed import renamed_names, renamed_parameters

Shape = Literal["circle", "square", "full"]
Blending = Literal["over", "add"]
SHAPES: tuple[str, ...] = ("circle", "square", "full")
BLENDINGS: tuple[str, ...] = ("over", "add")
PLACES: tuple[str, ...] = ("centre", "rim", "corners")
#: samples along each side of a pixel, for the edge of a shape
_SAMPLES = 8


def shape_alpha(shape: Shape, ratio: float, side_px: int) -> np.ndarray:
    """Makes the opacity of a patch from a shape, smooth at the edges.

    >>> shape_alpha("square", 0.5, 4)
    array([[1., 1., 1., 1.],
           [1., 0., 0., 1.],
           [1., 0., 0., 1.],
           [1., 1., 1., 1.]], dtype=float32)

    Args:
        shape: "circle": a ring that touches the patch's sides; "square": a frame along them; "full": all pixels.
        ratio: λ, size of the hole relative to the size of the shape, in [0, 1): 0 is a disc, or a full square.
        side_px: r, pixels along a side.

    Returns:
        `[r, r]` float32 in [0, 1].

    Raises:
        InvalidInputError: for another shape, or numbers out of range.
    """
    if shape not in SHAPES:
        raise InvalidInputError(f"shape is one of {', '.join(SHAPES)}; got {shape!r}.")
    if not 0 <= ratio < 1 or side_px < 1:
        raise InvalidInputError(f"a ratio is 0 to below 1, and a side at least 1 pixel; got {ratio!r}, {side_px!r}.")
    if shape == "full":
        return np.ones((side_px, side_px), dtype=np.float32)
    count = side_px * _SAMPLES
    at = np.abs((np.arange(count) + 0.5) / count * 2 - 1)
    far = np.hypot(at[:, None], at[None, :]) if shape == "circle" else np.maximum(at[:, None], at[None, :])
    inside = (far <= 1) & (far >= ratio)
    return inside.reshape(side_px, _SAMPLES, side_px, _SAMPLES).mean(axis=(1, 3)).astype(np.float32)


def overlaps(start: float, side: float, cells: int, first: int, count: int) -> np.ndarray:
    """The length of the overlap between every cell of a patch and every pixel of an image, along one axis.

    >>> overlaps(0.5, 2.0, 2, 0, 3).tolist()
    [[0.5, 0.0], [0.5, 0.5], [0.0, 0.5]]

    Args:
        start: where the patch begins, pixels of the image.
        side: length of the pasted patch, pixels of the image.
        cells: number of pixels of the patch itself along this axis.
        first: index of the first pixel of the image.
        count: number of image pixels.

    Returns:
        `[count, cells]` float64, in pixels of the image.
    """
    edges = start + side / cells * np.arange(cells + 1)
    pixels = np.arange(first, first + count)[:, None]
    return np.clip(np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels), 0.0, None)


@renamed_parameters(picture="image")
def paste(
    image: Image.Image,
    patch: np.ndarray,
    centre_xy: Pair,
    side_wh: Pair,
    *,
    opacity: float = 1.0,
    blending: Blending = "over",
) -> Image.Image:
    """Pastes a patch into a copy of an image; parts beyond the image are cut off.

    With c and a the patch's colour and alpha, averaged over a pixel's area (colours weighted by alpha), and o the
    opacity: `(1 − o·a) · image + o·a·c` for "over", `image + o·a·(2c − 1)`, clipped to [0, 1], for "add".

    >>> red = np.stack([np.ones((1, 1)), np.zeros((1, 1)), np.zeros((1, 1)), np.ones((1, 1))])
    >>> done = paste(Image.new("RGB", (4, 4)), red, (1.5, 1.0), (1.0, 2.0))
    >>> [done.getpixel((x, 0))[0] for x in range(4)]
    [0, 255, 0, 0]

    Args:
        image: RGB.
        patch: `[4, r, r]` in [0, 1].
        centre_xy: its centre, pixels of the image, at pixel edges.
        side_wh: its width and height in the image, pixels.
        opacity: o, in [0, 1].
        blending: "over" or "add".

    Returns:
        The copy, RGB.
    """
    return paste_all(image, patch, [(centre_xy, side_wh)], opacity=opacity, blending=blending)


@renamed_parameters(picture="image")
def paste_all(
    image: Image.Image,
    patch: np.ndarray,
    marks: Sequence[tuple[Pair, Pair]],
    *,
    opacity: float = 1.0,
    blending: Blending = "over",
) -> Image.Image:
    """Pastes a patch at several positions, one after the other, as `paste`; the image is copied once.

    Args:
        image: RGB.
        patch: `[4, r, r]` in [0, 1].
        marks: (centre, (width, height)) of every pasted patch, pixels of the image.
        opacity: in [0, 1].
        blending: "over" or "add".

    Returns:
        The copy, RGB; the image itself if every position lies outside of it.
    """
    pixels: np.ndarray | None = None
    for (x, y), (wide, high) in marks:
        x0, y0 = x - wide / 2, y - high / 2
        left, right = max(math.floor(x0), 0), min(math.ceil(x0 + wide), image.width)
        top, bottom = max(math.floor(y0), 0), min(math.ceil(y0 + high), image.height)
        if left >= right or top >= bottom:
            continue
        if pixels is None:
            pixels = np.array(image.convert("RGB"))
        across = overlaps(x0, wide, patch.shape[2], left, right - left)
        down = overlaps(y0, high, patch.shape[1], top, bottom - top)
        alpha = down @ patch[3] @ across.T
        colour = np.stack([down @ (channel * patch[3]) @ across.T for channel in patch[:3]], axis=-1)
        window = pixels[top:bottom, left:right]
        mixed = mix(window / 255, colour, alpha[..., None], opacity, blending)
        window[...] = np.rint(np.clip(mixed, 0, 1) * 255).astype(np.uint8)
    return image if pixels is None else Image.fromarray(pixels)


def mix(below: np.ndarray, colour: np.ndarray, alpha: np.ndarray, opacity: float, blending: Blending) -> np.ndarray:
    """The formulas of `paste`, on arrays in [0, 1].

    Args:
        below: `[…, 3]` the image.
        colour: `[…, 3]` the patch, already weighted by `alpha`.
        alpha: `[…, 1]` its opacity.
        opacity: o, in [0, 1].
        blending: "over" or "add".

    Returns:
        `[…, 3]`, not clipped.
    """
    if blending == "add":
        return below + opacity * (2 * colour - alpha)
    return (1 - opacity * alpha) * below + opacity * colour


def to_rgba(patch: np.ndarray) -> Image.Image:
    """Converts a patch to an image that viewers can show.

    Args:
        patch: `[4, r, r]` in [0, 1].

    Returns:
        8-bit RGBA.
    """
    return Image.fromarray(np.rint(np.clip(patch, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0), "RGBA")


# -- positions of patches ---------------------------------------------------------------------------------------------


def centre_of(region: Region) -> Pair:
    """The centre of a region: of a box, its centre; of a mask, the inside pixel with the largest distance to the
    outline, so that the centre lies inside whatever the shape; of a point, the point.

    >>> centre_of(Box(2, 4, 6, 6))
    (4.0, 5.0)

    Args:
        region: in pixels of the image.

    Returns:
        (x, y) in pixels of the image.
    """
    if isinstance(region, Point):
        return (region.x, region.y)
    if isinstance(region, Box):
        return ((region.x0 + region.x1) / 2, (region.y0 + region.y1) / 2)
    import cv2

    padded = np.pad(region.array.astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    deepest = np.argwhere(depth >= depth.max() - 1e-6)
    # Several pixels have that distance in an oblong mask: the one nearest to their mean is chosen.
    row, column = deepest[np.square(deepest - deepest.mean(axis=0)).sum(axis=1).argmin()]
    return (float(column) + 0.5, float(row) + 0.5)


def rim_of(region: Region, count: int) -> list[Pair]:
    """Positions along a region's outline, evenly spaced, clockwise from the middle of the top. A point has no outline
    and gives itself, once.

    >>> rim_of(Box(0, 0, 4, 4), 4)
    [(2.0, 0.0), (4.0, 2.0), (2.0, 4.0), (0.0, 2.0)]

    Args:
        region: in pixels of the image.
        count: number of positions.

    Returns:
        (x, y) in pixels of the image.
    """
    if isinstance(region, Point):
        return [(region.x, region.y)]
    if isinstance(region, Box):
        x0, y0, x1, y1 = region.xyxy
        line = np.array([((x0 + x1) / 2, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)])
    else:
        line = _outline(region)
    return _along(line, count)


def _outline(mask: Mask) -> np.ndarray:
    """The longest outline of a mask, pixels `[n, 2]`, clockwise from the top."""
    import cv2

    found, _ = cv2.findContours(mask.array.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    line = np.asarray(max(found, key=len), dtype=np.float64).reshape(-1, 2) + 0.5
    turns = np.sum(line[:, 0] * np.roll(line[:, 1], -1) - np.roll(line[:, 0], -1) * line[:, 1])
    line = line if turns >= 0 else line[::-1]
    top = np.flatnonzero(line[:, 1] == line[:, 1].min())
    return np.roll(line, -int(top[len(top) // 2]), axis=0)


def _along(line: np.ndarray, count: int) -> list[Pair]:
    closed = np.concatenate((line, line[:1]))
    steps = np.hypot(*np.diff(closed, axis=0).T)
    length = np.concatenate(([0.0], np.cumsum(steps)))
    at = np.arange(count) / count * length[-1]
    return [(float(np.interp(s, length, closed[:, 0])), float(np.interp(s, length, closed[:, 1]))) for s in at]


def paste_boxes(
    regions: Sequence[Region],
    place: str,
    rim_marks: int,
    wh: Size,
    side_at: Callable[[Pair], Pair],
    seen_xyxy: Xyxy | None = None,
) -> list[tuple[Pair, Pair]]:
    """Computes where patches are pasted for some regions, and how large.

    "centre" and "rim" cover parts of the region. "corners" gives four positions around it, where patches touch the
    corners of the region's box from outside and hide nothing of it. Parts that the model does not see are cut off; if
    the model would see none of a region's patches, their centres move to the edge of what it sees.

    >>> paste_boxes([Box(10, 10, 30, 30)], "corners", 4, (64, 64), lambda centre: (8.0, 4.0))[:2]
    [((6.0, 8.0), (8.0, 4.0)), ((34.0, 8.0), (8.0, 4.0))]

    Args:
        regions: clipped to the image.
        place: "centre", "rim" or "corners".
        rim_marks: number of positions on a rim.
        wh: width and height of the image, pixels; positions outside of it move to its edge.
        side_at: function from a position (x, y) to the width and height of a patch there, pixels.
        seen_xyxy: the part of the image that the model sees, pixels; None: all of it.

    Returns:
        (centre, (width, height)) of every patch, pixels of the image.
    """
    whole = (0.0, 0.0, float(wh[0]), float(wh[1]))
    seen = whole if seen_xyxy is None else seen_xyxy
    found = []
    for region in regions:
        if place == "corners":
            own = _corner_marks(region, side_at(centre_of(region)))
        else:
            centres = [centre_of(region)] if place == "centre" else rim_of(region, rim_marks)
            own = [(centre, side_at(centre)) for centre in (_inside(centre, whole) for centre in centres)]
        if not any(_shows(mark, seen) for mark in own):
            own = list(dict.fromkeys((_inside(centre, seen), side) for centre, side in own))
        found += own
    return found


def _corner_marks(region: Region, side: Pair) -> list[tuple[Pair, Pair]]:
    x0, y0, x1, y1 = region.xyxy
    half = (side[0] / 2, side[1] / 2)
    return [((x, y), side) for y in (y0 - half[1], y1 + half[1]) for x in (x0 - half[0], x1 + half[0])]


def _shows(mark: tuple[Pair, Pair], seen: Xyxy) -> bool:
    (x, y), (wide, high) = mark
    return seen[0] < x + wide / 2 and x - wide / 2 < seen[2] and seen[1] < y + high / 2 and y - high / 2 < seen[3]


def _inside(xy: Pair, xyxy: Xyxy) -> Pair:
    return (min(max(xy[0], xyxy[0]), xyxy[2]), min(max(xy[1], xyxy[1]), xyxy[3]))


def random_colours(patch: np.ndarray, seed: int = 0) -> np.ndarray:
    """Makes the control of a learned patch: same shape, size and alpha, with 8-bit colours drawn uniformly.

    Args:
        patch: `[4, r, r]` in [0, 1].
        seed: seed of the colours.

    Returns:
        `[4, r, r]` in [0, 1].
    """
    drawn = np.random.default_rng(seed).integers(0, 256, size=(3, *patch.shape[1:])) / 255
    return np.concatenate((drawn, patch[3:])).astype(patch.dtype)


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"marks_of": "paste_boxes"}, globals())
