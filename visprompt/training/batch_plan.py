"""Which images each optimiser step sees: a function of seed, epoch and step, so that a resumed run continues exactly.

The images of a step do not depend on the number of processes: one process with batches of 16 sees the same as two with
8.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from visprompt.utils.renamed import renamed_attributes


@renamed_attributes(pictures="images")
@dataclass(frozen=True)
class Plan:
    """The order of the training images.

    Args:
        images: number of training images.
        batch_size: images per process and forward.
        accumulate: forwards per optimiser step.
        processes: number of processes that share a step.
        epochs: passes over the images.
        max_steps: optimiser steps after which the run ends earlier, or None.
        seed: of the order.
    """

    images: int
    batch_size: int
    accumulate: int
    processes: int
    epochs: int
    max_steps: int | None
    seed: int

    @property
    def per_step(self) -> int:
        """Images of a full optimiser step, over all processes."""
        return self.batch_size * self.accumulate * self.processes

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one pass over the images."""
        return math.ceil(self.images / self.per_step)

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        whole = self.steps_per_epoch * self.epochs
        return whole if self.max_steps is None else min(whole, self.max_steps)

    def step(self, number: int) -> list[int]:
        """Indices of the images of one step; the last step of an epoch may have fewer.

        >>> plan = Plan(5, 2, 1, 1, epochs=2, max_steps=None, seed=0)
        >>> sorted(plan.step(0) + plan.step(1) + plan.step(2))
        [0, 1, 2, 3, 4]

        Args:
            number: the step, from 0, counted over all epochs.

        Returns:
            Indices into the training images, at most `per_step`.
        """
        epoch, index_in_epoch = divmod(number, self.steps_per_epoch)
        order = _order(self.seed, epoch, self.images)
        start = index_in_epoch * self.per_step
        return [int(index) for index in order[start : start + self.per_step]]

    def batches(self, number: int, process: int) -> list[list[int]]:
        """Indices of the images that one process sees in a step, per forward.

        Args:
            number: the step, from 0, counted over all epochs.
            process: number of the process, from 0.

        Returns:
            One list of at most `batch_size` indices per forward; may be empty at the end of an epoch.
        """
        own = self.step(number)[process :: self.processes]
        return [own[start : start + self.batch_size] for start in range(0, len(own), self.batch_size)]

    def draw(self, epoch: int, index: int) -> int:
        """A seed for the random choices about one image in one epoch.

        Args:
            epoch: from 0.
            index: of the image.

        Returns:
            A whole number below 2⁶³.
        """
        state = np.random.SeedSequence([self.seed, epoch, index]).generate_state(2)
        return int(state[0]) << 31 ^ int(state[1])


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, images: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64([seed, epoch, 7])).permutation(images)


class Keys:
    """Batch sampler of a `DataLoader`: lazily gives the keys `(index, epoch)` of every forward from a step on.

    Args:
        plan: the order of the images.
        process: number of the process, from 0.
        start: first step, from 0.
    """

    def __init__(self, plan: Plan, process: int, start: int) -> None:
        self.plan, self.process, self.start = plan, process, start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for number in range(self.start, self.plan.steps):
            epoch = number // self.plan.steps_per_epoch
            for batch in self.plan.batches(number, self.process):
                yield [(index, epoch) for index in batch]

    def __len__(self) -> int:
        return sum(len(self.plan.batches(number, self.process)) for number in range(self.start, self.plan.steps))


def schedule(step: int, steps: int, warmup: float) -> float:
    """Learning rate at a step as a fraction of its peak: linear warm-up, then a cosine to 0.

    >>> [round(schedule(step, 10, 2), 3) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.038]

    Args:
        step: from 0.
        steps: steps of the whole run.
        warmup: steps over which the rate rises; need not be whole.

    Returns:
        A factor from 0 to 1.
    """
    if step < warmup:
        return min((step + 1) / warmup, 1.0)  # with 2.5 warm-up steps, the third step has the peak
    done = (step - warmup) / max(steps - warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
