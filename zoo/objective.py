"""Losses of scenes-clip: a contrastive loss with known truth, and an auxiliary classification of patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.samples import FALSE, IGNORE, NOTHING, TRUE


class PatchNames(nn.Module):
    """Classifies the colour and the shape under every patch from its row; used in training only, not exported.

    The loss keeps the patch rows local: a late block reads the object at the patch.

    Args:
        width: of the tower.
        n_taps: number of blocks whose input rows are used.
    """

    def __init__(self, width: int, n_taps: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(n_taps))
        self.heads = nn.ModuleList(nn.Linear(width, 2 * (NOTHING + 1)) for _ in range(n_taps))

    def forward(self, rows: list[Tensor], labels: Tensor) -> Tensor:
        """Cross-entropy over patches and taps.

        Args:
            rows: per tap ``(n, patches, width)``.
            labels: int64 ``(n, patches, 2)``, -100 where undecided.

        Returns:
            A scalar.
        """
        total = rows[0].new_zeros((), dtype=torch.float32)
        flat = labels.reshape(-1)
        known = flat != IGNORE
        # Background fills most patches and would dominate the loss; its weight is a fifth.
        weight = torch.ones(NOTHING + 1)
        weight[NOTHING] = 0.2
        for tap, norm, head in zip(rows, self.norms, self.heads, strict=True):
            logits = head(norm(tap.float())).reshape(-1, NOTHING + 1)
            total = total + F.cross_entropy(logits[known], flat[known], weight=weight)
        return total / len(rows)


def contrastive(logits: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """The softmax loss in both directions, every true caption against all false ones.

    For a true pair (i, c) the loss is -log(e^s_ic / (e^s_ic + Σ e^s over the captions that are false for i)), and the
    same over the images for which c is false. Other true captions and undecided ones are left out.

    Args:
        logits: ``(images, captions)``, scaled similarities, float32.
        truth: int8 of the same shape: 1, 0, or -1 for undecided.
        weight: ``(captions,)``, weight of each caption.

    Returns:
        A scalar.
    """
    true, false = truth == TRUE, truth == FALSE
    masked = logits.masked_fill(~false, float("-inf"))
    share = true * weight
    loss = logits.new_zeros(())
    for dim in (1, 0):
        rest = torch.logsumexp(masked, dim=dim, keepdim=True)
        # Without a false caption (or image) the pair has a loss of 0.
        rest = rest.clamp_min(-1e4)
        pair = F.softplus(rest - logits)
        if dim == 1:  # every image has the same weight, however many captions are true of it
            row = share / share.sum(dim=1, keepdim=True).clamp_min(1e-6)
            loss = loss + (pair * row).sum() / len(logits)
        else:
            column = share / share.sum().clamp_min(1e-6)
            loss = loss + (pair * column).sum()
    return loss / 2
