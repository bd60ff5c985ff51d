"""A batch's attention edits at one site, as tensors.

`visprompt.attention.program_builder.compile_programs` makes the programs. They depend on no hook and no backend; every
backend calls `SiteProgram.run` with the logits and values that it sees.
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
    """All edits and reads at one site for a batch of n streams.

    The axes of its tensors, and the form of edit that a tensor belongs to, are declared in its fields' metadata;
    batching, slicing and selection follow from that. `bias` and `log_weights` run over the P patch columns and are
    widened to the K keys at the call. The head axis has length 1 where all heads get the same, and so does the row
    axis.

    Args:
        rows: `[R]` query positions.
        edited: bool `[n, H, R]`: which streams, heads and rows change; elsewhere the model's own output stays.
        bias: `[n, H|1, R|1, P]` added to the logits, or None.
        log_weights: `[n, H|1, R|1, P]` log weights of the region's patches for `target`, −inf outside the region, or
            None.
        target: `[n, H|1, R|1]` attention mass in (0, 1) that the region gets, NaN for none, or None.
        temperature: `[n, H|1, R|1]` that divides the logits, or None.
        gain: `[n, H|1, R|1]` factor on the change of a head's output, or None.
        responsive: `[n]` threshold on the relative change of a head's output, or None.
        reference: `[n, H, R, D]` outputs without the prompt, for `gain`.
        read: keep the attention of the rows in `read_rows` (of all rows, if that is None).
        read_rows: `[r]` indices into `rows`.
        per_row: keep every row's attention instead of their mean.
        decompose: keep every key's contribution to the mean output of the rows in `decompose_rows` (of all, if None).
        decompose_rows: indices into `rows`.
        capture_output: keep the rows' outputs (to serve as a reference).
        columns: `[n, P]` key column of every patch, −1 for none; None: the patches stand in one block after `prefix`.
        kind: the kind of rows that the single row of a decoder's program represents.
        read_kind: the same for the row that is read.
        inject: `[n, H|1, R|1, D|1]` added to the rows' outputs; `wrap` uses it to verify that a site has an effect.
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

    # -- what it edits and reads --------------------------------------------------------------------------------------

    @functools.cached_property
    def edits(self) -> bool:
        """True if it overwrites anything, False if it only reads."""
        return self.inject is not None or bool(self.edited.any())

    @property
    def needs_outputs(self) -> bool:
        """True if the rows' outputs are needed, not only their attention."""
        return self.edits or self.capture_output or self.decompose

    @functools.cached_property
    def needs_head_outputs(self) -> bool:
        """True if outputs of single heads are edited, kept or decomposed."""
        kept = self.decompose or self.capture_output or self.inject is not None
        return kept or any(form.on_output is not None for form in self.forms)

    @functools.cached_property
    def forms(self) -> tuple[Form, ...]:
        """The forms of edit in it, in the order in which they are applied."""
        present = {tensor.form for name, tensor in site_tensors(type(self)).items() if getattr(self, name) is not None}
        return tuple(form for name, form in FORMS.items() if name in present)

    @functools.cached_property
    def needs_reference(self) -> bool:
        """True if it compares outputs with `reference`, those of a run without the prompt."""
        return any(form.needs_reference for form in self.forms)

    @property
    def reads_mean(self) -> bool:
        """True if it only reads, and only the mean attention over all its rows."""
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
        """Whether its only edit is one temperature for all rows of a call. `tempered_attention` then applies it inside
        the model's own kernel, and no rows are recomputed.

        Args:
            queries: number of query positions in the call.

        Returns:
            True if the program covers them all with a temperature and has nothing else.
        """
        return len(self.rows) == queries and self._tempers_alone

    @property
    def tau(self) -> Tensor:
        """The temperature, shaped to divide `[n, H, R, D]` queries: `[n, H|1, R|1, 1]`."""
        assert self.temperature is not None
        return self.temperature[..., None]

    # -- selecting and reordering -------------------------------------------------------------------------------------

    def to(self, device: torch.device) -> SiteProgram:
        """The same program with its tensors on a device.

        Args:
            device: target device.

        Returns:
            The program itself if it is on that device already.
        """
        if self.rows.device == device:
            return self
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        moved = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def _along(self, axis: Axis, change: Callable[[Tensor, int, SiteTensor], Tensor]) -> dict[str, Any]:
        """Changes every tensor that has an axis: `change(tensor, index of the axis, declaration)`; returns them by
        field name.
        """
        return {
            name: change(item, tensor.axes.index(axis), tensor)
            for name, tensor in site_tensors(type(self)).items()
            if axis in tensor.axes and (item := getattr(self, name)) is not None
        }

    def take(self, index: Tensor) -> SiteProgram:
        """Selects streams.

        Args:
            index: `[m]` int, stream numbers; a stream may occur several times.

        Returns:
            A program for m streams.
        """
        return replace(self, **self._along("stream", lambda item, dim, _: item.index_select(dim, index)))

    def repeated(self, streams: int) -> SiteProgram:
        """Repeats the program of a single stream.

        Args:
            streams: how many streams.

        Returns:
            A program for that many streams, without copies of the tensors.
        """
        return replace(self, **self._along("stream", lambda item, _, __: item.expand(streams, *item.shape[1:])))

    def at_rows(self, chosen: Tensor, positions: Tensor, columns: Tensor | None) -> SiteProgram:
        """Selects rows and gives them new positions.

        Args:
            chosen: `[r]` int, indices into the R rows.
            positions: `[r]` int, their query positions in the call.
            columns: `[n, P]` key column of every patch, −1 for patches without one; None: the patches follow the
                prefix.

        Returns:
            A program for r rows.
        """

        def select(item: Tensor, dim: int, _: SiteTensor) -> Tensor:
            return item.index_select(dim, chosen) if item.shape[dim] == len(self.rows) else item

        return replace(self, **{**self._along("row", select), "rows": positions, "columns": columns})

    def folded(self, slots: Tensor) -> SiteProgram:
        """Turns the streams of one image into rows of one sequence.

        Args:
            slots: `[m, S]` int, the stream of the s-th readout copy of every image; padding repeats a stream.

        Returns:
            A program for m sequences with S rows each.

        Raises:
            UnsupportedError: if a tensor has a stream axis but no row axis: rows of one sequence cannot differ in it.
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
        """Adds rows that are not edited.

        Args:
            rows: query positions, among them all of the program's own.

        Returns:
            A program for these rows, in this order.
        """
        own = self.rows.tolist()
        if own == rows:
            return self
        target = torch.tensor([rows.index(row) for row in own])

        # Only rows that `edited` names use these numbers, so the fill of the other rows has no effect.
        def spread(item: Tensor, dim: int, tensor: SiteTensor) -> Tensor:
            if item.shape[dim] == 1 < len(own):
                return item
            shape = list(item.shape)
            shape[dim] = len(rows)
            source = item.expand(*item.shape[:dim], len(own), *item.shape[dim + 1 :])
            return item.new_full(shape, tensor.fill).index_copy(dim, target, source)

        return replace(self, **{**self._along("row", spread), "rows": torch.tensor(rows)})

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self, logits: Tensor, value: Tensor, prefix: int, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
        """Computes outputs and attention of the rows with the edits.

        Args:
            logits: `[n, H, R, K]` scaled and masked, float32.
            value: `[n, H, K, D]`.
            prefix: number of key columns before the first patch.
            dropout: attention dropout rate of the module while training, else 0.

        Returns:
            `([n, H, R, D] outputs, [n, H, R, K] attention)`, float32.

        Raises:
            InvalidInputError: if there are fewer keys than prefix + patches.
        """
        edited = self.apply_to_logits(logits, prefix)
        output, attention = attend(edited, value, dropout)
        return self.apply_to_outputs(output), attention

    def apply_to_logits(self, logits: Tensor, prefix: int) -> Tensor:
        """Applies the forms that act on logits; rows and heads that are not edited keep theirs.

        Args:
            logits: `[n, H, R, K]` scaled and masked, float32.
            prefix: number of key columns before the first patch.

        Returns:
            `[n, H, R, K]`.
        """
        plain = logits
        for form in self.forms:
            if form.on_logits is not None:
                logits = form.on_logits(self, logits, prefix)
        if logits is plain or self.edited.all():
            return logits
        return torch.where(self.edited[..., None], logits, plain)

    def apply_to_outputs(self, output: Tensor) -> Tensor:
        """Adds `inject` and applies the forms that act on outputs.

        Args:
            output: `[n, H, R, D]`.

        Returns:
            `[n, H, R, D]`.
        """
        if self.inject is not None:
            output = output + self.inject
        for form in self.forms:
            if form.on_output is not None:
                output = form.on_output(self, output)
        return output

    def to_keys(self, item: Tensor, prefix: int, keys: int, fill: float) -> Tensor:
        """Widens a tensor over patch columns to all key columns.

        Args:
            item: `[n, H|1, R|1, P]`.
            prefix: number of key columns before the first patch; not used if `columns` is set.
            keys: K, the number of keys in the call.
            fill: value of keys that are no patches.

        Returns:
            `[n, H|1, R|1, K]`.
        """
        return widen(item, prefix, keys, fill) if self.columns is None else scatter(item, self.columns, keys, fill)

    def patches_of(self, attention: Tensor) -> Tensor:
        """Selects the patch columns of an attention tensor; `columns` must be set.

        Args:
            attention: `[n, H, R, K]`.

        Returns:
            `[n, H, R, P]`, 0 where a patch has no key column.
        """
        assert self.columns is not None
        present = (self.columns >= 0)[:, None, None]
        index = self.columns.clamp(min=0)[:, None, None].expand(*attention.shape[:3], -1)
        return attention.gather(-1, index) * present


def widen(item: Tensor, prefix: int, keys: int, fill: float) -> Tensor:
    """Widens patch columns to key columns where the patches stand in one block.

    Args:
        item: `[…, P]`.
        prefix: number of key columns before the first patch.
        keys: K, the number of keys in the call.
        fill: value of keys that are no patches.

    Returns:
        `[…, K]`.

    Raises:
        InvalidInputError: if there are fewer keys than prefix + patches.
    """
    after = keys - prefix - item.shape[-1]
    if after < 0:
        raise InvalidInputError(
            f"this block sees {keys} keys but the image has {prefix} + {item.shape[-1]} tokens: its attention window "
            "is shorter than the image, and columns cannot be matched."
        )
    return torch.nn.functional.pad(item, (prefix, after), value=fill)


def scatter(item: Tensor, columns: Tensor, keys: int, fill: float) -> Tensor:
    """Widens patch columns to key columns where the patches stand anywhere.

    Args:
        item: `[n|1, H, R, P]`.
        columns: `[n, P]` key column of every patch; patches at −1 or beyond the keys are dropped.
        keys: K, the number of keys in the call.
        fill: value of keys that are no patches.

    Returns:
        `[n, H, R, K]`.
    """
    index = torch.where((columns >= 0) & (columns < keys), columns, keys)[:, None, None]
    wide = item.new_full((len(columns), *item.shape[1:3], keys + 1), fill)
    item = item.expand(len(columns), -1, -1, -1)
    return wide.scatter(-1, index.expand_as(item), item)[..., :keys]
