"""What is learned from one kind of data: samples, a loss, and figures that add up.

The loop (`visprompt.training.loop`) knows nothing else about a task. Sums go over images, so that the same numbers
come out however the images are spread over batches, accumulation steps and processes.
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
    """Base class: what a learned strategy is taught.

    Args:
        model: the frozen model.
        prompter: the strategy; its parameters exist already (`Learned.build`).
        splits: the data by split; "train" is always there.
        settings: how it is trained.

    Attributes:
        head: trained along with the prompt and saved with it, or None.
        metric: the name of the figure that validation chooses by, one of those that `figures` gives.
        higher_is_better: which way it is good.
        watched: figures of the latest training step, for whoever looks on; empty where there are none.
    """

    metric: ClassVar[str] = "loss"
    higher_is_better: ClassVar[bool] = False

    def __init__(self, model: Model, prompter: Learned, splits: dict[Split, Labelled], settings: FitSettings) -> None:
        self.model, self.prompter, self.splits, self.settings = model, prompter, splits, settings
        self.head: nn.Module | None = None
        self.watched: dict[str, float] = {}

    def samples(self, split: Split) -> torch.utils.data.Dataset[Any]:
        """A dataset whose key is `(index, epoch)`; what it draws at random depends on these and the seed alone."""
        raise self._missing()

    def collate(self, samples: Sequence[Any]) -> Batch | None:
        """Samples → a batch on the CPU; it has `"index"`, a LongTensor `[n]`. Samples may be None (left out); None if
        all are.
        """
        raise self._missing()

    def loss(self, batch: Batch, draws: Sequence[int] | None) -> AbstractContextManager[Tensor]:
        """Opens the prompts' scope and gives the loss, *summed over the images* of the batch, ready for `backward()`
        inside the scope.

        Args:
            batch: from `collate`, on the model's device.
            draws: one seed per image for what is random in training (prompt dropout); None: nothing is random.
        """
        raise self._missing()

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Sums over a batch from which `figures` are made, without gradients; they are added up over batches and
        processes. `"count"`, the number of images, is always among them. Tensors of one dtype per name and of a fixed
        shape.
        """
        raise self._missing()

    def figures(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """Sums over a split → figures, the `metric` and `"loss"` among them."""
        raise self._missing()

    def _missing(self) -> TypeError:
        return TypeError(
            f"{type(self).__name__} is no whole objective: it lacks one of samples, collate, loss, measure, figures."
        )

    def describe(self) -> dict[str, Any]:
        """For `config.json`: what a head needs to be made again, class names; empty without a head."""
        return {}


def batches_of(indices: Sequence[int], size: int) -> Iterator[list[int]]:
    """Cuts a list into batches; the last one may be smaller."""
    for start in range(0, len(indices), size):
        yield list(indices[start : start + size])
