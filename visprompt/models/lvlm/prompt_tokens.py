"""Prompt tokens in an LVLM's vision tower, whose batch holds the tiles of many images, with and without tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from visprompt.attention.prompt_tokens import Insertion, kind_of
from visprompt.attention.scope import Scope
from visprompt.attention.sites import Tower
from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.models.chat import Chat
from visprompt.models.lvlm.edits import prompts_with_layouts
from visprompt.visual_prompt import PromptTokens

if TYPE_CHECKING:
    from visprompt.models.lvlm.inputs import ChatInputs


def alike(chats: Sequence[Chat]) -> list[list[int]]:
    """Groups chats that can run in one batch: those whose images have tokens of the same `kind_of`.

    Chats without tokens form their own group, so that they run exactly as they do alone.

    Args:
        chats: the chats.

    Returns:
        Lists of indices into `chats`.

    Raises:
        InvalidInputError: for a chat whose own images have tokens of two kinds.
    """
    found: dict[Any, list[int]] = {}
    for index, chat in enumerate(chats):
        kinds = {kind_of(prompt.tokens) for prompt in chat.prompts} - {None}
        if len(kinds) > 1:
            raise InvalidInputError(_two_kinds("one chat"))
        found.setdefault(next(iter(kinds), None), []).append(index)
    return list(found.values())


def tile_tokens(tower: Tower | None, chats: Sequence[Chat], inputs: ChatInputs) -> TileInsertion | None:
    """Collects the tokens of a batch's images, tile by tile in the order in which the tower gets them.

    Args:
        tower: the vision tower, or None.
        chats: the batch.
        inputs: its inputs.

    Returns:
        The tokens for a scope; None without any.

    Raises:
        InvalidInputError: for tokens of two kinds, or of shapes that do not fit the tower.
        UnsupportedError: if the tower takes no prompt tokens.
    """
    found: list[PromptTokens | None] = []
    for chat, layouts in zip(chats, inputs.layouts, strict=True):
        own: list[PromptTokens | None] = [None] * len(layouts)
        for number, prompt in prompts_with_layouts(chat, layouts):
            if prompt.tokens is not None and prompt.tokens.count:
                own[number] = prompt.tokens
        for layout, tokens in zip(layouts, own, strict=True):
            found += [tokens] * (0 if layout.vision is None else len(layout.vision.tiles))
    if tower is None or not any(found):
        return None
    return TileInsertion(tower, found)


class TileInsertion(Insertion):
    """Prompt tokens for some of a tower's tiles.

    All sequences of a batch have one length, so tiles without tokens get placeholders, which attention masks hide from
    the whole tile: the tower's output is that of the plain model, up to the rounding of a kernel with a mask.

    Args:
        tower: the vision tower.
        tiles: for every tile its tokens or None, all of one kind.

    Raises:
        InvalidInputError: for tokens of two kinds, or of shapes that do not fit the tower.
        UnsupportedError: if the tower takes no prompt tokens.
    """

    def __init__(self, tower: Tower, tiles: Sequence[PromptTokens | None]) -> None:
        given = [item for item in tiles if item is not None]
        if len({kind_of(item) for item in given}) > 1:
            raise InvalidInputError(_two_kinds("one batch"))
        super().__init__(tower, [given[0] if item is None else item for item in tiles])
        self.hidden = torch.tensor([item is None for item in tiles])

    def install(self, scope: Scope) -> None:
        """Hooks the blocks, and their attention if placeholders must be hidden.

        Args:
            scope: the scope, which removes the hooks on exit.
        """
        super().install(scope)
        if self.hidden.any():
            for index in range(self.first_block, self.last_block + 1):
                scope.hook_before(self.tower.sites[index].module, self._hiding)

    def _hiding(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        states: Tensor = args[0] if args else kwargs["hidden_states"]
        if len(states) != len(self.hidden):
            raise InvalidInputError(f"prompt tokens for {len(self.hidden)} tiles in a batch of {len(states)}.")
        if "flash" in str(getattr(getattr(module, "config", None), "_attn_implementation", "")):
            raise UnsupportedError(
                "images with and without prompt tokens in one forward need a mask that flash attention does not "
                'take: load the model with attn_implementation="sdpa", or ask about them one after the other.'
            )
        stand_ins = torch.zeros(len(states), 1, 1, states.shape[1], dtype=torch.bool, device=states.device)
        stand_ins[self.hidden.to(states.device), ..., self.own : self.own + self.count] = True
        mask = kwargs.get("attention_mask")
        if mask is None:
            mask = states.new_zeros(stand_ins.shape)
        fill = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        return args, {**kwargs, "attention_mask": mask.masked_fill(stand_ins, fill)}


def _two_kinds(where: str) -> str:
    return (
        f"prompt tokens of {where} differ in number, depth or place: those of one kind run together. Ask about the "
        "images one after the other."
    )
