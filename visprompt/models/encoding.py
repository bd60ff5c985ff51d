"""What one forward of prompted images gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from visprompt.attention.scope import Scope


@dataclass(frozen=True, eq=False)
class Encoding:
    """What one forward gave.

    Args:
        embeddings: `[n, d]`.
        attention: `[n, H, P]` for every block that was read; `[n, H, R, P]` for rows other than the readout.
        contributions: `[n, P, d]` for every block that was decomposed: patches only, in the block's width.
        features: `[n, P, d]`, if they were asked for: the patches' hidden states behind the last block and in front of
            the last norm, row by row.
    """

    embeddings: Tensor
    attention: dict[int, Tensor] = field(default_factory=dict)
    contributions: dict[int, Tensor] = field(default_factory=dict)
    features: Tensor | None = None

    def take(self, index: Tensor) -> Encoding:
        """Some of the rows, or all in another order."""
        return Encoding(
            self.embeddings[index],
            {block: item[index] for block, item in self.attention.items()},
            {block: item[index] for block, item in self.contributions.items()},
            None if self.features is None else self.features[index],
        )

    @staticmethod
    def joined(items: Sequence[Encoding], order: Tensor) -> Encoding:
        """Several encodings one after the other, then re-ordered; fewer patches are filled up with zeros."""

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
    """Zero columns behind, up to `size` along `dim`."""
    shape = list(item.shape)
    shape[dim] = size - item.shape[dim]
    return torch.cat((item, item.new_zeros(shape)), dim=dim)


def collect(scope: Scope, embeddings: Tensor, patches: int, features: Tensor | None = None) -> Encoding:
    """What a scope kept, cut to the patch columns."""
    return Encoding(
        embeddings,
        {site.block: item.narrow(-1, site.prefix, patches) for site, item in scope.maps().items()},
        {site.block: item.narrow(1, site.prefix, patches) for site, item in scope.decomposition.items()},
        features,
    )
