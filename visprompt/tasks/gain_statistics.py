"""Attention gain from masses: what is drawn with a marker against without, with bootstrap intervals over the images."""

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
        block: its number.
        gain: `(mass − mass_without) / mass_without`, of the means over the images.
        low: lower end of its 95 % interval, a bootstrap over images.
        high: upper end.
        mass: mean share of the attention over the patches that the marked tokens get.
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
    """One marker's gain in a block against another's at the same places of the same images.

    Args:
        ratio: one gain over the other; None where the other is not above 0, so that a ratio means nothing.
        ratio_low: lower end of its 95 % interval, a bootstrap that draws images with both markers' masses.
        ratio_high: upper end; None: no upper bound, since the other's gain may be 0.
        difference: one gain minus the other.
        low: lower end of its 95 % interval.
        high: upper end.
    """

    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    difference: float
    low: float
    high: float


def summary(masses: Masses, without: Masses, blocks: Sequence[int]) -> tuple[BlockGain, ...]:
    """Gain per block with its interval.

    Args:
        masses, without: `[n, B]`.
        blocks: numbers of the B blocks.
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
    """Two markers' gains in one block, image by image on the same places.

    Args:
        these, others, without: `[n]`, masses with one marker, with the other, and without any.

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
    # Where the other gains nothing in a resample, the ratio is beyond any number, on the side of what is gained.
    ratios = np.where(other > 0, one / np.where(other > 0, other, 1.0), np.where(one > 0, np.inf, -np.inf))
    ends = [float(item) for item in np.quantile(ratios, [0.025, 0.975], method="inverted_cdf")]
    bounds = [item if np.isfinite(item) else None for item in ends]
    return GainRatio(mine / its, bounds[0], bounds[1], mine - its, float(low), float(high))


def _gain(mass: Any, plain: Any) -> Any:
    return mass / plain - 1


@functools.lru_cache(maxsize=1)
def _draws(count: int) -> Masses:
    """Bootstrap resamples of `count` images, as the weight of every image in every resample, `[R, n]`."""
    rng = np.random.default_rng(0)
    return rng.multinomial(count, np.full(count, 1 / count), size=_RESAMPLES) / count


def mass_on(values: NDArray[np.float32], under: NDArray[np.float32]) -> Masses:
    """Share of the attention on what is covered, `[B]`: mean over heads, sum 1 over the patches.

    Args:
        values: `[B, H, P]`, attention over the patches.
        under: `[P]`, how much of every patch is covered.
    """
    mean = values.astype(np.float64).mean(axis=1)
    return np.asarray((mean / mean.sum(axis=1, keepdims=True)) @ under)
