"""Metrics of a prompt and its head on a split of the data, and the loader that reads a split in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from visprompt.errors import InvalidInputError
from visprompt.training.accelerator import accelerator_of, frozen
from visprompt.training.objectives.base import Batch, Objective, Split, batches_of
from visprompt.training.objectives.encoder import Embedded

if TYPE_CHECKING:
    from accelerate import Accelerator

    from visprompt.models.base import Model

#: splits of up to this many images are read without worker processes: about as many as `ImageDataset` caches
FEW = 2000


def evaluate(objective: Objective, split: Split = "test") -> dict[str, float]:
    """Metrics of a trained prompt and head on one split of an objective's data.

    Args:
        objective: holds the model, the prompter, the head and the data.
        split: which split.

    Returns:
        Metrics by name, `objective.metric` and `"loss"` among them.

    Raises:
        InvalidInputError: if no image of the split can be used.
    """
    model = objective.model
    modules = {name: module.to(model.device) for name, module in objective.prompter.trainable().items()}
    with accelerator_of(objective.settings, model) as accelerator, frozen(model, modules):
        return measured(objective, split, objective.settings.batch_size, accelerator)


def measured(objective: Objective, split: Split, batch_size: int, accelerator: Accelerator) -> dict[str, float]:
    """Metrics on a whole split; every process measures a part of the images.

    Args:
        objective: holds the model, the prompter, the head and the data.
        split: which split.
        batch_size: images per forward.
        accelerator: gathers the sums from all processes.

    Returns:
        Metrics by name, the same in every process.

    Raises:
        InvalidInputError: if no image of the split can be used.
    """
    own = range(len(objective.splits[split]))[accelerator.process_index :: accelerator.num_processes]
    keys = [[(index, 0) for index in part] for part in batches_of(own, batch_size)]
    sums: dict[str, Tensor] = {}
    with torch.no_grad(), accelerator.autocast():
        for batch in loader(objective, split, keys, _workers(objective, len(own))):
            if batch is None:
                continue
            for name, value in objective.measure(moved(batch, objective.model)).items():
                sums[name] = value if name not in sums else sums[name] + value
    if accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        # Gathered as objects: with few images a process may have none, and then does not know the shapes.
        parts = gather_object([{name: item.cpu() for name, item in sums.items()}])
        sums = {name: sum(part[name] for part in parts if part) for part in parts for name in part}
    if not sums or float(sums["count"]) == 0:
        raise InvalidInputError(f"none of the {split} images can be used.")
    return objective.figures(sums)


def loader(objective: Objective, split: Split, keys: Any, workers: int) -> Any:
    """A `DataLoader` over a split.

    Args:
        objective: gives the dataset and `collate`.
        split: which split.
        keys: batch sampler: lists of (index, epoch) pairs.
        workers: processes that prepare images; 0: this process.

    Returns:
        An iterable of batches; a batch is None if all its images were left out.
    """
    samples = objective.samples(split)
    return torch.utils.data.DataLoader(
        samples,
        batch_sampler=keys,
        num_workers=0 if isinstance(samples, Embedded) else workers,  # embeddings need no preparation
        collate_fn=objective.collate,
        generator=torch.Generator(),  # its own, since a loader draws a seed for its workers
    )


def _workers(objective: Objective, images: int) -> int:
    """Worker processes for a split: none for few images, which this process then caches."""
    return objective.settings.workers if images > FEW else 0


def moved(batch: Batch, model: Model) -> Batch:
    """The batch with its tensors on the model's device.

    Args:
        batch: tensors and other values by name.
        model: gives the device.

    Returns:
        A new dict; values that are no tensors are unchanged.
    """
    return {name: item.to(model.device) if isinstance(item, Tensor) else item for name, item in batch.items()}
