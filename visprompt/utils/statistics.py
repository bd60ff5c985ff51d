"""Confidence intervals and paired comparisons of accuracies.

Items of one image are not independent, so if images have several items the bootstrap draws images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Z95 = 1.959963984540054
_RESAMPLES = 4000


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval and its method.

    Attributes:
        low, high: bounds, as fractions in [0, 1] (differences: in [−1, 1]).
        method: "wilson", "Bonett-Price" (differences), or "bootstrap over images".
    """

    low: float
    high: float
    method: str


@dataclass(frozen=True)
class Paired:
    """Comparison of two rows on the same items.

    Attributes:
        difference: mean of correct(this) − correct(other), in [−1, 1].
        interval: its 95 % interval: Bonett and Price's, or a bootstrap if images have several items.
        p_value: exact McNemar test, two-sided; None if images have several items (its assumption fails).
        wins, losses: number of items that only this row, or only the other, answered right.
        n: number of items that both rows answered.
    """

    difference: float
    interval: Interval
    p_value: float | None
    wins: int
    losses: int
    n: int


def wilson(correct: float, n: int) -> tuple[float, float]:
    """Computes Wilson's 95 % interval of a proportion.

    `scipy.stats.binomtest` accepts whole counts only. Here `correct` may be fractional, because saved records store a
    fraction and a count whose product need not be whole (the count can include images that could not be read).

    >>> [round(bound, 4) for bound in wilson(8, 10)]
    [0.4902, 0.9433]

    Args:
        correct: number of right answers, 0 to n.
        n: number of answers.

    Returns:
        Lower and upper bound, in [0, 1].

    Raises:
        ValueError: if `n` is not positive or `correct` is not within 0 … n.
    """
    if n <= 0 or not 0 <= correct <= n:
        raise ValueError(f"expected 0 <= correct <= n and n > 0, got correct={correct}, n={n}")
    share, squared = correct / n, _Z95**2
    centre = (share + squared / (2 * n)) / (1 + squared / n)
    half = _Z95 / (1 + squared / n) * math.sqrt(share * (1 - share) / n + squared / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def ratio_interval(
    mean: float, mean_below: float, squared: float, mixed: float, squared_below: float, n: int
) -> tuple[float, float]:
    """Computes the 95 % interval of a ratio of two means over the same n items, by the delta method.

    >>> low, high = ratio_interval(0.6, 0.2, 0.37, 0.122, 0.041, 100)
    >>> round(low, 3), round(high, 3)
    (2.918, 3.082)

    Args:
        mean: mean of the numerator x.
        mean_below: mean of the denominator y; not 0.
        squared: mean of x².
        mixed: mean of x·y.
        squared_below: mean of y².
        n: number of items, at least 2.

    Returns:
        Lower and upper bound.
    """
    ratio = mean / max(mean_below, 1e-12)
    # of x − ratio · y, whose mean is 0
    variance = squared - 2 * ratio * mixed + ratio**2 * squared_below
    reach = _Z95 * math.sqrt(max(variance, 0.0) / (n - 1)) / max(mean_below, 1e-12)
    return ratio - reach, ratio + reach


def accuracy_interval(correct: Sequence[bool], groups: Sequence[str]) -> Interval:
    """Computes the 95 % interval of an accuracy: Wilson's, or a bootstrap over images if images have several items.

    Args:
        correct: one value per item.
        groups: the image of every item.
    """
    values = np.asarray(correct, dtype=np.float64)
    # At an accuracy of 0 or 1 all resamples are equal and the bootstrap would have width 0, unlike Wilson's interval.
    if len(set(groups)) == len(values) or values.min() == values.max():
        return Interval(*wilson(float(values.sum()), len(values)), "wilson")
    return Interval(*_bootstrap(values, groups), "bootstrap over images")


def paired(this: Sequence[bool], other: Sequence[bool], groups: Sequence[str]) -> Paired:
    """Compares two rows item by item.

    >>> result = paired([True] * 9 + [False], [False] * 9 + [True], [str(i) for i in range(10)])
    >>> result.difference, result.wins, result.losses, round(result.p_value, 4)
    (0.8, 9, 1, 0.0215)

    Args:
        this, other: whether each item was answered right, in the same order.
        groups: the image of every item.
    """
    delta = np.asarray(this, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    wins, losses = int((delta > 0).sum()), int((delta < 0).sum())
    images = len(set(groups))
    clustered = images < len(delta)
    # If no answer differs, or all do, every resample is the same and the bootstrap would have width 0.
    if clustered and delta.min() < delta.max():
        interval = Interval(*_bootstrap(delta, groups), "bootstrap over images")
    else:
        share = images / len(delta)
        interval = Interval(*bonett_price(wins * share, losses * share, images), "Bonett-Price")
    return Paired(float(delta.mean()), interval, None if clustered else mcnemar(wins, losses), wins, losses, len(delta))


def bonett_price(wins: float, losses: float, n: int) -> tuple[float, float]:
    """Computes the 95 % interval of a paired difference of proportions (Bonett and Price 2012).

    The interval has a positive width also without discordant pairs.

    >>> [round(bound, 3) for bound in bonett_price(0, 0, 30)]
    [-0.087, 0.087]

    Args:
        wins, losses: number of items that only the first, or only the second row answered right.
        n: number of items.
    """
    up, down = (wins + 1) / (n + 2), (losses + 1) / (n + 2)
    half = _Z95 * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return max(-1.0, up - down - half), min(1.0, up - down + half)


def mcnemar(wins: int, losses: int) -> float:
    """Computes the p-value of the exact two-sided McNemar test on the discordant pairs: a binomial test of one half.

    >>> mcnemar(0, 0), mcnemar(5, 5)
    (1.0, 1.0)
    """
    if wins + losses == 0:
        return 1.0
    from scipy.stats import binomtest  # imported here because importing scipy is slow

    return float(binomtest(wins, wins + losses, 0.5).pvalue)


def _bootstrap(values: NDArray[np.float64], groups: Sequence[str]) -> tuple[float, float]:
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.bincount(index, weights=values)
    counts = np.bincount(index).astype(np.float64)
    rng = np.random.default_rng(0)
    means = np.empty(_RESAMPLES)
    # In slices: 4000 resamples of 5000 images at once would take 160 MB.
    for start in range(0, _RESAMPLES, 200):
        drawn = rng.integers(len(sums), size=(min(200, _RESAMPLES - start), len(sums)))
        means[start : start + len(drawn)] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
