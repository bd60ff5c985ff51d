"""The arithmetic of edited attention rows, in float32, on plain tensors.

Shapes: n streams (batch), H heads, R rows (queries), K keys, D head width, d model width, P patches.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

#: logit of a masked key: finite, and its softmax weight is 0
MASKED = torch.finfo(torch.float32).min


def row_logits(
    query: Tensor, key: Tensor, scale: float, mask: Tensor | None = None, softcap: float | None = None
) -> Tensor:
    """Logits of some rows, `q kᵀ · scale (+ mask)`, in float32.

    >>> row_logits(torch.ones(1, 1, 1, 4), torch.ones(1, 1, 3, 4), scale=0.5).flatten().tolist()
    [2.0, 2.0, 2.0]

    Args:
        query: `[n, H, R, D]`.
        key: `[n, H, K, D]`, or fewer heads, each for a group of query heads (grouped-query attention).
        scale: factor on the dot products.
        mask: additive float or boolean (True = attend), broadcastable to `[n, H, R, K]`.
        softcap: `cap · tanh(logits / cap)` before the mask, for models that cap their logits.

    Returns:
        `[n, H, R, K]`.
    """
    logits = _grouped(query.float(), key.float().transpose(-1, -2)) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return add_mask(logits, mask)


def _grouped(rows: Tensor, shared: Tensor) -> Tensor:
    """`rows @ shared` where one head of `shared` serves several heads of `rows`, without repeating it."""
    groups = rows.shape[1] // shared.shape[1]
    if groups == 1:
        return rows @ shared
    n, heads, count, width = rows.shape
    together = rows.reshape(n, heads // groups, groups * count, width) @ shared
    return together.reshape(n, heads, count, -1)


def heads_like(key: Tensor, query: Tensor) -> Tensor:
    """Repeats key or value heads for grouped-query attention.

    Args:
        key: `[n, H_kv, K, D]`.
        query: `[n, H, R, D]`; only its number of heads is used.

    Returns:
        `[n, H, K, D]`.
    """
    repeats = query.shape[1] // key.shape[1]
    return key if repeats == 1 else key.repeat_interleave(repeats, dim=1)


def add_mask(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Adds an additive mask or applies a boolean one. Masked logits become `MASKED` either way, so that rows that may
    see nothing (padding) have no NaN, which would spoil every gradient.

    Args:
        logits: `[n, H, R, K]`.
        mask: boolean (True: attend) or additive, broadcastable to `[n, H, R, K]`; None: none.

    Returns:
        `[n, H, R, K]`.
    """
    if mask is None:
        return logits
    if mask.dtype == torch.bool:
        return logits.masked_fill(~mask, MASKED)
    hidden = mask <= torch.finfo(mask.dtype).min / 2
    return (logits + mask.float().masked_fill(hidden, 0.0)).masked_fill(hidden, MASKED)


def visible(logits: Tensor) -> Tensor:
    """Which logits no mask hides.

    Args:
        logits: output of `row_logits` or `add_mask`.

    Returns:
        bool, of the same shape.
    """
    return logits > MASKED / 2


def target_mass_logits(logits: Tensor, log_weights: Tensor, target: Tensor) -> Tensor:
    """Raises the region's logits so that it gets the fraction `target` of every row's attention, in closed form.

    `β = logit(t) − (logsumexp(region logits + log w) − logsumexp(the rest))` is added on the region together with `log
    w`. Rows whose region has that fraction already are returned unchanged.

    >>> logits = torch.zeros(1, 1, 1, 4)
    >>> log_weights = torch.tensor([0.0, float("-inf"), float("-inf"), float("-inf")])
    >>> share = target_mass_logits(logits, log_weights, torch.tensor([[[0.7]]])).softmax(-1)[..., 0]
    >>> round(share.item(), 5)
    0.7

    Args:
        logits: `[n, H, R, K]`; masked keys stay masked.
        log_weights: broadcastable to `[n, 1, 1, K]`; −inf outside the region.
        target: fraction in (0, 1), broadcastable to `[n, H, R]`; NaN leaves the row unchanged.

    Returns:
        `[n, H, R, K]`.
    """
    inside = (log_weights > float("-inf")) & visible(logits)
    nothing = torch.full_like(logits, float("-inf"))
    weighted = torch.where(inside, logits + torch.where(inside, log_weights, 0.0), nothing)
    rest = torch.where(inside | ~visible(logits), nothing, logits).logsumexp(-1)
    now = torch.where(inside, logits, nothing).logsumexp(-1)
    share = torch.where(torch.isnan(target), torch.full_like(target, 0.5), target)
    beta = torch.logit(share) - (weighted.logsumexp(-1) - rest)
    skip = torch.isnan(target) | (now - rest >= torch.logit(share)) | ~torch.isfinite(beta)
    raised = torch.where(inside, weighted + torch.where(skip, 0.0, beta)[..., None], logits)
    return torch.where(skip[..., None], logits, raised)


def attend(logits: Tensor, value: Tensor, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
    """Softmax and weighted sum, in float32.

    Args:
        logits: `[n, H, R, K]` scaled and masked.
        value: `[n, H, K, D]`, or fewer heads (grouped-query attention).
        dropout: dropout rate on the attention.

    Returns:
        `([n, H, R, D] outputs, [n, H, R, K] attention before dropout)`.
    """
    attention = logits.softmax(-1)
    kept = F.dropout(attention, dropout) if dropout else attention
    return _grouped(kept, value.float()), attention


def mean_attention(
    query: Tensor,
    key: Tensor,
    scale: float,
    mask: Tensor | None = None,
    softcap: float | None = None,
    at_once: int = 1024,
) -> Tensor:
    """The mean over rows of their attention, computed `at_once` rows at a time.

    For the gradient, logits and attention are computed again chunk by chunk instead of being kept, so memory is that of
    queries, keys and one chunk.

    >>> mean_attention(torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 2, 4), 1.0, at_once=2).tolist()
    [[[[0.5, 0.5]]]]

    Args:
        query: `[n, H, R, D]`.
        key: as in `row_logits`.
        scale: as in `row_logits`.
        mask: as in `row_logits`.
        softcap: as in `row_logits`.
        at_once: number of rows per chunk.

    Returns:
        `[n, H, 1, K]`.
    """

    def part(rows: Tensor, keys: Tensor, seen: Tensor | None) -> Tensor:
        return row_logits(rows, keys, scale, seen, softcap).softmax(-1).sum(dim=2, keepdim=True)

    total: Tensor | None = None
    for start in range(0, query.shape[2], at_once):
        few = slice(start, start + at_once)
        seen = mask if mask is None or mask.shape[-2] == 1 else mask[..., few, :]
        found = checkpoint(part, query[:, :, few], key, seen, use_reentrant=False, preserve_rng_state=False)
        total = found if total is None else total + found
    assert total is not None
    return total / query.shape[2]


def contributions(attention: Tensor, value: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """The contribution of every key to the output of one row, or to the mean output of several: `c_m = Σ_h a_h[m] ·
    W_O,h v_h[m] + b_O / K` (API, arXiv 2409.17143).

    Summed over the keys m it is the attention module's output for that row.

    Args:
        attention: `[n, H, K]`.
        value: `[n, H, K, D]`.
        weight: `[d, H·D]` output projection; None: no projection.
        bias: `[d]` of the output projection, or None.

    Returns:
        `[n, K, d]`, float32.
    """
    n, _, keys = attention.shape
    weighted = (attention[..., None] * value.float()).transpose(1, 2).reshape(n, keys, -1)
    if weight is None:
        return weighted
    return F.linear(weighted, weight.float()) + (0.0 if bias is None else bias.float() / keys)
