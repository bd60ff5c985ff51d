"""Figures of a prompt and its head over a split of the data, and the loader that reads a split in batches."""

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

#: images of a split that are measured without workers: about as many as `ImageDataset` keeps
FEW = 2000


def evaluate(objective: Objective, split: Split = "test") -> dict[str, float]:
    """Figures of a trained prompt and head over a split of an objective's data."""
    model = objective.model
    modules = {name: module.to(model.device) for name, module in objective.prompter.trainable().items()}
    with accelerator_of(objective.settings, model) as accelerator, frozen(model, modules):
        return measured(objective, split, objective.settings.batch_size, accelerator)


def measured(objective: Objective, split: Split, batch_size: int, accelerator: Accelerator) -> dict[str, float]:
    """Figures over a whole split, every process on its share of it.

    Raises:
        InvalidInputError: if none of the images can be used.
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

        # As objects: with few images a process may have none, and nothing to say about shapes.
        parts = gather_object([{name: item.cpu() for name, item in sums.items()}])
        sums = {name: sum(part[name] for part in parts if part) for part in parts for name in part}
    if not sums or float(sums["count"]) == 0:
        raise InvalidInputError(f"none of the {split} images can be used.")
    return objective.figures(sums)


def loader(objective: Objective, split: Split, keys: Any, workers: int) -> Any:
    """Batches of a split, prepared in `workers` processes; `keys` gives the (index, epoch) pairs of every batch."""
    samples = objective.samples(split)
    return torch.utils.data.DataLoader(
        samples,
        batch_sampler=keys,
        num_workers=0 if isinstance(samples, Embedded) else workers,  # there is nothing left to prepare
        collate_fn=objective.collate,
        generator=torch.Generator(),  # its own, since a loader draws a seed for its workers
    )


def _workers(objective: Objective, images: int) -> int:
    """Few images are read in the process itself, which keeps them; many take as long as those of training."""
    return objective.settings.workers if images > FEW else 0


def moved(batch: Batch, model: Model) -> Batch:
    """The same batch with its tensors on the model's device."""
    return {name: item.to(model.device) if isinstance(item, Tensor) else item for name, item in batch.items()}
