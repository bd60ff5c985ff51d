"""The input of an LVLM's vision tower and its patches, and checks of processor settings that layouts share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from visprompt.errors import UnsupportedError
from visprompt.geometry.analytic import Pair, Size
from visprompt.geometry.geometry import Tile

if TYPE_CHECKING:
    from visprompt.models.lvlm.model import LVLM


def setting(size: Any, name: str) -> int | None:
    """Reads one number of a processor's size setting, which is a dict or an object.

    Args:
        size: the setting.
        name: the number's name.

    Returns:
        The number, or None.
    """
    found = size.get(name) if isinstance(size, dict) else getattr(size, name, None)
    return None if found is None else int(found)


def refuse(model: LVLM, reason: str) -> UnsupportedError:
    """Makes the error for settings with which the position of tokens is unknown.

    Args:
        model: the LVLM.
        reason: what the settings are.

    Returns:
        The error, for the caller to raise.
    """
    return UnsupportedError(f"{model.name}: where the tokens of an image lie is not known if {reason}.")


def square(model: LVLM, value: Any, what: str) -> int:
    """Checks that something is square.

    Args:
        model: the LVLM.
        value: its side, or both sides, pixels.
        what: its name for the message.

    Returns:
        The side.

    Raises:
        UnsupportedError: if it is not square.
    """
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1:
        raise refuse(model, f"{what} is {value}, not square")
    return int(sides.pop())


@dataclass(frozen=True)
class TowerInput:
    """The vision tower's input and its patches.

    >>> TowerInput(384, 14).grid, TowerInput(384, 14).ignored
    (27, 6)

    Args:
        side: side of its square input, pixels.
        patch: side of a patch, pixels; the remainder of an input that is not a whole number of patches is ignored.
    """

    side: int
    patch: int

    @property
    def grid(self) -> int:
        """Number of patches along a side."""
        return self.side // self.patch

    @property
    def ignored(self) -> int:
        """Number of pixels at the right and lower border that no patch shows."""
        return self.side - self.grid * self.patch

    def whole(self, image_wh: Size, merged: int = 1) -> Tile:
        """The tile that shows the whole image, squashed.

        Args:
            image_wh: width and height of the image, pixels.
            merged: number of patches along a side of a token.

        Returns:
            The tile.
        """
        return self.tile((self.side / image_wh[0], self.side / image_wh[1]), (0.0, 0.0), 0, 0, merged)

    def tile(self, scale_xy: Pair, offset_xy: Pair, row: int, column: int, merged: int = 1) -> Tile:
        """One tile of a canvas, `canvas_xy = scale_xy · image_xy + offset_xy`.

        Args:
            scale_xy: scale of x and of y.
            offset_xy: pixels of the canvas.
            row: row of the tile.
            column: column of the tile.
            merged: number of patches along a side of a token.

        Returns:
            The tile.
        """
        offset = (offset_xy[0] - column * self.side, offset_xy[1] - row * self.side)
        count, token = self.grid // merged, float(self.patch * merged)
        return Tile(scale_xy, offset, (self.side, self.side), (count, count), (token, token))

    def tiles(self, scale_xy: Pair, offset_xy: Pair, tiles_hw: Size, merged: int = 1) -> list[Tile]:
        """All tiles of a canvas, row by row.

        Args:
            scale_xy: as in `tile`.
            offset_xy: as in `tile`.
            tiles_hw: rows and columns of tiles.
            merged: as in `tile`.

        Returns:
            The tiles.
        """
        rows, columns = tiles_hw
        return [self.tile(scale_xy, offset_xy, row, column, merged) for row in range(rows) for column in range(columns)]

    def pixels(self, borders: np.ndarray) -> np.ndarray:
        """Converts patch borders along a canvas to pixels. The pixels that a tile ignores count to the patch before
        them, except after the last one.

        Args:
            borders: in units of patches.

        Returns:
            In pixels of the canvas.
        """
        tile, inside = np.divmod(np.round(borders, 9), self.grid)
        found: np.ndarray = tile * self.side + inside * self.patch
        if inside[-1] == 0:
            found[-1] -= self.ignored
        return found


@dataclass(frozen=True)
class UnevenTile(Tile):
    """A grid over several inputs whose borders the tower ignores, so that its patches are not evenly spaced.

    Args:
        borders_xy: borders of the patches along x `[columns + 1]` and y `[rows + 1]`, pixels of the input. The other
            arguments describe the closest even grid, with which maps are drawn.
    """

    borders_xy: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Patch borders in original pixels.

        Returns:
            x `[columns + 1]` and y `[rows + 1]`.
        """
        (sx, sy), (ox, oy) = self.scale_xy, self.offset_xy
        return (np.asarray(self.borders_xy[0]) - ox) / sx, (np.asarray(self.borders_xy[1]) - oy) / sy


def video_processor(model: LVLM) -> Any:
    """The model's processor of videos.

    Args:
        model: the LVLM.

    Returns:
        The processor.

    Raises:
        UnsupportedError: if it has none.
    """
    found = getattr(model.processor, "video_processor", None)
    if found is None:
        raise UnsupportedError(f"{model.name}: its processor takes no videos; ask about the frames as images.")
    return found
