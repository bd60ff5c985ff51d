"""The decoder attention over the image tokens while a model generates its answer, per image.

The module imports models, not strategies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from visprompt.models.attribution import can_attribute, in_parts
from visprompt.models.chat import FIRST_CHATS, Chat
from visprompt.visual_prompt import block_number

if TYPE_CHECKING:
    from visprompt.geometry.geometry import Geometry
    from visprompt.models.base import Model

#: the block that is read by default, as a fraction of the depth: block 20 of LLaVA-1.5-13B's 40 in the paper
MIDDLE = 0.5


@dataclass(frozen=True, eq=False)
class Reflection:
    """The attention over one image's tokens: `values` `[P]` are fractions that sum to 1."""

    values: np.ndarray
    geometry: Geometry


def can_reflect(model: Model) -> bool:
    """Whether a model writes text and its attention can be read.

    Args:
        model: any model.

    Returns:
        True if so.
    """
    return bool(model.generates) and "attention" in model.supports


def can_look(model: Model) -> bool:
    """Whether a model can give a map for a query, by attribution or by reflection.

    Args:
        model: any model.

    Returns:
        True if so.
    """
    return can_attribute(model) or can_reflect(model)


def reflect(
    model: Model, chats: Sequence[Chat], blocks: Sequence[int | float] = (MIDDLE,), max_new_tokens: int = 20
) -> list[list[Reflection]]:
    """Self-reflection of API (Yu et al., ECCV 2024, https://arxiv.org/abs/2409.17143): the attention over the image
    tokens while the model answers.

    Up to `max_new_tokens` tokens are generated greedily. The attention of the position that writes each of them,
    softmax over the image's tokens only, is averaged over heads, steps and blocks:

        Ψ[m] = mean_t mean_ℓ mean_h softmax_m(s_ℓht[m])        m over the image's image tokens

    A softmax over fewer keys is the same row divided by its sum over them, so nothing is computed twice.

    Args:
        model: an LVLM.
        chats: images and a question each.
        blocks: decoder blocks that are read; a float is a fraction of the depth.
        max_new_tokens: longest answer, in tokens.

    Returns:
        For every chat one map per image (per group of frames, for a video).

    Raises:
        InvalidInputError: for a block that does not exist, or a chat without a question.
    """
    read = [block_number(block, model.num_blocks) for block in blocks]
    result: list[list[Reflection]] = [[] for _ in chats]
    for video in (False, True):  # images and videos do not share a batch
        numbers = [number for number, chat in enumerate(chats) if chat.video == video]
        for part, answers in in_parts(
            numbers,
            FIRST_CHATS.get(model.device.type, 16),
            lambda part: model.generate([chats[i] for i in part], max_new_tokens=max_new_tokens, read=read),
        ):
            for number, answer in zip(part, answers, strict=True):
                for attention, geometry in zip(answer.attention, answer.geometries, strict=True):
                    shares = attention / attention.sum(-1, keepdim=True).clamp_min(1e-30)
                    result[number].append(Reflection(shares.mean(dim=(0, 1, 2)).numpy(), geometry))
    return result
