"""From a decoder's tokens to text: pieces, endings, streams."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


def end_ids(module: Any, tokenizer: Any) -> set[int]:
    """The tokens that end an answer."""
    found = getattr(getattr(module, "generation_config", None), "eos_token_id", None)
    found = tokenizer.eos_token_id if found is None else found
    ends = set(found if isinstance(found, list | tuple) else [found])
    return {int(item) for item in ends if item is not None}


def pieces_of(tokenizer: Any, ids: list[int]) -> tuple[str, ...]:
    """The text that every token adds: decoding token by token would lose the spaces between words."""
    texts = [tokenizer.decode(ids[:count], skip_special_tokens=True) for count in range(len(ids) + 1)]
    return tuple(after[len(before) :] for before, after in itertools.pairwise(texts))


@dataclass
class Pieces:
    """What `generate` calls a streamer: hands new text on, whole characters only."""

    tokenizer: Any
    count: int
    prompt_length: int
    call: Callable[[int, str], None]

    def __post_init__(self) -> None:
        self.ids: list[list[int]] = [[] for _ in range(self.count)]
        self.shown = [""] * self.count
        self.started = False

    def put(self, value: Tensor) -> None:
        """New tokens of every chat; the first call brings the prompt."""
        if not self.started:
            self.started = True
            return
        for number, token in enumerate(value.reshape(self.count, -1)[:, -1].tolist()):
            self.ids[number].append(token)
            text = self.tokenizer.decode(self.ids[number], skip_special_tokens=True)
            if len(text) > len(self.shown[number]) and not text.endswith("\ufffd"):
                self.call(number, text[len(self.shown[number]) :])
                self.shown[number] = text

    def end(self) -> None:
        """Nothing more comes."""
