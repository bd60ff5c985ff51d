"""Where a model that writes looks while it answers: its own decoder attention over the image tokens, per image.

Knows models, not strategies.
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

#: the middle of the depth: block 20 of LLaVA-1.5-13B's 40 in the paper
MIDDLE = 0.5


@dataclass(frozen=True, eq=False)
class Reflection:
    """Where a model looked in one image: `values` `[P]`, shares of the attention on that image's tokens."""

    values: np.ndarray
    geometry: Geometry


def can_reflect(model: Model) -> bool:
    """True for a model that writes and whose attention is in reach."""
    return bool(model.generates) and "attention" in model.supports


def can_look(model: Model) -> bool:
    """True for a model that can say where it looks for a query, either way."""
    return can_attribute(model) or can_reflect(model)


def reflect(
    model: Model, chats: Sequence[Chat], blocks: Sequence[int | float] = (MIDDLE,), max_new_tokens: int = 20
) -> list[list[Reflection]]:
    """Self-reflection of API (Yu et al., ECCV 2024, https://arxiv.org/abs/2409.17143): where it looks as it answers.

    While up to `max_new_tokens` tokens are written greedily, the attention of the position that writes each of them,
    softmax over the image's tokens only, mean over heads, steps and blocks:

        Ψ[m] = mean_t mean_ℓ mean_h softmax_m(s_ℓht[m])        m over the image's image tokens

    A softmax over fewer keys is the same row divided by its share on them, so nothing is computed twice.

    Args:
        model: an LVLM.
        chats: images and a question each.
        blocks: decoder blocks that are read; a float is a fraction of the depth.
        max_new_tokens: longest answer, in tokens.

    Returns:
        For every chat one map per image; per group of frames, for a video.

    Raises:
        InvalidInputError: for a block that does not exist, or a chat without a question.
    """
    read = [block_number(block, model.num_blocks) for block in blocks]
    result: list[list[Reflection]] = [[] for _ in chats]
    for video in (False, True):  # they do not share a batch
        patch_token_index = [number for number, chat in enumerate(chats) if chat.video == video]
        for part, answers in in_parts(
            patch_token_index,
            FIRST_CHATS.get(model.device.type, 16),
            lambda part: model.generate([chats[i] for i in part], max_new_tokens=max_new_tokens, read=read),
        ):
            for place, answer in zip(part, answers, strict=True):
                for attention, geometry in zip(answer.attention, answer.geometries, strict=True):
                    shares = attention / attention.sum(-1, keepdim=True).clamp_min(1e-30)
                    result[place].append(Reflection(shares.mean(dim=(0, 1, 2)).numpy(), geometry))
    return result
