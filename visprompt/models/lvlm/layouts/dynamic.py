"""Layouts of families whose images keep their own resolution (Qwen-VL), and of PaliGemma and Gemma 3.

The processor's rule for sizes is not copied: the processor itself is run on an image of the right size without pixel
values (a tensor on torch's `meta` device).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from visprompt.errors import UnsupportedError
from visprompt.geometry.analytic import Size
from visprompt.geometry.geometry import Geometry, Tile
from visprompt.models.lvlm.families import Layout, one_tile, scaled_tile

if TYPE_CHECKING:
    from visprompt.models.lvlm.model import LVLM

Pixels = tuple[int, int, int, int]

#: settings of Gemma 3's image processor
_PAN_AND_SCAN = (
    "pan_and_scan_min_crop_size",
    "pan_and_scan_max_num_crops",
    "pan_and_scan_min_ratio_to_activate",
)


def _asked(model: LVLM, processor: Any, kind: str, shape: tuple[int, ...]) -> Any:
    """Runs a processor on an image or video whose pixels have the given shape; raises `UnsupportedError` if it fails.

    Raises:
        UnsupportedError: if it cannot take it.
    """
    settings = {"do_sample_frames": False} if kind == "video" else {}

    def made(device: str) -> Any:
        pixels = torch.zeros(shape, dtype=torch.uint8, device=device)
        return processor(**{f"{kind}s": [pixels]}, return_tensors="pt", **settings)

    try:
        return made("meta")
    except Exception:  # a processor on numpy, or a step that needs pixels
        try:
            return made("cpu")
        except (ValueError, RuntimeError) as error:
            raise UnsupportedError(
                f"{model.name} cannot take {kind}s of {shape[-1]}×{shape[-2]} pixels with its processor's settings: "
                f"{error}"
            ) from error


# -- Qwen2-VL, Qwen2.5-VL, Qwen3-VL -----------------------------------------------------------------------------------

#: number of frames of a video that share image tokens
QWEN_FRAMES = 2


def qwen_vl(model: LVLM, image_wh: Size, images: int) -> Layout:
    """One tile of the image's own shape; every image token shows a square of merged patches.

    Args:
        model: the LVLM.
        image_wh: width and height of the image, pixels.
        images: number of images in the chat; not used.

    Returns:
        The layout.

    Raises:
        UnsupportedError: for other image processors than Qwen's, and settings without a whole number of tokens.
    """
    processor = _qwen_processor(model, "image_processor")
    thw = _asked(model, processor, "image", (3, image_wh[1], image_wh[0]))["image_grid_thw"][0].tolist()
    return _merged(model, processor, image_wh, thw)


def qwen_video(model: LVLM, frame_wh: Size, frames: int) -> list[Layout]:
    """One layout per pair of frames, which share image tokens; the last frame of an odd number is its own pair.

    Args:
        model: the LVLM.
        frame_wh: width and height of the frames, pixels.
        frames: number of frames.

    Returns:
        The layouts.

    Raises:
        UnsupportedError: as in `qwen_vl`, and for models that merge another number of frames.
    """
    processor = _qwen_processor(model, "video_processor")
    if int(processor.temporal_patch_size) != QWEN_FRAMES:
        raise UnsupportedError(
            f"{model.name} merges {processor.temporal_patch_size} frames of a video; maps are offered for pairs."
        )
    thw = _asked(model, processor, "video", (frames, 3, frame_wh[1], frame_wh[0]))["video_grid_thw"][0].tolist()
    if thw[0] != -(-frames // QWEN_FRAMES):
        raise UnsupportedError(
            f"{model.name} makes {thw[0]} groups of {frames} frames, not one per pair: its processor drops frames."
        )
    return [_merged(model, processor, frame_wh, thw) for _ in range(thw[0])]


def _qwen_processor(model: LVLM, name: str) -> Any:
    processor = getattr(model.processor, name, None)
    if processor is None:
        raise UnsupportedError(f"{model.name} has no {name.replace('_', ' ')}.")
    vision = model.config.vision_config
    wanted = {"patch_size": vision.patch_size, "merge_size": vision.spatial_merge_size}
    wanted["temporal_patch_size"] = vision.temporal_patch_size
    for setting, value in wanted.items():
        if getattr(processor, setting, None) != value:
            raise UnsupportedError(
                f"{model.name}: its {type(processor).__name__} has {setting}={getattr(processor, setting, None)}, the "
                f"vision tower {value}: where its tokens lie is not known."
            )
    return processor


def qwen_packing(model: LVLM, tiles: list[Tile]) -> tuple[np.ndarray, np.ndarray]:
    """The order of patches in the vision tower's sequence: patches of one token follow one another, and in Qwen2.5-VL
    the tokens of one attention window.

    Args:
        model: the LVLM.
        tiles: tiles of all images.

    Returns:
        For every position of the sequence the index of the tile, and of the patch in that tile.
    """
    vision = model.config.vision_config
    merge = int(vision.spatial_merge_size)
    window = int(getattr(vision, "window_size", None) or 0) // merge // int(vision.patch_size)
    order = []
    for tile in tiles:
        rows, columns = tile.grid_hw
        patches = np.arange(rows * columns).reshape(rows // merge, merge, columns // merge, merge)
        tokens = patches.transpose(0, 2, 1, 3).reshape(-1, merge * merge)
        if window:
            row, column = np.divmod(np.arange(len(tokens)), columns // merge)
            tokens = tokens[np.lexsort((column // window, row // window))]  # stable: row by row within a window
        order.append(tokens.reshape(-1))
    return np.repeat(np.arange(len(tiles)), [len(item) for item in order]), np.concatenate(order)


def _merged(model: LVLM, processor: Any, image_wh: Size, thw: list[int]) -> Layout:
    patch, merge = int(processor.patch_size), int(processor.merge_size)
    _, rows, columns = thw
    if rows % merge or columns % merge:
        raise UnsupportedError(
            f"{model.name}: {rows}×{columns} patches are no whole number of tokens of {merge}×{merge} patches."
        )
    input_hw = (rows * patch, columns * patch)
    tokens, patches = (
        scaled_tile(image_wh, input_hw, grid) for grid in ((rows // merge, columns // merge), (rows, columns))
    )
    return one_tile(Geometry(image_wh, (tokens,)), vision=Geometry(image_wh, (patches,)))


# -- PaliGemma --------------------------------------------------------------------------------------------------------


def paligemma(model: LVLM, image_wh: Size, images: int) -> Layout:
    """One tile with the vision tower's patches, before the text.

    Args:
        model: the LVLM.
        image_wh: width and height of the image, pixels.
        images: number of images in the chat; not used.

    Returns:
        The layout.

    Raises:
        UnsupportedError: if the processor makes images of another size than the tower takes.
    """
    geometry = _fixed_size(model, model.reader.geometry(image_wh, "model"))
    return one_tile(geometry, vision=geometry)


def paligemma_prompt(model: LVLM, images: int, text: str, system: str | None) -> str:
    """The prompt of PaliGemma, which has no chat template: images, then the unchanged text. Its checkpoints know
    prefixes such as `"answer en …"` and `"caption en"`; the processor adds the start token and the final line break.

    Args:
        model: the LVLM.
        images: number of images.
        text: the question.
        system: system message; must be None.

    Returns:
        The text for the processor.

    Raises:
        UnsupportedError: for a system message.
    """
    if system is not None:
        raise UnsupportedError(f"{model.name} takes an image and a text, no system instruction.")
    return model.processor.image_token * images + text


def _fixed_size(model: LVLM, geometry: Geometry) -> Geometry:
    side = int(model.config.vision_config.image_size)
    if geometry.tiles[0].input_hw != (side, side):
        raise UnsupportedError(
            f"{model.name}: its processor makes images of {geometry.tiles[0].input_hw} pixels (h, w), and its vision "
            f"tower takes {side}×{side} only."
        )
    return geometry


# -- Gemma 3 ----------------------------------------------------------------------------------------------------------


def gemma3(model: LVLM, image_wh: Size, images: int) -> Layout:
    """The whole image squashed to a square, with pan and scan followed by its crops; every image token is the mean of a
    square of patches.

    Args:
        model: the LVLM.
        image_wh: width and height of the image, pixels.
        images: number of images in the chat; not used.

    Returns:
        The layout.

    Raises:
        UnsupportedError: if patches do not divide into tokens, or the sizes of processor and tower differ.
    """
    vision = model.config.vision_config
    patches = int(vision.image_size) // int(vision.patch_size)
    tokens = math.isqrt(int(model.config.mm_tokens_per_image))
    if tokens**2 != int(model.config.mm_tokens_per_image) or patches % tokens:
        raise UnsupportedError(
            f"{model.name}: {patches}×{patches} patches do not pool to {model.config.mm_tokens_per_image} tokens."
        )
    processor = model.reader.processor
    side = int(vision.image_size)
    shape = _asked(model, processor, "image", (3, image_wh[1], image_wh[0]))["pixel_values"].shape
    input_hw = (int(shape[-2]), int(shape[-1]))
    whole = _fixed_size(model, Geometry(image_wh, (scaled_tile(image_wh, input_hw, (patches, patches)),)))
    crops = (_crop(box, side, patches) for box in _pan_and_scan(model, processor, image_wh))
    seen = (*whole.tiles, *crops)
    pooled = tuple(Tile(tile.scale_xy, tile.offset_xy, tile.input_hw, (tokens, tokens)) for tile in seen)
    return one_tile(Geometry(image_wh, pooled), vision=Geometry(image_wh, seen))


def _crop(xyxy: Pixels, side: int, patches: int) -> Tile:
    x0, y0, x1, y1 = xyxy
    scale = (side / (x1 - x0), side / (y1 - y0))
    return Tile(scale, (-x0 * scale[0], -y0 * scale[1]), (side, side), (patches, patches))


def _pan_and_scan(model: LVLM, processor: Any, image_wh: Size) -> list[Pixels]:
    """The crops that the processor takes besides the whole image, as boxes of the image's pixels."""
    # Settings of the whole processor override those of its image processor.
    own = {name: getattr(processor, name, None) for name in ("do_pan_and_scan", *_PAN_AND_SCAN)}
    settings = {**own, **getattr(model.processor, "images_kwargs", {})}
    if not settings["do_pan_and_scan"]:
        return []
    chosen = {name: settings[name] for name in _PAN_AND_SCAN}
    width, height = image_wh
    # The processor cuts an image without pixel values; the memory offsets of the crops give their positions.
    if hasattr(processor, "pan_and_scan_batched"):
        crops = processor.pan_and_scan_batched(torch.empty((1, 1, height, width), device="meta"), **chosen)
        starts = [int(crop.storage_offset()) for crop in crops]
    else:
        whole = np.empty((1, height, width), dtype=np.uint8)
        crops = processor.pan_and_scan(whole, **chosen)
        starts = [crop.ctypes.data - whole.ctypes.data for crop in crops]
    boxes = []
    for crop, start in zip(crops, starts, strict=True):
        y, x = divmod(start, width)
        boxes.append((x, y, x + int(crop.shape[-1]), y + int(crop.shape[-2])))
    return boxes
