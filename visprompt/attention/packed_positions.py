"""Positions of the images in a vision tower that packs the patches of all images into one sequence.

Such a tower (Qwen's) has no batch axis: its attention module calls the kernel once per image, frame or window, one
after the other. `PackedPositions` counts those calls and translates a program that was compiled per image and patch to
the part of the sequence that the current call sees.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from visprompt.errors import SiteNotReachedError, UnsupportedError
from visprompt.utils.renamed import renamed_attributes, renamed_names

if TYPE_CHECKING:
    from visprompt.attention.program import SiteProgram
    from visprompt.attention.sites import Site


@dataclass(frozen=True, eq=False)
class _Piece:
    """The attention that one call gave: image number, row numbers `[r]`, and attention `[H, r, P]` or its sum over rows
    `[H, 1, P]`.
    """

    stream: int
    numbers: Tensor
    rows: Tensor
    per_row: bool


def _joined(pieces: list[_Piece]) -> Tensor:
    images: dict[int, list[_Piece]] = {}
    for piece in pieces:
        images.setdefault(piece.stream, []).append(piece)
    found = []
    for _, own in sorted(images.items()):
        rows, numbers = torch.cat([piece.rows for piece in own], dim=1), torch.cat([piece.numbers for piece in own])
        if own[0].per_row:
            found.append(rows.index_select(1, torch.argsort(numbers)))
        else:
            found.append(rows.sum(dim=1) / len(numbers))
    return torch.stack(found)


@renamed_attributes(pictures="images")
class PackedPositions:
    """The order of images and patches in the packed sequence of T positions.

    Args:
        streams: `[T]` int, number of the image (tile, pair of frames) of every position.
        patches: `[T]` int, number of its patch within the image, counted row by row.
    """

    def __init__(self, streams: Tensor, patches: Tensor) -> None:
        self.streams, self.patches = streams, patches
        self.most, self.images = int(patches.max()) + 1, int(streams.max()) + 1
        self._stream_at = streams.tolist()
        self._at: dict[Site, int] = {}
        self._last: tuple[int, Tensor, int] | None = None
        self._read: dict[Site, list[_Piece]] = {}

    def to(self, device: torch.device) -> PackedPositions:
        """Copies the positions to a device and resets the count of processed positions.

        Args:
            device: target device.

        Returns:
            The copy.
        """
        return PackedPositions(self.streams.to(device), self.patches.to(device))

    def lay_out(self, site: Site, program: SiteProgram, streams: int, queries: int, keys: int) -> SiteProgram:
        """Translates a program for one call: its rows and columns become those of the patches that the call sees.

        Args:
            site: the site that is called.
            program: compiled for n images, with rows and columns counted in patches.
            streams: batch size of the call; always 1.
            queries: number of positions in the call.
            keys: number of keys; equal to `queries`.

        Returns:
            The program for this call, for one stream.

        Raises:
            SiteNotReachedError: if the tower sees more positions than the images have patches.
            UnsupportedError: if a call sees several images, as flash attention does, or attention is to be decomposed.
        """
        if program.decompose:
            raise UnsupportedError("attention is not decomposed in towers that pack images into one sequence.")
        first = self._at.get(site, 0)
        piece = slice(first, first + queries)
        if streams != 1 or keys != queries or piece.stop > len(self.streams):
            raise SiteNotReachedError(
                f"{site!r} sees {piece.stop} patches, and the images have {len(self.streams)}: it packs them in "
                "an unknown order."
            )
        if not first:
            self._read.pop(site, None)
        self._at[site] = piece.stop % len(self.streams)  # 0 at the end: the next call begins another pass
        stream, patches = self._stream_at[first], self.patches[piece]
        if self._stream_at[piece.stop - 1] != stream:  # images stand one after the other
            raise UnsupportedError(f"{site!r} sees several images in one call: load the model with sdpa attention.")
        device = patches.device
        columns = torch.full((1, self.most), -1, device=device)
        columns[0, patches] = torch.arange(queries, device=device)
        own = program.take(torch.tensor([stream], device=device))
        at = columns[0, program.rows]
        chosen = (at >= 0).nonzero().flatten()
        if not (program.capture_output or program.read or own.edits):
            chosen = chosen[:0]  # this image has no edit and nothing of it is read
        self._last = (stream, chosen, len(program.rows))
        if own.read_rows is not None:
            own = replace(own, read_rows=torch.isin(chosen, own.read_rows).nonzero().flatten())
        return own.at_rows(chosen, at[chosen], columns)

    def restart(self) -> None:
        """Resets the counts after a pass that did not finish."""
        self._at.clear()
        self._read.clear()

    def is_through(self, site: Site) -> bool:
        """Whether a site has processed the whole sequence, or has not started.

        Args:
            site: one of the tower's sites.

        Returns:
            True between passes.
        """
        return not self._at.get(site)

    def read(self, site: Site, program: SiteProgram, attention: Tensor) -> None:
        """Stores the attention of the current call (the last one given to `lay_out`) for `maps`.

        Args:
            site: the site that was called.
            program: the program that `lay_out` returned.
            attention: `[1, H, r, K]`.
        """
        assert self._last is not None
        stream, chosen, _ = self._last
        kept = program.read_rows
        count = len(chosen) if kept is None else len(kept)
        if not count:
            return
        rows = attention if kept is None else attention.index_select(2, kept)
        if not program.per_row:  # summed over rows before the few columns of a window are spread over all patches
            rows = rows.mean(dim=2, keepdim=True) * count
        found = program.patches_of(rows)[0]
        numbers = chosen if kept is None else chosen[kept]
        self._read.setdefault(site, []).append(_Piece(stream, numbers, found, program.per_row))

    def maps(self) -> dict[Site, Tensor]:
        """The attention read since the pass began. Patches that a row does not see (other windows) get 0 from it.

        Returns:
            Per site `[n, H, P]`, the mean over all rows of an image (whichever calls they came from), or `[n, H, R, P]`
            if the program keeps every row.
        """
        return {site: _joined(pieces) for site, pieces in self._read.items()}

    def gather(self, output: Tensor, whole: Tensor | None, streams: int) -> Tensor:
        """Puts the outputs of the current call (the last one given to `lay_out`) into the outputs of all images.

        Args:
            output: `[1, H, r, D]`.
            whole: `[n, H, R, D]` of the calls so far; None: zeros are made.
            streams: n, the number of images.

        Returns:
            `whole`, changed in place.
        """
        assert self._last is not None
        stream, chosen, rows = self._last
        if whole is None:
            whole = output.new_zeros(streams, output.shape[1], rows, output.shape[3])
        whole[stream] = whole[stream].index_copy(1, chosen, output[0])
        return whole


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"Packed": "PackedPositions"}, globals())
