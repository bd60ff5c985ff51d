"""Random draws from a data set in the proportions of its classes."""

from __future__ import annotations

import numpy as np

#: part of every seed: changing it changes every split
_SALT = 730912


def drawn_by_group(groups: np.ndarray, count: int, seed: int, least: int = 0, left: int = 0) -> list[int]:
    """Draws `count` items at random, in the proportions of the groups.

    Args:
        groups: `[n]`, the group of every item.
        count: number of items to draw, at most n.
        seed: seed of the draw, 0 or more.
        least: number of items of every group to draw, if possible.
        left: number of items of every group to leave, if possible.

    Returns:
        Indices of the items drawn, group by group.
    """
    # Raw doubles of PCG64 are the same in every version of numpy; its shuffles need not be.
    keys = np.random.Generator(np.random.PCG64(np.random.SeedSequence([_SALT, seed]))).random(len(groups))
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    members = [items[np.argsort(keys[items], kind="stable")] for items in members]
    # Ties between equal remainders are broken at random, not by the order of the classes.
    members.sort(key=lambda items: keys[items[0]])
    takes = _shares([len(items) for items in members], count, least, left)
    return [int(item) for items, take in zip(members, takes, strict=True) for item in items[:take]]


def _shares(sizes: list[int], count: int, least: int, left: int) -> list[int]:
    """Returns how many items to take from each group, in proportion to the groups' sizes (largest-remainder method).

    >>> _shares([90, 9, 1], 50, 0, 1), _shares([90, 9, 1], 10, 1, 0)
    ([45, 5, 0], [8, 1, 1])
    """
    total = sum(sizes)
    least = least if least * len(sizes) <= count else 0
    wanted = [count * size / total for size in sizes]
    takes = [
        min(max(int(want), min(least, size)), max(size - left, 0)) for want, size in zip(wanted, sizes, strict=True)
    ]
    for spare in (left, 0):  # second round: items that should be left are taken if no others remain
        while sum(takes) < count:
            open_ = [group for group, size in enumerate(sizes) if takes[group] < size - spare]
            if not open_:
                break
            takes[max(open_, key=lambda group: wanted[group] - takes[group])] += 1
    while sum(takes) > count:
        full = [group for group, take in enumerate(takes) if take > least]
        takes[max(full, key=lambda group: takes[group] - wanted[group])] -= 1
    return takes
