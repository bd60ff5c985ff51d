"""The base class of objectives: samples, a loss, and metrics computed from sums over images.

The loop (`visprompt.training.loop`) uses nothing else of a task. Sums over images make the metrics independent of how
images are divided into batches, accumulation steps and processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from visprompt.data.labelled.dataset import Labelled
    from visprompt.learned.strategy import Learned
    from visprompt.models.base import Model
    from visprompt.training.settings import FitSettings

Split = Literal["train", "validation", "test"]
Batch = dict[str, Any]


class Objective:
    """Base class of objectives: the loss and metrics of a learned strategy on one kind of data.

    Sub-classes define `samples`, `collate`, `loss`, `measure` and `figures`; a missing one raises a TypeError when
    called.

    Args:
        model: the frozen model.
        prompter: the strategy, with its parameters built (`Learned.build`).
        splits: labelled images by split, "train" among them.
        settings: the hyperparameters.

    Attributes:
        head: trained with the prompt and saved with it, or None.
        metric: name of the metric that chooses on the validation split, one of those that `figures` returns.
        higher_is_better: whether a higher value of the metric is better.
        watched: metrics of the latest training step, for the progress display; may be empty.
    """

    metric: ClassVar[str] = "loss"
    higher_is_better: ClassVar[bool] = False

    def __init__(self, model: Model, prompter: Learned, splits: dict[Split, Labelled], settings: FitSettings) -> None:
        self.model, self.prompter, self.splits, self.settings = model, prompter, splits, settings
        self.head: nn.Module | None = None
        self.watched: dict[str, float] = {}

    def samples(self, split: Split) -> torch.utils.data.Dataset[Any]:
        """A dataset of one split.

        Args:
            split: which split.

        Returns:
            A dataset with keys `(index, epoch)`; its random choices depend on the key and `settings.seed` alone.
        """
        raise self._missing()

    def collate(self, samples: Sequence[Any]) -> Batch | None:
        """Joins samples into a batch on the CPU.

        Args:
            samples: items of the dataset; None for items that are left out.

        Returns:
            A dict with `"index"`, a LongTensor `[n]`, and the tensors or lists of the task; None if all samples are
                None.
        """
        raise self._missing()

    def loss(self, batch: Batch, draws: Sequence[int] | None) -> AbstractContextManager[Tensor]:
        """A context manager that opens the prompts' scope and gives the loss, *summed over the images* of the batch;
        call `backward()` inside it.

        Args:
            batch: from `collate`, on the model's device.
            draws: one seed per image for random choices in training (prompt dropout); None: no random choices.
        """
        raise self._missing()

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Sums over a batch, without gradients, from which `figures` computes the metrics.

        Args:
            batch: from `collate`, on the model's device.

        Returns:
            Tensors by name, of a fixed dtype and shape per name; `"count"`, the number of images, is among them. They
                are added up over batches and processes.
        """
        raise self._missing()

    def figures(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """The metrics of a split.

        Args:
            sums: results of `measure`, added up over the split.

        Returns:
            Metrics by name, `metric` and `"loss"` among them.
        """
        raise self._missing()

    def _missing(self) -> TypeError:
        return TypeError(
            f"{type(self).__name__} is no complete objective: it lacks one of samples, collate, loss, measure, figures."
        )

    def describe(self) -> dict[str, Any]:
        """What `config.json` stores about the task: how to build the head again, class names; empty without a head."""
        return {}


def batches_of(indices: Sequence[int], size: int) -> Iterator[list[int]]:
    """Cuts a sequence into batches.

    Args:
        indices: indices of images.
        size: images per batch.

    Yields:
        Lists of `size` indices; the last one may be shorter.
    """
    for start in range(0, len(indices), size):
        yield list(indices[start : start + size])
