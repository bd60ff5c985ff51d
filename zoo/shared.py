"""Shared parts of the recipes: normalisation, learning rate, position embeddings, checkpoints and the log."""

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
    """Normalises images as the processor does.

    Args:
        images: uint8 `(n, h, w, 3)`.
        dtype: of the result.

    Returns:
        `(n, 3, h, w)`.
    """
    x = images.permute(0, 3, 1, 2).float() / 255
    return ((x - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]).to(dtype)


def position_waves(side: int, width: int) -> Tensor:
    """Sines and cosines of row and column for a patch grid, ``(side * side, width)``, root mean square 0.71.

    The lowest frequency is 1/100 radian per patch or more, low enough for a grid of 8.

    Args:
        side: rows and columns of the grid.
        width: of the embeddings, a multiple of 4.
    """
    quarter = width // 4
    frequency = 1.0 / 10.0 ** (torch.arange(quarter) / quarter * 2.0)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    waves = [wave(axis.reshape(-1, 1) * frequency) for axis in (rows, columns) for wave in (torch.sin, torch.cos)]
    return torch.cat(waves, dim=1)


def cosine_lr(step: int, steps: int, peak: float, warmup_steps: int) -> float:
    """Learning rate at a step: linear warm-up to ``peak``, then a cosine to zero after ``steps``.

    Args:
        step: from 0.
        steps: of the whole run.
        peak: largest learning rate.
        warmup_steps: steps of the warm-up.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(steps - warmup_steps, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def one_thread(_worker: int) -> None:
    """Limits a loader's process to one thread; the others are for the training process."""
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def batches(steps: torch.utils.data.Dataset[Any], first: int, last: int) -> torch.utils.data.DataLoader[Any]:
    """The batches of the steps from ``first`` up to ``last``, created in advance in one process.

    Args:
        steps: dataset whose key is the step.
        first: first step.
        last: last step, excluded.
    """
    return torch.utils.data.DataLoader(
        steps,
        batch_size=None,
        sampler=range(first, last),
        num_workers=1,
        prefetch_factor=6,
        worker_init_fn=one_thread,
    )


def keep(checkpoint: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint atomically: after a kill the previous one is intact.

    Args:
        checkpoint: the file.
        state: its content.
    """
    with replacing(checkpoint) as partial:
        torch.save(state, partial)


def decay_groups(
    parameters: Mapping[str, Tensor], weight_decay: float, is_plain: Callable[[str, Tensor], bool]
) -> list[dict[str, Any]]:
    """Parameter groups with and without weight decay.

    Args:
        parameters: by name.
        weight_decay: of the first group.
        is_plain: given name and weight, True for weights without decay.

    Returns:
        Two groups for a torch optimiser.
    """
    plain = [p for n, p in parameters.items() if is_plain(n, p)]
    decayed = [p for n, p in parameters.items() if not is_plain(n, p)]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


class Log:
    """A JSON log with means over the steps since the last line, the pace and the remaining time.

    Args:
        path: the file; lines are appended.
        steps: of the whole run.
        step: first step of this process.
        digits: decimal places by the name of the value, in the order of the values of `add`.
    """

    #: steps between lines
    EVERY = 50

    def __init__(self, path: Path, steps: int, step: int, digits: Mapping[str, int]) -> None:
        self.path, self.steps, self.digits = path, steps, dict(digits)
        self.began, self.began_at, self.sums = time.monotonic(), step, torch.zeros(len(digits))

    def add(self, values: Tensor) -> None:
        """Adds the values of one step, one per name."""
        self.sums += values

    def line(self, step: int, lr: float, **more: Any) -> dict[str, Any]:
        """The line after ``step`` steps; resets the means.

        Args:
            step: number of steps done.
            lr: learning rate.
            **more: further entries.
        """
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
