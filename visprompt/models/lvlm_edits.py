"""Attention edits of a chat's pictures: laid over all its image tokens, or cut into the vision tower's tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.models.chat import Chat
from visprompt.models.lvlm_layout import Layout
from visprompt.visual_prompt import AttentionEdit, VisualPrompt

if TYPE_CHECKING:
    from visprompt.models.chat_inputs import ChatInputs
    from visprompt.models.lvlm import LVLM


def decoder_edits(model: LVLM, chat: Chat, layouts: Sequence[Layout]) -> list[AttentionEdit]:
    """Edits of several pictures, each over its own patches, widened to the patches of all."""
    starts = np.cumsum([0, *(item.geometry.num_patches for item in layouts)]).tolist()
    result = []
    for number, prompt in prompts_with_layouts(chat, layouts):
        for edit in prompt.attention:
            if edit.tower != "decoder":
                model.tower_named(edit.tower)
                continue
            if edit.gain is not None:
                raise UnsupportedError(
                    f"{prompt.label!r} compares heads with a run without the prompt, token by token; answers differ, "
                    'so in a decoder there is no such token. Use the vision tower: tower="vision".'
                )
            result.append(_widened(edit, layouts[number].geometry.num_patches, starts[number], starts[-1]))
    return _merged(result)


def vision_edits(model: LVLM, chats: Sequence[Chat], inputs: ChatInputs) -> list[list[AttentionEdit]]:
    """Edits of the vision tower, cut into its tiles: every tile is a sequence of its own."""
    result: list[list[AttentionEdit]] = []
    for chat, layouts in zip(chats, inputs.layouts, strict=True):
        for number, prompt in prompts_with_layouts(chat, layouts):
            edits = [edit for edit in prompt.attention if edit.tower == "vision"]
            vision = layouts[number].vision
            if vision is None:
                if edits:
                    model.tower_named("vision")
                    raise UnsupportedError(f"{model.name}: its vision tower cannot be edited for {prompt.request!r}.")
                continue
            start = 0
            for tile in vision.tiles:
                count = tile.grid_hw[0] * tile.grid_hw[1]
                result.append(
                    [_cut(edit, vision.num_patches, start, count) for edit in edits if _is_in(edit, start, count)]
                )
                start += count
    return result


def prompts_with_layouts(chat: Chat, layouts: Sequence[Layout]) -> list[tuple[int, VisualPrompt]]:
    """Every prompt with the number of its picture's layout; frames that share tokens share a layout."""
    shared = -(-len(chat.prompts) // len(layouts))
    return [(number // shared, prompt) for number, prompt in enumerate(chat.prompts)]


def _spread(values: np.ndarray | None, start: int, total: int) -> np.ndarray | None:
    if values is None:
        return None
    wide = np.zeros(total, dtype=np.float32)
    wide[start : start + len(values)] = values
    return wide


def _check_length(edit: AttentionEdit, expected: int) -> None:
    columns = edit.bias if edit.bias is not None else edit.weights
    if columns is not None and len(columns) != expected:
        raise InvalidInputError(
            f"an attention edit has {len(columns)} patch columns, but the picture has {expected} image tokens in the "
            f"{edit.tower}: make it from model.geometry() of the same picture, fit and tower."
        )


def _widened(edit: AttentionEdit, own: int, start: int, total: int) -> AttentionEdit:
    _check_length(edit, own)
    if own == total:
        return edit
    return replace(edit, bias=_spread(edit.bias, start, total), weights=_spread(edit.weights, start, total))


def _merged(edits: list[AttentionEdit]) -> list[AttentionEdit]:
    """Regions on several pictures that share one target mass are one region."""
    result: list[AttentionEdit] = []
    for edit in edits:
        for place, other in enumerate(result):
            same = all(
                getattr(edit, name) == getattr(other, name)
                for name in ("target_mass", "first_block", "last_block", "heads", "rows")
            )
            if edit.weights is not None and other.weights is not None and same:
                result[place] = replace(other, weights=np.maximum(other.weights, edit.weights))
                break
        else:
            result.append(edit)
    return result


def _is_in(edit: AttentionEdit, start: int, count: int) -> bool:
    columns = edit.bias if edit.bias is not None else edit.weights
    return columns is None or bool(np.any(columns[start : start + count]))


def _cut(edit: AttentionEdit, expected: int, start: int, count: int) -> AttentionEdit:
    _check_length(edit, expected)
    bias, weights = (None if item is None else item[start : start + count] for item in (edit.bias, edit.weights))
    return replace(edit, bias=bias, weights=weights)
