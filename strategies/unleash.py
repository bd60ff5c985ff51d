"""Unleash: amplifies the effect of another prompt in the last blocks, in the heads that respond to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from visprompt.errors import InvalidInputError
from visprompt.prompter import Options, Prompter
from visprompt.visual_prompt import AttentionEdit, VisualPrompt, check_blocks, checked_heads, is_number


@dataclass(frozen=True)
class UnleashOptions(Options):
    """Options of `unleash`.

    Args:
        gain: g, factor of the change that is added once more (paper: 1). 0: the prompt alone.
        responsive: only heads whose output changed by at least this fraction of its norm; None: all heads.
        first_block: first block it acts in; a float is a fraction of the depth (paper: the last four of 12).
        last_block: last block, included; None: to the end.
        heads: head indices; None: all.
    """

    gain: float = 1.0
    responsive: float | None = None
    first_block: int | float = 2 / 3
    last_block: int | None = None
    heads: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not is_number(self.gain):
            raise InvalidInputError(f"gain is a finite number; got {self.gain!r}.")
        if self.responsive is not None and not (is_number(self.responsive) and self.responsive >= 0):
            raise InvalidInputError(f"responsive is a share of a head's norm, 0 or more; got {self.responsive!r}.")
        object.__setattr__(self, "heads", checked_heads(self.heads))
        check_blocks(self.first_block, self.last_block)


class Unleash(Prompter):
    """Unleash (FALIP, Zhuang et al., ECCV 2024, https://arxiv.org/abs/2407.05578, §4): amplifies a prompt.

    With G a head's attention output for the readout row without the visual prompt and G' with it, the output becomes
    `G' + g·(G' − G)` in the last blocks. It follows another prompt: `circle+unleash`, `falip+unleash`.

    >>> import visprompt as vp
    >>> vp.Prompter.from_name("circle+unleash", gain=0.5).parts[1].options.gain
    0.5

    Costs one more forward of the image without the prompt.

    Raises:
        InvalidInputError: if there is no prompt before it to amplify.
        UnsupportedError: on a model without attention, or whose vision tower cannot be edited.
    """

    Options = UnleashOptions
    acts_on = frozenset({"attention"})
    needs = frozenset({"prompt", "vision"})
    neutral: ClassVar[dict[str, Any]] = {"gain": 0.0}
    follows: ClassVar[str] = "circle"

    def edit(self, prompt: VisualPrompt, model: Any) -> VisualPrompt:
        """Adds the gain edit, with the request's own image as the reference.

        Raises:
            InvalidInputError: if there is no prompt before it.
        """
        options: UnleashOptions = self.options
        if prompt.label == "none" and options.gain:
            raise InvalidInputError(
                "unleash amplifies another prompt and none came before it: put it last, e.g. "
                "'circle+unleash' or 'falip+unleash'."
            )
        original = prompt.reference or (prompt.request.pil_image if prompt.request is not None else prompt.image)
        edit = AttentionEdit(
            tower="vision",
            gain=options.gain,
            responsive=options.responsive,
            first_block=options.first_block,
            last_block=options.last_block,
            heads=options.heads,
        )
        return prompt.with_(reference=original).adding(edit)
