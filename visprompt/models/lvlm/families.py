"""The layout of image tokens, family by family: which image token of an LVLM shows which part of the image.

A family's `layout` gives for an image size the geometry of its tiles as the language model sees them, and the image
token of every patch (newline and separator tokens belong to no patch). It is checked against the tokens that the
processor makes: a different number is an error, never a shifted map.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from visprompt.geometry.analytic import Size
from visprompt.geometry.geometry import Geometry, Tile
from visprompt.utils.renamed import renamed_attributes

if TYPE_CHECKING:
    from visprompt.models.lvlm.model import LVLM


@renamed_attributes(places="patch_token_index")
@dataclass(frozen=True, eq=False)
class Layout:
    """The positions of one image's patches among its image tokens.

    Args:
        geometry: the P patches that the language model sees.
        patch_token_index: `[P]` index of the image token of every patch, counted within the image.
        length: number of the image's image tokens.
        vision: the patches of the vision tower, tile after tile in the order in which the tower gets them; None if the
            tower cannot be edited.
    """

    geometry: Geometry
    patch_token_index: np.ndarray
    length: int
    vision: Geometry | None = None

    def moved(self, image_wh: Size, scale_xy: tuple[float, float], offset_xy: tuple[float, float]) -> Layout:
        """The layout of an image that was placed on a canvas before: `canvas_xy = scale_xy · image_xy + offset_xy`.

        Args:
            image_wh: width and height of the image, pixels.
            scale_xy: scale of x and of y.
            offset_xy: pixels of the canvas.

        Returns:
            The layout in pixels of the image.
        """

        def moved(geometry: Geometry) -> Geometry:
            tiles = [
                replace(
                    tile,
                    scale_xy=(tile.scale_xy[0] * scale_xy[0], tile.scale_xy[1] * scale_xy[1]),
                    offset_xy=(
                        tile.scale_xy[0] * offset_xy[0] + tile.offset_xy[0],
                        tile.scale_xy[1] * offset_xy[1] + tile.offset_xy[1],
                    ),
                )
                for tile in geometry.tiles
            ]
            return Geometry(image_wh, tuple(tiles))

        vision = None if self.vision is None else moved(self.vision)
        return Layout(moved(self.geometry), self.patch_token_index, self.length, vision)


@dataclass(frozen=True)
class LvlmFamily:
    """The differences between LVLM families.

    Args:
        layout: (model, image's width and height, number of images in the chat) → `Layout`.
        prompt: (model, number of images, question, system) → text for the processor, for families without a chat
            template; None: the processor's chat template.
        video_layout: (model, frame's width and height, number of frames) → one `Layout` per group of frames that share
            image tokens, or None if frames are passed as images.
        frames_per_group: number of frames that share one map.
        packing: for vision towers that pack all images into one sequence: (model, tiles of all images) → for every
            position of the sequence the tile, and the patch of that tile.
        answer_type: the `token_type_ids` of an answer: 0 is text; PaliGemma marks answers with 1.
    """

    layout: Callable[[LVLM, Size, int], Layout]
    prompt: Callable[[LVLM, int, str, str | None], str] | None = None
    video_layout: Callable[[LVLM, Size, int], list[Layout]] | None = None
    frames_per_group: int = 1
    packing: Callable[[LVLM, list[Tile]], tuple[np.ndarray, np.ndarray]] | None = None
    answer_type: int = 0


def one_tile(geometry: Geometry, before: int = 0, after: int = 0, vision: Geometry | None = None) -> Layout:
    """A layout whose patches are consecutive image tokens, with other tokens (CLS, newline) before or after them.

    Args:
        geometry: the P patches that the language model sees.
        before: number of tokens before them.
        after: number of tokens after them.
        vision: the patches of the vision tower, or None.

    Returns:
        The layout.
    """
    count = geometry.num_patches
    return Layout(geometry, np.arange(count) + before, count + before + after, vision)


def scaled_tile(image_wh: Size, input_hw: Size, grid_hw: Size) -> Tile:
    """A tile that shows the whole image without keeping its aspect ratio.

    Args:
        image_wh: width and height of the image, pixels.
        input_hw: height and width of the input, pixels.
        grid_hw: rows and columns of patches.

    Returns:
        The tile.
    """
    scale = (input_hw[1] / image_wh[0], input_hw[0] / image_wh[1])
    return Tile(scale, (0.0, 0.0), input_hw, grid_hw)


# -- LLaVA 1.5 --------------------------------------------------------------------------------------------------------


def llava(model: LVLM, image_wh: Size, images: int) -> Layout:
    """One tile with the vision tower's patches; with `vision_feature_select_strategy="full"` CLS stands before them.

    Args:
        model: the LVLM.
        image_wh: width and height of the image, pixels.
        images: number of images in the chat; not used.

    Returns:
        The layout.
    """
    geometry = model.reader.geometry(image_wh, "model")
    keeps_cls = model.config.vision_feature_select_strategy == "full" and model.vision_prefix > 0
    return one_tile(geometry, before=model.vision_prefix if keeps_cls else 0, vision=geometry)


def _later(path: str) -> Callable[..., Any]:
    """Imports a layout function at its first call, because its module imports this one."""
    module, function = path.split(".")

    def call(*args: Any) -> Any:
        return getattr(importlib.import_module(f"visprompt.models.lvlm.layouts.{module}"), function)(*args)

    return call


FAMILIES: dict[str, LvlmFamily] = {
    "llava": LvlmFamily(llava),
    "llava_next": LvlmFamily(_later("tiled.llava_next")),
    "llava_onevision": LvlmFamily(_later("tiled.llava_onevision"), video_layout=_later("tiled.llava_onevision_video")),
    "idefics3": LvlmFamily(_later("pixel_shuffle.idefics3")),
    "smolvlm": LvlmFamily(_later("pixel_shuffle.idefics3"), video_layout=_later("pixel_shuffle.smolvlm_video")),
    "internvl": LvlmFamily(_later("pixel_shuffle.internvl"), video_layout=_later("pixel_shuffle.internvl_video")),
    **dict.fromkeys(
        ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"),
        LvlmFamily(
            _later("dynamic.qwen_vl"),
            video_layout=_later("dynamic.qwen_video"),
            frames_per_group=2,
            packing=_later("dynamic.qwen_packing"),
        ),
    ),
    "paligemma": LvlmFamily(_later("dynamic.paligemma"), prompt=_later("dynamic.paligemma_prompt"), answer_type=1),
    "gemma3": LvlmFamily(_later("dynamic.gemma3")),
}
