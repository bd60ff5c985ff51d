"""Intervals and paired comparisons against what they are defined by."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binomtest

from visprompt.utils.statistics import accuracy_interval, mcnemar, paired, wilson


class TestStatistics:
    @pytest.mark.parametrize(("correct", "n"), [(0, 10), (10, 10), (5, 10), (930, 1000)])
    def test_wilson_solves_its_own_equation(self, correct: int, n: int) -> None:
        for bound in wilson(correct, n):
            if 0 < bound < 1:
                assert abs(correct / n - bound) == pytest.approx(
                    1.959964 * math.sqrt(bound * (1 - bound) / n), abs=1e-6
                )

    @pytest.mark.parametrize("n", [1, 7, 100, 4999])
    def test_wilson_is_that_of_scipy(self, n: int) -> None:
        for correct in {0, 1, n // 3, n - 1, n}:
            expected = binomtest(correct, n).proportion_ci(0.95, method="wilson")
            assert wilson(correct, n) == pytest.approx((expected.low, expected.high), rel=0, abs=1e-12)

    def test_mcnemar_is_the_sum_that_it_was(self) -> None:
        """Against the sum of binomials in logarithms that 0.4.0 had."""
        for wins, losses in itertools.product((0, 1, 2, 9, 30, 120), (0, 1, 3, 10, 31, 119)):
            n = wins + losses
            logs = [
                math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2.0)
                for k in range(min(wins, losses) + 1)
            ]
            peak = max(logs)
            before = min(1.0, 2.0 * math.exp(peak) * sum(math.exp(value - peak) for value in logs)) if n else 1.0
            assert mcnemar(wins, losses) == pytest.approx(before, rel=0, abs=1e-12)

    def test_mcnemar_against_counting(self) -> None:
        for wins, losses in itertools.product(range(6), range(6)):
            n = wins + losses
            tail = sum(math.comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n
            assert mcnemar(wins, losses) == pytest.approx(min(1.0, 2 * tail))
        assert 0 <= mcnemar(5000, 100) < 1e-100

    def test_equal_answers_do_not_claim_certainty(self) -> None:
        ids = [str(i) for i in range(50)]
        for groups in (ids, [str(i // 2) for i in range(50)]):
            result = paired([True] * 50, [True] * 50, groups)
            assert result.difference == 0
            assert result.interval.low < -0.03 < 0.03 < result.interval.high
            assert paired([True] * 50, [False] * 50, groups).interval.low < 0.99

    def test_intervals_of_differences_cover(self) -> None:
        rng = np.random.default_rng(0)
        ids = [str(i) for i in range(80)]
        hits = 0
        for _ in range(200):
            this, other = rng.random(80) < 0.8, rng.random(80) < 0.6
            interval = paired(list(this), list(other), ids).interval
            hits += interval.low <= 0.2 <= interval.high
        assert 0.9 <= hits / 200 <= 1.0

    def test_images_with_several_items_are_resampled_as_one(self) -> None:
        correct = [bool(i % 3) for i in range(60)] * 10
        alone = accuracy_interval(correct, [str(i) for i in range(600)])
        grouped = accuracy_interval(correct, [str(i % 60) for i in range(600)])
        assert (alone.method, grouped.method) == ("wilson", "bootstrap over images")
        assert grouped.high - grouped.low > 2 * (alone.high - alone.low)
        result = paired(correct, [False] * 600, [str(i % 60) for i in range(600)])
        assert result.p_value is None
        assert result.difference == pytest.approx(2 / 3)
        assert accuracy_interval([True] * 4, ["a", "a", "b", "b"]).low < 1
