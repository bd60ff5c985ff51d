"""The functions and modules that a backend supplies for a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from visprompt.attention.packed_positions import PackedPositions
from visprompt.attention.sites import Tower
from visprompt.models.preprocessing import ImageReader


@dataclass(frozen=True, eq=False)
class Parts:
    """The functions and modules that a backend supplies for a model.

    Args:
        embed: model inputs (a dict of tensors, images on the first axis) → `[m, d]` image embeddings.
        reader: converts images to inputs and gives their geometry.
        tower: attention sites, or None for a model without attention.
        embed_text: texts → `[t, d]`, or None without a text tower.
        logits: (`[n, d]`, `[t, d]`) → `[n, t]` scores as the model defines them, or None.
        backend: name of the library.
        restore: functions that `unwrap` calls to undo changes.
        packing: for towers that pack all images into one sequence: number of images → their order in it; None for
            towers with a batch axis.
    """

    embed: Callable[[dict[str, Tensor]], Tensor]
    reader: ImageReader
    tower: Tower | None
    embed_text: Callable[[list[str]], Tensor] | None
    logits: Callable[[Tensor, Tensor], Tensor] | None
    backend: str
    restore: list[Callable[[], None]] = field(default_factory=list)
    packing: Callable[[int], PackedPositions] | None = None

    def timeline(self, images: int, device: torch.device) -> PackedPositions | None:
        """The positions of images in the tower's sequence, for a `Scope`.

        Args:
            images: number of images.
            device: device of the positions.

        Returns:
            The positions; None for towers with a batch axis.
        """
        return None if self.packing is None else self.packing(images).to(device)
