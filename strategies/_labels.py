"""Positions of labels: inside their regions where they fit, otherwise beside them, and never overlapping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: images with a longer side of twice this or more are searched for positions on a coarser grid
SEARCH_SIDE_PX = 400


@dataclass(frozen=True)
class PlacedLabel:
    """A label and the position of its plate.

    Args:
        text: the text.
        xyxy: the plate, whole pixels of the image, right and bottom excluded.
        text_px: height of the text, pixels.
    """

    text: str
    xyxy: tuple[int, int, int, int]
    text_px: int


def place_labels(
    masks: Sequence[np.ndarray], texts: Sequence[str], plates_wh: Sequence[tuple[int, int]], text_px: int
) -> list[PlacedLabel] | None:
    """Finds a position for one label per mask.

    Masks are taken from the smallest to the largest. A label is put at the pixel deepest inside the part of its mask
    that smaller masks and labels leave free, if the whole plate fits; otherwise as near to the mask as possible without
    hiding it or other small masks.

    Args:
        masks: bool `[H, W]` each.
        texts: one per mask.
        plates_wh: width and height of each label's plate, pixels.
        text_px: height of the text, stored in the result.

    Returns:
        Labels in the order of the masks, inside the image and without overlap; None if one does not fit.
    """
    # Large images are searched on a coarser grid; plates that do not overlap on it do not overlap in the image.
    step = max(1, max(masks[0].shape) // SEARCH_SIDE_PX)
    grids = [_coarse(mask, step) for mask in masks]
    height, width = grids[0].shape
    areas = np.array([int(mask.sum()) for mask in grids])
    smaller, taken = np.zeros((height, width), dtype=bool), np.zeros((height, width), dtype=bool)
    # A hidden pixel costs 1 / area of its region, so that small regions stay visible.
    worth = np.zeros((height, width), dtype=np.float32)
    for mask, area in zip(grids, areas, strict=True):
        np.maximum(worth, mask / np.float32(area), out=worth)
    found: dict[int, PlacedLabel] = {}
    for index in map(int, np.argsort(areas, kind="stable")):
        plate = plates_wh[index]
        w, h = -(-plate[0] // step), -(-plate[1] // step)
        if w > width or h > height:
            return None
        row, column = _best_place(grids[index], smaller, taken, worth, (w, h))
        if row < 0:
            return None
        taken[row : row + h, column : column + w] = True
        smaller |= grids[index]
        left, top = column * step, row * step
        found[index] = PlacedLabel(texts[index], (left, top, left + plate[0], top + plate[1]), text_px)
    return [found[index] for index in range(len(masks))]


def _best_place(
    mask: np.ndarray, smaller: np.ndarray, taken: np.ndarray, worth: np.ndarray, wh: tuple[int, int]
) -> tuple[int, int]:
    """Row and column of the plate's upper left corner; (−1, −1) if labels leave no room."""
    w, h = wh
    free = mask & ~smaller & ~taken
    fits = _sums(free, w, h) == w * h
    # Costs are taken at the plate's middle, which gives them the shape of `fits`.
    middle = (slice(h // 2, h // 2 + fits.shape[0]), slice(w // 2, w // 2 + fits.shape[1]))
    if fits.any():
        rows, columns = np.nonzero(free)
        yy, xx = np.ogrid[: mask.shape[0], : mask.shape[1]]
        # Of several deepest pixels (a line in a rectangle) the one nearest to the mean position.
        central = np.hypot(yy - rows.mean(), xx - columns.mean()) / max(mask.shape)
        cost = (central - depth_inside(free))[middle]
    else:
        fits = _sums(taken, w, h) == 0
        if not fits.any():
            return -1, -1
        # Hiding a whole region costs as much as a distance of a tenth of the image from the label's own region.
        cost = depth_inside(~mask, border=False)[middle] + 0.1 * max(mask.shape) * _sums(worth, w, h)
    row, column = np.unravel_index(int(np.argmin(np.where(fits, cost, np.inf))), fits.shape)
    return int(row), int(column)


def depth_inside(mask: np.ndarray, border: bool = True) -> np.ndarray:
    """Distance of every pixel inside a mask to the nearest pixel outside.

    Args:
        mask: bool `[H, W]`.
        border: whether pixels beyond the image count as outside.

    Returns:
        float32 `[H, W]`, pixels; 0 outside.
    """
    import cv2

    padded = np.pad(mask, 1, constant_values=not border).astype(np.uint8)
    return cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]


def _coarse(mask: np.ndarray, step: int) -> np.ndarray:
    """Reduces a mask to cells of step × step pixels that lie inside it; if none does, to the cells that touch it."""
    if step == 1:
        return mask
    rows, columns = mask.shape[0] // step, mask.shape[1] // step
    cells = mask[: rows * step, : columns * step].reshape(rows, step, columns, step)
    found = cells.all(axis=(1, 3))
    if not found.any():
        found = cells.any(axis=(1, 3))
    if not found.any():  # the mask lies in the rest beyond the last whole cell
        row, column = np.argwhere(mask)[0] // step
        found[min(row, rows - 1), min(column, columns - 1)] = True
    return found


def _sums(values: np.ndarray, w: int, h: int) -> np.ndarray:
    """Sums over the w × h window that starts at each pixel, `[H − h + 1, W − w + 1]`."""
    table = np.pad(values.astype(np.float64), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    return table[h:, w:] - table[:-h, w:] - table[h:, :-w] + table[:-h, :-w]
