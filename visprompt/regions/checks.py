"""Aliases of coordinate types, and checks of the numbers that regions are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from visprompt.errors import InvalidInputError
from visprompt.regions.coco import short

Xyxy: TypeAlias = tuple[float, float, float, float]
Pair: TypeAlias = tuple[float, float]
Size: TypeAlias = tuple[int, int]


def plain_array(value: Any) -> np.ndarray:
    """Converts an array, tensor or nested list to a numpy array.

    Args:
        value: anything that numpy converts; tensors are detached and moved to the CPU.

    Returns:
        The array.

    Raises:
        InvalidInputError: if numpy cannot convert it.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    try:
        return np.asarray(value)
    except (ValueError, TypeError):
        raise InvalidInputError(f"{short(value)} is not an array of numbers.") from None


def finite_numbers(what: str, names: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """Converts coordinates to floats and checks them.

    Args:
        what: subject of the message, e.g. `"a box"`.
        names: names of the coordinates, for the message.
        values: the coordinates.

    Returns:
        As many floats.

    Raises:
        InvalidInputError: if one is not a finite number.
    """
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise InvalidInputError(f"{what} needs numbers ({names}); got {short(tuple(values))}.") from None
    if not all(math.isfinite(number) for number in numbers):
        raise InvalidInputError(
            f"{what} needs finite numbers ({names}); got {numbers}. Leave out regions that are NaN."
        )
    return numbers


def checked_size(wh: Any) -> Size:
    """Checks the size of an image.

    Args:
        wh: (width, height), pixels.

    Returns:
        Two positive ints.

    Raises:
        InvalidInputError: for anything else.
    """
    try:
        width, height = wh
        width, height = int(width), int(height)
    except (TypeError, ValueError):
        raise InvalidInputError(f"wh is the image's (width, height) in pixels; got {short(wh)}.") from None
    if width <= 0 or height <= 0:
        raise InvalidInputError(
            f"wh is the image's (width, height) in pixels and must be positive; got ({width}, {height})."
        )
    return width, height


def pixel_overlaps(low: float, high: float, count: int) -> np.ndarray:
    """Length of an interval in each of the cells [0, 1], [1, 2], …

    Args:
        low: where the interval begins.
        high: where it ends.
        count: number of cells.

    Returns:
        `[count]` float64 in [0, 1].
    """
    edges = np.arange(count + 1, dtype=np.float64)
    return np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0.0, 1.0)
