"""LVLMs that cut an image into tiles and lay what the vision tower saw of them together again: LLaVA-NeXT, OneVision.

The image is scaled into the best of some canvases, a padding around it; the canvas is cut into tiles of the tower's
input size. In front of the tiles stands the whole image, squashed into one. For the decoder the tiles' tokens are
one grid again, without the rows or columns of padding, and with a newline token behind every row.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from visprompt.errors import UnsupportedError
from visprompt.geometry.analytic import Pair, Size
from visprompt.geometry.geometry import Geometry, Tile
from visprompt.models.lvlm.families import Layout, one_tile

if TYPE_CHECKING:
    from visprompt.models.lvlm.model import LVLM


def setting(size: Any, name: str) -> int | None:
    """One number of what a processor calls a size, which is a dict or an object."""
    found = size.get(name) if isinstance(size, dict) else getattr(size, name, None)
    return None if found is None else int(found)


def refuse(model: LVLM, reason: str) -> UnsupportedError:
    """The error for settings under which the place of a token is not known."""
    return UnsupportedError(f"{model.name}: where the tokens of an image lie is not known if {reason}.")


def square(model: LVLM, value: Any, what: str) -> int:
    """The side of something that has to be square, pixels.

    Raises:
        UnsupportedError: if it is not.
    """
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1:
        raise refuse(model, f"{what} is {value}, not square")
    return int(sides.pop())


@dataclass(frozen=True)
class TowerInput:
    """What the vision tower makes of one input.

    Args:
        side: side of its square input, pixels.
        patch: side of a patch, pixels; the rest of an input that is not a whole number of patches is ignored.

    >>> TowerInput(384, 14).grid, TowerInput(384, 14).ignored
    (27, 6)
    """

    side: int
    patch: int

    @property
    def grid(self) -> int:
        """Patches along a side."""
        return self.side // self.patch

    @property
    def ignored(self) -> int:
        """Pixels at the right and lower border that no patch shows."""
        return self.side - self.grid * self.patch

    def whole(self, image_wh: Size, merged: int = 1) -> Tile:
        """The whole image squashed into one input; `merged` patches each way make a token."""
        return self.tile((self.side / image_wh[0], self.side / image_wh[1]), (0.0, 0.0), 0, 0, merged)

    def tile(self, scale_xy: Pair, offset_xy: Pair, row: int, column: int, merged: int = 1) -> Tile:
        """One input out of a canvas, `canvas_xy = scale_xy · image_xy + offset_xy`."""
        offset = (offset_xy[0] - column * self.side, offset_xy[1] - row * self.side)
        count, token = self.grid // merged, float(self.patch * merged)
        return Tile(scale_xy, offset, (self.side, self.side), (count, count), (token, token))

    def tiles(self, scale_xy: Pair, offset_xy: Pair, tiles_hw: Size, merged: int = 1) -> list[Tile]:
        """All inputs of a canvas, row by row."""
        rows, columns = tiles_hw
        return [self.tile(scale_xy, offset_xy, row, column, merged) for row in range(rows) for column in range(columns)]

    def pixels(self, borders: np.ndarray) -> np.ndarray:
        """Borders of patches along a canvas, counted in patches → in pixels.

        What a tile ignores counts to the patch before it, but behind the last one.
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
            arguments describe the even grid that comes closest, which is what maps are drawn with.
    """

    borders_xy: tuple[tuple[float, ...], tuple[float, ...]] = ((), ())

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Patch borders in original pixels: x `[columns + 1]` and y `[rows + 1]`."""
        (sx, sy), (ox, oy) = self.scale_xy, self.offset_xy
        return (np.asarray(self.borders_xy[0]) - ox) / sx, (np.asarray(self.borders_xy[1]) - oy) / sy


# -- the canvas -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Canvas:
    """An image on the canvas that fits it best.

    Args:
        image_wh: size of the image.
        tiles_hw: rows and columns of tiles.
        scale_xy: with `offset_xy`: `canvas_xy = scale_xy · image_xy + offset_xy`.
        offset_xy: pixels of the canvas.
    """

    image_wh: Size
    tiles_hw: Size
    scale_xy: Pair
    offset_xy: Pair

    @classmethod
    def best(cls, image_wh: Size, sizes_hw: list[list[int]], side: int) -> Canvas:
        """The canvas that keeps most of the image's pixels, and of those the one with the least padding."""
        from transformers.image_processing_utils import select_best_resolution

        width, height = image_wh
        canvas_h, canvas_w = select_best_resolution((height, width), sizes_hw)  # type: ignore[arg-type]
        by_width, by_height = canvas_w / width, canvas_h / height
        # The side that fills the canvas is exact, the other is rounded up.
        if by_width < by_height:
            new_w, new_h = canvas_w, min(math.ceil(height * by_width), canvas_h)
        else:
            new_w, new_h = min(math.ceil(width * by_height), canvas_w), canvas_h
        offset = (float((canvas_w - new_w) // 2), float((canvas_h - new_h) // 2))
        return cls(image_wh, (canvas_h // side, canvas_w // side), (new_w / width, new_h / height), offset)

    def kept(self, grid: int) -> tuple[range, range]:
        """Rows and columns of the canvas's patches that the decoder gets: those of the padding are cut off.

        How much is cut off is counted in whole patches, half at each end, so some padding may stay.
        """
        width, height = self.image_wh
        rows, columns = self.tiles_hw[0] * grid, self.tiles_hw[1] * grid
        cut_h = cut_w = 0
        if width / height > columns / rows:
            cut_h = (rows - int(round(height * (columns / width), 7))) // 2
        else:
            cut_w = (columns - int(round(width * (rows / height), 7))) // 2
        return range(cut_h, rows - cut_h), range(cut_w, columns - cut_w)

    def assembled(self, tower: TowerInput, most: float = math.inf) -> Tile:
        """The kept patches as one grid; if they are more than `most` by too much, a coarser one of about that many."""
        rows, columns = self.kept(tower.grid)
        counts = [len(rows), len(columns)]
        ratio = math.sqrt(counts[0] * counts[1] / most)
        if ratio > 1.1:
            counts = [int(count // ratio) for count in counts]
        x, y = (
            tower.pixels(np.linspace(kept.start, kept.stop, count + 1))
            for kept, count in zip((columns, rows), reversed(counts), strict=True)
        )
        spaced = tower.side / tower.grid if tower.ignored else float(tower.patch)
        starts = columns.start * spaced, rows.start * spaced
        size = len(rows) * spaced, len(columns) * spaced
        even = Tile(
            self.scale_xy,
            (self.offset_xy[0] - starts[0], self.offset_xy[1] - starts[1]),
            (round(size[0]), round(size[1])),
            (counts[0], counts[1]),
            (size[0] / counts[0], size[1] / counts[1]),
        )
        if not tower.ignored:
            return even
        borders = tuple(x - starts[0]), tuple(y - starts[1])
        return UnevenTile(even.scale_xy, even.offset_xy, even.input_hw, even.grid_hw, even.patch_hw, borders)


def _tiled(canvas: Canvas, tower: TowerInput, most: float = math.inf) -> Layout:
    """The whole image, then the canvas with a newline token behind every row."""
    first, base = tower.whole(canvas.image_wh), tower.grid**2
    vision = Geometry(canvas.image_wh, (first, *tower.tiles(canvas.scale_xy, canvas.offset_xy, canvas.tiles_hw)))
    kept = canvas.kept(tower.grid)
    if not all(kept):  # a strip so thin that all of its canvas counts as padding
        return one_tile(Geometry(canvas.image_wh, (first,)), after=len(kept[0]), vision=vision)
    grid = canvas.assembled(tower, most)
    rows, columns = grid.grid_hw
    patch_token_index = base + np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)
    return Layout(
        Geometry(canvas.image_wh, (first, grid)),
        np.concatenate((np.arange(base), patch_token_index.reshape(-1))),
        base + rows * (columns + 1),
        vision,
    )


def _tower_input(model: LVLM, processor: Any) -> TowerInput:
    """The input size that the processor makes and the vision tower takes, and the tower's patches.

    Raises:
        UnsupportedError: if the two differ, or the processor cuts something off.
    """
    config = model.config.vision_config
    side, patch = square(model, config.image_size, "the tower's input"), square(model, config.patch_size, "its patch")
    for kind in ("size", "crop_size"):
        for name in ("shortest_edge", "height", "width"):
            found = setting(getattr(processor, kind, None) or {}, name)
            if found is not None and found != side:
                raise refuse(
                    model, f"the processor's {kind} {name} is {found} and the vision tower takes {side} pixels"
                )
    return TowerInput(side, patch)


def _canvas_sizes(model: LVLM, side: int) -> list[list[int]]:
    processor: Any = model.reader.processor
    sizes = [list(size) for size in model.config.image_grid_pinpoints]
    if sizes != [list(size) for size in processor.image_grid_pinpoints]:
        raise refuse(model, "image_grid_pinpoints of the processor and of the model's config differ")
    if any(item % side for size in sizes for item in size):
        raise refuse(model, f"image_grid_pinpoints are not whole tiles of {side} pixels")
    return sizes


def _check_prefix(model: LVLM) -> None:
    """Tokens only make a grid if those in front of the patches (CLS) are taken away, and nothing else."""
    strategy, prefix = model.config.vision_feature_select_strategy, model.vision_prefix
    if prefix != (1 if strategy == "default" else 0):
        before = f"{prefix} tokens before its patches"
        raise refuse(model, f"vision_feature_select_strategy is {strategy!r} and the vision tower has {before}")


# -- the families -----------------------------------------------------------------------------------------------------


def llava_next(model: LVLM, image_wh: Size, images: int) -> Layout:
    """Base image, then the unpadded canvas, whatever the number of images.

    Raises:
        UnsupportedError: if the settings of processor and model contradict each other.
    """
    _check_prefix(model)
    tower = _tower_input(model, model.reader.processor)
    return _tiled(Canvas.best(image_wh, _canvas_sizes(model, tower.side), tower.side), tower)


def llava_onevision(model: LVLM, image_wh: Size, images: int) -> Layout:
    """As LLaVA-NeXT, made coarser if there are too many tokens; several images are not tiled but made square.

    Raises:
        UnsupportedError: if the settings of processor and model contradict each other.
    """
    _check_prefix(model)
    processor: Any = model.reader.processor
    tower = _tower_input(model, processor)
    if images == 1:
        found = re.fullmatch(r"anyres_max_(\d+)", str(model.config.vision_aspect_ratio))
        if found is None:
            raise refuse(model, f"vision_aspect_ratio is {model.config.vision_aspect_ratio!r}")
        canvas = Canvas.best(image_wh, _canvas_sizes(model, tower.side), tower.side)
        return _tiled(canvas, tower, int(found[1]) * tower.grid**2)
    if not processor.do_resize:
        raise refuse(model, "the processor does not resize")
    longest = max(image_wh)
    scale = tower.side / longest
    offset = ((longest - image_wh[0]) // 2 * scale, (longest - image_wh[1]) // 2 * scale)
    geometry = Geometry(image_wh, (tower.tile((scale, scale), offset, 0, 0),))
    return one_tile(geometry, after=1, vision=geometry)


def llava_onevision_video(model: LVLM, image_wh: Size, frames: int) -> list[Layout]:
    """Every frame is squashed into one input, whose patches are averaged down to half as many each way (rounded up);
    one newline token ends the video.

    Raises:
        UnsupportedError: if the settings of processor and model contradict each other.
    """
    _check_prefix(model)
    processor = video_processor(model)
    tower = _tower_input(model, processor)
    if not processor.do_resize:
        raise refuse(model, "the video processor does not resize")
    whole = tower.whole(image_wh)
    count = math.ceil(tower.grid / 2)
    token = tower.grid * tower.patch / count
    geometry = Geometry(image_wh, (Tile(whole.scale_xy, (0.0, 0.0), whole.input_hw, (count, count), (token, token)),))
    layouts = [one_tile(geometry, vision=Geometry(image_wh, (whole,))) for _ in range(frames)]
    layouts[-1] = one_tile(geometry, after=1, vision=Geometry(image_wh, (whole,)))
    return layouts


def video_processor(model: LVLM) -> Any:
    """The processor of videos.

    Raises:
        UnsupportedError: if the model came without one.
    """
    found = getattr(model.processor, "video_processor", None)
    if found is None:
        raise UnsupportedError(f"{model.name}: its processor takes no videos; ask about the frames as images.")
    return found
