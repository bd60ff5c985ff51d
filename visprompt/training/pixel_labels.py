"""Labels per pixel: from the original image to a model's input, and predictions back to the original image."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from visprompt.errors import InvalidInputError
from visprompt.geometry.geometry import Geometry, Tile

Size: TypeAlias = tuple[int, int]


def labels_to_input(label: np.ndarray, geometry: Geometry, ignore_index: int = 255) -> np.ndarray:
    """Maps labels of an image's pixels to the pixels of the model's input, by the nearest pixel.

    >>> shrunk = Geometry((4, 2), (Tile((0.5, 0.5), (0.0, 0.5), (2, 2), (1, 1)),))
    >>> labels_to_input(np.array([[1, 1, 2, 2], [3, 3, 4, 4]]), shrunk)
    array([[  1,   2],
           [255, 255]])

    Args:
        label: whole numbers `[h, w]`, in pixels of the original image.
        geometry: of that image; one tile.
        ignore_index: label of input pixels that show padding.

    Returns:
        int64 `[input h, input w]`.

    Raises:
        InvalidInputError: for labels of another size than the image, or several tiles.
    """
    tile = only_tile(geometry)
    if label.shape[::-1] != tuple(geometry.image_wh):
        raise InvalidInputError(f"the labels are {label.shape[::-1]}, and the image is {geometry.image_wh} (w, h).")
    height, width = tile.input_hw
    columns, seen_x = _nearest(width, 1 / tile.scale_xy[0], -tile.offset_xy[0] / tile.scale_xy[0], label.shape[1])
    rows, seen_y = _nearest(height, 1 / tile.scale_xy[1], -tile.offset_xy[1] / tile.scale_xy[1], label.shape[0])
    made = np.full((height, width), ignore_index, dtype=np.int64)
    made[np.ix_(seen_y, seen_x)] = label[np.ix_(rows[seen_y], columns[seen_x])]
    return made


def labels_to_original(
    values: Tensor | np.ndarray, geometry: Geometry, original_wh: Size, outside: int = -1
) -> np.ndarray:
    """Maps a model's predictions from its input to classes of the pixels of the original image.

    Logits are interpolated bilinearly between the centres of their cells before the argmax; classes are those of the
    nearest cell.

    Args:
        values: logits `[classes, h, w]`, or classes `[h, w]`; h and w are those of the input or of its patch grid.
        geometry: of the image; one tile.
        original_wh: width and height of the image, pixels.
        outside: value of pixels that the processor cropped away: no class, so that they count as wrong.

    Returns:
        int64 `[H, W]`, in pixels of the original image.

    Raises:
        InvalidInputError: if the sizes do not belong together.
    """
    tile = only_tile(geometry)
    if tuple(original_wh) != tuple(geometry.image_wh):
        raise InvalidInputError(f"the geometry is of an image of {geometry.image_wh}, not of {original_wh} (w, h).")
    given = torch.as_tensor(values).detach()
    cell_hw = _cell_hw(tile, tuple(given.shape))
    size_x, size_y = given.shape[-1], given.shape[-2]
    scale = (tile.scale_xy[0] / cell_hw[1], tile.scale_xy[1] / cell_hw[0])
    offset = (tile.offset_xy[0] / cell_hw[1], tile.offset_xy[1] / cell_hw[0])
    columns, seen_x = _nearest(original_wh[0], scale[0], offset[0], size_x)
    rows, seen_y = _nearest(original_wh[1], scale[1], offset[1], size_y)
    made = np.full((original_wh[1], original_wh[0]), outside, dtype=np.int64)
    if not (seen_x.any() and seen_y.any()):
        return made
    if given.ndim == 2:
        made[np.ix_(seen_y, seen_x)] = given.cpu().numpy()[np.ix_(rows[seen_y], columns[seen_x])]
        return made
    at_x = (np.arange(original_wh[0])[seen_x] + 0.5) * scale[0] + offset[0]
    at_y = (np.arange(original_wh[1])[seen_y] + 0.5) * scale[1] + offset[1]
    # Classes are the last axis, so that gathered values are contiguous; 32 pixel rows at a time, since 150 classes of
    # a photograph in full size take hundreds of megabytes.
    cells = given.permute(1, 2, 0).float().contiguous()
    parts = [
        _interpolated(_interpolated(cells, at_y[start : start + 32], 0), at_x, 1).argmax(-1).cpu().numpy()
        for start in range(0, len(at_y), 32)
    ]
    made[np.ix_(seen_y, seen_x)] = np.concatenate(parts)
    return made


def only_tile(geometry: Geometry) -> Tile:
    """The tile of an image in one tile.

    Args:
        geometry: of an image.

    Returns:
        Its only tile.

    Raises:
        InvalidInputError: if the model cuts the image into several tiles.
    """
    if len(geometry.tiles) != 1:
        raise InvalidInputError(f"this needs a model with one tile; this one cuts {len(geometry.tiles)}.")
    return geometry.tiles[0]


def _cell_hw(tile: Tile, shape: tuple[int, ...]) -> tuple[float, float]:
    """Height and width of one value's cell, in pixels of the input."""
    if len(shape) in (2, 3) and shape[-2:] == tuple(tile.input_hw):
        return (1.0, 1.0)
    if len(shape) in (2, 3) and shape[-2:] == tuple(tile.grid_hw):
        return tile.patch_hw
    raise InvalidInputError(
        f"expected logits [classes, h, w] or classes [h, w] with h and w {tile.input_hw} (the input) or {tile.grid_hw} "
        f"(its patches); got {shape}."
    )


def _nearest(count: int, scale: float, offset: float, size: int) -> tuple[np.ndarray, np.ndarray]:
    """For the centres of `count` pixels along one axis: the index of their cell, and whether they lie in one."""
    at = np.floor((np.arange(count) + 0.5) * scale + offset + 1e-9).astype(np.int64)
    return np.clip(at, 0, size - 1), (at >= 0) & (at < size)


def _interpolated(values: Tensor, at: np.ndarray, axis: int) -> Tensor:
    """Interpolates `[h, w, c]` linearly between the centres of cells along an axis; constant beyond the outer
    centres.
    """
    size = values.shape[axis]
    position = torch.as_tensor(np.clip(at - 0.5, 0, size - 1), dtype=torch.float32, device=values.device)
    low = position.floor().long().clamp(max=max(size - 2, 0))
    high = (low + 1).clamp(max=size - 1)
    shape = [1, 1, 1]
    shape[axis] = -1
    return torch.lerp(values.index_select(axis, low), values.index_select(axis, high), (position - low).view(shape))
