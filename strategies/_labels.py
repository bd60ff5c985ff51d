"""Where labels go: inside their regions where they fit, beside them where not, and never over one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: longer side of the grid on which places are searched, at most twice that
SEARCH_SIDE_PX = 400


@dataclass(frozen=True)
class PlacedLabel:
    """A label and its plate.

    Args:
        text: what it says.
        xyxy: its plate, whole pixels of the image, the end not included.
        text_px: height of the text, pixels.
    """

    text: str
    xyxy: tuple[int, int, int, int]
    text_px: int


def place_labels(
    masks: Sequence[np.ndarray], texts: Sequence[str], plates_wh: Sequence[tuple[int, int]], text_px: int
) -> list[PlacedLabel] | None:
    """Places one label per mask.

    Smallest mask first, as there is least room for it: at the pixel deepest inside what smaller masks and labels leave
    of it, if the whole plate fits there; else as near to it as possible without hiding it or other small masks.

    Args:
        masks: bool `[H, W]` each.
        texts: one per mask.
        plates_wh: width and height of each label's plate, pixels.
        text_px: handed on.

    Returns:
        In the order of the masks; None if one finds no place. No two overlap, and all lie inside the image.
    """
    # Large images are searched on a grid of whole steps: plates keep apart on it, so they do in the image.
    step = max(1, max(masks[0].shape) // SEARCH_SIDE_PX)
    grids = [_coarse(mask, step) for mask in masks]
    height, width = grids[0].shape
    areas = np.array([int(mask.sum()) for mask in grids])
    smaller, taken = np.zeros((height, width), dtype=bool), np.zeros((height, width), dtype=bool)
    # What a label hides counts for more the smaller the region it is part of: its pixels are most of it.
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
    """Row and column of the plate's corner; (−1, −1) if labels take all the room there is."""
    w, h = wh
    free = mask & ~smaller & ~taken
    fits = _sums(free, w, h) == w * h
    # Costs are of the plate's middle, and so of the same shape as `fits`.
    middle = (slice(h // 2, h // 2 + fits.shape[0]), slice(w // 2, w // 2 + fits.shape[1]))
    if fits.any():
        rows, columns = np.nonzero(free)
        yy, xx = np.ogrid[: mask.shape[0], : mask.shape[1]]
        # In a rectangle a whole line is deepest: of several the one in the middle.
        central = np.hypot(yy - rows.mean(), xx - columns.mean()) / max(mask.shape)
        cost = (central - depth_inside(free))[middle]
    else:
        fits = _sums(taken, w, h) == 0
        if not fits.any():
            return -1, -1
        # Hiding a whole region costs as much as standing a tenth of the image away from one's own.
        cost = depth_inside(~mask, border=False)[middle] + 0.1 * max(mask.shape) * _sums(worth, w, h)
    row, column = np.unravel_index(int(np.argmin(np.where(fits, cost, np.inf))), fits.shape)
    return int(row), int(column)


def depth_inside(mask: np.ndarray, border: bool = True) -> np.ndarray:
    """Distance of every pixel inside to the nearest outside, float32 `[H, W]`; 0 outside.

    Args:
        mask: bool `[H, W]`.
        border: what lies beyond the image is outside too.
    """
    import cv2

    padded = np.pad(mask, 1, constant_values=not border).astype(np.uint8)
    return cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]


def _coarse(mask: np.ndarray, step: int) -> np.ndarray:
    """Cells of step × step pixels that lie inside, or touch the mask if none does; the rest at the end is left out."""
    if step == 1:
        return mask
    rows, columns = mask.shape[0] // step, mask.shape[1] // step
    cells = mask[: rows * step, : columns * step].reshape(rows, step, columns, step)
    found = cells.all(axis=(1, 3))
    if not found.any():
        found = cells.any(axis=(1, 3))
    if not found.any():  # it lies in the part left out
        row, column = np.argwhere(mask)[0] // step
        found[min(row, rows - 1), min(column, columns - 1)] = True
    return found


def _sums(values: np.ndarray, w: int, h: int) -> np.ndarray:
    """Sum over the w × h window that starts at each pixel, `[H − h + 1, W − w + 1]`."""
    table = np.pad(values.astype(np.float64), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    return table[h:, w:] - table[:-h, w:] - table[h:, :-w] + table[:-h, :-w]
