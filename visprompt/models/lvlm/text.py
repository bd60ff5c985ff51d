"""Converts a decoder's tokens to text: pieces and streams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


def pieces_of(tokenizer: Any, ids: list[int]) -> tuple[str, ...]:
    """The text that every token adds. Decoding each token alone would lose the spaces between words; a character that
    takes several tokens is added by the last of them.

    Args:
        tokenizer: the model's tokenizer.
        ids: token ids of an answer.

    Returns:
        One text per token.
    """
    pieces, shown = [], ""
    for count in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:count], skip_special_tokens=True)
        whole = count == len(ids) or not text.endswith("\ufffd")
        pieces.append(text[len(shown) :] if whole else "")
        shown = text if whole else shown
    return tuple(pieces)


@dataclass
class Pieces:
    """A streamer for `generate`: passes new text on, in whole characters.

    Args:
        tokenizer: the model's tokenizer.
        count: number of chats.
        prompt_length: number of tokens of the padded prompts.
        call: called with (index of the chat, new text).
    """

    tokenizer: Any
    count: int
    prompt_length: int
    call: Callable[[int, str], None]

    def __post_init__(self) -> None:
        self.ids: list[list[int]] = [[] for _ in range(self.count)]
        self.shown = [""] * self.count
        self.started = False

    def put(self, value: Tensor) -> None:
        """Takes the new tokens of every chat; the first call has the prompts.

        Args:
            value: `[n]` or `[n, 1]` token ids.
        """
        if not self.started:
            self.started = True
            return
        for number, token in enumerate(value.reshape(self.count, -1)[:, -1].tolist()):
            self.ids[number].append(token)
            self._show(number, whole=True)

    def end(self) -> None:
        """Passes on incomplete characters at the end of the answers."""
        for number in range(self.count):
            self._show(number, whole=False)

    def _show(self, number: int, whole: bool) -> None:
        text = self.tokenizer.decode(self.ids[number], skip_special_tokens=True)
        if len(text) > len(self.shown[number]) and not (whole and text.endswith("\ufffd")):
            self.call(number, text[len(self.shown[number]) :])
            self.shown[number] = text
