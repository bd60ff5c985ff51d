"""Gated prompt tuning (arXiv 2306.05067): prompt tokens with a gate and an attention temperature per block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from visprompt.strategies.vpt import TokenOptions, TokenPrompter

from visprompt.errors import InvalidInputError
from visprompt.visual_prompt import AttentionEdit, is_number

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from visprompt.models.base import Model

LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 10.0


@dataclass(frozen=True)
class GatedOptions(TokenOptions):
    """Options of `gated`, in addition to those of `TokenOptions`.

    Args:
        gates: mix the prompt tokens before and after a block, weighted by one learned gate per block.
        shaping: one learned temperature per block divides the attention logits of all tokens.
        gamma: γ: the gates start at sigmoid(−γ), almost closed (5 in the authors' example, 10 in their defaults).
    """

    gates: bool = True
    shaping: bool = True
    gamma: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gates", "shaping"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidInputError(f"{name} is True or False; got {getattr(self, name)!r}.")
        if not is_number(self.gamma):
            raise InvalidInputError(f"gamma is a finite number; got {self.gamma!r}.")


class Gated(TokenPrompter):
    """Gated prompt tuning (Yoo et al., ICML 2023, https://arxiv.org/abs/2306.05067), for self-supervised ViTs.

    m tokens are inserted before block b. After every block but the last, `P ← g · P̃ + (1 − g) · P`, with P the prompt
    tokens before the block, P̃ after it, and `g = sigmoid(logit)` learned; a small g lets the tokens pass a block
    nearly unchanged. In every block the attention is `softmax(q kᵀ · scale / τ)` with a learned τ in [0.01, 10], for
    all tokens.

    Without gates and shaping it is VPT-shallow.

    >>> import visprompt as vp
    >>> vp.Prompter.from_name("gated", preset="paper").options.prompts
    100

    Shapes: tokens `[1, m, d]`, gate logits `[L − 1 − b]`, temperatures `[L]`.

    Raises:
        InvalidInputError: if it is untrained.
        UnsupportedError: on another backbone than the one it was trained on, and on towers that take no tokens.
    """

    Options = GatedOptions
    acts_on = frozenset({"tokens", "attention"})
    neutral: ClassVar[dict[str, Any]] = {"prompts": 0, "shaping": False}

    def make(self, model: Model, generator: torch.Generator) -> nn.Module:
        """Tokens as for `vpt`; gate logits −γ `[L − 1 − b]`; temperatures 1 `[L]`."""
        import torch
        from torch import nn

        made: Any = super().make(model, generator)
        blocks = len(model.tower_named(self.tower).blocks)
        if self.options.gates and self.options.prompts:
            made["gate_logits"] = nn.Parameter(torch.full((blocks - 1 - self.first_of(blocks),), -self.options.gamma))
        if self.options.shaping:
            made["temperatures"] = nn.Parameter(torch.ones(blocks))
        return made  # type: ignore[no-any-return]

    def constrain(self) -> None:
        """Keeps every τ in [0.01, 10], as the authors do before each forward."""
        import torch

        temperatures = self.tensors().get("temperatures")
        if temperatures is not None:
            with torch.no_grad():
                temperatures.clamp_(LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE)

    def edits(self, tensors: dict[str, Tensor]) -> tuple[AttentionEdit, ...]:
        """One attention edit per block with its temperature; empty without `shaping`."""
        temperatures = tensors.get("temperatures")
        if temperatures is None:
            return ()
        return tuple(
            AttentionEdit(tower=self.tower, temperature=value, rows="all", first_block=block, last_block=block)
            for block, value in enumerate(temperatures.unbind())
        )
