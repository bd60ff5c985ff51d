"""Attention gain from masses with and without a marker, with bootstrap intervals over images."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Masses = NDArray[np.float64]
_RESAMPLES = 2000


@dataclass(frozen=True)
class BlockGain:
    """Gain in one block.

    Args:
        block: number of the block.
        gain: `(mass − mass_without) / mass_without`, with masses averaged over images.
        low: lower end of the 95 % interval, a bootstrap over images.
        high: upper end of the 95 % interval.
        mass: mean fraction of the attention over the patches that is on the marked tokens.
        mass_without: the same without the marker.
    """

    block: int
    gain: float
    low: float
    high: float
    mass: float
    mass_without: float


@dataclass(frozen=True)
class GainRatio:
    """Two markers' gains in one block, compared on the same positions of the same images.

    Args:
        ratio: first gain divided by the second; None if the second is not above 0.
        ratio_low: lower end of the ratio's 95 % interval, a bootstrap that draws images with both markers' masses.
        ratio_high: upper end; None: unbounded, because the second gain may be 0.
        difference: first gain minus the second.
        low: lower end of the difference's 95 % interval.
        high: upper end of the difference's 95 % interval.
    """

    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    difference: float
    low: float
    high: float


def summary(masses: Masses, without: Masses, blocks: Sequence[int]) -> tuple[BlockGain, ...]:
    """Computes the gain per block with its interval.

    Args:
        masses, without: `[n, B]`, with and without the marker.
        blocks: numbers of the B blocks.

    Returns:
        One `BlockGain` per block.
    """
    drawn = _draws(len(masses))
    with np.errstate(divide="ignore", invalid="ignore"):
        gains = _gain(masses.mean(axis=0), without.mean(axis=0))
        low, high = np.quantile(_gain(drawn @ masses, drawn @ without), [0.025, 0.975], axis=0)
    return tuple(
        BlockGain(
            block,
            float(gains[index]),
            float(low[index]),
            float(high[index]),
            float(masses[:, index].mean()),
            float(without[:, index].mean()),
        )
        for index, block in enumerate(blocks)
    )


def compared(these: Masses, others: Masses, without: Masses) -> GainRatio:
    """Compares two markers' gains in one block, image by image on the same positions.

    Args:
        these, others, without: `[n]`, masses with the first marker, with the second, and without any.

    Returns:
        Ratio and difference with intervals.

    >>> import numpy as np
    >>> round(compared(np.full(9, 0.5), np.full(9, 0.3), np.full(9, 0.2)).ratio, 6)
    3.0
    """
    drawn = _draws(len(these))
    plain = drawn @ without
    one, other = _gain(drawn @ these, plain), _gain(drawn @ others, plain)
    mine, its = (float(_gain(item.mean(), without.mean())) for item in (these, others))
    low, high = np.quantile(one - other, [0.025, 0.975])
    if its <= 0:
        return GainRatio(None, None, None, mine - its, float(low), float(high))
    # If the other gain is not positive in a resample, the ratio is infinite, with the sign of the first gain.
    ratios = np.where(other > 0, one / np.where(other > 0, other, 1.0), np.where(one > 0, np.inf, -np.inf))
    ends = [float(item) for item in np.quantile(ratios, [0.025, 0.975], method="inverted_cdf")]
    bounds = [item if np.isfinite(item) else None for item in ends]
    return GainRatio(mine / its, bounds[0], bounds[1], mine - its, float(low), float(high))


def _gain(mass: Any, plain: Any) -> Any:
    return mass / plain - 1


@functools.lru_cache(maxsize=1)
def _draws(count: int) -> Masses:
    """Returns bootstrap resamples of `count` images as weights of the images, `[R, n]`."""
    rng = np.random.default_rng(0)
    return rng.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES) / count


def mass_on(values: NDArray[np.float32], under: NDArray[np.float32]) -> Masses:
    """Computes the fraction of the attention on covered patches.

    Args:
        values: `[B, H, P]`, attention of the readout over P patches, per block and head.
        under: `[P]`, covered fraction of every patch, 0 to 1.

    Returns:
        `[B]`, averaged over heads; the attention over all patches is normalised to 1.
    """
    mean = values.astype(np.float64).mean(axis=1)
    return np.asarray((mean / mean.sum(axis=1, keepdims=True)) @ under)
