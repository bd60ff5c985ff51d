"""Layouts of LVLMs whose tiles stay separate and whose tokens are squares of patches (pixel shuffle): Idefics3,
SmolVLM, InternVL.

The image is scaled to whole tiles, which changes its aspect ratio slightly, and cut; after the tiles comes the whole
image, squashed into one tile. The tokens of every tile are consecutive, with text between the tiles.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from visprompt.geometry.analytic import Pair, Size
from visprompt.geometry.geometry import Geometry
from visprompt.models.lvlm.families import Layout, one_tile
from visprompt.models.lvlm.layouts.tower_input import TowerInput, refuse, setting, square, video_processor

if TYPE_CHECKING:
    from visprompt.models.lvlm.model import LVLM

#: largest side of an image after Idefics3's resize, pixels; a constant of its processor, not a setting
LARGEST_PX = 4096


def _layout(image_wh: Size, tower: TowerInput, merged: int, tiles_hw: Size, whole: bool) -> Layout:
    """Tiles that cover the image exactly, followed by the whole image if `whole`."""
    rows, columns = tiles_hw
    scale: Pair = (columns * tower.side / image_wh[0], rows * tower.side / image_wh[1])

    def geometry(merged: int) -> Geometry:
        tiles = tower.tiles(scale, (0.0, 0.0), tiles_hw, merged)
        return Geometry(image_wh, (*tiles, tower.whole(image_wh, merged)) if whole else tuple(tiles))

    return one_tile(geometry(merged), vision=geometry(1))


def _tower_input(model: LVLM, side: int, merged: float) -> TowerInput:
    """Checks that patches merge into whole tokens, and makes the tower's input.

    Raises:
        UnsupportedError: if they do not.
    """
    tower = TowerInput(side, square(model, model.config.vision_config.patch_size, "its patch"))
    if tower.grid < 1 or merged < 1 or tower.grid % merged:
        raise refuse(model, f"{tower.grid} patches a side do not merge into tokens of {merged} × {merged}")
    return tower


# -- Idefics3, SmolVLM ------------------------------------------------------------------------------------------------


def idefics3(model: LVLM, image_wh: Size, images: int) -> Layout:
    """Tiles row by row, then the whole image; an image that fits into one tile is one tile only.

    Args:
        model: the LVLM.
        image_wh: width and height of the image, pixels.
        images: number of images in the chat; not used.

    Returns:
        The layout.

    Raises:
        UnsupportedError: if the settings of processor and model contradict each other.
    """
    processor: Any = model.reader.processor
    tower, merged = _idefics3_tower(model, processor)
    if not processor.do_image_splitting:
        return _layout(image_wh, tower, merged, (1, 1), whole=False)
    width, height = _resized(model, processor, image_wh) if processor.do_resize else image_wh
    ratio = width / height
    if width >= height:
        columns = math.ceil(width / tower.side)
        rows = math.ceil(int(columns * tower.side / ratio) / tower.side)
    else:
        rows = math.ceil(height / tower.side)
        columns = math.ceil(int(rows * tower.side * ratio) / tower.side)
    return _layout(image_wh, tower, merged, (rows, columns), whole=rows * columns > 1)


def smolvlm_video(model: LVLM, image_wh: Size, frames: int) -> list[Layout]:
    """Every frame is squashed into one input.

    Args:
        model: the LVLM.
        image_wh: width and height of the frames, pixels.
        frames: number of frames.

    Returns:
        One layout per frame.

    Raises:
        UnsupportedError: if the settings of processor and model contradict each other.
    """
    processor = video_processor(model)
    tower, merged = _idefics3_tower(model, processor)
    if not processor.do_resize:
        raise refuse(model, "the video processor does not resize")
    return [_layout(image_wh, tower, merged, (1, 1), whole=False)] * frames


def _idefics3_tower(model: LVLM, processor: Any) -> tuple[TowerInput, int]:
    side = setting(processor.max_image_size, "longest_edge")
    if side is None:
        raise refuse(model, f"the processor's max_image_size is {processor.max_image_size!r}")
    merged = int(model.config.scale_factor)
    return _tower_input(model, side, merged), merged


def _resized(model: LVLM, processor: Any, image_wh: Size) -> Size:
    """The first resize: the longer side to a fixed length, the other rounded down and then up to an even number."""
    longest = setting(processor.size, "longest_edge")
    if longest is None:
        width, height = setting(processor.size, "width"), setting(processor.size, "height")
        if width is None or height is None:
            raise refuse(model, f"the processor's size is {processor.size!r}")
        return width, height
    ratio = image_wh[0] / image_wh[1]
    other = int(longest / ratio) if ratio >= 1 else int(longest * ratio)
    other = max(other + other % 2, 1)
    width, height = (longest, other) if ratio >= 1 else (other, longest)
    if longest > LARGEST_PX:
        ratio = width / height
        other = max(int(LARGEST_PX / ratio) if width >= height else int(LARGEST_PX * ratio), 1)
        width, height = (LARGEST_PX, other) if width >= height else (other, LARGEST_PX)
    return width, height


# -- InternVL ---------------------------------------------------------------------------------------------------------


def internvl(model: LVLM, image_wh: Size, images: int) -> Layout:
    """Tiles row by row, then a thumbnail; an image that takes one tile has no thumbnail.

    Args:
        model: the LVLM.
        image_wh: width and height of the image, pixels.
        images: number of images in the chat; not used.

    Returns:
        The layout.

    Raises:
        UnsupportedError: if the settings of processor and model contradict each other.
    """
    processor: Any = model.reader.processor
    tower, merged = _internvl_tower(model, processor)
    rows, columns = _closest_grid(image_wh, tower.side, int(processor.min_patches), int(processor.max_patches))
    return _layout(image_wh, tower, merged, (rows, columns), whole=rows * columns > 1)


def internvl_video(model: LVLM, image_wh: Size, frames: int) -> list[Layout]:
    """Every frame is squashed into one input.

    Args:
        model: the LVLM.
        image_wh: width and height of the frames, pixels.
        frames: number of frames.

    Returns:
        One layout per frame.

    Raises:
        UnsupportedError: if the settings of processor and model contradict each other.
    """
    processor = video_processor(model)
    tower, merged = _internvl_tower(model, processor)
    if not processor.do_resize or getattr(processor, "do_center_crop", False):
        raise refuse(model, "the video processor does not resize, or crops")
    return [_layout(image_wh, tower, merged, (1, 1), whole=False)] * frames


def _internvl_tower(model: LVLM, processor: Any) -> tuple[TowerInput, int]:
    config = model.config
    if config.vision_feature_select_strategy != "default":
        raise refuse(model, f"vision_feature_select_strategy is {config.vision_feature_select_strategy!r}")
    merged = round(1 / config.downsample_ratio)
    if merged * config.downsample_ratio != 1:
        raise refuse(model, f"downsample_ratio is {config.downsample_ratio}, not one over a whole number")
    sides = [setting(processor.size, name) for name in ("height", "width")]
    if sides[0] is None or sides[0] != sides[1]:
        raise refuse(model, f"the processor's size is {processor.size!r}, not square")
    return _tower_input(model, sides[0], merged), merged


def _closest_grid(image_wh: Size, side: int, fewest: int, most: int) -> Size:
    """Rows and columns of tiles: among all grids with an allowed number of tiles, the one whose aspect ratio is closest
    to the image's.

    Among equally close ones a larger grid is chosen if less than half of its pixels are interpolated.
    """
    grids = [
        (rows, columns)
        for columns, rows in itertools.product(range(1, most + 1), repeat=2)
        if fewest <= rows * columns <= most
    ]
    ratio, area = image_wh[0] / image_wh[1], image_wh[0] * image_wh[1]
    best, off = (1, 1), math.inf
    for rows, columns in sorted(grids, key=math.prod):
        now = abs(ratio - columns / rows)
        if now < off or (now == off and area > 0.5 * side * side * rows * columns):
            best, off = (rows, columns), now
    return best
