"""Which parts of an image a model is shown for a map, how they are fitted, and their maps put together to one."""

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
    """A part of an image that a model is shown, and how it is fitted."""

    image: Image.Image
    fit: Fit
    left: int = 0
    top: int = 0


@renamed_parameters(picture="image")
def views(image: Image.Image, align: str, model: Any) -> list[View]:
    """What the model is shown so that its map can be laid over the image.

    `"auto"`: as its processor does it if that leaves nothing out, else squashed for an encoder and padded for a model
    that writes; `"slide"`: windows of the model's own aspect ratio along the longer side, each at full resolution.
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
        return [View(image, "squash")]  # of the model's own aspect ratio, but for rounding
    return [View(image.crop(box), "squash", box[0], box[1]) for box in windows]


def _starts(length: int, window: int) -> list[int]:
    """Evenly spaced windows that cover a length."""
    count = max(math.ceil(length / window - 1e-9), 1)
    return [round(i * (length - window) / max(count - 1, 1)) for i in range(count)]


def assembled(parts: Sequence[RawMap], shown: Sequence[View], image_wh: tuple[int, int], align: str) -> RawMap:
    """One map of an image from the maps of its views, without the patches that show only padding."""
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
    """The authors' placement: the grid over the whole image, wherever its pixels came from."""
    rows, columns = tile.grid_hw
    return Tile((columns / image_wh[0], rows / image_wh[1]), (0.0, 0.0), (rows, columns), tile.grid_hw, (1.0, 1.0))


def _moved(tile: Tile, view: View) -> Tile:
    (sx, sy), (ox, oy) = tile.scale_xy, tile.offset_xy
    return Tile(tile.scale_xy, (ox - sx * view.left, oy - sy * view.top), tile.input_hw, tile.grid_hw, tile.patch_hw)


def _trimmed(tile: Tile, numbers: np.ndarray, image_wh: tuple[int, int]) -> tuple[Tile, np.ndarray] | None:
    """Without rows and columns of padding: they must not count in means and extremes."""
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
