"""The size of a model's tokens in its input and at a point of an image, for prompts measured in tokens.

This module imports models and geometry, no strategies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from visprompt.errors import UnsupportedError

if TYPE_CHECKING:
    from visprompt.geometry.geometry import Geometry, Tile
    from visprompt.models.base import Model
    from visprompt.regions.shapes import Pair
    from visprompt.visual_prompt import VisualPrompt


def input_tile(model: Model) -> Tile | None:
    """The input of an image encoder for a square image, with its patch grid.

    Args:
        model: any model.

    Returns:
        The first tile; None for a model without a vision tower or one that generates text.
    """
    if model.generates or not model.has_tower("vision"):
        return None
    return model.geometry((256, 256)).tiles[0]


def vision_geometry(prompt: VisualPrompt, model: Model) -> Geometry:
    """The geometry from a prompt's image to the tokens of a model.

    Args:
        prompt: gives the image and `fit`.
        model: any model.

    Returns:
        The geometry of the vision tower; if the tower's geometry is unknown, that of the readout.
    """
    if model.has_tower("vision"):
        try:
            return model.geometry_of(prompt, tower="vision")
        except UnsupportedError:  # a tower whose layout is not known for such an image
            pass
    return model.geometry_of(prompt)


def square_at(geometry: Geometry, spot: Pair, tokens: float) -> Pair | None:
    """Size in the image of a square with a side given in tokens, at a point.

    Args:
        geometry: of the image.
        spot: x and y, pixels of the image.
        tokens: side of the square, tokens.

    Returns:
        Width and height, pixels of the image, each at least 1; None for a model whose tokens are not known.
    """
    if geometry.num_patches == 1:
        return None
    tile = _coarsest_tile_at(geometry, spot)
    width = tokens * tile.patch_hw[1] / tile.scale_xy[0]
    height = tokens * tile.patch_hw[0] / tile.scale_xy[1]
    return (max(width, 1.0), max(height, 1.0))


def _coarsest_tile_at(geometry: Geometry, spot: Pair) -> Tile:
    """The tile with the coarsest tokens among those that show a point: a square is then large enough in all of them."""

    def shows(tile: Tile) -> bool:
        x0, y0, x1, y1 = tile.seen_xyxy
        return x0 <= spot[0] <= x1 and y0 <= spot[1] <= y1

    showing = [tile for tile in geometry.tiles if shows(tile)] or list(geometry.tiles)
    return max(showing, key=lambda tile: tile.patch_hw[0] / tile.scale_xy[1] * tile.patch_hw[1] / tile.scale_xy[0])
