"""From the attention edits of many prompts to one batch of numbers per site: what happens at one site.

`visprompt.attention.program_builder.compile_programs` makes the programs. They depend on no hook and no backend; every
backend calls `SiteProgram.run` with the queries, keys and values it sees.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from visprompt.attention.forms import FORMS, Form
from visprompt.attention.row_math import attend
from visprompt.attention.site_tensors import Axis, SiteTensor, site_tensor, site_tensors
from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.visual_prompt import Rows


@dataclass(frozen=True, eq=False)
class SiteProgram:
    """Everything that happens at one site for a batch of n streams.

    The axes of its tensors, and the form of edit that a tensor belongs to, are declared in its fields' metadata;
    batching, slicing and selection follow from that. `bias` and `log_weights` run over the P patch columns and are
    widened to the keys at the call. Head and row axes are 1 where all heads or rows get the same.

    Args:
        rows: `[R]` query positions.
        edited: bool `[n, H, R]`: which streams, heads and rows change; elsewhere the model's own output stays.
        bias: `[n, H|1, R|1, P]`, or None.
        log_weights: `[n, H|1, R|1, P]`, −inf outside the region, or None.
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
        inject: `[n, H|1, R|1, D|1]` added to the rows' outputs; with it `wrap` verifies that a site has an effect.
    """

    rows: Tensor
    edited: Tensor = field(metadata=site_tensor("stream", "head", "row"))
    bias: Tensor | None = field(default=None, metadata=site_tensor("stream", "head", "row", "patch", form="bias"))
    log_weights: Tensor | None = field(
        default=None, metadata=site_tensor("stream", "head", "row", "patch", form="target_mass", fill=float("-inf"))
    )
    target: Tensor | None = field(
        default=None, metadata=site_tensor("stream", "head", "row", form="target_mass", fill=float("nan"))
    )
    temperature: Tensor | None = field(
        default=None, metadata=site_tensor("stream", "head", "row", form="temperature", fill=1.0)
    )
    gain: Tensor | None = field(default=None, metadata=site_tensor("stream", "head", "row", form="gain"))
    responsive: Tensor | None = field(default=None, metadata=site_tensor("stream", form="gain"))
    reference: Tensor | None = field(
        default=None, metadata=site_tensor("stream", "head", "row", "channel", form="gain")
    )
    read: bool = False
    read_rows: Tensor | None = None
    per_row: bool = False
    decompose: bool = False
    decompose_rows: Tensor | None = None
    capture_output: bool = False
    columns: Tensor | None = field(default=None, metadata=site_tensor("stream", "patch", fill=-1))
    kind: Rows = "readout"
    read_kind: Rows = "readout"
    inject: Tensor | None = field(default=None, metadata=site_tensor("stream", "head", "row", "channel"))

    # -- what it does -------------------------------------------------------------------------------------------------

    @functools.cached_property
    def edits(self) -> bool:
        """True if anything is overwritten, False if it only reads."""
        return self.inject is not None or bool(self.edited.any())

    @property
    def needs_outputs(self) -> bool:
        """True if the rows' outputs are wanted, not just where they look."""
        return self.edits or self.capture_output or self.decompose

    @functools.cached_property
    def needs_head_outputs(self) -> bool:
        """True if something is done with, or kept of, the outputs of single heads, or what adds up to them."""
        kept = self.decompose or self.capture_output or self.inject is not None
        return kept or any(form.on_output is not None for form in self.forms)

    @functools.cached_property
    def forms(self) -> tuple[Form, ...]:
        """The forms of edit that are in it, in the order in which they act."""
        present = {tensor.form for name, tensor in site_tensors(type(self)).items() if getattr(self, name) is not None}
        return tuple(form for name, form in FORMS.items() if name in present)

    @functools.cached_property
    def needs_reference(self) -> bool:
        """True if it compares outputs with those of a run without the prompt (`reference`)."""
        return any(form.needs_reference for form in self.forms)

    @property
    def reads_mean(self) -> bool:
        """True if all that is wanted of it is where its rows look, on the mean."""
        return self.read and not (self.per_row or self.needs_outputs) and self.read_rows is None

    @functools.cached_property
    def _tempers_alone(self) -> bool:
        if self.temperature is None or self.read or self.decompose or self.capture_output:
            return False
        others = [name for name in site_tensors(type(self)) if name not in ("edited", "temperature")]
        if any(getattr(self, name) is not None for name in others):
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

    # -- re-arranging -------------------------------------------------------------------------------------------------

    def to(self, device: torch.device) -> SiteProgram:
        """The same program with its tensors on a device."""
        if self.rows.device == device:
            return self
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        moved = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def _along(self, axis: Axis, change: Callable[[Tensor, int, SiteTensor], Tensor]) -> dict[str, Any]:
        """Every tensor that has an axis, changed: `change(tensor, number of the axis, declaration)`."""
        return {
            name: change(item, tensor.axes.index(axis), tensor)
            for name, tensor in site_tensors(type(self)).items()
            if axis in tensor.axes and (item := getattr(self, name)) is not None
        }

    def take(self, index: Tensor) -> SiteProgram:
        """The program of some of the streams."""
        return replace(self, **self._along("stream", lambda item, dim, _: item.index_select(dim, index)))

    def repeated(self, streams: int) -> SiteProgram:
        """The program of one stream for many that do the same."""
        return replace(self, **self._along("stream", lambda item, _, __: item.expand(streams, *item.shape[1:])))

    def at_rows(self, chosen: Tensor, positions: Tensor, columns: Tensor | None) -> SiteProgram:
        """The program of some of its rows.

        Args:
            chosen: `[r]` which of the R rows.
            positions: `[r]` where they stand.
            columns: `[n, P]` where the patches stand, −1 for those that do not; None: behind the prefix.
        """

        def select(item: Tensor, dim: int, _: SiteTensor) -> Tensor:
            return item.index_select(dim, chosen) if item.shape[dim] == len(self.rows) else item

        return replace(self, **{**self._along("row", select), "rows": positions, "columns": columns})

    def folded(self, slots: Tensor) -> SiteProgram:
        """Streams of one image become rows of one sequence.

        Args:
            slots: `[m, S]`: which stream the s-th readout copy of image i is (padding repeats a stream).

        Raises:
            UnsupportedError: for tensors that are per stream and not per row: rows of one sequence cannot differ there.
        """
        images, copies = slots.shape
        fixed = [name for name, tensor in site_tensors(type(self)).items() if "row" not in tensor.axes]
        fixed = [name for name in fixed if getattr(self, name) is not None]
        if fixed:
            raise UnsupportedError(f"streams cannot share one sequence: {' and '.join(fixed)} is not given by rows.")

        def fold(item: Tensor, dim: int, _: SiteTensor) -> Tensor:
            picked = item.index_select(dim, slots.reshape(-1))  # [m*S, H|1, 1, ...]
            return picked.reshape(images, copies, *item.shape[1:2], *item.shape[3:]).transpose(1, 2)

        rows = torch.arange(copies, device=self.rows.device)
        return replace(self, rows=rows, **self._along("stream", fold))

    def with_rows(self, rows: list[int]) -> SiteProgram:
        """The same program for more rows, which are not edited."""
        own = self.rows.tolist()
        if own == rows:
            return self
        place = torch.tensor([rows.index(row) for row in own])

        # Only rows marked as edited take these numbers, so what stands in the other rows does not matter.
        def spread(item: Tensor, dim: int, tensor: SiteTensor) -> Tensor:
            if item.shape[dim] == 1 < len(own):
                return item
            shape = list(item.shape)
            shape[dim] = len(rows)
            source = item.expand(*item.shape[:dim], len(own), *item.shape[dim + 1 :])
            return item.new_full(shape, tensor.fill).index_copy(dim, place, source)

        return replace(self, **{**self._along("row", spread), "rows": torch.tensor(rows)})

    # -- running ------------------------------------------------------------------------------------------------------

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
        return self.apply_to_outputs(output), attention

    def apply_to_logits(self, logits: Tensor, prefix: int) -> Tensor:
        """The forms that act on logits, on `[n, H, R, K]`; rows and heads that are not edited keep theirs."""
        plain = logits
        for form in self.forms:
            if form.on_logits is not None:
                logits = form.on_logits(self, logits, prefix)
        if logits is plain or self.edited.all():
            return logits
        return torch.where(self.edited[..., None], logits, plain)

    def apply_to_outputs(self, output: Tensor) -> Tensor:
        """The forms that act on outputs, on `[n, H, R, D]`, after `inject`."""
        if self.inject is not None:
            output = output + self.inject
        for form in self.forms:
            if form.on_output is not None:
                output = form.on_output(self, output)
        return output

    def to_keys(self, item: Tensor, prefix: int, keys: int, fill: float) -> Tensor:
        """Patch columns → key columns, `[n, H|1, R|1, P]` → `[n, H|1, R|1, K]`, with `fill` where no patch stands."""
        return widen(item, prefix, keys, fill) if self.columns is None else scatter(item, self.columns, keys, fill)

    def patches_of(self, attention: Tensor) -> Tensor:
        """The patch columns of `[n, H, R, K]` attention, `[n, H, R, P]`; 0 where a patch has no column."""
        assert self.columns is not None
        there = (self.columns >= 0)[:, None, None]
        index = self.columns.clamp(min=0)[:, None, None].expand(*attention.shape[:3], -1)
        return attention.gather(-1, index) * there


def widen(item: Tensor, prefix: int, keys: int, fill: float) -> Tensor:
    """Patch columns → key columns: prefix in front, padding behind."""
    behind = keys - prefix - item.shape[-1]
    if behind < 0:
        raise InvalidInputError(
            f"this block sees {keys} keys but the image has {prefix} + {item.shape[-1]} tokens: its attention window "
            "is shorter than the image, and columns cannot be matched."
        )
    return torch.nn.functional.pad(item, (prefix, behind), value=fill)


def scatter(item: Tensor, columns: Tensor, keys: int, fill: float) -> Tensor:
    """Patch columns → key columns, wherever they stand: `[n, H, R, P]` with `[n, P]` gives `[n, H, R, keys]`."""
    index = torch.where((columns >= 0) & (columns < keys), columns, keys)[:, None, None]
    wide = item.new_full((len(columns), *item.shape[1:3], keys + 1), fill)
    item = item.expand(len(columns), -1, -1, -1)
    return wide.scatter(-1, index.expand_as(item), item)[..., :keys]
