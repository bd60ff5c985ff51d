"""The training forward of a ``CLIPModel``: the module's own arithmetic, without rows that are not used.

The last block of the vision tower is computed for the CLS row only, that of the text tower for the row of ``<eos>``;
this saves a tenth of the time. `tests/bundled` compares it with the module's own forward.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.text import EOS


def _linear(layer: nn.Module, x: Tensor) -> Tensor:
    bias = layer.bias
    return F.linear(x, layer.weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def _norm(layer: Any, x: Tensor) -> Tensor:
    return F.layer_norm(x, layer.normalized_shape, layer.weight.to(x.dtype), layer.bias.to(x.dtype), layer.eps)


def _block(
    layer: Any, x: Tensor, rows: Tensor | None = None, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """Runs one transformer block on ``(n, length, width)``; with ``rows`` (one index per sample) returns these rows."""
    attention = layer.self_attn
    heads, width = attention.num_heads, x.shape[-1]
    normed = _norm(layer.layer_norm1, x)
    if rows is None:
        queries, kept = normed, x
    else:
        pick = rows[:, None, None].expand(-1, 1, width)
        queries, kept = normed.gather(1, pick), x.gather(1, pick)
    q, k, v = _linear(attention.q_proj, queries), _linear(attention.k_proj, normed), _linear(attention.v_proj, normed)
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    # Explicit attention: on CPUs the fused kernel's backward takes longer than the rest of the step together.
    scores = (q * attention.head_dim**-0.5) @ k.transpose(-1, -2)
    if causal:
        length = scores.shape[-1]
        mask = torch.ones(length, length, dtype=torch.bool).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    out = scores.softmax(dim=-1) @ v
    x = kept + _linear(attention.out_proj, out.transpose(1, 2).flatten(2))
    inner = F.gelu(_linear(layer.mlp.fc1, _norm(layer.layer_norm2, x)))
    return x + _linear(layer.mlp.fc2, inner)


def encode_images(model: Any, pixels: Tensor, cls_from: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
    """Encodes images.

    Args:
        model: a ``CLIPModel``.
        pixels: ``(n, 3, 64, 64)``, normalised; its dtype is the dtype of the forward.
        cls_from: optional ``(n,)``: the CLS row skips all blocks before this one (see `zoo.train`).

    Returns:
        Embeddings ``(n, d)``, not normalised, and the patch rows ``(n, 64, width)`` at the input of each of the last
            three blocks.
    """
    vision = model.vision_model
    dtype = pixels.dtype
    size = vision.embeddings.patch_size
    n, _, height, width = pixels.shape
    tiles = (
        pixels.reshape(n, 3, height // size, size, width // size, size)
        .permute(0, 2, 4, 1, 3, 5)
        .reshape(n, -1, 3 * size * size)
    )
    patches = F.linear(tiles, vision.embeddings.patch_embedding.weight.flatten(1).to(dtype))
    cls = vision.embeddings.class_embedding.to(dtype).expand(n, 1, -1)
    x = torch.cat([cls, patches], dim=1) + vision.embeddings.position_embedding.weight.to(dtype)
    x = _norm(vision.pre_layrnorm, x)
    layers = list(vision.encoder.layers)
    seen: list[Tensor] = []
    for depth, layer in enumerate(layers[:-1]):
        if depth >= 3:
            seen.append(x[:, 1:])
        after = _block(layer, x)
        if cls_from is not None and depth < 3:
            skip = (cls_from > depth)[:, None, None]
            after = torch.cat([torch.where(skip, x[:, :1], after[:, :1]), after[:, 1:]], dim=1)
        x = after
    seen.append(x[:, 1:])
    last = _block(layers[-1], x, rows=torch.zeros(n, dtype=torch.long))
    return _linear(model.visual_projection, _norm(vision.post_layernorm, last[:, 0])), seen


def encode_texts(model: Any, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """Encodes captions.

    Args:
        model: a ``CLIPModel``.
        tokens: ids ``(n, length)``.
        dtype: of the forward.

    Returns:
        Embeddings ``(n, d)``, not normalised.
    """
    text = model.text_model
    length = tokens.shape[1]
    x = text.embeddings.token_embedding(tokens).to(dtype) + text.embeddings.position_embedding.weight[:length].to(dtype)
    layers = list(text.encoder.layers)
    for layer in layers[:-1]:
        x = _block(layer, x, causal=True)
    end = (tokens == EOS).int().argmax(dim=1)
    allowed = (torch.arange(length)[None] <= end[:, None])[:, None, None]
    last = _block(layers[-1], x, rows=end, mask=allowed)
    return _linear(model.text_projection, _norm(text.final_layer_norm, last[:, 0]))
