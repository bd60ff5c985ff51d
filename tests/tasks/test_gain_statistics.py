"""Intervals of the attention gain."""

from __future__ import annotations

import numpy as np
import pytest

from visprompt.tasks.gain import compared, summary


def test_intervals_hold_what_they_promise() -> None:
    """Of many draws from a world whose gain is known, about 95 % of the intervals cover it."""
    rng = np.random.default_rng(3)
    covered, ratios = 0, 0
    for _ in range(120):
        plain = rng.gamma(4, 0.05, size=80)
        patch, circle = plain * rng.gamma(9, 3 / 9, size=80), plain * rng.gamma(9, 1.5 / 9, size=80)
        (found,) = summary(patch[:, None], plain[:, None], [0])
        covered += found.low <= 2.0 <= found.high
        ratio = compared(patch, circle, plain)
        assert ratio.ratio_low is not None
        ratios += ratio.ratio_low <= 4.0 and (ratio.ratio_high is None or ratio.ratio_high >= 4.0)
    assert 106 <= covered <= 120
    assert 106 <= ratios <= 120


def test_summary_is_a_plain_bootstrap_of_a_ratio_of_means() -> None:
    rng = np.random.default_rng(0)
    plain = rng.gamma(2, 0.1, size=(60, 2))
    marked = plain * rng.gamma(5, 0.5, size=(60, 2))
    found = summary(marked, plain, [3, 4])
    own = np.random.default_rng(9)
    for place, item in enumerate(found):
        assert item.gain == pytest.approx(marked[:, place].mean() / plain[:, place].mean() - 1)
        values = []
        for _ in range(3000):
            drawn = own.integers(60, size=60)
            values.append(marked[drawn, place].sum() / plain[drawn, place].sum() - 1)
        low, high = np.quantile(values, [0.025, 0.975])
        assert item.low == pytest.approx(low, abs=0.06)
        assert item.high == pytest.approx(high, abs=0.06)


def test_pairs_are_more_certain_than_their_parts() -> None:
    rng = np.random.default_rng(1)
    plain = rng.gamma(2, 0.1, size=200)
    circle = plain * rng.gamma(4, 0.4, size=200)
    patch = 1.1 * circle
    found = compared(patch, circle, plain)
    assert found.difference == pytest.approx((patch.mean() - circle.mean()) / plain.mean())
    assert found.low > 0
    (alone,) = summary(patch[:, None], plain[:, None], [0])
    assert found.high - found.low < 0.3 * (alone.high - alone.low)


@pytest.mark.parametrize(("circle", "told"), [(0.9, "none"), (1.02, "open"), (2.0, "closed")])
def test_a_ratio_to_next_to_nothing_is_not_told(circle: float, told: str) -> None:
    rng = np.random.default_rng(2)
    plain = np.full(100, 0.2)
    found = compared(plain * rng.normal(3, 0.3, 100), plain * rng.normal(circle, 0.3, 100), plain)
    if told == "none":
        assert (found.ratio, found.ratio_low, found.ratio_high) == (None, None, None)
    elif told == "open":
        assert None not in (found.ratio, found.ratio_low)
        assert found.ratio_high is None
    else:
        assert found.ratio == pytest.approx(2.0, rel=0.15)
        low, high = found.ratio_low, found.ratio_high
        assert low is not None
        assert high is not None
        assert low < 2.0 < high
    assert found.low < found.difference < found.high
