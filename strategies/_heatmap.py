"""From values per patch to a mask over the image: the arithmetic of API for any number of tiles. Imports no model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from visprompt.geometry.geometry import Geometry
from visprompt.utils.renamed import renamed_attributes, renamed_names, renamed_parameters

if TYPE_CHECKING:
    from visprompt.regions.shapes import Region

INTERPOLATIONS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}


@dataclass(frozen=True, eq=False)
class RawMap:
    """Attribution values of one image and one query, before any normalisation.

    Args:
        cls: `[P]`, contribution of every patch to the answer: Ψ_cls, or a decoder's attention.
        comp: `[P]`, S, similarity of every patch with the query; None for decoders.
        geometry: from pixels of the image to patches.
    """

    cls: np.ndarray
    comp: np.ndarray | None
    geometry: Geometry


@renamed_attributes(over_picture="over_image")
@dataclass(frozen=True, eq=False)
class Heatmap:
    """A heatmap of a query over the patches of an image.

    Args:
        values: `[P]` in [0, 1]; 1 is the most relevant.
        geometry: from pixels of the image to patches.
        raw: the values before normalisation.
    """

    values: np.ndarray
    geometry: Geometry
    raw: RawMap

    def over_image(self, interpolation: str = "lanczos", outside: float = 1.0) -> np.ndarray:
        """The heatmap at the pixels of the image.

        Args:
            interpolation: one of `INTERPOLATIONS`.
            outside: value of pixels that the model did not see.

        Returns:
            `[H, W]`, float32 in [0, 1], in steps of 1/255.
        """
        return over_image(self.values, self.geometry, interpolation, outside)

    def per_patch(self, geometry: Geometry) -> np.ndarray:
        """The heatmap on the patches of another geometry of the same image: the mean over each patch, `[P]`."""
        if geometry == self.geometry:
            return self.values
        return patch_means(self.over_image("bilinear", outside=0.0), geometry)

    def share_in(self, region: Region) -> float:
        """The fraction of the heatmap's mass in a region; a uniform map gives the region's fraction of the image's
        area.
        """
        total = float(self.values.sum())
        return float((self.values * self.geometry.coverage(region)).sum()) / total if total > 0 else 0.0


# -- normalising, smoothing, joining ----------------------------------------------------------------------------------


def mask_of(
    raw: RawMap, maps: str = "both", enhance: float | None = 1.0, kernel_size: int = 3, flat: float = 1.0
) -> np.ndarray:
    """The mask of a map: `A = sigmoid(enhance · (minmax(Ψ) − mean)/std)`, `B = (max S − S)/(max S − min S)`, both
    smoothed by a mean filter, then `minmax(A + B − A·B)`.

    >>> from visprompt.geometry.geometry import Tile
    >>> raw = RawMap(np.arange(4) / 3, None, Geometry((20, 20), (Tile((1.0, 1.0), (0.0, 0.0), (20, 20), (2, 2)),)))
    >>> mask_of(raw, enhance=None, kernel_size=1)
    array([0.        , 0.33333334, 0.6666667 , 1.        ], dtype=float32)

    Args:
        raw: the map.
        maps: `"both"`, `"cls"` (A) or `"comp"` (B).
        enhance: coefficient of the sigmoid; None: no sigmoid.
        kernel_size: side of the mean filter in patches, odd; 1: no filter.
        flat: value of a mask that would be constant.

    Returns:
        `[P]`, float32 in [0, 1].
    """
    parts = []
    if maps in ("both", "cls") or raw.comp is None:
        parts.append(smoothed(enhanced(minmax(raw.cls), enhance), raw.geometry, kernel_size))
    if maps in ("both", "comp") and raw.comp is not None:
        parts.append(smoothed(minmax(-raw.comp.astype(np.float64)), raw.geometry, kernel_size))
    joined = parts[0] if len(parts) == 1 else parts[0] + parts[1] - parts[0] * parts[1]
    return minmax(joined, flat).astype(np.float32)


def minmax(values: np.ndarray, flat: float = 0.0) -> np.ndarray:
    """Scales values linearly to [0, 1], float64; all become `flat` if they are equal."""
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.full(values.shape, flat)


def enhanced(values: np.ndarray, coefficient: float | None) -> np.ndarray:
    """`sigmoid(coefficient · (x − mean)/std)` with the unbiased std; unchanged if all values are equal or there is
    one.
    """
    spread = values.std(ddof=1) if len(values) > 1 else 0.0
    if coefficient is None or spread == 0:
        return values
    return np.asarray(1 / (1 + np.exp(-coefficient * (values - values.mean()) / spread)))


def smoothed(values: np.ndarray, geometry: Geometry, kernel_size: int) -> np.ndarray:
    """Mean filter on the patch grid of every tile; borders are repeated.

    Args:
        values: `[P]`.
        geometry: gives the grids.
        kernel_size: side of the filter in patches, odd.

    Returns:
        `[P]`.
    """
    if kernel_size == 1:
        return values
    half, result = kernel_size // 2, []
    for grid in grids(values, geometry):
        wide = np.pad(grid, half, mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(wide, (kernel_size, kernel_size))
        result.append(windows.mean(axis=(2, 3)).reshape(-1))
    return np.concatenate(result)


def grids(values: np.ndarray, geometry: Geometry) -> list[np.ndarray]:
    """Splits values per patch into the patch grids of the tiles.

    Args:
        values: `[P]`.
        geometry: gives the grids.

    Returns:
        `[rows, columns]` per tile.
    """
    sizes = [tile.grid_hw[0] * tile.grid_hw[1] for tile in geometry.tiles]
    parts = np.split(values, np.cumsum(sizes)[:-1])
    return [part.reshape(tile.grid_hw) for part, tile in zip(parts, geometry.tiles, strict=True)]


# -- over the image -------------------------------------------------------------------------------------------------


def over_image(values: np.ndarray, geometry: Geometry, interpolation: str, outside: float) -> np.ndarray:
    """The 8-bit mask of every tile, resized to the pixels that it shows; the mean where tiles overlap.

    Args:
        values: `[P]` in [0, 1].
        geometry: from pixels of the image to patches.
        interpolation: one of `INTERPOLATIONS`.
        outside: value of pixels that no tile shows.

    Returns:
        `[H, W]`, float32.
    """
    width, height = geometry.image_wh
    total, seen = np.zeros((height, width), dtype=np.float32), np.zeros((height, width), dtype=np.float32)
    for grid, tile in zip(grids(values, geometry), geometry.tiles, strict=True):
        (x0, x1), (left, right) = _shown(width, tile.scale_xy[0], tile.offset_xy[0], tile.patch_hw[1], grid.shape[1])
        (y0, y1), (top, bottom) = _shown(height, tile.scale_xy[1], tile.offset_xy[1], tile.patch_hw[0], grid.shape[0])
        if x1 <= x0 or y1 <= y0:
            continue
        eight_bit = Image.fromarray((np.clip(grid, 0, 1) * 255).astype(np.uint8))
        sized = eight_bit.resize((x1 - x0, y1 - y0), INTERPOLATIONS[interpolation], box=(left, top, right, bottom))
        total[y0:y1, x0:x1] += np.asarray(sized, dtype=np.float32) / 255
        seen[y0:y1, x0:x1] += 1
    return np.where(seen > 0, total / np.maximum(seen, 1), np.float32(outside))


def _shown(count: int, scale: float, offset: float, patch: float, cells: int) -> tuple[tuple[int, int], Any]:
    """The whole pixels along one axis that a tile shows, and the positions of their outer edges in its grid."""
    first, last = (0 - offset) / scale, (cells * patch - offset) / scale
    low, high = max(math.ceil(first - 1e-6), 0), min(math.floor(last + 1e-6), count)
    edges = [min(max((edge * scale + offset) / patch, 0.0), float(cells)) for edge in (low, high)]
    return (low, high), edges


@renamed_parameters(picture="image")
def overlay(image: Image.Image, mask: np.ndarray, grey: float, floor: float = 0.0) -> Image.Image:
    """Blends an image with grey: `image · m + grey · (1 − m)` with `m = floor + (1 − floor) · mask`.

    Args:
        image: RGB.
        mask: `[H, W]` in [0, 1].
        grey: grey level, 0 to 255.
        floor: smallest weight of the image, 0 to 1.
    """
    share = (floor + (1 - floor) * mask)[..., None]
    pixels = np.asarray(image, dtype=np.float32) * share + grey * (1 - share)
    return Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))


def patch_means(values: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Means over the part of every patch that lies in the image.

    Args:
        values: `[H, W]` over the image.
        geometry: from pixels of the image to patches.

    Returns:
        `[P]`, float32.
    """
    result = []
    for tile in geometry.tiles:
        x, y = tile.edges()
        rows, columns = _shares(y, values.shape[0]), _shares(x, values.shape[1])
        result.append((rows @ values @ columns.T).reshape(-1))
    return np.concatenate(result).astype(np.float32)


def _shares(edges: np.ndarray, count: int) -> np.ndarray:
    """The fraction of every cell's overlap that falls on every pixel, `[cells, pixels]`; each line sums to 1 (0 for
    cells outside).
    """
    pixels = np.arange(count)[None]
    overlap = np.clip(np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels), 0, None)
    return np.asarray(overlap / np.maximum(overlap.sum(axis=1, keepdims=True), 1e-12))


#: names of 0.4.0
__getattr__ = renamed_names(
    __name__,
    {
        "over_picture": "over_image",
        "ALIGNMENTS": "strategies._views.ALIGNMENTS",
        "View": "strategies._views.View",
        "assembled": "strategies._views.assembled",
        "views": "strategies._views.views",
    },
    globals(),
)
