"""Chooses objects, sizes and positions of a scene before anything is painted.

There are three kinds of layout: any objects, *hard* (few colours and shapes, so that distractors share a colour or a
shape with the target) and *twin* (two equal objects that differ only in position).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from visprompt.data.scenes.draw import COLOUR_RGB, SHAPE_CONTOURS

COLOURS: tuple[str, ...] = tuple(COLOUR_RGB)
SHAPES: tuple[str, ...] = tuple(SHAPE_CONTOURS)
# Radius of the circle around the shape, as a fraction of the image's shorter side.
SIZES: dict[str, float] = {"small": 0.115, "medium": 0.145, "large": 0.18}
MAX_OBJECTS = 6
# Smallest distance of two centres, as a fraction of the sum of the radii: objects overlap at their edges only.
MIN_DISTANCE = 0.72
# "On the left" is a centre under 0.42 of the width, "on the right" one over 0.58; likewise top and bottom.
POSITION_MARGIN = 0.08
# Twins are farther from the middle, so that "left" is never ambiguous.
TWIN_MARGIN = 0.12
POSITIONS: dict[str, tuple[int, int]] = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}


@dataclass(frozen=True)
class Placement:
    """One object to paint: indices into ``COLOURS`` and ``SHAPES``, name of the size, radius and centre in pixels."""

    colour: int
    shape: int
    size: str
    radius_px: float
    centre_xy: tuple[float, float]


def draw_pairs(rng: np.random.Generator, n_objects: int, hard: bool) -> list[tuple[int, int]]:
    """Draws (colour, shape) for every object; in a hard scene the first one is the target and occurs once.

    In a hard scene there are 2 or 3 colours and 2 or 3 shapes, and the target shares its colour or its shape with at
    least one other object.

    Args:
        rng: Random generator for all draws.
        n_objects: Number of objects.
        hard: True: the rules of hard scenes apply.

    Returns:
        Indices into ``COLOURS`` and ``SHAPES``, per object.
    """
    if not hard:
        return [(int(c), int(s)) for c, s in rng.integers(8, size=(n_objects, 2))]
    colours = rng.permutation(8)[: int(rng.integers(2, 4))]
    shapes = rng.permutation(8)[: int(rng.integers(2, 4))]
    pool = [(int(c), int(s)) for c in colours for s in shapes]
    target = pool[int(rng.integers(len(pool)))]
    others = [pair for pair in pool if pair != target]
    alike = [pair for pair in others if pair[0] == target[0] or pair[1] == target[1]]
    chosen = [target, alike[int(rng.integers(len(alike)))]]
    chosen += [others[int(rng.integers(len(others)))] for _ in range(n_objects - 2)]
    return chosen


def place(
    rng: np.random.Generator, pairs: list[tuple[int, int]], size_wh: tuple[int, int], twin_axis: int | None = None
) -> list[Placement]:
    """Draws a size and a position for every object; objects overlap at their edges only.

    Args:
        rng: Random generator for all draws.
        pairs: (colour, shape) per object.
        size_wh: Width and height of the image in pixels.
        twin_axis: 0 or 1: the first two pairs are twins, equal in size and on opposite sides along x or y. None: no
            twins.

    Returns:
        One ``Placement`` per pair, in the same order.

    Raises:
        RuntimeError: If the objects do not fit into the image.
    """
    names = tuple(SIZES)
    short = float(min(size_wh))
    for attempt in range(100):
        # Crowded layouts that do not fit are tried again with smaller sizes, in the end below the smallest.
        largest = 3 if attempt < 3 else 1
        shrink = 1.0 if attempt < 12 else max(0.95 ** (attempt - 11), 0.3)
        sizes = [names[int(i)] for i in rng.integers(largest, size=len(pairs))]
        jitter = 1.0 + (rng.random(len(pairs)) - 0.5) * 0.12
        if twin_axis is not None:
            sizes[1], jitter[1] = sizes[0], jitter[0]
        radii = [SIZES[size] * float(j) * shrink * short for size, j in zip(sizes, jitter, strict=True)]
        centres = _centres(rng, radii, size_wh, twin_axis)
        if centres is not None:
            rows = zip(pairs, sizes, radii, centres, strict=True)
            return [Placement(c, s, size, r, xy) for (c, s), size, r, xy in rows]
    raise RuntimeError(f"no room for {len(pairs)} objects in an image of {size_wh[0]} x {size_wh[1]} px")


def _centres(
    rng: np.random.Generator, radii: list[float], size_wh: tuple[int, int], twin_axis: int | None
) -> list[tuple[float, float]] | None:
    placed: list[tuple[float, float]] = []
    first_side = int(rng.integers(2)) if twin_axis is not None else 0
    for i, radius in enumerate(radii):
        low = np.array([radius + 0.5, radius + 0.5])
        high = np.array(size_wh, dtype=np.float64) - low
        if twin_axis is not None and i < 2:
            middle, margin = 0.5 * size_wh[twin_axis], TWIN_MARGIN * size_wh[twin_axis]
            if (i + first_side) % 2 == 0:
                high[twin_axis] = middle - margin
            else:
                low[twin_axis] = middle + margin
        if np.any(high <= low):
            return None
        options = low + rng.random((24, 2)) * (high - low)
        if placed:
            distance = np.hypot(*(options[:, None, :] - np.array(placed)[None]).transpose(2, 0, 1))
            free = (distance >= MIN_DISTANCE * (radius + np.array(radii[:i]))).all(axis=1)
            if not free.any():
                return None
            options = options[free]
        placed.append((float(options[0, 0]), float(options[0, 1])))
    return placed
