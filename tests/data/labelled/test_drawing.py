"""Drawing of every group its share: exact numbers, the same for ever."""

from __future__ import annotations

import numpy as np
import pytest

from visprompt.data.labelled.drawing import drawn_by_group

GROUPS = np.array([0] * 12 + [1] * 6 + [2] * 2)


@pytest.mark.parametrize(("count", "shares"), [(10, [6, 3, 1]), (20, [12, 6, 2]), (1, [1, 0, 0])])
def test_shares_are_those_of_the_groups(count: int, shares: list[int]) -> None:
    drawn = drawn_by_group(GROUPS, count, seed=0)
    assert len(set(drawn)) == count
    assert np.bincount(GROUPS[drawn], minlength=3).tolist() == shares


def test_some_of_every_group_are_taken_or_left_if_possible() -> None:
    assert set(GROUPS[drawn_by_group(GROUPS, 3, seed=0, least=1)]) == {0, 1, 2}
    rest = set(range(20)) - set(drawn_by_group(GROUPS, 17, seed=0, left=1))
    assert set(GROUPS[sorted(rest)]) == {0, 1, 2}
    assert len(drawn_by_group(GROUPS, 19, seed=0, left=1)) == 19  # more than what could be left alone


def test_a_seed_gives_the_items_that_it_gave_in_0_4_0() -> None:
    assert drawn_by_group(GROUPS, 4, seed=7) == [19, 0, 3, 13]
    assert len({tuple(drawn_by_group(GROUPS, 4, seed=seed)) for seed in range(6)}) > 1
