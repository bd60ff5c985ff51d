"""How large a model's tokens are, in its input and at a place of an image: for what is measured in tokens.

It knows models and geometry, no strategies.
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
    """The input of an image encoder for a square image, with its grid of tokens.

    Args:
        model: any.

    Returns:
        None for a model without a vision tower, and for one that generates.
    """
    if model.generates or not model.has_tower("vision"):
        return None
    return model.geometry((256, 256)).tiles[0]


def vision_geometry(prompt: VisualPrompt, model: Model) -> Geometry:
    """Where the tokens of a model lie in a prompt's image.

    Args:
        prompt: its image and how it is fitted count.
        model: any.

    Returns:
        The geometry of the vision tower; where that is not known, of what the model is read through.
    """
    if model.has_tower("vision"):
        try:
            return model.geometry_of(prompt, tower="vision")
        except UnsupportedError:  # a tower whose layout is not known for such an image
            pass
    return model.geometry_of(prompt)


def square_at(geometry: Geometry, spot: Pair, tokens: float) -> Pair | None:
    """Width and height in the image of a square of so many tokens along a side, at a place.

    Args:
        geometry: of the image.
        spot: x and y, pixels of the image.
        tokens: side of the square.

    Returns:
        Pixels of the image, each at least 1; None for a model whose tokens are not known.
    """
    if geometry.num_patches == 1:
        return None
    tile = _coarsest_tile_at(geometry, spot)
    width = tokens * tile.patch_hw[1] / tile.scale_xy[0]
    height = tokens * tile.patch_hw[0] / tile.scale_xy[1]
    return (max(width, 1.0), max(height, 1.0))


def _coarsest_tile_at(geometry: Geometry, spot: Pair) -> Tile:
    """Of the tiles that show a place, the one with the coarsest tokens: a mark is then large enough in all of them."""

    def shows(tile: Tile) -> bool:
        x0, y0, x1, y1 = tile.seen_xyxy
        return x0 <= spot[0] <= x1 and y0 <= spot[1] <= y1

    showing = [tile for tile in geometry.tiles if shows(tile)] or list(geometry.tiles)
    return max(showing, key=lambda tile: tile.patch_hw[0] / tile.scale_xy[1] * tile.patch_hw[1] / tile.scale_xy[0])
