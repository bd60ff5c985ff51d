"""VPT: learned tokens in the sequence of a frozen ViT, inserted once or in every block."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from visprompt.errors import InvalidInputError
from visprompt.learned.strategy import Learned
from visprompt.prompter import Options
from visprompt.visual_prompt import AttentionEdit, PromptTokens, VisualPrompt, block_number, check_blocks, is_number

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from visprompt.models.base import Model


@dataclass(frozen=True)
class TokenOptions(Options):
    """Options that all strategies with prompt tokens share.

    Args:
        prompts: m, the number of tokens; 0: none, so that only a head is trained (a linear probe).
        first_block: block b into which they are inserted; a float is a fraction of the depth, negative numbers count
            from the end.
        dropout: fraction of a token's values that are set to zero in training, drawn for every image.
        pool: for models that average their patches: "model" averages the patches alone, "with_prompts" the prompt
            tokens too (the authors' choice for MAE); None: "with_prompts" where possible. Dense features never contain
            the prompt tokens.
    """

    prompts: int = 50
    first_block: int | float = 0
    dropout: float = 0.1
    pool: Literal["model", "with_prompts"] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.prompts, int) or isinstance(self.prompts, bool) or self.prompts < 0:
            raise InvalidInputError(f"prompts is a number of tokens, at least 0; got {self.prompts!r}.")
        if not is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise InvalidInputError(f"dropout is a share, at least 0 and below 1; got {self.dropout!r}.")
        if self.pool not in (None, "model", "with_prompts"):
            raise InvalidInputError(f'pool is "model", "with_prompts" or None; got {self.pool!r}.')
        check_blocks(self.first_block)


@dataclass(frozen=True)
class VptOptions(TokenOptions):
    """Options of `vpt`, in addition to those of `TokenOptions`.

    Args:
        deep: False: the tokens are inserted once (VPT-shallow); True: every block from `first_block` on gets its own
            tokens, which replace the outputs of the previous ones (VPT-deep).
    """

    deep: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.deep, bool):
            raise InvalidInputError(f"deep is True or False; got {self.deep!r}.")


class TokenPrompter(Learned):
    """Base of the strategies that insert learned tokens into a tower: initialisation, dropout, pooling."""

    #: tensors of the parameters by name; sub-classes add theirs
    Options: ClassVar[type[Options]] = TokenOptions

    def depth(self, blocks: int) -> int:
        """Number of blocks with their own tokens, of a tower with `blocks` blocks."""
        return 1

    def make(self, model: Model, generator: torch.Generator) -> nn.Module:
        """Tokens `[depth, m, d]`, uniform in (−v, v) with v = √(6 / (3 p² + d)), p the patch's side in pixels of the
        input.
        """
        import torch
        from torch import nn

        from visprompt.models.identity import width_of

        tower = model.tower_named(self.tower)
        width, blocks = width_of(tower), len(tower.blocks)
        rows, columns = _patch_px(model)
        span = math.sqrt(6.0 / (3 * rows * columns + width))
        shape = (self.depth(blocks), self.options.prompts, width)
        tokens = (torch.rand(shape, generator=generator) * 2 - 1) * span
        return nn.ParameterDict({"tokens": nn.Parameter(tokens)})

    def tensors(self) -> dict[str, Tensor]:
        """The parameters by name."""
        return {} if self.parameters is None else dict(self.parameters.named_parameters())

    def edit(self, prompt: VisualPrompt, model: Model) -> VisualPrompt:
        """Inserts the tokens into one prompt."""
        return self._with(prompt, *self._data(model, {name: item.detach() for name, item in self.tensors().items()}))

    def edit_all(self, prompts: Sequence[VisualPrompt], model: Model) -> list[VisualPrompt]:
        """Inserts the same `PromptTokens` object into all prompts, so that the model processes them once per batch."""
        self.check(prompts, model)
        data = self._data(model, {name: item.detach() for name, item in self.tensors().items()})
        return [self._labelled(self._with(prompt, *data)) for prompt in prompts]

    def training_edit(
        self, prompts: Sequence[VisualPrompt], model: Model, draws: Sequence[int] | None
    ) -> list[VisualPrompt]:
        """As `edit_all`, with gradients, and with dropout if there are seeds.

        Args:
            prompts: one per image.
            model: the model.
            draws: one seed per prompt for dropout; None: no dropout.
        """
        import torch

        live = self.tensors()
        rate = float(self.options.dropout)
        # The same objects for all prompts: the model then compiles them once for the whole batch.
        tokens, edits = self._data(model, live)
        if draws is None or rate == 0 or tokens is None:
            return [self._with(prompt, tokens, edits) for prompt in prompts]
        found = []
        for prompt, draw in zip(prompts, draws, strict=True):
            kept = torch.rand(tokens.tokens.shape, generator=torch.Generator().manual_seed(draw)) >= rate
            dropped = tokens.tokens * (kept.to(tokens.tokens) / (1 - rate))
            found.append(self._with(prompt, dataclasses.replace(tokens, tokens=dropped), edits))
        return found

    def edits(self, tensors: dict[str, Tensor]) -> tuple[AttentionEdit, ...]:
        """Attention edits in addition to the tokens.

        Args:
            tensors: the parameters by name.
        """
        return ()

    def _data(self, model: Model, tensors: dict[str, Tensor]) -> tuple[PromptTokens | None, tuple[AttentionEdit, ...]]:
        tower = model.tower_named(self.tower)
        pool = self.options.pool
        if pool is None:
            pool = "with_prompts" if tower.readout == "mean" and not tower.padded else "model"
        tokens = None
        if self.options.prompts:
            tokens = PromptTokens(
                tensors["tokens"], tensors.get("gate_logits"), self.tower, self.options.first_block, pool
            )
        return tokens, self.edits(tensors)

    def _with(
        self, prompt: VisualPrompt, tokens: PromptTokens | None, edits: tuple[AttentionEdit, ...]
    ) -> VisualPrompt:
        if tokens is not None and prompt.tokens is not None:
            raise InvalidInputError(
                f"{self.name!r} brings prompt tokens and {prompt.label!r} before it has some already: a tower takes "
                "the tokens of one strategy."
            )
        return prompt.adding(*edits) if tokens is None else prompt.with_(tokens=tokens).adding(*edits)

    def first_of(self, blocks: int) -> int:
        """b as a block number, of a tower with `blocks` blocks."""
        return block_number(self.options.first_block, blocks, "first_block")

    def blocks_table(self) -> list[dict[str, Any]]:
        """The learned values per block, for `visprompt inspect`.

        Returns:
            One dict per block: `block`; `tokens`, the mean norm of the tokens inserted at the block; `gate`;
            `temperature`; `selection`, the fraction of the block's output in the last block's prompt tokens (Fig. 4 of
            the gated prompt paper); None where the block has none. Block −1 has the fraction of the initial tokens.
        """
        if self.parameters is None or self.backbone is None:
            return []
        tensors = {name: item.detach().float().cpu() for name, item in self.tensors().items()}
        blocks = int(self.backbone["blocks"])
        first = self.first_of(blocks)
        rows: list[dict[str, Any]] = [
            {"block": block, "tokens": None, "gate": None, "temperature": None, "selection": None}
            for block in range(-1 if "gate_logits" in tensors else 0, blocks)
        ]
        by_block = {row["block"]: row for row in rows}
        if tensors["tokens"].shape[1]:
            for index, item in enumerate(tensors["tokens"]):
                by_block[first + index]["tokens"] = float(item.norm(dim=-1).mean())
        if "temperatures" in tensors:
            for block, value in enumerate(tensors["temperatures"].tolist()):
                by_block[block]["temperature"] = value
        if "gate_logits" in tensors:
            left = 1.0
            gates = tensors["gate_logits"].sigmoid().tolist()
            for index in reversed(range(len(gates))):
                by_block[first + index].update(gate=gates[index], selection=gates[index] * left)
                left *= 1 - gates[index]
            by_block[-1]["selection"] = left
        return rows


class Vpt(TokenPrompter):
    """Visual prompt tuning (Jia et al., ECCV 2022, https://arxiv.org/abs/2203.12119): m learned tokens in the sequence.

    The input of block b is `[CLS, P, patches]`; with `deep=True` every block from b on gets its own tokens, which
    replace the outputs of the previous ones. Inserting at different b is Fig. 1 of gated prompt tuning
    (arXiv 2306.05067). With `prompts=0` only a head is trained.

    >>> import visprompt as vp
    >>> vp.Prompter.from_name("vpt", preset="deep").options.deep
    True

    Shapes: tokens `[1, m, d]`, or `[L − b, m, d]` if deep.

    Raises:
        InvalidInputError: if it is untrained.
        UnsupportedError: on another backbone than the one it was trained on, and on towers that take no tokens.
    """

    Options = VptOptions
    neutral: ClassVar[dict[str, Any]] = {"prompts": 0}
    head_preset: ClassVar[str | None] = "linear"

    def depth(self, blocks: int) -> int:
        """The number of blocks from `first_block` on if `deep`, else 1."""
        return blocks - self.first_of(blocks) if self.options.deep else 1


def _patch_px(model: Model) -> tuple[float, float]:
    """Height and width of a patch in input pixels."""
    tile = model.geometry((64, 64), tower="vision").tiles[0]
    return tile.input_hw[0] / tile.grid_hw[0], tile.input_hw[1] / tile.grid_hw[1]
