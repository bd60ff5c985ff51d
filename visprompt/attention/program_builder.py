"""Compiles the attention edits of a batch into `SiteProgram`s: from "bias the readout from block 8 on" to row, head and
column indices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visprompt.attention.forms import form_named
from visprompt.attention.program import SiteProgram
from visprompt.attention.site_tensors import site_tensors
from visprompt.attention.sites import ReadRows, Site, Tower
from visprompt.errors import InvalidInputError
from visprompt.visual_prompt import AttentionEdit, Rows, block_number, checked_rows


def compile_programs(
    tower: Tower,
    edits: Sequence[Sequence[AttentionEdit]],
    num_patches: Sequence[int],
    read: Sequence[int] | None = None,
    decompose: Sequence[int] | None = None,
    read_rows: ReadRows = "readout",
) -> dict[Site, SiteProgram]:
    """Makes one program per site that is edited or read.

    Args:
        tower: the tower whose sites are used.
        edits: for every stream its edits; those for other towers are skipped.
        num_patches: for every stream its number of patches.
        read: block indices whose attention is kept, or None.
        decompose: block indices whose readout row is decomposed, or None.
        read_rows: the rows that are read; `"readout"` and `"summary"` keep their mean, anything else every row.

    Returns:
        Programs for `len(edits)` streams, by site.

    Raises:
        InvalidInputError: for blocks or heads that do not exist, a bias of the wrong length, or edits that meet no
            readout row.
    """
    if len(edits) > 1 and len(set(num_patches)) == 1 and all(_same(group, edits[0]) for group in edits[1:]):
        single = compile_programs(tower, edits[:1], num_patches[:1], read, decompose, read_rows)
        return {site: program.repeated(len(edits)) for site, program in single.items()}
    wanted: dict[Site, list[list[AttentionEdit]]] = {}
    for stream, group in enumerate(edits):
        for edit in group:
            if edit.tower != tower.name or edit.is_identity:
                continue
            _check_columns(edit, num_patches[stream])
            sites = [tower.sites[block] for block in edit.blocks(tower.num_blocks)]
            sites = [site for site in sites if len(tower.rows_of(site, edit.rows, num_patches[stream]))]
            if not sites:
                raise InvalidInputError(
                    f"blocks {list(edit.blocks(tower.num_blocks))} hold no row that rows={edit.rows!r} "
                    "means in this model "
                    f"(readout: {tower.readout}, {tower.num_blocks} blocks); start at a later block or name other rows."
                )
            _check_reach(tower, edit, sites, num_patches[stream])
            for site in sites:
                wanted.setdefault(site, [[] for _ in edits])[stream].append(edit)
    programs = {site: _compile_site(tower, site, groups, num_patches) for site, groups in wanted.items()}
    reads: tuple[tuple[Sequence[int] | None, str, ReadRows], ...]
    reads = ((read, "read", read_rows), (decompose, "decompose", "readout"))
    for blocks, flag, rows_name in reads:
        for block in blocks or ():
            number = block_number(block, tower.num_blocks)
            _keep(programs, tower, number, flag, rows_name, len(edits), max(num_patches))
    return programs


def _same(group: Sequence[AttentionEdit], other: Sequence[AttentionEdit]) -> bool:
    """True if both lists hold the same edit objects, as in a training batch."""
    return len(group) == len(other) and all(a is b for a, b in zip(group, other, strict=True))


def _keep(
    programs: dict[Site, SiteProgram], tower: Tower, block: int, flag: str, wanted: ReadRows, streams: int, patches: int
) -> None:
    """Marks rows of a block as read or decomposed in its site's program, which is made if there is none."""
    site = tower.sites[block]
    if wanted == "summary":
        name: Rows = "readout" if len(tower.rows_of(site, "readout", patches)) else "patches"
    else:
        name = checked_rows(wanted)
    own = site.prefix - site.prompts
    # Maps cover the model's own tokens only: prompt tokens between them are left out.
    rows = [row for row in tower.rows_of(site, name, patches) if not own <= row < site.prefix]
    if not rows:
        where = f"block {tower.num_blocks - 1}, its pooling head" if tower.readout == "probe" else "its blocks"
        raise InvalidInputError(f"block {block} has no rows that {name!r} means: this model is read through {where}.")
    if site not in programs:
        empty = torch.zeros(streams, site.heads, len(rows), dtype=torch.bool)
        programs[site] = SiteProgram(rows=torch.tensor(rows), edited=empty)
    old = programs[site]
    program = old.with_rows(sorted({*old.rows.tolist(), *rows}))
    order = program.rows.tolist()
    at = {flag: torch.tensor([order.index(row) for row in rows])}
    for other in ("read", "decompose"):  # adding rows may have changed the indices of rows marked earlier
        if getattr(old, other) and other not in at:
            kept = old.rows if getattr(old, f"{other}_rows") is None else old.rows[getattr(old, f"{other}_rows")]
            at[other] = torch.tensor([order.index(row) for row in kept.tolist()])
    changes: dict[str, Any] = {flag: True}
    changes.update({f"{other}_rows": None if len(rows_at) == len(order) else rows_at for other, rows_at in at.items()})
    if flag == "read":
        changes["per_row"] = wanted not in ("readout", "summary")
        changes["read_kind"] = name
    programs[site] = replace(program, **changes)


def _check_reach(tower: Tower, edit: AttentionEdit, sites: Sequence[Site], num_patches: int) -> None:
    """Refuses edits of rows that no later block reads: only the readout's rows reach the embedding directly."""
    last = tower.sites[-1]
    if list(sites) == [last]:
        readout = set(tower.rows_of(last, "readout", num_patches))
        if readout.isdisjoint(tower.rows_of(last, edit.rows, num_patches)):
            raise InvalidInputError(
                f"rows={edit.rows!r} in the last block alone change nothing: no later block reads them. "
                "Start earlier, or "
                "edit the readout."
            )


def _check_columns(edit: AttentionEdit, num_patches: int) -> None:
    columns = edit.columns
    if columns is None:
        return
    if len(columns) != num_patches:
        raise InvalidInputError(
            f"an attention edit has {len(columns)} patch columns, but the image has {num_patches} patches: "
            "make it from model.geometry() of the same image and fit."
        )
    if edit.target_mass is not None:
        covered = int((columns > 0).sum())
        if covered in (0, num_patches):
            raise InvalidInputError(
                f"target_mass needs a region and a rest: the region covers {covered} of {num_patches} patches."
            )


@dataclass(frozen=True)
class Place:
    """The indices at which one edit is written into the tensors of its site.

    Args:
        stream: number of its stream.
        where: index into `[n, H, R]`.
        columns: index into `[n, H, R, P]`: the stream's own patches.
    """

    stream: int
    where: Any
    columns: Any


class SiteBuilder:
    """Collects the edits of all streams at one site in arrays, from which `program` makes a `SiteProgram`.

    Args:
        streams: n, the number of streams.
        heads: H, the number of heads.
        rows: the R query positions.
        patches: P, the number of patches of the largest stream.
    """

    def __init__(self, streams: int, heads: int, rows: Sequence[int], patches: int) -> None:
        self.sizes = {"stream": streams, "head": heads, "row": len(rows), "patch": patches}
        self.rows = list(rows)
        self.edited = np.zeros((streams, heads, len(rows)), dtype=bool)
        self._arrays: dict[str, np.ndarray] = {}
        #: per tensor: learned factors, each with the mask of the entries it multiplies; streams that share a factor
        #: share an entry
        self._factors: dict[str, dict[tuple[int, int], tuple[np.ndarray, Tensor]]] = {}
        self._times: dict[tuple[int, int], int] = {}

    def array(self, name: str) -> np.ndarray:
        """The array of one of `SiteProgram`'s tensors, made with its `fill` at first use. Forms write their numbers
        into it.

        Args:
            name: a field of `SiteProgram` that is declared as a tensor.

        Returns:
            float32, with the axes that the field declares.
        """
        if name not in self._arrays:
            tensor = site_tensors(SiteProgram)[name]
            self._arrays[name] = np.full([self.sizes[axis] for axis in tensor.axes], tensor.fill, dtype=np.float32)
        return self._arrays[name]

    def multiply_by(self, learned: Tensor, name: str, place: Place) -> None:
        """Multiplies one of `SiteProgram`'s tensors by a learned scalar, which keeps its gradient.

        Streams with the same scalar share an entry; given twice for one stream, it multiplies twice.

        Args:
            learned: tensor with one number.
            name: a field of `SiteProgram`.
            place: the entries that it multiplies.
        """
        again = self._times.get((place.stream, id(learned)), 0)
        self._times[place.stream, id(learned)] = again + 1
        factors = self._factors.setdefault(name, {})
        mask = factors.setdefault((id(learned), again), (np.zeros_like(self.edited), learned))[0]
        mask[place.where] = True

    def program(self, kind: Rows) -> SiteProgram:
        """Makes the program of what was written.

        Args:
            kind: the kind of rows that the single row of a decoder's program represents.

        Returns:
            The program, its arrays narrowed where all heads or rows have equal numbers.
        """
        tensors = {name: torch.from_numpy(self._narrow(item, name)) for name, item in self._arrays.items()}
        for name, factors in self._factors.items():
            for mask, learned in factors.values():
                one = torch.ones((), device=learned.device)
                acts = torch.from_numpy(self._narrow(mask, name)).to(learned.device)
                factor = torch.where(acts, learned.reshape(()), one)
                tensors[name] = tensors[name].to(learned.device) * factor if name in tensors else factor
        return SiteProgram(rows=torch.as_tensor(self.rows), edited=torch.from_numpy(self.edited), kind=kind, **tensors)

    @staticmethod
    def _narrow(item: np.ndarray, name: str) -> np.ndarray:
        """Reduces the head and row axes to length 1 where all entries are equal: a bias for every head and row would
        hold thousands of copies.
        """
        axes = site_tensors(SiteProgram)[name].axes
        for axis in [axes.index(name) for name in ("head", "row") if name in axes]:  # type: ignore[arg-type]
            first = np.take(item, [0], axis=axis)
            if np.array_equal(np.broadcast_to(first, item.shape), item, equal_nan=True):
                item = first
        return np.ascontiguousarray(item)


def _compile_site(
    tower: Tower, site: Site, groups: Sequence[Sequence[AttentionEdit]], num_patches: Sequence[int]
) -> SiteProgram:
    rows = sorted(
        {r for i, group in enumerate(groups) for e in group for r in tower.rows_of(site, e.rows, num_patches[i])}
    )
    kinds = {edit.rows for group in groups for edit in group}
    if tower.readout == "text" and len(kinds) > 1:
        raise InvalidInputError(
            f"edits of one decoder block name different rows, {' and '.join(map(repr, sorted(map(str, kinds))))}: give "
            "all of them the same."
        )
    heads, position = site.heads, {row: index for index, row in enumerate(rows)}
    builder = SiteBuilder(len(groups), heads, rows, max(num_patches))
    for stream, group in enumerate(groups):
        for edit in group:
            chosen = list(range(heads)) if edit.heads is None else list(edit.heads)
            if any(not -heads <= head < heads for head in chosen):
                raise InvalidInputError(f"heads={edit.heads} but the blocks have {heads} heads (0 to {heads - 1}).")
            at = [position[row] for row in tower.rows_of(site, edit.rows, num_patches[stream])]
            where: Any = np.ix_([stream], chosen, at)
            builder.edited[where] = True
            place = Place(stream, where, (*where, slice(0, num_patches[stream])))
            form_named(edit.form).write(builder, place, edit)
    return builder.program(next(iter(kinds)) if tower.readout == "text" else "readout")
