"""Layouts of LVLMs that cut an image into tiles and join the vision tower's outputs again: LLaVA-NeXT, OneVision.

The image is scaled into the best of several canvases, with padding around it; the canvas is cut into tiles of the
tower's input size. The first tile is the whole image, squashed. The decoder gets the tokens of the other tiles as one
grid, without the rows or columns of padding, and with a newline token after every row.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from visprompt.geometry.analytic import Pair, Size
from visprompt.geometry.geometry import Geometry, Tile
from visprompt.models.lvlm.families import Layout, one_tile
from visprompt.models.lvlm.layouts.tower_input import TowerInput as TowerInput
from visprompt.models.lvlm.layouts.tower_input import UnevenTile as UnevenTile
from visprompt.models.lvlm.layouts.tower_input import refuse, setting, square, video_processor

if TYPE_CHECKING:
    from visprompt.models.lvlm.model import LVLM


# -- the canvas -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Canvas:
    """An image on the canvas that fits it best.

    Args:
        image_wh: width and height of the image, pixels.
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
        """Chooses the canvas that keeps most of the image's pixels, and among those the one with the least padding.

        Args:
            image_wh: width and height of the image, pixels.
            sizes_hw: heights and widths of the canvases, pixels.
            side: side of a tile, pixels.

        Returns:
            The image on that canvas.
        """
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
        """The patches of the canvas that the decoder gets: those of the padding are cut off. The cut is counted in
        whole patches, half at each end, so some padding may stay.

        Args:
            grid: number of patches along a side of a tile.

        Returns:
            Their rows and columns.
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
        """The kept patches as one grid; a coarser one if there are many more than `most`.

        Args:
            tower: the tower's input.
            most: largest number of patches.

        Returns:
            The grid as a tile.
        """
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
    """The layout of the whole image, then the canvas with a newline token after every row."""
    first, base = tower.whole(canvas.image_wh), tower.grid**2
    vision = Geometry(canvas.image_wh, (first, *tower.tiles(canvas.scale_xy, canvas.offset_xy, canvas.tiles_hw)))
    kept = canvas.kept(tower.grid)
    if not all(kept):  # an image so narrow that its whole canvas counts as padding
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
    """The input size that the processor makes and the vision tower takes; raises `UnsupportedError` if the two differ
    or the processor crops.

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
    """Checks that the tokens before the patches (CLS) are removed and nothing else, so that the others form a grid."""
    strategy, prefix = model.config.vision_feature_select_strategy, model.vision_prefix
    if prefix != (1 if strategy == "default" else 0):
        before = f"{prefix} tokens before its patches"
        raise refuse(model, f"vision_feature_select_strategy is {strategy!r} and the vision tower has {before}")


# -- the families -----------------------------------------------------------------------------------------------------


def llava_next(model: LVLM, image_wh: Size, images: int) -> Layout:
    """The whole image, then the canvas without padding, for any number of images.

    Args:
        model: the LVLM.
        image_wh: width and height of the image, pixels.
        images: number of images in the chat; not used.

    Returns:
        The layout.

    Raises:
        UnsupportedError: if the settings of processor and model contradict each other.
    """
    _check_prefix(model)
    tower = _tower_input(model, model.reader.processor)
    return _tiled(Canvas.best(image_wh, _canvas_sizes(model, tower.side), tower.side), tower)


def llava_onevision(model: LVLM, image_wh: Size, images: int) -> Layout:
    """As LLaVA-NeXT, with a coarser grid if there are too many tokens; several images are padded to squares and not
    tiled.

    Args:
        model: the LVLM.
        image_wh: width and height of the image, pixels.
        images: number of images in the chat.

    Returns:
        The layout.

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

    Args:
        model: the LVLM.
        image_wh: width and height of the frames, pixels.
        frames: number of frames.

    Returns:
        One layout per frame.

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
