"""Questions to models that write text, and their answers, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from visprompt.errors import InvalidInputError
from visprompt.geometry.geometry import Geometry
from visprompt.visual_prompt import VisualPrompt

#: first number of chats per forward, by device; halved when memory runs out
FIRST_CHATS = {"cuda": 16, "mps": 4, "cpu": 16}


@dataclass(frozen=True, eq=False)
class Chat:
    """One question about one or several prompted images.

    Args:
        prompts: the images in order, with their edits and prompt tokens; for a video, its frames.
        text: the question.
        video: the images are frames of one video; models without video input get them as images.
        system: system message, or None for the model's default.

    Raises:
        InvalidInputError: without an image or without a question.
    """

    prompts: tuple[VisualPrompt, ...]
    text: str
    video: bool = False
    system: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", tuple(self.prompts))
        if not self.prompts:
            raise InvalidInputError("a chat needs at least one image.")
        if not isinstance(self.text, str) or not self.text.strip():
            name = self.prompts[0].request if self.prompts[0].request is not None else "the request"
            raise InvalidInputError(f"{name!r} has no question to answer: give query='…'.")


@dataclass(frozen=True, eq=False)
class Generation:
    """An answer, with the attention while it was generated.

    Args:
        text: the answer without special tokens, stripped.
        tokens: the text of every token of the answer, without the token that ended it.
        blocks: `[B]` decoder blocks that were read.
        attention: for every image (frame group of a video) `[T, B, H, P]` float32 on the CPU: the fraction of the
            attention, of the position that wrote token t, on every image token, after the edits. T is the number of
            steps, including the one that ended the answer.
        geometries: for every image (frame group) the geometry of its image tokens.
        finished: False if it stopped because `max_new_tokens` was reached.
    """

    text: str
    tokens: tuple[str, ...] = ()
    blocks: tuple[int, ...] = ()
    attention: tuple[Tensor, ...] = field(default=(), repr=False)
    geometries: tuple[Geometry, ...] = field(default=(), repr=False)
    finished: bool = True
