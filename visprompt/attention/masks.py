"""Computes which keys some rows of an attention call may see, as the kernel of the other rows does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from visprompt.errors import UnsupportedError


def mask_rows(
    module: nn.Module, mask: Tensor | None, rows: Tensor, query: Tensor, key: Tensor, kwargs: dict[str, Any]
) -> Tensor | None:
    """Selects some rows of the model's own mask.

    Args:
        module: the attention module; its config names the kernel.
        mask: the mask that the kernel got: `[n, 1|H, Q, K]` boolean or additive, flash attention's `[n, K]` padding, or
            None.
        rows: `[R]` positions among the queries.
        query: `[n, H, Q, D]`; only its length is used.
        key: `[n, H, K, D]`; only its length is used.
        kwargs: the kernel's other arguments; `is_causal` and `sliding_window` are used.

    Returns:
        Boolean (True: attend) or additive, broadcastable to `[n, H, R, K]`; None if the rows see every key.

    Raises:
        UnsupportedError: for flex attention, whose masks are functions.
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
        # torch's kernel aligns the causal mask with the first key (a static cache has free slots at the end) and has
        # no sliding window; the eager function uses its mask alone.
        alone = not causal or queries == 1 or kernel.endswith("eager")
        return None if alone else _seen(rows, keys, 0, None)[None, None]
    filled = keys if mask is None else min(mask.shape[-1], keys)  # the kernel cuts a static cache to its mask's length
    allowed = _seen(rows, keys, filled - queries, kwargs.get("sliding_window"), causal)[None, None]
    if mask is None:
        return allowed
    return allowed & torch.nn.functional.pad(mask[:, -filled:].bool(), (0, keys - filled))[:, None, None]


def _seen(rows: Tensor, keys: int, offset: int, window: int | None, causal: bool = True) -> Tensor:
    """Visible keys of some queries, bool `[R, K]`, where query 0 stands at key `offset`."""
    distance = (rows + offset)[:, None] - torch.arange(keys, device=rows.device)
    seen = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return seen if not window else seen & (distance.abs() < window)
