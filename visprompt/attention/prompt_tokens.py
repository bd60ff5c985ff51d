"""Prompt tokens in a tower's sequence: they are inserted after its prefix tokens at a block, gates act between the
blocks, and the tokens are removed after the last block.

    own prefix | m prompt tokens | patches

Positions inside the blocks stay right: rotary tables and relative-position biases are widened with entries that leave
prompt tokens unchanged (no rotation, a bias of 0), and masks make them visible to every token. What is done at a block
depends on that call's own input and output alone, so several forwards in one scope, other threads, and blocks that
gradient checkpointing runs again do not mix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from visprompt.attention.prefix_sharing import replace_hidden
from visprompt.attention.sites import Site, Tower
from visprompt.errors import InvalidInputError, SiteNotReachedError, UnsupportedError
from visprompt.visual_prompt import PromptTokens, VisualPrompt, block_number

if TYPE_CHECKING:
    from visprompt.attention.scope import Scope


def kind_of(tokens: PromptTokens | None) -> tuple[Any, ...] | None:
    """The properties that the prompt tokens of one batch must have in common.

    Args:
        tokens: prompt tokens of one prompt, or None.

    Returns:
        A hashable key: shape, number of gates, tower, first block and pooling; None for a prompt without tokens.
    """
    if tokens is None or tokens.count == 0:
        return None
    gates = None if tokens.gate_logits is None else len(tokens.gate_logits)
    return (tuple(tokens.tokens.shape), gates, tokens.tower, tokens.first_block, tokens.pool)


def groups_of(prompts: Sequence[VisualPrompt]) -> list[list[int]]:
    """Groups prompts that can run in one batch: those whose tokens have the same `kind_of`.

    Args:
        prompts: any number of prompts.

    Returns:
        Lists of indices into `prompts`.
    """
    found: dict[Any, list[int]] = {}
    for index, prompt in enumerate(prompts):
        found.setdefault(kind_of(prompt.tokens), []).append(index)
    return list(found.values())


class Insertion:
    """The prompt tokens of a batch of streams; a `Scope` installs and removes its hooks.

    Args:
        tower: the tower whose blocks get the tokens.
        prompts: one per stream, all with the same `kind_of`.

    Attributes:
        tower: the same tower with its sites' columns counted with the prompt tokens; for programs and scopes.
        prompts: as given.

    Raises:
        InvalidInputError: if the numbers of blocks, gates and tokens do not fit the tower.
        UnsupportedError: if the tower takes no prompt tokens.
    """

    def __init__(self, tower: Tower, prompts: Sequence[PromptTokens]) -> None:
        if tower.no_tokens:
            raise UnsupportedError(f"prompt tokens cannot go into this model: {tower.no_tokens}.")
        kind, blocks = prompts[0], len(tower.blocks)
        self.first_block = block_number(kind.first_block, blocks, "first_block")
        self.count, self.own, self.last_block = kind.count, tower.prefix, blocks - 1
        _check(kind, blocks - self.first_block, self.first_block, tower)
        self.pooled = kind.pool == "with_prompts"
        self.prompts = tuple(prompts)
        numbers: dict[int, int] = {}
        self.which = [numbers.setdefault(id(item), len(numbers)) for item in prompts]
        distinct = [prompts[self.which.index(number)] for number in range(len(numbers))]
        self.tokens = torch.stack([item.tokens for item in distinct])  # [K, 1 | L − b, m, d]
        gates = [item.gate_logits for item in distinct if item.gate_logits is not None]
        self.gate_logits = torch.stack(gates) if gates else None  # [K, L − 1 − b]
        sites = [self._widened(site) for site in tower.sites]
        self.tower = replace(tower, sites=tuple(sites), by_module={})
        self._entered: set[int] = set()
        self._left = False
        self._length = 0

    def _widened(self, site: Site) -> Site:
        if site.is_pool or site.block < self.first_block:
            return site
        return replace(site, prefix=site.prefix + self.count, prompts=self.count)

    def learned(self) -> list[Tensor]:
        """The tensors that are trained.

        Returns:
            Tokens and gate logits with `requires_grad`.
        """
        items = [item for prompt in self.prompts for item in (prompt.tokens, prompt.gate_logits) if item is not None]
        return [item for item in items if item.requires_grad]

    # -- in the scope -------------------------------------------------------------------------------------------------

    def install(self, scope: Scope) -> None:
        """Hooks the blocks from the first one with prompts on.

        Args:
            scope: the scope, which removes the hooks on exit.
        """
        deep = self.tokens.shape[1] > 1
        for index in range(self.first_block, self.last_block + 1):
            block = self.tower.blocks[index]
            if index == self.first_block or deep:
                scope.hook_before(block, self._entering(index))
            if index == self.last_block:
                scope.hook_after(block, self._leaving)
            elif self.gate_logits is not None:
                scope.hook_after(block, self._gating(index))
            scope.hook_before(self.tower.sites[index].module, self._with_positions)
            table = getattr(block, "relative_position_bias", None)
            if isinstance(table, nn.Module):
                scope.hook_before(table, self._for_own_tokens)
        for outlet in self.tower.outlets:
            scope.hook_after(outlet, self._strip_states)

    def check_reached(self) -> None:
        """Checks, after a forward, that the tokens were inserted and removed.

        Raises:
            SiteNotReachedError: if not, naming the blocks.
        """
        wanted = range(self.first_block, self.first_block + self.tokens.shape[1])
        missing = [block for block in wanted if block not in self._entered]
        if missing or not self._left:
            where = f"block{'s' if len(missing) > 1 else ''} {', '.join(map(str, missing))}"
            raise SiteNotReachedError(
                (f"the prompt tokens never got into {where}" if missing else "the prompt tokens were never taken out")
                + ". The model was run in another way than it was wrapped for, or its blocks were replaced."
            )

    def _entering(self, index: int) -> Any:
        depth = index - self.first_block

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return replace_hidden(args, kwargs, lambda hidden: self._inserted(hidden, depth))

        return before

    def _inserted(self, hidden: Tensor, depth: int) -> Tensor:
        """The hidden states `[n, N, d]` with the tokens of the `depth`-th block inserted (block 0), or in place of the
        previous block's tokens (deep prompts).
        """
        if hidden.ndim != 3:
            raise UnsupportedError(
                "prompt tokens cannot go into this tower: it packs the patches of all images into one sequence "
                f"{list(hidden.shape)}, cut by lengths that know of no other tokens."
            )
        tokens = self._per_stream(self.tokens[:, min(depth, self.tokens.shape[1] - 1)], len(hidden)).to(hidden)
        if tokens.shape[-1] != hidden.shape[-1]:
            raise InvalidInputError(
                f"prompt tokens are {tokens.shape[-1]} wide, but the blocks of this model are {hidden.shape[-1]}: "
                "they were made for another model."
            )
        if depth == 0:
            self._length = hidden.shape[1]
            front, rest = hidden[:, : self.own], hidden[:, self.own :]
        else:
            front, _, rest = self._split(hidden)
        self._entered.add(depth + self.first_block)
        return torch.cat((front, tokens.expand(len(hidden), -1, -1), rest), dim=1)

    def _per_stream(self, item: Tensor, streams: int) -> Tensor:
        """Numbers of the K distinct prompts `[K, …]` → of the streams `[n, …]`; `[1, …]` if all streams have the same
        prompt.
        """
        if len(item) == 1:
            return item
        if streams != len(self.which):
            raise InvalidInputError(f"{len(self.which)} prompts' tokens for a batch of {streams}: give one each.")
        return item.index_select(0, torch.tensor(self.which, device=item.device))

    def _split(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rest = hidden.shape[1] - self.own - self.count
        return hidden.split((self.own, self.count, rest), dim=1)  # type: ignore[return-value]

    def _gating(self, index: int) -> Any:
        assert self.gate_logits is not None
        logits = self.gate_logits[:, index - self.first_block]

        def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            given = self._split(_hidden(args, kwargs))[1]

            def mixed(hidden: Tensor) -> Tensor:
                logit = self._per_stream(logits, len(hidden)).float()[:, None, None]
                return Gated.apply(hidden, given, logit, self.own)  # type: ignore[no-any-return]

            return _changed(output, mixed)

        return after

    def _leaving(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        self._left = True
        return _changed(output, self._without)

    def _without(self, hidden: Tensor) -> Tensor:
        front, _, rest = self._split(hidden)
        if self.pooled:
            # Models average before or after their final norm; replacing every row by the mean is right for both.
            rest = hidden[:, self.own :].mean(dim=1, keepdim=True).expand_as(rest)
        return torch.cat((front, rest), dim=1)

    # -- positions ----------------------------------------------------------------------------------------------------

    def _with_positions(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Widens the masks, biases and rotations that an attention module is given for the model's own tokens."""
        hidden = _hidden(args, kwargs)
        changed = dict(kwargs)
        for name in ("attention_mask", "attn_mask"):
            mask = kwargs.get(name)
            if isinstance(mask, Tensor):
                changed[name] = self.widen_mask(mask, len(hidden), hidden.shape[1])
        rope = kwargs.get("rope")
        if isinstance(rope, Tensor):
            changed["rope"] = self._widen_rope(rope)
        return args, changed

    def widen_mask(self, mask: Tensor, streams: int, tokens: int) -> Tensor:
        """Widens a mask for N own tokens to N + m: no key is hidden from a prompt token, and no query is kept from
        seeing it.

        Args:
            mask: boolean or additive `[…, N, N]`, or padding `[n, N]`.
            streams: n, the batch size.
            tokens: N + m, the sequence length with prompt tokens.

        Returns:
            `[…, N + m, N + m]`, or `[n, N + m]`.
        """
        fill = 0.0 if mask.is_floating_point() else 1
        padding = mask.ndim == 2 and mask.shape[0] == streams and not mask.is_floating_point()
        for dim in (-1,) if padding else (-1, -2):
            if mask.shape[dim] == tokens - self.count:
                shape = list(mask.shape)
                shape[dim] = self.count
                front, rest = mask.split((self.own, tokens - self.count - self.own), dim=dim)
                mask = torch.cat((front, mask.new_full(shape, fill), rest), dim=dim)
        return mask

    def _widen_rope(self, rope: Tensor) -> Tensor:
        """Sines and cosines side by side, `[…, P, 2 D]`: prompt tokens get a sine of 0 and a cosine of 1, which do not
        rotate.
        """
        half = rope.new_zeros((*rope.shape[:-2], self.count, rope.shape[-1] // 2))
        return torch.cat((torch.cat((half, half + 1), dim=-1), rope), dim=-2)

    def _for_own_tokens(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Keeps BEiT's relative-position table at the length of the model's own tokens: it is interpolated to the
        sequence length.
        """
        if "dim_size" not in kwargs:
            return None
        return args, {**kwargs, "dim_size": kwargs["dim_size"] - self.count}

    # -- outputs ------------------------------------------------------------------------------------------------------

    def _strip_states(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Removes the tokens from the hidden states that a model returns; the last one holds none."""
        states = getattr(output, "hidden_states", None)
        if isinstance(states, tuple):
            output.hidden_states = tuple(self._stripped(item) for item in states)
        return output

    def _stripped(self, item: Any) -> Any:
        if isinstance(item, Tensor) and item.ndim == 3 and item.shape[1] == self._length + self.count:
            front, _, rest = self._split(item)
            return torch.cat((front, rest), dim=1)
        return item


class Gated(torch.autograd.Function):
    """Mixes the prompt tokens after a block with those before it: `g · after + (1 − g) · before`, with g =
    sigmoid(logit).

    For the gradient it keeps what the blocks keep anyway: the mixed sequence (the next block's input) and this block's
    input. With those, `∂/∂logit = g (1 − g) · (after − before) = (1 − g) · (mixed − before)`. In bfloat16 and float16
    that difference is too inexact, so the tokens after the block are kept instead.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, given: Tensor, logit: Tensor, own: int) -> Tensor:
        """Mixes.

        Args:
            ctx: context of autograd.
            hidden: `[n, N, d]` sequence after the block.
            given: `[n, m, d]` prompt tokens before the block.
            logit: `[n|1, 1, 1]` logit of the gate, float32.
            own: number of tokens before the prompt tokens.

        Returns:
            `[n, N, d]`.
        """
        output = hidden.clone()
        made, gate = hidden[:, own : own + given.shape[1]], torch.sigmoid(logit).to(hidden.dtype)
        output[:, own : own + given.shape[1]] = gate * made + (1 - gate) * given
        ctx.own, ctx.mixed = own, torch.finfo(hidden.dtype).eps < 1e-6
        ctx.save_for_backward(output if ctx.mixed else made.clone(), given, logit)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """Gradients of the sequence, the prompt tokens and the logit.

        Args:
            ctx: context of autograd.
            grad: `[n, N, d]` gradient of the output.

        Returns:
            One gradient per argument of `forward` but `ctx`; None where none is needed.
        """
        kept, given, logit = ctx.saved_tensors
        own, count, gate = ctx.own, given.shape[1], torch.sigmoid(logit)
        rows = grad[:, own : own + count]
        of_hidden = of_logit = None
        if ctx.needs_input_grad[0]:
            scaled = rows * gate.to(rows.dtype)
            of_hidden = torch.cat((grad[:, :own], scaled, grad[:, own + count :]), dim=1)
        if ctx.needs_input_grad[2]:
            change = (kept[:, own : own + count] - given) if ctx.mixed else gate * (kept.float() - given.float())
            of_logit = (rows * change).sum_to_size(logit.shape) * (1 - gate)
        return of_hidden, rows * (1 - gate).to(rows.dtype) if ctx.needs_input_grad[1] else None, of_logit, None


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states among the arguments of a block or its attention."""
    return args[0] if args else next(kwargs[name] for name in ("hidden_states", "x", "q_x", "query") if name in kwargs)


def _changed(output: Any, change: Any) -> Any:
    return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)


def _check(kind: PromptTokens, deep: int, first_block: int, tower: Tower) -> None:
    given = kind.tokens.shape[0]
    if kind.tower != tower.name:
        raise UnsupportedError(f"prompt tokens for the tower {kind.tower!r}, but this one is {tower.name!r}.")
    if given not in (1, deep):
        raise InvalidInputError(
            f"prompt tokens for {given} blocks, but from block {first_block} on there are {deep}: give 1 (shallow) or "
            f"{deep} (deep)."
        )
    if kind.gate_logits is not None:
        if given > 1:
            raise InvalidInputError("gates mix what blocks make of the prompts, and deep prompts throw that away.")
        if len(kind.gate_logits) != deep - 1:
            raise InvalidInputError(
                f"{len(kind.gate_logits)} gates, but between the blocks from {first_block} on there are {deep - 1}."
            )
    if kind.pool == "with_prompts" and (tower.readout != "mean" or tower.padded):
        raise UnsupportedError(
            f'pool="with_prompts" is for models that average their patches; this one is read through {tower.readout}'
            f'{" of padded patches" if tower.padded else ""}: leave it at pool="model".'
        )


__all__ = ["Insertion", "groups_of", "kind_of"]
