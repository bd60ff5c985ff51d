"""Which keys the rows of one attention call may see, in the way of the kernel that computes the other rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from visprompt.errors import UnsupportedError


def mask_rows(
    module: nn.Module, mask: Tensor | None, rows: Tensor, query: Tensor, key: Tensor, kwargs: dict[str, Any]
) -> Tensor | None:
    """The part of the model's own mask that some rows see; None if they see every key.

    Args:
        module: whose attention; its config names the kernel.
        mask: what the kernel got: `[n, 1|H, Q, K]` boolean or additive, flash attention's `[n, K]` padding, or None.
        rows: `[R]` positions among the queries.
        query: `[n, H, Q, D]`.
        key: `[n, H, K, D]`.
        kwargs: what else the kernel got.

    Returns:
        Boolean (True: attend) or additive, broadcastable to `[n, H, R, K]`.

    Raises:
        UnsupportedError: for flex attention's masks, which are programs.
    """
    keys, queries = key.shape[2], query.shape[2]
    if mask is not None and not isinstance(mask, Tensor):
        raise UnsupportedError(
            f"{type(module).__name__} runs with flex_attention, whose masks hold no rows to recompute: load the model "
            'with attn_implementation="sdpa".'
        )
    if mask is not None and mask.dim() > 2:
        mask = mask[..., :keys]
        return mask if mask.shape[-2] == 1 else mask.index_select(-2, rows)
    kernel = str(getattr(getattr(module, "config", None), "_attn_implementation", ""))
    causal = kwargs.get("is_causal")
    causal = bool(getattr(module, "is_causal", False) if causal is None else causal)
    if mask is None and "flash" not in kernel:
        # torch's kernel counts from the first key (a static cache has room behind the last one), and knows no window;
        # the eager function knows nothing but its mask.
        alone = not causal or queries == 1 or kernel.endswith("eager")
        return None if alone else _seen(rows, keys, 0, None)[None, None]
    filled = keys if mask is None else min(mask.shape[-1], keys)  # the kernel cuts a static cache to its mask
    allowed = _seen(rows, keys, filled - queries, kwargs.get("sliding_window"), causal)[None, None]
    if mask is None:
        return allowed
    return allowed & torch.nn.functional.pad(mask[:, -filled:].bool(), (0, keys - filled))[:, None, None]


def _seen(rows: Tensor, keys: int, offset: int, window: int | None, causal: bool = True) -> Tensor:
    """bool `[R, K]`: what a kernel lets queries see of which the first one stands at key `offset`."""
    distance = (rows + offset)[:, None] - torch.arange(keys, device=rows.device)
    seen = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return seen if not window else seen & (distance.abs() < window)
