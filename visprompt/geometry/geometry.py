"""Maps between original pixels, model input and patch grid, exactly; what has no exact map is refused.

All coordinates are at pixel edges: pixel i spans [i, i + 1], in the original image and in the model's input alike, so a
resize is a pure scale and a crop or a padding a whole offset. The module uses numpy only and imports no models and no
strategies.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from visprompt.errors import InvalidInputError, RegionNotVisibleError
from visprompt.geometry.analytic import InputMap, Pair, Size
from visprompt.regions.shapes import Box, Region, Xyxy

__all__ = ["MIN_VISIBLE_SHARE", "Geometry", "InputMap", "Tile"]

#: the least fraction of a region's area that the model must see; other regions are refused
MIN_VISIBLE_SHARE = 0.1


@dataclass(frozen=True)
class Tile:
    """One image that the tower gets; encoders have one, tiled LVLMs several.

    >>> Tile((0.5, 0.5), (0.0, 0.0), (224, 224), (14, 14)).patch_hw
    (16.0, 16.0)

    Args:
        scale_xy: with `offset_xy`: `input_xy = scale_xy · image_xy + offset_xy`.
        offset_xy: pixels of the input.
        input_hw: height and width of the input, pixels.
        grid_hw: rows and columns of patches.
        patch_hw: height and width of a patch, pixels of the input; None: `input_hw / grid_hw`. It differs where the
            input is not a whole number of patches and the model ignores the remainder.

    Raises:
        InvalidInputError: for sizes or scales that are not positive.
    """

    scale_xy: Pair
    offset_xy: Pair
    input_hw: Size
    grid_hw: Size
    patch_hw: Pair = None  # type: ignore[assignment]  # filled in below

    def __post_init__(self) -> None:
        if self.patch_hw is None:
            per_patch = (self.input_hw[0] / max(self.grid_hw[0], 1), self.input_hw[1] / max(self.grid_hw[1], 1))
            object.__setattr__(self, "patch_hw", per_patch)
        numbers = (*self.scale_xy, *self.input_hw, *self.grid_hw, *self.patch_hw)
        if not (np.isfinite(numbers).all() and np.isfinite(self.offset_xy).all() and min(numbers) > 0):
            raise InvalidInputError(f"a tile needs positive, finite scales and sizes; got {self!r}.")

    @property
    def seen_xyxy(self) -> Xyxy:
        """The box that its patches show, in original pixels; it may reach beyond the image."""
        (sx, sy), (ox, oy) = self.scale_xy, self.offset_xy
        right, bottom = self.grid_hw[1] * self.patch_hw[1], self.grid_hw[0] * self.patch_hw[0]
        return ((0 - ox) / sx, (0 - oy) / sy, (right - ox) / sx, (bottom - oy) / sy)

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Patch borders in original pixels.

        Returns:
            x of the vertical borders `[columns + 1]` and y of the horizontal ones `[rows + 1]`, float64.
        """
        x = (np.arange(self.grid_hw[1] + 1) * self.patch_hw[1] - self.offset_xy[0]) / self.scale_xy[0]
        y = (np.arange(self.grid_hw[0] + 1) * self.patch_hw[0] - self.offset_xy[1]) / self.scale_xy[1]
        return x, y


@dataclass(frozen=True)
class Geometry:
    """The map from the pixels of one image to the patches of one tower.

    >>> geometry = Geometry((448, 224), (Tile((1.0, 1.0), (-112.0, 0.0), (224, 224), (2, 2)),))
    >>> geometry.coverage(Box(112, 0, 280, 112))
    array([1. , 0.5, 0. , 0. ], dtype=float32)
    >>> geometry.visible_xyxy()
    (112.0, 0.0, 336.0, 224.0)

    Args:
        image_wh: width and height of the original image, pixels.
        tiles: the images that the tower gets; patches are numbered row by row, tile after tile.
    """

    image_wh: Size
    tiles: tuple[Tile, ...]

    def __post_init__(self) -> None:
        if not self.tiles:
            raise InvalidInputError("a geometry needs at least one tile.")

    @classmethod
    def single(
        cls, image_wh: Size, mapped: InputMap, patch_size: int | Size | None = None, grid_hw: Size | None = None
    ) -> Geometry:
        """Makes a geometry with one tile.

        Args:
            image_wh: width and height of the original image, pixels.
            mapped: map from the image to the model input.
            patch_size: pixels of the input, an int or (height, width).
            grid_hw: instead of `patch_size`: rows and columns of patches.

        Returns:
            The geometry.

        Raises:
            InvalidInputError: if neither or both of `patch_size` and `grid_hw` are given, or the input is smaller than
                a patch.
        """
        if (patch_size is None) == (grid_hw is None):
            raise InvalidInputError("give either patch_size or grid_hw.")
        if grid_hw is not None:
            return cls(image_wh, (Tile(*mapped, grid_hw),))
        assert patch_size is not None
        patch = (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
        grid = (mapped.input_hw[0] // patch[0], mapped.input_hw[1] // patch[1])
        if min(grid) < 1:
            raise InvalidInputError(f"an input of {mapped.input_hw} pixels (h, w) holds no patch of {patch} pixels.")
        return cls(image_wh, (Tile(*mapped, grid, (float(patch[0]), float(patch[1]))),))

    # -- counting ---------------------------------------------------------------------------------------------------

    @property
    def num_patches(self) -> int:
        """P, the number of patches of all tiles."""
        return sum(tile.grid_hw[0] * tile.grid_hw[1] for tile in self.tiles)

    @property
    def grid_hw(self) -> Size:
        """Rows and columns of patches of the only tile.

        Raises:
            InvalidInputError: if there are several tiles.
        """
        if len(self.tiles) != 1:
            raise InvalidInputError(f"{len(self.tiles)} tiles have no single patch grid; use tiles[i].grid_hw.")
        return self.tiles[0].grid_hw

    # -- between image and input ------------------------------------------------------------------------------------

    def to_input(self, xy: np.ndarray | Pair, tile: int = 0) -> np.ndarray:
        """Maps original pixels to a tile's input.

        Args:
            xy: `[…, 2]` pixels of the original image.
            tile: number of the tile.

        Returns:
            `[…, 2]` pixels of the tile's input, float64.
        """
        target = self.tiles[tile]
        return np.asarray(xy, dtype=np.float64) * target.scale_xy + target.offset_xy

    def to_image(self, xy: np.ndarray | Pair, tile: int = 0) -> np.ndarray:
        """Maps pixels of a tile's input to the original image.

        Args:
            xy: `[…, 2]` pixels of the tile's input.
            tile: number of the tile.

        Returns:
            `[…, 2]` pixels of the original image, float64.
        """
        source = self.tiles[tile]
        return (np.asarray(xy, dtype=np.float64) - source.offset_xy) / source.scale_xy

    def patch_box(self, index: int) -> Box:
        """The part of the original image that a patch shows.

        Args:
            index: number of the patch, row by row, tile after tile.

        Returns:
            A box in original pixels, clipped to the image.

        Raises:
            InvalidInputError: if there is no such patch, or it shows only padding.
        """
        left = index
        for tile in self.tiles:
            rows, columns = tile.grid_hw
            if 0 <= left < rows * columns:
                x, y = tile.edges()
                row, column = divmod(left, columns)
                box = (x[column], y[row], x[column + 1], y[row + 1])
                inside = _intersection((*map(float, box),), (0.0, 0.0, *map(float, self.image_wh)))  # type: ignore[arg-type]
                if inside is None:
                    raise InvalidInputError(f"patch {index} shows padding only, nothing of the image.")
                return Box(*inside)
            left -= rows * columns
        raise InvalidInputError(f"there is no patch {index}; patches run from 0 to {self.num_patches - 1}.")

    # -- regions to patches -----------------------------------------------------------------------------------------

    def coverage(self, region: Region) -> np.ndarray:
        """The fraction of every patch's area that a region covers.

        It is exact for boxes, and for masks as the area of their pixels; points are discs. Padding is never covered, so
        a patch that is half padding reaches at most 0.5.

        Args:
            region: in pixels of the original image.

        Returns:
            `[P]` float32 in [0, 1].

        Raises:
            RegionNotVisibleError: if the region lies outside the image.
        """
        region = region.clip(self.image_wh)
        return np.concatenate([self._tile_coverage(tile, region).reshape(-1) for tile in self.tiles]).astype(np.float32)

    def _tile_coverage(self, tile: Tile, region: Region) -> np.ndarray:
        x, y = tile.edges()
        if isinstance(region, Box):
            columns = _shares(x, region.x0, region.x1)
            rows = _shares(y, region.y0, region.y1)
            return np.outer(rows, columns)
        left, top, right, bottom = _pixels(region.xyxy, self.image_wh)
        inside = region.rasterise(self.image_wh)[top:bottom, left:right]
        rows, columns = _pixel_shares(y, top, bottom), _pixel_shares(x, left, right)
        return np.clip(rows @ inside @ columns.T, 0.0, 1.0)

    def visible_xyxy(self) -> Xyxy:
        """The part of the original image that reaches the model.

        Returns:
            The smallest box around what all tiles show, clipped to the image, in original pixels.

        Raises:
            InvalidInputError: if the tiles show nothing of the image.
        """
        image = (0.0, 0.0, float(self.image_wh[0]), float(self.image_wh[1]))
        parts = [part for tile in self.tiles if (part := _intersection(tile.seen_xyxy, image)) is not None]
        if not parts:
            raise InvalidInputError("nothing of the image reaches the model: its tiles lie outside of it.")
        x0, y0, x1, y1 = zip(*parts, strict=True)
        seen = (min(x0), min(y0), max(x1), max(y1))
        # dividing by a scale gives 199.99999999999997 in place of 200
        whole = [edge if abs(value - edge) < 1e-6 else value for value, edge in zip(seen, image, strict=True)]
        return (whole[0], whole[1], whole[2], whole[3])

    def visible_fraction(self, region: Region) -> float:
        """The fraction of a region's area that reaches the model.

        Args:
            region: in pixels of the original image.

        Returns:
            A number in [0, 1].

        Raises:
            RegionNotVisibleError: if the region lies outside the image.
        """
        region = region.clip(self.image_wh)
        seen = self.visible_xyxy()
        if isinstance(region, Box):
            part = _intersection(region.xyxy, seen)
            return 0.0 if part is None else float((part[2] - part[0]) * (part[3] - part[1]) / region.area)
        left, top, right, bottom = _pixels(region.xyxy, self.image_wh)
        inside = region.rasterise(self.image_wh)[top:bottom, left:right].astype(np.float64)
        rows = _overlaps(np.arange(top, bottom + 1.0), seen[1], seen[3])
        columns = _overlaps(np.arange(left, right + 1.0), seen[0], seen[2])
        return float(rows @ inside @ columns / inside.sum())

    @cached_property
    def _visible(self) -> weakref.WeakSet[Region]:
        """Regions that passed `require_visible`."""
        return weakref.WeakSet()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_visible"}

    def require_visible(self, region: Region, name: object = "") -> None:
        """Refuses a region that the processor's crop removes. A region that passed once is not checked again.

        Args:
            region: in pixels of the original image.
            name: what the message begins with: a request, or a text; converted to text only for an error.

        Raises:
            RegionNotVisibleError: if less than a tenth of its area (`MIN_VISIBLE_SHARE`) reaches the model.
        """
        if region in self._visible:
            return
        share = self.visible_fraction(region)
        if share >= MIN_VISIBLE_SHARE:
            self._visible.add(region)
            return
        x0, y0, x1, y1 = self.visible_xyxy()
        raise RegionNotVisibleError(
            f"{f'{name}: ' if name else ''}the model's processor crops {region!r} away ({share:.0%} of it is "
            f"left): of the {self.image_wh[0]}×{self.image_wh[1]} image it keeps "
            f"({x0:.0f}, {y0:.0f}, {x1:.0f}, {y1:.0f}). Use "
            'fit="pad" or fit="squash" to make the whole image visible.'
        )

    # -- patches to pixels ------------------------------------------------------------------------------------------

    def to_map(
        self, values: np.ndarray, resample: Literal["bilinear", "nearest"] = "bilinear", outside: float = 0.0
    ) -> np.ndarray:
        """Spreads one number per patch over the pixels of the original image.

        Args:
            values: `[P]`.
            resample: `"bilinear"` between patch centres, or `"nearest"`: every pixel gets its patch's number.
            outside: the value of pixels that the model does not see. Pixels that several tiles show get the mean.

        Returns:
            `[H, W]` float32.

        Raises:
            InvalidInputError: if there is not one number per patch, or for another `resample`.
        """
        values = np.asarray(values, dtype=np.float32).reshape(-1)
        if len(values) != self.num_patches:
            raise InvalidInputError(f"a map needs one number per patch, {self.num_patches}; got {len(values)}.")
        if resample not in ("bilinear", "nearest"):
            raise InvalidInputError(f'resample is "bilinear" or "nearest"; got {resample!r}.')
        width, height = self.image_wh
        total = np.zeros((height, width), dtype=np.float32)
        seen = np.zeros((height, width), dtype=np.uint8)
        start = 0
        for tile in self.tiles:
            rows, columns = tile.grid_hw
            grid = values[start : start + rows * columns].reshape(rows, columns)
            start += rows * columns
            x = _positions(width, tile.scale_xy[0], tile.offset_xy[0], tile.patch_hw[1])
            y = _positions(height, tile.scale_xy[1], tile.offset_xy[1], tile.patch_hw[0])
            in_x, in_y = (x >= 0) & (x < columns), (y >= 0) & (y < rows)
            if not (in_x.any() and in_y.any()):
                continue
            sampled = _sample(_sample(grid, y[in_y], resample).T, x[in_x], resample).T
            window = np.ix_(in_y, in_x)
            total[window] += sampled
            seen[window] += 1
        total /= np.maximum(seen, 1)
        total[seen == 0] = outside
        return total


# -- helpers --------------------------------------------------------------------------------------------------------


def _positions(count: int, scale: float, offset: float, patch: float) -> np.ndarray:
    """Centres of the original pixels along one axis, in units of patches."""
    return ((np.arange(count) + 0.5) * scale + offset) / patch


def _sample(grid: np.ndarray, at: np.ndarray, resample: str) -> np.ndarray:
    if resample == "nearest":
        return grid[np.clip(np.floor(at).astype(int), 0, len(grid) - 1)]
    at = np.clip(at - 0.5, 0, len(grid) - 1)
    low = np.minimum(np.floor(at).astype(int), max(len(grid) - 2, 0))
    high = np.minimum(low + 1, len(grid) - 1)
    share = (at - low)[:, None].astype(grid.dtype)
    return grid[low] * (1 - share) + grid[high] * share


def _overlaps(edges: np.ndarray, low: float, high: float) -> np.ndarray:
    """Length of [low, high] in every cell between neighbouring edges."""
    return np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0.0, None)


def _shares(edges: np.ndarray, low: float, high: float) -> np.ndarray:
    return _overlaps(edges, low, high) / np.diff(edges)


def _pixel_shares(edges: np.ndarray, first: int, last: int) -> np.ndarray:
    """The fraction of every cell that each pixel from `first` to before `last` covers, float32 `[cells, pixels]`."""
    low, high = edges[:-1, None], edges[1:, None]
    pixels = np.arange(first, last, dtype=np.float64)[None, :]
    inside = np.clip(np.minimum(high, pixels + 1) - np.maximum(low, pixels), 0.0, None)
    return (inside / (high - low)).astype(np.float32)


def _intersection(a: Xyxy, b: Xyxy) -> Xyxy | None:
    x0, y0, x1, y1 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def _pixels(xyxy: Xyxy, wh: Size) -> tuple[int, int, int, int]:
    """The whole pixels of the image that a box touches."""
    left, top = max(int(np.floor(xyxy[0])), 0), max(int(np.floor(xyxy[1])), 0)
    return left, top, min(int(np.ceil(xyxy[2])), wh[0]), min(int(np.ceil(xyxy[3])), wh[1])
