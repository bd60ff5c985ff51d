"""The path from one block's attention to the image embedding, as arithmetic on its modules' weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visprompt.attention.sites import Head, Site
from visprompt.errors import UnsupportedError


def embedding_of(head: Head, row: Tensor) -> Tensor:
    """Applies the head to readout rows.

    Args:
        head: the head.
        row: `[n, d]` readout rows.

    Returns:
        `[n, e]` embeddings, float32.
    """
    result = _normalised(head.norm, row)
    if head.mlp is not None:
        first, activation, second = head.mlp
        inner = F.linear(result, first.weight.float(), _float(first.bias))
        active = activation(inner.to(first.weight.dtype)).float()
        result = row + F.linear(active, second.weight.float(), _float(second.bias))
    for item in head.projections:
        linear = isinstance(item, nn.Linear)
        result = F.linear(result, item.weight.float(), _float(item.bias)) if linear else result @ item.float()
    return result


def pulled_back(head: Head, row: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
    """The head as a linear map at one readout row, `⟨head(x), t⟩ = ⟨u, x⟩ + b`, with norm statistics and gates held.

    Args:
        head: from the readout row to the embedding.
        row: `[q, d]` readout rows of the forward.
        texts: `[q, e]`.

    Returns:
        u `[q, d]` and b `[q]`, float32.

    Raises:
        UnsupportedError: for a head with another norm than LayerNorm.
    """
    constant = texts.new_zeros(len(texts))
    back = texts
    for item in reversed(head.projections):
        weight = item.weight.float() if isinstance(item, nn.Linear) else item.float().T
        if isinstance(item, nn.Linear) and item.bias is not None:
            constant = constant + back @ item.bias.float()
        back = back @ weight
    skip = None
    if head.mlp is not None:
        first, activation, second = head.mlp
        skip = back
        inner = F.linear(_normalised(head.norm, row), first.weight.float(), _float(first.bias))
        active = activation(inner.to(first.weight.dtype)).float()
        gate = torch.where(inner.abs() > 1e-6, active / inner, 0.5)  # activations used here have slope ½ at 0
        if second.bias is not None:
            constant = constant + back @ second.bias.float()
        back = (back @ second.weight.float()) * gate
        if first.bias is not None:
            constant = constant + back @ first.bias.float()
        back = back @ first.weight.float()
    if isinstance(head.norm, nn.LayerNorm):
        mean, deviation = _statistics(head.norm, row)
        if head.norm.bias is not None:
            constant = constant + back @ head.norm.bias.float()
        back = back if head.norm.weight is None else back * head.norm.weight.float()
        back = back / deviation
        constant = constant - back.sum(-1) * mean[:, 0]
    elif not isinstance(head.norm, nn.Identity | None):
        raise UnsupportedError(f"a head with {type(head.norm).__name__} cannot be taken apart; LayerNorm can.")
    return (back if skip is None else skip + back), constant


def _statistics(norm: nn.LayerNorm, row: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sqrt(variance + eps) of every row, `[…, 1]` each."""
    return row.mean(-1, keepdim=True), (row.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()


def _normalised(norm: nn.Module | None, row: Tensor) -> Tensor:
    if not isinstance(norm, nn.LayerNorm):
        return row
    return F.layer_norm(row, norm.normalized_shape, _float(norm.weight), _float(norm.bias), norm.eps)


def joining_contributions(site: Site, contributions: Tensor) -> Tensor:
    """Applies the modules between the attention's output and the residual stream to every key's contribution: inner
    norms (statistics held), projections and LayerScales.

    Args:
        site: the site, with these modules in `after`.
        contributions: `[n, K, d]`.

    Returns:
        `[n, K, d]`.
    """
    keys = contributions.shape[1]
    for item in site.after:
        if isinstance(item, nn.LayerNorm):
            mean, deviation = _statistics(item, contributions.sum(1, keepdim=True))
            contributions = (contributions - mean / keys) / deviation
            contributions = contributions if item.weight is None else contributions * item.weight.float()
            contributions = contributions if item.bias is None else contributions + item.bias.float() / keys
        elif isinstance(item, nn.Linear):
            contributions = F.linear(contributions, item.weight.float())
            contributions = contributions if item.bias is None else contributions + item.bias.float() / keys
        else:
            contributions = contributions * getattr(item, "gamma", item).float()
    return contributions


def outputs_per_key(site: Site, tokens: Tensor) -> Tensor:
    """The outputs of a pooling probe if it attended to each key alone.

    Args:
        site: the site of a pooling head.
        tokens: its keys, `[n, K, d]` (or `[K, n, d]` if the module takes the batch on its second axis).

    Returns:
        `[n, K, d]`.
    """
    pool: Any = site.module
    if isinstance(pool, nn.MultiheadAttention):
        weight = pool.in_proj_weight.chunk(3)[2] if pool._qkv_same_embed_dim else pool.v_proj_weight
        bias = None if pool.in_proj_bias is None else pool.in_proj_bias.chunk(3)[2]
        tokens = tokens if pool.batch_first else tokens.transpose(0, 1)
    else:  # timm's AttentionPoolLatent
        tokens = tokens if pool.pos_embed is None else tokens + pool.pos_embed.float()
        weight = pool.kv.weight.chunk(2)[1]
        bias = None if pool.kv.bias is None else pool.kv.bias.chunk(2)[1]
    projection: Any = site.projection
    values = F.linear(tokens, weight.float(), _float(bias))
    return F.linear(values, projection.weight.float(), _float(getattr(projection, "bias", None)))


def _float(item: Tensor | None) -> Tensor | None:
    return None if item is None else item.float()
