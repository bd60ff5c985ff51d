"""From the attention edits of many prompts to one batch of numbers per site.

`compile_programs` is where "bias the readout from block 8 on" becomes rows, heads and columns. The result depends on
no hook and no backend; every backend calls `SiteProgram.run` with the queries, keys and values it sees.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visprompt.attention.row_math import attend, target_mass_logits, visible
from visprompt.attention.sites import ReadRows, Site, Tower
from visprompt.errors import InvalidInputError
from visprompt.visual_prompt import AttentionEdit, Rows, block_number, checked_rows


@dataclass(frozen=True, eq=False)
class SiteProgram:
    """Everything that happens at one site for a batch of n streams.

    `bias` and `log_weights` run over the P patch columns and are widened to the keys at the call. Head and row axes
    are 1 where all heads or rows get the same.

    Args:
        rows: `[R]` query positions.
        edited: bool `[n, H, R]`: which streams, heads and rows change; elsewhere the model's own output stays.
        bias: `[n, H|1, R|1, P]`, or None.
        log_weights: `[n, 1, 1, P]`, −inf outside the region, or None.
        target: `[n, H|1, R|1]`, NaN where there is no target, or None.
        temperature: `[n, H|1, R|1]`, or None.
        gain: `[n, H|1, R|1]`, or None.
        responsive: `[n]` threshold on the relative change of a head's output, or None.
        reference: `[n, H, R, D]` outputs without the prompt, for `gain`.
        read: keep the attention of the rows in `read_rows` (all, if that is None).
        read_rows: `[r]` positions in `rows`.
        per_row: keep every row's attention instead of their mean.
        decompose: keep every key's contribution to the mean output of the rows in `decompose_rows` (all, if None).
        decompose_rows: positions in `rows`.
        capture_output: keep the rows' outputs (to serve as a reference).
        columns: `[n, P]` key column of every patch, −1 for none; None: patches stand behind `prefix` in one block.
        kind: what the one row of a decoder's program stands for.
        read_kind: the same for the row that is read.
        inject: `[n, H, R, D]` added to the rows' outputs; lets `wrap` prove that a site has an effect.
    """

    rows: Tensor
    edited: Tensor
    bias: Tensor | None = None
    log_weights: Tensor | None = None
    target: Tensor | None = None
    temperature: Tensor | None = None
    gain: Tensor | None = None
    responsive: Tensor | None = None
    reference: Tensor | None = None
    read: bool = False
    read_rows: Tensor | None = None
    per_row: bool = False
    decompose: bool = False
    decompose_rows: Tensor | None = None
    capture_output: bool = False
    columns: Tensor | None = None
    kind: Rows = "readout"
    read_kind: Rows = "readout"
    inject: Tensor | None = None

    @property
    def edits(self) -> bool:
        """True if anything is overwritten, False if it only reads."""
        return self.inject is not None or bool(self.edited.any())

    @property
    def needs_outputs(self) -> bool:
        """True if the rows' outputs are wanted, not just where they look."""
        return self.edits or self.capture_output or self.decompose

    @property
    def reads_mean(self) -> bool:
        """True if all that is wanted of it is where its rows look, on the mean."""
        return self.read and not (self.per_row or self.needs_outputs) and self.read_rows is None

    @functools.cached_property
    def _tempers_alone(self) -> bool:
        others = (self.bias, self.log_weights, self.gain, self.inject, self.columns)
        kept = self.read or self.decompose or self.capture_output
        if self.temperature is None or kept or any(item is not None for item in others):
            return False
        return self.temperature.shape[2] == 1 and bool(self.edited.all())

    def is_tempering(self, queries: int) -> bool:
        """True if all it does is one temperature for all of so many rows: `tempered_attention` then does the same
        inside the model's own kernel, without a second one over all rows."""
        return len(self.rows) == queries and self._tempers_alone

    @property
    def tau(self) -> Tensor:
        """Its temperature for `[n, H, R, D]` queries, `[n, H|1, R|1, 1]`."""
        assert self.temperature is not None
        return self.temperature[..., None]

    def to(self, device: torch.device) -> SiteProgram:
        """The same program with its tensors on a device."""
        if self.rows.device == device:
            return self
        moved = {name: item.to(device) for name, item in vars(self).items() if isinstance(item, Tensor)}
        return replace(self, **moved)

    def take(self, index: Tensor) -> SiteProgram:
        """The program of some of the streams."""
        names = ("edited", "bias", "log_weights", "target", "temperature", "gain", "responsive", "reference", "columns")
        taken = {name: item.index_select(0, index) for name in names if (item := getattr(self, name)) is not None}
        if self.inject is not None:
            taken["inject"] = self.inject.index_select(0, index)
        return replace(self, **taken)

    def repeated(self, streams: int) -> SiteProgram:
        """The program of one stream for many that do the same."""
        names = ("edited", "bias", "log_weights", "target", "temperature", "gain", "responsive")
        wide = {
            name: item.expand(streams, *item.shape[1:]) for name in names if (item := getattr(self, name)) is not None
        }
        return replace(self, **wide)

    def at_rows(self, chosen: Tensor, positions: Tensor, columns: Tensor | None) -> SiteProgram:
        """The program of some of its rows.

        Args:
            chosen: `[r]` which of the R rows.
            positions: `[r]` where they stand.
            columns: `[n, P]` where the patches stand, −1 for those that do not; None: behind the prefix.
        """
        names = ("edited", "bias", "target", "temperature", "gain", "reference", "inject")
        rows = {
            name: item.index_select(2, chosen)
            for name in names
            if (item := getattr(self, name)) is not None and item.shape[2] == len(self.rows)
        }
        return replace(self, rows=positions, columns=columns, **rows)

    def folded(self, slots: Tensor) -> SiteProgram:
        """Streams of one picture become rows of one sequence.

        Args:
            slots: `[m, S]`: which stream the s-th readout copy of picture i is (padding repeats a stream).
        """
        pictures, copies = slots.shape

        def fold(item: Tensor | None) -> Tensor | None:
            if item is None:
                return None
            picked = item.index_select(0, slots.reshape(-1))  # [m*S, H|1, 1, ...]
            return picked.reshape(pictures, copies, *item.shape[1:2], *item.shape[3:]).transpose(1, 2)

        names = ("edited", "bias", "log_weights", "target", "temperature")
        rows = torch.arange(copies, device=self.rows.device)
        changes: dict[str, Any] = {name: fold(getattr(self, name)) for name in names}
        return replace(self, rows=rows, **changes)

    def with_rows(self, rows: list[int]) -> SiteProgram:
        """The same program for more rows, which are not edited."""
        own = self.rows.tolist()
        if own == rows:
            return self
        place = torch.tensor([rows.index(row) for row in own])

        def spread(item: Tensor | None, fill: float) -> Tensor | None:
            if item is None or item.shape[2] == 1 < len(own):
                return item
            shape = list(item.shape)
            shape[2] = len(rows)
            wide = item.new_full(shape, fill)
            return wide.index_copy(2, place, item.expand(*item.shape[:2], len(own), *item.shape[3:]))

        # Only rows marked as edited take these numbers, so what stands in the other rows does not matter.
        fills = {"edited": 0, "bias": 0.0, "log_weights": 0.0, "target": float("nan"), "temperature": 1.0, "gain": 0.0}
        changes: dict[str, Any] = {name: spread(getattr(self, name), fill) for name, fill in fills.items()}
        return replace(self, rows=torch.tensor(rows), **changes)

    def run(self, logits: Tensor, value: Tensor, prefix: int, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
        """Outputs and attention of the rows after the edits.

        Args:
            logits: `[n, H, R, K]` scaled and masked, float32.
            value: `[n, H, K, D]`.
            prefix: key columns before the first patch.
            dropout: attention dropout of the module while training.

        Returns:
            `([n, H, R, D], [n, H, R, K])`, float32.

        Raises:
            InvalidInputError: if the keys are fewer than prefix + patches.
        """
        edited = self.apply_to_logits(logits, prefix)
        output, attention = attend(edited, value, dropout)
        return self.amplify(output), attention

    def apply_to_logits(self, logits: Tensor, prefix: int) -> Tensor:
        """Temperature, bias and target mass on `[n, H, R, K]` logits; rows and heads that are not edited keep
        theirs.
        """
        plain, keys = logits, logits.shape[-1]
        if self.temperature is not None:
            logits = torch.where(visible(logits), logits / self.temperature[..., None], logits)
        if self.bias is not None:
            logits = logits + self._to_keys(self.bias, prefix, keys, 0.0)
        if self.log_weights is not None and self.target is not None:
            weights = self._to_keys(self.log_weights, prefix, keys, float("-inf"))
            logits = target_mass_logits(logits, weights, self.target)
        if logits is plain or self.edited.all():
            return logits
        return torch.where(self.edited[..., None], logits, plain)

    def _to_keys(self, item: Tensor, prefix: int, keys: int, fill: float) -> Tensor:
        return widen(item, prefix, keys, fill) if self.columns is None else scatter(item, self.columns, keys, fill)

    def patches_of(self, attention: Tensor) -> Tensor:
        """The patch columns of `[n, H, R, K]` attention, `[n, H, R, P]`; 0 where a patch has no column."""
        assert self.columns is not None
        there = (self.columns >= 0)[:, None, None]
        index = self.columns.clamp(min=0)[:, None, None].expand(*attention.shape[:3], -1)
        return attention.gather(-1, index) * there

    def amplify(self, output: Tensor) -> Tensor:
        """`o + g · (o − o_ref)` in the heads that respond."""
        if self.inject is not None:
            output = output + self.inject
        if self.gain is None or self.reference is None:
            return output
        change = output - self.reference
        gain = self.gain[..., None]
        if self.responsive is not None:
            moved = change.norm(dim=-1) >= self.responsive[:, None, None] * self.reference.norm(dim=-1)
            gain = gain * moved[..., None]
        return output + gain * change


def widen(item: Tensor, prefix: int, keys: int, fill: float) -> Tensor:
    """Patch columns → key columns: prefix in front, padding behind."""
    behind = keys - prefix - item.shape[-1]
    if behind < 0:
        raise InvalidInputError(
            f"this block sees {keys} keys but the picture has {prefix} + {item.shape[-1]} tokens: its attention window "
            "is shorter than the picture, and columns cannot be matched."
        )
    return torch.nn.functional.pad(item, (prefix, behind), value=fill)


def scatter(item: Tensor, columns: Tensor, keys: int, fill: float) -> Tensor:
    """Patch columns → key columns, wherever they stand: `[n, H, R, P]` with `[n, P]` gives `[n, H, R, keys]`."""
    index = torch.where((columns >= 0) & (columns < keys), columns, keys)[:, None, None]
    wide = item.new_full((len(columns), *item.shape[1:3], keys + 1), fill)
    item = item.expand(len(columns), -1, -1, -1)
    return wide.scatter(-1, index.expand_as(item), item)[..., :keys]


def compile_programs(
    tower: Tower,
    edits: Sequence[Sequence[AttentionEdit]],
    num_patches: Sequence[int],
    read: Sequence[int] | None = None,
    decompose: Sequence[int] | None = None,
    read_rows: ReadRows = "readout",
) -> dict[Site, SiteProgram]:
    """One program per site that is edited or read.

    Args:
        tower: whose sites.
        edits: for every stream the edits it carries (those on other towers are not looked at).
        num_patches: for every stream the number of its patches.
        read: block indices whose readout attention is kept, or None.
        decompose: block indices whose readout row is decomposed, or None.
        read_rows: the rows that are read; `"readout"` and `"summary"` keep their mean, anything else every row.

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
    """True for the very same edits: a batch in training, say."""
    return len(group) == len(other) and all(a is b for a, b in zip(group, other, strict=True))


def _keep(
    programs: dict[Site, SiteProgram], tower: Tower, block: int, flag: str, wanted: ReadRows, streams: int, patches: int
) -> None:
    """Adds to a site's program that some rows are read or decomposed."""
    site = tower.sites[block]
    if wanted == "summary":
        name: Rows = "readout" if len(tower.rows_of(site, "readout", patches)) else "patches"
    else:
        name = checked_rows(wanted)
    own = site.prefix - site.prompts
    # Maps are of the model's own tokens, whether there are prompts between them or not.
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
    for other in ("read", "decompose"):  # rows that were asked for before may have moved
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
    """Other rows than the readout's reach the embedding only through a later block."""
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
    columns = edit.bias if edit.bias is not None else edit.weights
    if columns is None:
        return
    if len(columns) != num_patches:
        raise InvalidInputError(
            f"an attention edit has {len(columns)} patch columns, but the picture has {num_patches} patches: "
            "make it from model.geometry() of the same picture and fit."
        )
    if edit.target_mass is not None:
        covered = int((columns > 0).sum())
        if covered in (0, num_patches):
            raise InvalidInputError(
                f"target_mass needs a region and a rest: the region covers {covered} of {num_patches} patches."
            )


def _compile_site(
    tower: Tower, site: Site, groups: Sequence[Sequence[AttentionEdit]], num_patches: Sequence[int]
) -> SiteProgram:
    streams, patches, heads = len(groups), max(num_patches), site.heads
    rows = sorted(
        {r for i, group in enumerate(groups) for e in group for r in tower.rows_of(site, e.rows, num_patches[i])}
    )
    kinds = {edit.rows for group in groups for edit in group}
    if tower.readout == "text" and len(kinds) > 1:
        raise InvalidInputError(
            f"edits of one decoder block name different rows, {' and '.join(map(repr, sorted(map(str, kinds))))}: give "
            "all of them the same."
        )
    position = {row: index for index, row in enumerate(rows)}
    edited = np.zeros((streams, heads, len(rows)), dtype=bool)
    numbers: dict[str, np.ndarray] = {}
    threshold = np.zeros(streams, dtype=np.float32)
    temperature: dict[tuple[int, int], tuple[np.ndarray, Tensor]] = {}

    def array(name: str, fill: float, columns: bool) -> np.ndarray:
        if name not in numbers:
            shape = (streams, heads, len(rows), patches) if columns else (streams, heads, len(rows))
            numbers[name] = np.full(shape, fill, dtype=np.float32)
        return numbers[name]

    for stream, group in enumerate(groups):
        for place, edit in enumerate(group):
            chosen = list(range(heads)) if edit.heads is None else list(edit.heads)
            if any(not -heads <= head < heads for head in chosen):
                raise InvalidInputError(f"heads={edit.heads} but the blocks have {heads} heads (0 to {heads - 1}).")
            where: Any = np.ix_(
                [stream], chosen, [position[r] for r in tower.rows_of(site, edit.rows, num_patches[stream])]
            )
            edited[where] = True
            columns: Any = (*where, slice(0, num_patches[stream]))
            if edit.bias is not None:
                array("bias", 0.0, True)[columns] += edit.bias
            elif edit.target_mass is not None:
                target = array("target", np.nan, False)
                if not np.isnan(target[where]).all():
                    raise InvalidInputError(
                        "two target_mass edits meet in one block: give one region, or use a bias for one."
                    )
                target[where] = edit.target_mass
                with np.errstate(divide="ignore"):
                    array("log_weights", -np.inf, True)[columns] = np.log(edit.weights)  # type: ignore[arg-type]
            elif edit.gain is not None:
                array("gain", 0.0, False)[where] += edit.gain
                threshold[stream] = max(threshold[stream], edit.responsive or 0.0)
            elif isinstance(edit.temperature, Tensor):
                # Streams with the same learned number share an entry; twice in one stream, it acts twice.
                again = sum(other.temperature is edit.temperature for other in group[:place])
                key = (id(edit.temperature), again)
                mask = temperature.setdefault(key, (np.zeros_like(edited), edit.temperature))[0]
                mask[where] = True
            else:
                array("temperature", 1.0, False)[where] *= edit.temperature
    tensors = {name: torch.from_numpy(_narrow(item)) for name, item in numbers.items()}
    for mask, tau in temperature.values():
        one = torch.ones((), device=tau.device)
        factor = torch.where(torch.from_numpy(_narrow(mask)).to(tau.device), tau.reshape(()), one)
        tensors["temperature"] = (
            factor if "temperature" not in tensors else tensors["temperature"].to(tau.device) * factor
        )
    return SiteProgram(
        rows=torch.as_tensor(rows),
        edited=torch.from_numpy(edited),
        responsive=torch.from_numpy(threshold) if threshold.any() else None,
        kind=next(iter(kinds)) if tower.readout == "text" else "readout",
        **tensors,
    )


def _narrow(item: np.ndarray) -> np.ndarray:
    """Keeps one head and one row where all are equal: a bias for every head and row would be thousands of copies."""
    for axis in (1, 2):
        first = np.take(item, [0], axis=axis)
        if np.array_equal(np.broadcast_to(first, item.shape), item, equal_nan=True):
            item = first
    return np.ascontiguousarray(item)
