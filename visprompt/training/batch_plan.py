"""Which images a step sees: a function of seed, epoch and step, so that a run goes on where it was.

A step's images do not depend on how they are spread: one process with batches of 16 sees the same as two with 8.
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
        images: how many there are.
        batch_size: images per process and forward.
        accumulate: forwards per step.
        processes: how many share a step.
        epochs: passes over the images.
        max_steps: ends the run earlier, or None.
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
        """Images of a full step."""
        return self.batch_size * self.accumulate * self.processes

    @property
    def steps_per_epoch(self) -> int:
        return math.ceil(self.images / self.per_step)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        whole = self.steps_per_epoch * self.epochs
        return whole if self.max_steps is None else min(whole, self.max_steps)

    def step(self, number: int) -> list[int]:
        """The images of step `number`, counted over all epochs; the last step of an epoch may have fewer.

        >>> plan = Plan(5, 2, 1, 1, epochs=2, max_steps=None, seed=0)
        >>> sorted(plan.step(0) + plan.step(1) + plan.step(2))
        [0, 1, 2, 3, 4]
        """
        epoch, place = divmod(number, self.steps_per_epoch)
        order = _order(self.seed, epoch, self.images)
        return [int(index) for index in order[place * self.per_step : (place + 1) * self.per_step]]

    def batches(self, number: int, process: int) -> list[list[int]]:
        """What one process sees of a step, forward by forward; may be empty at the end of an epoch."""
        own = self.step(number)[process :: self.processes]
        return [own[start : start + self.batch_size] for start in range(0, len(own), self.batch_size)]

    def draw(self, epoch: int, index: int) -> int:
        """A seed for what is random about an image in an epoch."""
        state = np.random.SeedSequence([self.seed, epoch, index]).generate_state(2)
        return int(state[0]) << 31 ^ int(state[1])


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, images: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64([seed, epoch, 7])).permutation(images)


class Keys:
    """For a `DataLoader`: the keys `(index, epoch)` of all forwards from a step on, lazily.

    Args:
        plan: the plan.
        process: whose part.
        start: first step.
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
    """Share of the peak learning rate at a step: linear warm-up, then a cosine to 0.

    >>> [round(schedule(step, 10, 2), 3) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.038]

    Args:
        step: from 0.
        steps: of the whole run.
        warmup: steps over which it rises; need not be whole.
    """
    if step < warmup:
        return min((step + 1) / warmup, 1.0)  # of 2.5 steps, the third is there already
    done = (step - warmup) / max(steps - warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
