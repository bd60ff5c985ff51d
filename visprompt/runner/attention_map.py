"""Attention maps: numbers per patch, with the geometry that maps them to pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from visprompt.errors import InvalidInputError
from visprompt.geometry.geometry import Geometry
from visprompt.regions.shapes import Region
from visprompt.utils.renamed import renamed_attributes


@renamed_attributes(picture="image")
@dataclass(frozen=True, eq=False)
class AttentionMap:
    """The attention of the readout of one prompted image over its patches.

    Args:
        values: `[B, H, P]` float32: the fraction of the readout's attention on every patch, per block and head, after
            the edits; patches row by row, tile after tile. They sum to less than 1, since CLS, registers or words get
            attention too. For an LVLM the patches are its image tokens, and the readout the positions that write the
            answer (their mean).
        blocks: `[B]` block numbers; models with a pooling head have the readout in that block only.
        geometry: patches ↔ pixels of the image that the model saw.
        index: (request, region) that it belongs to.
        regions: the prompt's regions in pixels of that image (after a crop: of the crop).
        image: index of the image in its request, or of the group of frames of a video.
    """

    values: Tensor
    blocks: tuple[int, ...]
    geometry: Geometry
    index: tuple[int, int]
    regions: tuple[Region, ...] = ()
    image: int = 0

    @property
    def maps(self) -> Tensor:
        """The values as `[B, H, h, w]`, for a model that sees the image as one tile.

        Raises:
            InvalidInputError: if there are several tiles; `tile(i)` gives one.
        """
        return self.values.unflatten(-1, self.geometry.grid_hw)

    def tile(self, number: int) -> Tensor:
        """The values of one tile.

        Args:
            number: index of the tile.

        Returns:
            `[B, H, h, w]`.

        Raises:
            InvalidInputError: if there is no such tile.
        """
        tiles = self.geometry.tiles
        if not 0 <= number < len(tiles):
            raise InvalidInputError(f"there is no tile {number}; tiles run from 0 to {len(tiles) - 1}.")
        sizes = [tile.grid_hw[0] * tile.grid_hw[1] for tile in tiles]
        return self.values.split(sizes, dim=-1)[number].unflatten(-1, tiles[number].grid_hw)

    def mass(self, region: Region | None = None) -> Tensor:
        """The fraction of the attention on a region; patches count by their coverage.

        Args:
            region: in pixels of the image that the model saw; None: the prompt's own regions.

        Returns:
            `[B, H]`.

        Raises:
            InvalidInputError: without a region, if the prompt has none.
        """
        regions = self.regions if region is None else (region,)
        if not regions:
            raise InvalidInputError("the request had no region: say which one, mass(vp.Box(…)).")
        cover = np.max([self.geometry.coverage(item) for item in regions], axis=0)
        return (self.values * torch.from_numpy(cover).to(self.values)).sum(-1)

    def image_map(self, block: int = -1, head: int | None = None) -> np.ndarray:
        """The attention of one block over the pixels of the image. Pixels that several tiles show get the tiles' mean.

        Args:
            block: block number; a negative one counts from the end of the blocks that were read.
            head: head index; None: the mean over heads.

        Returns:
            `[H, W]` float32, 0 for pixels that the model does not see.

        Raises:
            InvalidInputError: for a block that was not read, or a head that does not exist.
        """
        if not -len(self.blocks) <= block < 0 and block not in self.blocks:
            raise InvalidInputError(f"block {block} was not read; blocks {list(self.blocks)} were.")
        chosen = self.values[block if block < 0 else self.blocks.index(block)]
        if head is not None:
            if not -len(chosen) <= head < len(chosen):
                raise InvalidInputError(f"head {head} of {len(chosen)} heads.")
            chosen = chosen[[head]]
        return self.geometry.to_map(chosen.mean(0).cpu().numpy())
