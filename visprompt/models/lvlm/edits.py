"""Attention edits of a chat's images: widened to all its image tokens, or split into the vision tower's tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from visprompt.attention.forms import form_named
from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.models.chat import Chat
from visprompt.models.lvlm.families import Layout
from visprompt.visual_prompt import AttentionEdit, VisualPrompt

if TYPE_CHECKING:
    from visprompt.models.lvlm.inputs import ChatInputs
    from visprompt.models.lvlm.model import LVLM


def decoder_edits(model: LVLM, chat: Chat, layouts: Sequence[Layout]) -> list[AttentionEdit]:
    """Collects the decoder's edits of a chat; each acts on the patches of its own image and is widened to those of all.

    Frames that share tokens and have equal edits count once: a pair of frames with one region is edited like one frame.

    Args:
        model: the LVLM.
        chat: the chat.
        layouts: one per image (per group of frames).

    Returns:
        Edits over all the chat's image tokens.

    Raises:
        UnsupportedError: for edits that need a reference run, and for towers that cannot be edited.
        InvalidInputError: for an edit with another number of patches than its image.
    """
    starts = np.cumsum([0, *(item.geometry.num_patches for item in layouts)]).tolist()
    result = []
    for image, (number, prompt) in enumerate(prompts_with_layouts(chat, layouts)):
        for edit in prompt.attention:
            if edit.tower != "decoder":
                model.tower_named(edit.tower)
                continue
            if form_named(edit.form).needs_reference:
                raise UnsupportedError(
                    f"{prompt.label!r} compares heads with a run without the prompt, token by token; answers differ, "
                    'so in a decoder there is no such token. Use the vision tower: tower="vision".'
                )
            wide = _widened(edit, layouts[number].geometry.num_patches, starts[number], starts[-1])
            result.append((image, wide))
    return _merged(result)


def vision_edits(model: LVLM, chats: Sequence[Chat], inputs: ChatInputs) -> list[list[AttentionEdit]]:
    """Collects the vision tower's edits, split into its tiles: every tile is a sequence of its own.

    Args:
        model: the LVLM.
        chats: the batch.
        inputs: its inputs.

    Returns:
        For every tile, in the order in which the tower gets them, its edits.

    Raises:
        UnsupportedError: if the tower cannot be edited.
        InvalidInputError: for an edit with another number of patches than its image.
    """
    result: list[list[AttentionEdit]] = []
    for chat, layouts in zip(chats, inputs.layouts, strict=True):
        own: list[list[tuple[int, AttentionEdit]]] = [[] for _ in layouts]
        for image, (number, prompt) in enumerate(prompts_with_layouts(chat, layouts)):
            edits = [edit for edit in prompt.attention if edit.tower == "vision"]
            if edits and layouts[number].vision is None:
                model.tower_named("vision")
                raise UnsupportedError(f"{model.name}: its vision tower cannot be edited for {prompt.request!r}.")
            own[number] += [(image, edit) for edit in edits]
        for layout, found in zip(layouts, own, strict=True):
            edits, start = _merged(found), 0
            for tile in layout.vision.tiles if layout.vision is not None else ():
                count = tile.grid_hw[0] * tile.grid_hw[1]
                assert layout.vision is not None
                total = layout.vision.num_patches
                result.append([_cut(edit, total, start, count) for edit in edits if _is_in(edit, start, count)])
                start += count
    return result


def prompts_with_layouts(chat: Chat, layouts: Sequence[Layout]) -> list[tuple[int, VisualPrompt]]:
    """Pairs every prompt with the index of its image's layout; frames that share tokens share a layout.

    Args:
        chat: the chat.
        layouts: its layouts.

    Returns:
        (index of the layout, prompt), in order.
    """
    shared = -(-len(chat.prompts) // len(layouts))
    return [(number // shared, prompt) for number, prompt in enumerate(chat.prompts)]


def _spread(values: np.ndarray, start: int, total: int) -> np.ndarray:
    wide = np.zeros(total, dtype=np.float32)
    wide[start : start + len(values)] = values
    return wide


def _check_length(edit: AttentionEdit, expected: int) -> None:
    columns = edit.columns
    if columns is not None and len(columns) != expected:
        raise InvalidInputError(
            f"an attention edit has {len(columns)} patch columns, but the image has {expected} image tokens in the "
            f"{edit.tower}: make it from model.geometry() of the same image, fit and tower."
        )


def _widened(edit: AttentionEdit, own: int, start: int, total: int) -> AttentionEdit:
    _check_length(edit, own)
    if own == total:
        return edit
    return _with_columns(edit, lambda values: _spread(values, start, total))


def _with_columns(edit: AttentionEdit, change: Callable[[np.ndarray], np.ndarray]) -> AttentionEdit:
    """The edit with each of its arrays over the patches changed by a function."""
    changes: dict[str, Any] = {name: change(values) for name, values in edit.per_patch.items()}
    return replace(edit, **changes)


def _merged(edits: list[tuple[int, AttentionEdit]]) -> list[AttentionEdit]:
    """Merges equal edits of several images into one over the regions of all: one target mass, one temperature, the
    larger bias. Edits of the same image are added up, except for target masses.
    """
    result: list[tuple[set[int], AttentionEdit]] = []
    for image, edit in edits:
        for index, (owners, other) in enumerate(result):
            if _alike(edit, other) and (edit.weights is not None or image not in owners):
                result[index] = ({*owners, image}, _both(edit, other))
                break
        else:
            result.append(({image}, edit))
    return [edit for _, edit in result]


def _alike(a: AttentionEdit, b: AttentionEdit) -> bool:
    names = [item.name for item in fields(a) if not item.metadata.get("per_patch")]
    return a.form == b.form and all(getattr(a, n) is getattr(b, n) or getattr(a, n) == getattr(b, n) for n in names)


def _both(a: AttentionEdit, b: AttentionEdit) -> AttentionEdit:
    """Joins two equal edits: for every patch the number with the larger absolute value."""
    ours = a.per_patch
    changes: dict[str, Any] = {
        name: np.where(np.abs(ours[name]) > np.abs(values), ours[name], values) for name, values in b.per_patch.items()
    }
    return replace(b, **changes)


def _is_in(edit: AttentionEdit, start: int, count: int) -> bool:
    columns = edit.columns
    return columns is None or bool(np.any(columns[start : start + count]))


def _cut(edit: AttentionEdit, expected: int, start: int, count: int) -> AttentionEdit:
    _check_length(edit, expected)
    if not edit.has_columns:
        return edit  # the same one in all tiles, which are then compiled once
    return _with_columns(edit, lambda values: values[start : start + count])
