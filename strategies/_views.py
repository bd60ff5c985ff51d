"""The parts of an image from which a map is computed, how they are fitted, and how their maps are combined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from visprompt.strategies._heatmap import RawMap

from visprompt.geometry.geometry import Geometry, Tile
from visprompt.utils.renamed import renamed_attributes, renamed_parameters

if TYPE_CHECKING:
    from visprompt.visual_prompt import Fit

ALIGNMENTS = ("auto", "pad", "slide", "squash", "crop", "paper")


@renamed_attributes(picture="image")
@dataclass(frozen=True, eq=False)
class View:
    """A part of an image as a model's input.

    Args:
        image: the part.
        fit: how it is brought to the input's size.
        left: x of its left edge in the whole image, pixels.
        top: y of its upper edge in the whole image, pixels.
    """

    image: Image.Image
    fit: Fit
    left: int = 0
    top: int = 0


@renamed_parameters(picture="image")
def views(image: Image.Image, align: str, model: Any) -> list[View]:
    """The parts of an image to compute a map from, by the option `align`.

    `"auto"`: the whole image, as the processor fits it; if that would crop, squashed for an encoder and padded for an
    LVLM. `"slide"`: windows of the model's aspect ratio along the longer side, each at full resolution.

    Args:
        image: the image.
        align: one of `ALIGNMENTS`.
        model: the model that computes the map.
    """
    own = model.geometry(image.size, "model")
    if align == "auto":
        visible = own.visible_xyxy()
        whole = visible == (0.0, 0.0, float(image.width), float(image.height))
        return [View(image, "model" if whole else "pad" if model.generates else "squash")]
    if align in ("pad", "squash"):
        return [View(image, "pad" if align == "pad" else "squash")]
    if align != "slide":
        return [View(image, "model")]
    height, width = own.tiles[0].input_hw
    side = min(image.width / width, image.height / height)
    size = (max(round(width * side), 1), max(round(height * side), 1))
    windows = [
        (left, top, left + size[0], top + size[1])
        for left in _starts(image.width, size[0])
        for top in _starts(image.height, size[1])
    ]
    if len(windows) == 1:
        return [View(image, "squash")]  # the model's aspect ratio, apart from rounding
    return [View(image.crop(box), "squash", box[0], box[1]) for box in windows]


def _starts(length: int, window: int) -> list[int]:
    """Starts of evenly spaced windows that cover a length."""
    count = max(math.ceil(length / window - 1e-9), 1)
    return [round(i * (length - window) / max(count - 1, 1)) for i in range(count)]


def assembled(parts: Sequence[RawMap], shown: Sequence[View], image_wh: tuple[int, int], align: str) -> RawMap:
    """Combines the maps of views into one map of the image, without patches that show only padding.

    Args:
        parts: one map per view.
        shown: the views.
        image_wh: width and height of the image, pixels.
        align: one of `ALIGNMENTS`; `"paper"` stretches the grid over the whole image.
    """
    tiles: list[Tile] = []
    kept: list[np.ndarray] = []
    start = 0
    for part, view in zip(parts, shown, strict=True):
        for tile in part.geometry.tiles:
            rows, columns = tile.grid_hw
            numbers = start + np.arange(rows * columns).reshape(rows, columns)
            start += rows * columns
            moved = _stretched(tile, image_wh) if align == "paper" else _moved(tile, view)
            trimmed = _trimmed(moved, numbers, image_wh)
            if trimmed is not None:
                tiles.append(trimmed[0])
                kept.append(trimmed[1].reshape(-1))
    index = np.concatenate(kept)
    comp = None if parts[0].comp is None else np.concatenate([p.comp for p in parts if p.comp is not None])[index]
    return RawMap(np.concatenate([p.cls for p in parts])[index], comp, Geometry(image_wh, tuple(tiles)))


def _stretched(tile: Tile, image_wh: tuple[int, int]) -> Tile:
    """The placement in the authors' code: the patch grid stretched over the whole image, whatever was cropped."""
    rows, columns = tile.grid_hw
    return Tile((columns / image_wh[0], rows / image_wh[1]), (0.0, 0.0), (rows, columns), tile.grid_hw, (1.0, 1.0))


def _moved(tile: Tile, view: View) -> Tile:
    (sx, sy), (ox, oy) = tile.scale_xy, tile.offset_xy
    return Tile(tile.scale_xy, (ox - sx * view.left, oy - sy * view.top), tile.input_hw, tile.grid_hw, tile.patch_hw)


def _trimmed(tile: Tile, numbers: np.ndarray, image_wh: tuple[int, int]) -> tuple[Tile, np.ndarray] | None:
    """Removes rows and columns of padding, which would distort means and extremes."""
    x, y = tile.edges()
    across = np.flatnonzero((x[1:] > 1e-6) & (x[:-1] < image_wh[0] - 1e-6))
    down = np.flatnonzero((y[1:] > 1e-6) & (y[:-1] < image_wh[1] - 1e-6))
    if not (len(across) and len(down)):
        return None
    if (len(down), len(across)) == tile.grid_hw:
        return tile, numbers
    (height, width), (ox, oy) = tile.patch_hw, tile.offset_xy
    offset = (ox - across[0] * width, oy - down[0] * height)
    size = (round(len(down) * height), round(len(across) * width))
    left = Tile(tile.scale_xy, offset, size, (len(down), len(across)), tile.patch_hw)
    return left, numbers[down[0] : down[-1] + 1, across[0] : across[-1] + 1]
