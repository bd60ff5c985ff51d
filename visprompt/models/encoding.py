"""The outputs of one forward of prompted images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from visprompt.attention.scope import Scope


@dataclass(frozen=True, eq=False)
class Encoding:
    """The outputs of one forward of n prompts.

    Args:
        embeddings: `[n, d]`.
        attention: per block that was read `[n, H, P]`; `[n, H, R, P]` for rows other than readout and summary.
        contributions: per block that was decomposed `[n, P, d]`: patches only, in the block's width.
        features: `[n, P, d]` or None: the patches' hidden states after the last block and before the last norm, row by
            row.
    """

    embeddings: Tensor
    attention: dict[int, Tensor] = field(default_factory=dict)
    contributions: dict[int, Tensor] = field(default_factory=dict)
    features: Tensor | None = None

    def take(self, index: Tensor) -> Encoding:
        """Selects or reorders prompts.

        Args:
            index: `[m]` int, indices of prompts.

        Returns:
            An encoding of m prompts.
        """
        return Encoding(
            self.embeddings[index],
            {block: item[index] for block, item in self.attention.items()},
            {block: item[index] for block, item in self.contributions.items()},
            None if self.features is None else self.features[index],
        )

    @staticmethod
    def joined(items: Sequence[Encoding], order: Tensor) -> Encoding:
        """Concatenates encodings and reorders their prompts; where they have fewer patches, zeros are appended.

        Args:
            items: the encodings.
            order: `[n]` int, for every prompt of the result its index among all.

        Returns:
            An encoding of n prompts.
        """

        def join(parts: list[dict[int, Tensor]], dim: int) -> dict[int, Tensor]:
            widest = {block: max(part[block].shape[dim] for part in parts) for block in parts[0]}
            return {block: torch.cat([_widened(p[block], dim, n) for p in parts]) for block, n in widest.items()}

        features = join([{0: item.features} for item in items if item.features is not None] or [{}], 1)
        whole = Encoding(
            torch.cat([item.embeddings for item in items]),
            join([item.attention for item in items], -1),
            join([item.contributions for item in items], 1),
            features.get(0),
        )
        return whole.take(order)


def _widened(item: Tensor, dim: int, size: int) -> Tensor:
    """Appends zeros along `dim` up to `size`."""
    shape = list(item.shape)
    shape[dim] = size - item.shape[dim]
    return torch.cat((item, item.new_zeros(shape)), dim=dim)


def collect(scope: Scope, embeddings: Tensor, patches: int, features: Tensor | None = None) -> Encoding:
    """Makes an encoding of what a scope has read, cut to the patch columns.

    Args:
        scope: the scope, after the forward.
        embeddings: `[n, d]`.
        patches: P, the largest number of patches.
        features: `[n, P, d]`, or None.

    Returns:
        The encoding.
    """
    return Encoding(
        embeddings,
        {site.block: item.narrow(-1, site.prefix, patches) for site, item in scope.maps().items()},
        {site.block: item.narrow(1, site.prefix, patches) for site, item in scope.decomposition.items()},
        features,
    )
