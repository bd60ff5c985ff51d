"""What the recipes have in common: how images enter, the learning rate, where patches start from, the log."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visprompt.utils.files import replacing

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def normalised(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn uint8 ``(n, h, w, 3)`` into the processor's ``(n, 3, h, w)``."""
    x = images.permute(0, 3, 1, 2).float() / 255
    return ((x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]).to(dtype)


def position_waves(side: int, width: int) -> Tensor:
    """Sines and cosines of row and column for a grid of patches, ``(side * side, width)``, root mean square 0.71.

    The slowest wave is 1/100 radian per patch or more: a grid of 8 needs no slower ones.
    """
    quarter = width // 4
    frequency = 1.0 / 10.0 ** (torch.arange(quarter) / quarter * 2.0)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    waves = [wave(axis.reshape(-1, 1) * frequency) for axis in (rows, columns) for wave in (torch.sin, torch.cos)]
    return torch.cat(waves, dim=1)


def cosine_lr(step: int, steps: int, peak: float, warmup_steps: int) -> float:
    """Learning rate at a step: linear warm-up to ``peak``, then a cosine that ends at zero after ``steps``."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(steps - warmup_steps, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def one_thread(_worker: int) -> None:
    """Keep a loader's process to one thread: the others belong to the training process."""
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def batches(steps: torch.utils.data.Dataset[Any], first: int, last: int) -> torch.utils.data.DataLoader[Any]:
    """The batches of the steps from ``first`` up to ``last``, made ahead in a process of their own."""
    return torch.utils.data.DataLoader(
        steps,
        batch_size=None,
        sampler=range(first, last),
        num_workers=1,
        prefetch_factor=6,
        worker_init_fn=one_thread,
    )


def keep(checkpoint: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint as a whole: a kill leaves the one before."""
    with replacing(checkpoint) as partial:
        torch.save(state, partial)


def decay_groups(
    parameters: Mapping[str, Tensor], weight_decay: float, is_plain: Callable[[str, Tensor], bool]
) -> list[dict[str, Any]]:
    """Groups for an optimiser: weights that decay, and those that do not: where ``is_plain(name, weight)`` holds."""
    plain = [p for n, p in parameters.items() if is_plain(n, p)]
    decayed = [p for n, p in parameters.items() if not is_plain(n, p)]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


class Log:
    """Means over the steps since the last line, the pace and the time left; one JSON object a line.

    Args:
        path: The file; lines are appended.
        steps: Of the whole run.
        step: At which this process begins.
        digits: Decimal places by the name of what is measured, in the order of the values of `add`.
    """

    #: steps between lines
    EVERY = 50

    def __init__(self, path: Path, steps: int, step: int, digits: Mapping[str, int]) -> None:
        self.path, self.steps, self.digits = path, steps, dict(digits)
        self.began, self.began_at, self.sums = time.monotonic(), step, torch.zeros(len(digits))

    def add(self, values: Tensor) -> None:
        """Adds what one step measured, one value for every name."""
        self.sums += values

    def line(self, step: int, lr: float, **more: Any) -> dict[str, Any]:
        """The line after ``step`` steps, with ``more`` behind the means; what follows is summed up anew."""
        seconds = (time.monotonic() - self.began) / (step - self.began_at)
        sums = zip(self.digits.items(), self.sums, strict=True)
        line: dict[str, Any] = {"step": step}
        line |= {name: round(float(total) / self.EVERY, digits) for (name, digits), total in sums}
        line |= {**more, "lr": round(lr, 7)}
        line |= {"s_per_step": round(seconds, 4), "eta_min": round((self.steps - step) * seconds / 60, 1)}
        self.sums.zero_()
        return line

    def write(self, line: Mapping[str, Any]) -> None:
        """Appends a line."""
        with self.path.open("a") as log:
            log.write(json.dumps(line) + "\n")
