"""The training forward of a ``LlavaForConditionalGeneration``: the module's own arithmetic, many questions per image.

In a causal decoder the rows of the image do not depend on the question that follows: they are computed once, and every
question attends to them and to itself. The last block is computed only for the rows with a prediction. `tests/bundled`
compares the forward with the module's own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.forward import _block, _linear, _norm
from zoo.llava_text import BOS, PREFIX, USER


class Reading(NamedTuple):
    """The result of `answer`.

    Attributes:
        logits: ``(n, questions, 4, words)``, float32: at the question's last two tokens, at ``<assistant>`` and at the
            answer.
        image: the image's rows ``(n, 64, width)`` at the input of blocks 0, 1, 2 and 3.
        looks: attention logits ``(n, heads, questions, SLOT, 64)`` from the questions' rows to the image's in block
            `GROUNDED`.
        words: the questions' rows ``(n, questions, SLOT, width)`` at the input of the next block.
    """

    logits: Tensor
    image: list[Tensor]
    looks: Tensor
    words: Tensor


#: block in which a question's word is trained to attend to the objects that it names
GROUNDED = 2


def _rms(layer: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
    return F.rms_norm(x, layer.weight.shape, layer.weight, layer.variance_epsilon).to(dtype)


def see(model: Any, pixels: Tensor) -> Tensor:
    """Encodes images as the model does: the patch rows at the input of the tower's last block, projected.

    Args:
        model: a ``LlavaForConditionalGeneration``.
        pixels: ``(n, 3, 64, 64)``, normalised; its dtype is the dtype of the forward.

    Returns:
        ``(n, 64, width of the decoder)``.
    """
    vision = model.model.vision_tower
    vision = getattr(vision, "vision_model", vision)
    dtype, size = pixels.dtype, vision.embeddings.patch_size
    n, _, height, width = pixels.shape
    tiles = pixels.reshape(n, 3, height // size, size, width // size, size).permute(0, 2, 4, 1, 3, 5)
    patches = F.linear(
        tiles.reshape(n, -1, 3 * size * size), vision.embeddings.patch_embedding.weight.flatten(1).to(dtype)
    )
    cls = vision.embeddings.class_embedding.to(dtype).expand(n, 1, -1)
    x = torch.cat([cls, patches], dim=1) + vision.embeddings.position_embedding.weight.to(dtype)
    x = _norm(vision.pre_layrnorm, x)
    for layer in list(vision.encoder.layers)[:-1]:
        x = _block(layer, x)
    projector = model.model.multi_modal_projector
    return _linear(projector.linear_2, F.gelu(_linear(projector.linear_1, x[:, 1:])))


def _rotary(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    frequency = 1.0 / theta ** (torch.arange(0, head_dim, 2).float() / head_dim)
    angles = positions.float()[:, None] * frequency
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def _causal(length: int, dtype: torch.dtype) -> Tensor:
    return torch.full((length, length), float("-inf"), dtype=dtype).triu(1)


def _mlp(layer: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
    normed = _rms(layer.post_attention_layernorm, x, dtype)
    gate = F.silu(_linear(layer.mlp.gate_proj, normed)) * _linear(layer.mlp.up_proj, normed)
    return x + _linear(layer.mlp.down_proj, gate)


def answer(model: Any, image_rows: Tensor, tokens: Tensor, ask: Tensor, bias: Tensor | None = None) -> Reading:
    """Runs the decoder on questions about images.

    Args:
        model: a ``LlavaForConditionalGeneration``.
        image_rows: result of `see`, ``(n, 64, width)``.
        tokens: ids ``(n, questions, SLOT)``.
        ask: index of ``<assistant>`` in each slot, ``(n, questions)``; any valid index in empty slots.
        bias: optional ``(n, questions, 64)``, added to the attention logits of a question's rows on the image's, in
            evaluation.
    """
    decoder = model.model.language_model
    config = decoder.config
    n, slots, length = tokens.shape
    heads, head_dim, dtype = config.num_attention_heads, config.head_dim, image_rows.dtype
    start = decoder.embed_tokens(torch.tensor([BOS, USER])).expand(n, -1, -1)
    text = decoder.embed_tokens(tokens).flatten(1, 2)
    # Rows and attention weights are always float32, since bfloat16 would round away half of a block's update.
    x = torch.cat([start, image_rows.float(), text], dim=1)
    positions = torch.cat([torch.arange(PREFIX), PREFIX + torch.arange(length).repeat(slots)])
    cos, sin = _rotary(positions, head_dim, config.rope_parameters["rope_theta"], dtype)
    rows = (torch.arange(slots) * length + ask.clamp_min(2)).unsqueeze(-1) + torch.arange(-2, 2)
    rows = PREFIX + rows.flatten(1)
    causal_prefix, causal_own = _causal(PREFIX, dtype), _causal(length, dtype)
    extra = None
    if bias is not None:
        extra = F.pad(bias.to(dtype), (2, 0)).repeat_interleave(length, dim=1)[:, None]
    taps: list[Tensor] = []
    for depth, layer in enumerate(decoder.layers):
        last = depth == len(decoder.layers) - 1
        if depth < 4:
            taps.append(x[:, 2:PREFIX])
        if depth == GROUNDED + 1:
            words = x[:, PREFIX:].unflatten(1, (slots, length))
        normed = _rms(layer.input_layernorm, x, dtype)
        attention = layer.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        q, k, v = (_linear(part, normed).unflatten(-1, (heads, head_dim)).transpose(1, 2) for part in parts)
        q, k = _turn(q, cos, sin) * head_dim**-0.5, _turn(k, cos, sin)
        q_own, k_own, v_own = (t[:, :, PREFIX:].unflatten(2, (slots, length)) for t in (q, k, v))
        to_prefix = q[:, :, PREFIX:] @ k[:, :, :PREFIX].transpose(-1, -2)
        if depth == GROUNDED:
            looks = to_prefix[..., 2:].unflatten(2, (slots, length))
        if extra is not None:
            to_prefix = to_prefix + extra
        to_own = q_own @ k_own.transpose(-1, -2) + causal_own
        weights = torch.cat([to_prefix, to_own.flatten(2, 3)], dim=-1).softmax(dim=-1, dtype=torch.float32).to(dtype)
        read = weights[..., :PREFIX] @ v[:, :, :PREFIX]
        read = read + (weights[..., PREFIX:].unflatten(2, (slots, length)) @ v_own).flatten(2, 3)
        if last:
            pick = (rows - PREFIX)[:, None, :, None].expand(-1, heads, -1, head_dim)
            out = read.gather(2, pick)
            x = x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))
        else:
            logits = q[:, :, :PREFIX] @ k[:, :, :PREFIX].transpose(-1, -2) + causal_prefix
            first = logits.softmax(dim=-1, dtype=torch.float32)
            out = torch.cat([first.to(dtype) @ v[:, :, :PREFIX], read], dim=2)
        x = _mlp(layer, x + _linear(attention.o_proj, out.transpose(1, 2).flatten(2)), dtype)
    logits = _linear(model.lm_head, _rms(decoder.norm, x, dtype))
    return Reading(logits.unflatten(1, (slots, 4)).float(), taps, looks, words)
