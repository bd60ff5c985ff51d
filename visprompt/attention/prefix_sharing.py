"""Runs the blocks before the first edit once per image instead of once per prompt: prompts on one image that differ
only in attention edits from block f on share blocks 0 … f−1.

At block f the readout copies of all regions are folded into one sequence, `[copy_1 … copy_S, CLS, …, patches]`. The
copies are identical before the block, so each of them attends to the sequence's own keys (its own CLS included) with
its own edit, and never sees another copy. After the block the sequence is unfolded into a batch of streams. In the last
block only the readout row goes through the output of the attention and the MLP, because nothing else is read.

Towers that cannot be folded (positions inside the blocks, several readout rows) expand the batch at block f instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from visprompt.attention.program import SiteProgram
from visprompt.attention.sites import Site, Tower

if TYPE_CHECKING:
    from visprompt.attention.scope import Scope


class Sharing:
    """Turns m images into n streams at block f.

    Args:
        tower: the tower whose blocks are shared.
        index: `[n]` int, image of every stream, sorted.
        first_block: f, the first block with an edit.
        fold: fold the readout copies into one sequence at block f; False: expand the batch before it.
        readout_only: compute only the readout row in the last block.
    """

    def __init__(self, tower: Tower, index: Tensor, first_block: int, fold: bool, readout_only: bool) -> None:
        self.tower, self.index, self.first_block = tower, index, first_block
        self.fold = fold
        self.num_blocks = len(tower.blocks)
        self.readout_only = readout_only and first_block < self.num_blocks - 1
        counts = torch.bincount(index)
        self.copies = int(counts.max())
        start = counts.cumsum(0) - counts
        offset = torch.arange(self.copies, device=index.device)[None]
        # Images with fewer regions repeat their last one; the repetitions are never unfolded.
        self.slots = start[:, None] + torch.minimum(offset, counts[:, None] - 1)
        self.slot_of = torch.arange(len(index), device=index.device) - start[index]
        self.stash: Any = None
        self._programs: dict[Site, SiteProgram] = {}

    # -- called by the scope -----------------------------------------------------------------------------------------

    def copies_at(self, site: Site) -> int:
        """The number of readout copies in front of the sequence at a site.

        Args:
            site: a site of the tower.

        Returns:
            S at block f of a folded tower, else 0.
        """
        return self.copies if self.fold and site.block == self.first_block and not site.is_pool else 0

    def lay_out(self, scope: Scope, site: Site, program: SiteProgram) -> SiteProgram:
        """Translates a program that was compiled for n streams: before block f it is for m images, at block f for m
        folded sequences.

        Args:
            scope: the open scope.
            site: the site that is called.
            program: compiled for n streams.

        Returns:
            The program for the sequences that the site sees.
        """
        if site not in self._programs:
            if self.copies_at(site):
                program = program.folded(self.slots)
            elif site.block < self.first_block and not site.is_pool:
                program = program.take(self.slots[:, 0])
            self._programs[site] = program
        return self._programs[site]

    def per_stream(
        self, scope: Scope, site: Site, output: Tensor | None, attention: Tensor, value: Tensor
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Brings what a site captured back to one entry per stream.

        Args:
            scope: the open scope.
            site: the site that captured it.
            output: `[m, H, R, D]`, or None.
            attention: `[m, H, R, K]`.
            value: `[m, H, K, D]`.

        Returns:
            The same three with n streams on the first axis.
        """
        if self.copies_at(site):
            rows = [
                None if item is None else item[self.index, :, self.slot_of][:, :, None] for item in (output, attention)
            ]
            return rows[0], rows[1], value[self.index]  # type: ignore[return-value]
        if site.block < self.first_block and not site.is_pool:
            return None if output is None else output[self.index], attention[self.index], value[self.index]
        return output, attention, value

    # -- hooks -------------------------------------------------------------------------------------------------------

    def install(self, scope: Scope) -> None:
        """Hooks block f, and the last block if only its readout row is computed.

        Args:
            scope: the scope, which removes the hooks on exit.
        """
        if self.first_block < self.num_blocks:
            block = self.tower.blocks[self.first_block]
            scope.hook_before(block, self._fold if self.fold else self._expand)
            if self.fold:
                scope.hook_after(block, self._unfold)
        else:  # the pooling head alone differs: expand what it is given
            scope.hook_before(self.tower.sites[-1].module, self._expand_pool)
        if self.readout_only:
            last = self.num_blocks - 1
            scope.hook_before(self.tower.blocks[last], self._keep_readout)
            scope.hook_before(self.tower.norms[last], self._whole_sequence)
            scope.hook_after(self.tower.sites[last].module, self._readout_of_attention)

    def _expand(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return replace_hidden(args, kwargs, lambda hidden: hidden.index_select(0, self.index))

    def _expand_pool(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return tuple(item.index_select(0, self.index) for item in args), kwargs

    def _fold(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return replace_hidden(
            args, kwargs, lambda hidden: torch.cat((hidden[:, :1].expand(-1, self.copies, -1), hidden), dim=1)
        )

    def _unfold(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        readout = hidden[self.index, self.slot_of][:, None]
        streams = torch.cat((readout, hidden[:, self.copies + 1 :].index_select(0, self.index)), dim=1)
        return (streams, *output[1:]) if isinstance(output, tuple) else streams

    def _keep_readout(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        def first(hidden: Tensor) -> Tensor:
            self.stash = hidden
            return hidden[:, :1]

        return replace_hidden(args, kwargs, first)

    def _whole_sequence(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        whole, self.stash = self.stash, None
        return (args if whole is None else (whole, *args[1:])), kwargs

    def _readout_of_attention(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        if isinstance(output, tuple):
            return (output[0][:, :1], *output[1:])
        return output[:, :1]


def replace_hidden(
    args: tuple[Any, ...], kwargs: dict[str, Any], change: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Replaces the hidden states among the arguments of a block's call, whether they are given by position or by name.

    Args:
        args: positional arguments of the call.
        kwargs: named arguments of the call.
        change: function from the hidden states to new ones.

    Returns:
        The changed arguments.
    """
    if args:
        return (change(args[0]), *args[1:]), kwargs
    name = next(iter(name for name in ("hidden_states", "x", "q_x") if name in kwargs))
    return args, {**kwargs, name: change(kwargs[name])}


def sharing_of(tower: Tower, index: Tensor, programs: dict[Site, SiteProgram]) -> Sharing | None:
    """Decides at which block the streams of a batch separate, and whether they can be folded.

    Args:
        tower: the tower that runs.
        index: `[n]` int, image of every stream, sorted.
        programs: per site, what is edited and read.

    Returns:
        The sharing, or None if nothing is edited.
    """
    edited = [site for site, item in programs.items() if item.edits]
    if not edited:
        return None
    first = min(site.block for site in edited)
    at_first = [item for site, item in programs.items() if site.block == first]
    single_row = all(item.rows.tolist() == [0] for item in at_first) and not any(item.decompose for item in at_first)
    fold = tower.foldable and tower.readout == "cls" and single_row and first < len(tower.blocks)
    readout_only = (
        bool(tower.norms)
        and tower.readout == "cls"
        and all(item.rows.tolist() == [0] for site, item in programs.items() if site.block == len(tower.blocks) - 1)
    )
    return Sharing(tower, index, first, fold, readout_only)
