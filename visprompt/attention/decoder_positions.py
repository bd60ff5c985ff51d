"""Positions of image and text tokens in a decoder's sequence, during the prompt pass and while it generates.

An encoder sees its whole sequence in one call, with the patches in one block of key columns. A decoder sees the prompt
in one call or several and then one token per call; the patches of its images stand anywhere in the prompt, after
different amounts of padding; and layers with a sliding window see the last keys only. `TokenPositions` translates a
program's patches and kinds of rows into the rows and key columns of the current call.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.utils.renamed import renamed_attributes, renamed_names
from visprompt.visual_prompt import Rows

if TYPE_CHECKING:
    from visprompt.attention.program import SiteProgram
    from visprompt.attention.sites import Site

_Layout: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None, Tensor]


@renamed_attributes(pictures="images")
class TokenPositions:
    """The token layout of a batch of n prompts, and how many positions each block has processed so far.

    Args:
        columns: `[n, P]` int, position in the padded prompt of every patch's token; −1 for padding patches.
        images: bool `[n, T]`, True for tokens of images, their newline tokens included.
        padding: bool `[n, T]`, True for padding tokens.
    """

    def __init__(self, columns: Tensor, images: Tensor, padding: Tensor) -> None:
        self.columns, self.images, self.padding = columns, images, padding
        self.length = images.shape[1]
        self._seen: dict[int, int] = {}
        self._step = (-1, -1)
        self._found: dict[Any, _Layout] = {}

    def to(self, device: torch.device) -> TokenPositions:
        """Copies the layout to a device and resets the count of processed positions.

        Args:
            device: target device.

        Returns:
            The copy.
        """
        return TokenPositions(self.columns.to(device), self.images.to(device), self.padding.to(device))

    def rows_of(self, kind: Rows) -> Tensor:
        """The prompt positions that a kind of rows selects.

        `"readout"` selects the text after the first image: text before it cannot attend to the image.

        Args:
            kind: a named kind of rows, or positions counted without the padding.

        Returns:
            bool `[n, T]`.

        Raises:
            InvalidInputError: for a position beyond the shortest prompt, and for kinds that only encoders have.
        """
        if isinstance(kind, tuple):
            chosen = torch.zeros_like(self.images)
            start = self.padding.sum(dim=1)  # rows are counted without the padding in front
            for row in kind:
                at = start + row
                if bool((at >= self.length).any()):
                    raise InvalidInputError(f"rows={kind}, but the shortest prompt has {self.length} tokens or fewer.")
                chosen[torch.arange(len(chosen), device=chosen.device), at] = True
            return chosen
        if kind == "all":
            return ~self.padding
        if kind == "patches":
            return self.images.clone()
        if kind == "answer":
            return torch.arange(self.length, device=self.images.device).expand_as(self.images) == self.length - 1
        if kind == "readout":
            return (self.images.cumsum(dim=1) > 0) & ~self.images & ~self.padding
        raise InvalidInputError(
            f'rows={kind!r}: a decoder has no such rows; it has "readout" (the text after the image), "answer" (the '
            'positions that write the answer), "patches", "all", or row numbers.'
        )

    def lay_out(self, site: Site, program: SiteProgram, streams: int, queries: int, keys: int) -> SiteProgram:
        """Translates a program for one call: its rows become positions among the call's queries, its columns positions
        among the call's keys.

        Args:
            site: the site that is called.
            program: compiled with a single row, which represents all rows of its kind.
            streams: batch size of the call; a multiple of n under beam search.
            queries: number of query positions in the call.
            keys: number of keys in the call.

        Returns:
            The program for this call.

        Raises:
            UnsupportedError: if attention is to be read under beam search, where one prompt has several streams.
        """
        seen = self._seen.get(id(site), 0)
        if queries >= self.length or 1 < queries == keys:
            seen = 0  # a new pass over the prompt: without a cache, or run again, also in chunks
        total = seen + queries
        self._seen[id(site)] = total
        read_kind = program.read_kind if program.read else None
        if (seen, queries) != self._step:
            self._step, self._found = (seen, queries), {}
        key = (program.kind if program.edits else None, read_kind, seen, queries, keys)
        if key not in self._found:  # all blocks of one decoding step have the same layout
            self._found[key] = self._call_layout(*key)
        rows, edited, read_rows, columns = self._found[key]
        chosen = program.edited & edited if edited is not None else program.edited[..., :1].expand(-1, -1, len(rows))
        laid_out = replace(program, rows=rows, columns=columns, edited=chosen, read_rows=read_rows)
        if streams != len(columns):
            if program.read or streams % len(columns):
                raise UnsupportedError(
                    "maps cannot be read while several answers are generated at once: use num_beams=1 and "
                    "num_return_sequences=1."
                )
            repeated = torch.arange(len(columns), device=columns.device).repeat_interleave(streams // len(columns))
            laid_out = laid_out.take(repeated)
        return laid_out

    def _call_layout(self, kind: Rows | None, read_kind: Rows | None, seen: int, queries: int, keys: int) -> _Layout:
        """The layout of one call: row positions `[R]`, which of them are edited in which stream (bool `[n, 1, R]`, or
        None), which are read (indices into the rows, or None), and the patches' key columns `[n, P]`.
        """
        total, device = seen + queries, self.columns.device
        positions = torch.arange(seen, total, device=device)
        inside = positions < self.length
        wanted = torch.zeros(queries, dtype=torch.bool, device=device)
        edited = read = None
        if kind is not None:
            edited = self._selected(kind, positions, inside)
            wanted |= edited.any(dim=0)
        if read_kind is not None:
            read = self._selected(read_kind, positions, inside)
            if read_kind == "answer":  # one row a step, also without a cache
                read = torch.zeros_like(read)
                read[:, -1] = total >= self.length
            wanted |= read.any(dim=0)
        rows = wanted.nonzero().flatten()
        dropped = max(total - keys, 0)  # keys that have left a sliding window
        columns = torch.where(self.columns >= dropped, self.columns - dropped, -1)
        read_rows = None if read is None else read[:, rows].any(dim=0).nonzero().flatten()
        return rows, None if edited is None else edited[:, None, rows], read_rows, columns

    def _selected(self, kind: Rows, positions: Tensor, inside: Tensor) -> Tensor:
        """The call's queries that a kind of rows selects, bool `[n, queries]`. Generated tokens count as text and as
        the answer.
        """
        prompt = self.rows_of(kind)
        written = kind in ("readout", "answer", "all")
        selected = torch.full((len(prompt), len(positions)), written, device=prompt.device)
        selected[:, inside] = prompt[:, positions[inside]]
        return selected


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"Timeline": "TokenPositions"}, globals())
