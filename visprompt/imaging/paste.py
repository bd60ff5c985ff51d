"""Small images with an alpha channel, pasted into larger ones at any place and size: the arithmetic, on arrays.

A patch is `[4, r, r]` in [0, 1]: red, green, blue, and how opaque each of its pixels is. Pasted, every one of its
pixels is a rectangle of the image, and a pixel of the image gets the mean over its area: exact at positions between
pixels and at any scale, also when the patch has more pixels than the image offers.
`visprompt.training.patch.pasting` does the same with gradients.

Without torch. It must not know models, strategies or training.
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
    """Which part of a patch is pasted, float32 `[r, r]` in [0, 1], smooth at the edges.

    Args:
        shape: "circle": a ring that touches the patch's sides; "square": a frame along them; "full": everything.
        ratio: λ, size of the hole over the size of the shape, in [0, 1): 0 is a disc, or a full square.
        side_px: r, pixels along a side.

    >>> shape_alpha("square", 0.5, 4)
    array([[1., 1., 1., 1.],
           [1., 0., 0., 1.],
           [1., 0., 0., 1.],
           [1., 1., 1., 1.]], dtype=float32)

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
    """Length that every cell of a patch has in every pixel of an image, along one axis: float64 `[count, cells]`.

    Args:
        start: where the patch begins, pixels of the image.
        side: how long it is there, pixels.
        cells: pixels of the patch itself along this axis.
        first: number of the first pixel of the image.
        count: how many of its pixels.

    >>> overlaps(0.5, 2.0, 2, 0, 3).tolist()
    [[0.5, 0.0], [0.5, 0.5], [0.0, 0.5]]
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
    """A copy of an image with a patch in it; what reaches beyond the image is cut off.

    With c and a the patch's colour and alpha, averaged over a pixel's area (colours weighted by alpha), and o the
    opacity: `(1 − o·a) · image + o·a·c` for "over", `image + o·a·(2c − 1)`, cut to what an image can show, for
    "add".

    Args:
        image: RGB.
        patch: `[4, r, r]` in [0, 1].
        centre_xy: where its centre goes, pixels of the image, at pixel edges as everywhere.
        side_wh: its width and height there, pixels.
        opacity: o, in [0, 1].
        blending: "over" or "add".

    >>> red = np.stack([np.ones((1, 1)), np.zeros((1, 1)), np.zeros((1, 1)), np.ones((1, 1))])
    >>> done = paste(Image.new("RGB", (4, 4)), red, (1.5, 1.0), (1.0, 2.0))
    >>> [done.getpixel((x, 0))[0] for x in range(4)]
    [0, 255, 0, 0]
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
    """`paste` at several places, one after the other; the image is copied once, however many there are.

    Args:
        image: RGB.
        patch: `[4, r, r]` in [0, 1].
        marks: centre, and width and height of every one, pixels of the image.
        opacity: in [0, 1].
        blending: "over" or "add".

    Returns:
        The image itself if nothing of any mark lies in it.
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
    """`paste`'s formulas, on arrays of one shape in [0, 1]; `colour` is weighted by `alpha` already."""
    if blending == "add":
        return below + opacity * (2 * colour - alpha)
    return (1 - opacity * alpha) * below + opacity * colour


def to_rgba(patch: np.ndarray) -> Image.Image:
    """A patch as an image to look at, 8 bit RGBA."""
    return Image.fromarray(np.rint(np.clip(patch, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0), "RGBA")


# -- where marks go ---------------------------------------------------------------------------------------------------


def centre_of(region: Region) -> Pair:
    """The middle of a region, pixels: of a box, its centre; of a mask, the pixel that is deepest inside, which lies in
    it whatever its shape; a point itself.

    >>> centre_of(Box(2, 4, 6, 6))
    (4.0, 5.0)
    """
    if isinstance(region, Point):
        return (region.x, region.y)
    if isinstance(region, Box):
        return ((region.x0 + region.x1) / 2, (region.y0 + region.y1) / 2)
    import cv2

    padded = np.pad(region.array.astype(np.uint8), 1)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    deepest = np.argwhere(depth >= depth.max() - 1e-6)
    # Of an oblong mask's ridge, the middle.
    row, column = deepest[np.square(deepest - deepest.mean(axis=0)).sum(axis=1).argmin()]
    return (float(column) + 0.5, float(row) + 0.5)


def rim_of(region: Region, count: int) -> list[Pair]:
    """Places along a region's outline, evenly spaced, clockwise from the middle of the top; a point has no rim and
    gives itself.

    Args:
        region: in the image.
        count: how many places.

    >>> rim_of(Box(0, 0, 4, 4), 4)
    [(2.0, 0.0), (4.0, 2.0), (2.0, 4.0), (0.0, 2.0)]
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
    """Where the marks of some regions go, and how large they are there: centres and sides, pixels.

    "centre" and "rim" paint on the region, and "corners" around it: four marks that touch the corners of the region's
    box from outside, so that nothing of it is hidden. What of them the model does not see is cut off; if that is all of
    a region's, their centres move to the edge of what it sees.

    Args:
        regions: clipped to the image.
        place: "centre", "rim" or "corners".
        rim_marks: how many of them on a rim.
        wh: width and height of the image; places on a region that lie outside move to its edge.
        side_at: width and height of a mark at a place.
        seen_xyxy: what the model sees of the image, pixels; None: all of it.

    >>> marks_of([Box(10, 10, 30, 30)], "corners", 4, (64, 64), lambda spot: (8.0, 4.0))[:2]
    [((6.0, 8.0), (8.0, 4.0)), ((34.0, 8.0), (8.0, 4.0))]
    """
    whole = (0.0, 0.0, float(wh[0]), float(wh[1]))
    seen = whole if seen_xyxy is None else seen_xyxy
    found = []
    for region in regions:
        if place == "corners":
            own = _corner_marks(region, side_at(centre_of(region)))
        else:
            spots = [centre_of(region)] if place == "centre" else rim_of(region, rim_marks)
            own = [(spot, side_at(spot)) for spot in (_inside(spot, whole) for spot in spots)]
        if not any(_shows(mark, seen) for mark in own):
            own = list(dict.fromkeys((_inside(spot, seen), side) for spot, side in own))
        found += own
    return found


def _corner_marks(region: Region, side: Pair) -> list[tuple[Pair, Pair]]:
    x0, y0, x1, y1 = region.xyxy
    half = (side[0] / 2, side[1] / 2)
    return [((x, y), side) for y in (y0 - half[1], y1 + half[1]) for x in (x0 - half[0], x1 + half[0])]


def _shows(mark: tuple[Pair, Pair], seen: Xyxy) -> bool:
    (x, y), (wide, high) = mark
    return seen[0] < x + wide / 2 and x - wide / 2 < seen[2] and seen[1] < y + high / 2 and y - high / 2 < seen[3]


def _inside(spot: Pair, xyxy: Xyxy) -> Pair:
    return (min(max(spot[0], xyxy[0]), xyxy[2]), min(max(spot[1], xyxy[1]), xyxy[3]))


def random_colours(patch: np.ndarray, seed: int = 0) -> np.ndarray:
    """The control of a learned patch: the same shape, size and alpha, 8-bit colours drawn uniformly.

    Args:
        patch: `[4, r, r]` in [0, 1].
        seed: of the colours.
    """
    drawn = np.random.default_rng(seed).integers(0, 256, size=(3, *patch.shape[1:])) / 255
    return np.concatenate((drawn, patch[3:])).astype(patch.dtype)


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"marks_of": "paste_boxes"}, globals())
