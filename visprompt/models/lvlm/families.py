"""Which image token of an LVLM shows which part of the image, family by family.

A family's `layout` says for an image of some size: the geometry of its tiles as the language model sees them, and
which of the image's image tokens shows each patch (newline and separator tokens show none). What it says is checked
against the tokens that the processor makes: a different count is an error, never a shifted map.
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
    """Where one image's patches stand among its image tokens.

    Args:
        geometry: the patches that the language model sees.
        places: `[P]` number of the image token of every patch, counted within the image.
        length: number of the image's image tokens.
        vision: the patches of the vision tower, tile after tile in the order in which the tower gets them; None where
            edits of the tower are not offered.
    """

    geometry: Geometry
    patch_token_index: np.ndarray
    length: int
    vision: Geometry | None = None

    def moved(self, image_wh: Size, scale_xy: tuple[float, float], offset_xy: tuple[float, float]) -> Layout:
        """The layout of an image that was first placed on a canvas: `canvas = scale · image + offset`."""

        def place(geometry: Geometry) -> Geometry:
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

        vision = None if self.vision is None else place(self.vision)
        return Layout(place(self.geometry), self.patch_token_index, self.length, vision)


@dataclass(frozen=True)
class LvlmFamily:
    """What differs between LVLM families.

    Args:
        layout: (model, image's width and height, number of images in the chat) → `Layout`.
        prompt: (model, number of images, question, system) → text for the processor, for families without a chat
            template; None: the processor's chat template.
        video_layout: (model, frame's width and height, number of frames) → one `Layout` per group of frames that share
            image tokens, or None if frames are handed over as images.
        frames_per_group: frames that share one map.
        packing: for vision towers that pack all images into one sequence: (model, tiles of all images) → for every
            position of the sequence the tile, and the patch of that tile.
        answer_type: the `token_type_ids` of an answer: 0 is text; for PaliGemma it is what is read in both directions.
    """

    layout: Callable[[LVLM, Size, int], Layout]
    prompt: Callable[[LVLM, int, str, str | None], str] | None = None
    video_layout: Callable[[LVLM, Size, int], list[Layout]] | None = None
    frames_per_group: int = 1
    packing: Callable[[LVLM, list[Tile]], tuple[np.ndarray, np.ndarray]] | None = None
    answer_type: int = 0


def one_tile(geometry: Geometry, before: int = 0, after: int = 0, vision: Geometry | None = None) -> Layout:
    """Patches in one run of image tokens, with tokens that show nothing before or after them (CLS)."""
    count = geometry.num_patches
    return Layout(geometry, np.arange(count) + before, count + before + after, vision)


def scaled_tile(image_wh: Size, input_hw: Size, grid_hw: Size) -> Tile:
    """A tile that shows the whole image, its aspect ratio given up."""
    scale = (input_hw[1] / image_wh[0], input_hw[0] / image_wh[1])
    return Tile(scale, (0.0, 0.0), input_hw, grid_hw)


# -- LLaVA 1.5 --------------------------------------------------------------------------------------------------------


def llava(model: LVLM, image_wh: Size, images: int) -> Layout:
    """One tile of the vision tower's patches; `vision_feature_select_strategy="full"` keeps CLS in front."""
    geometry = model.reader.geometry(image_wh, "model")
    keeps_cls = model.config.vision_feature_select_strategy == "full" and model.vision_prefix > 0
    return one_tile(geometry, before=model.vision_prefix if keeps_cls else 0, vision=geometry)


def _later(path: str) -> Callable[..., Any]:
    """A function of a module that needs this one, imported at its first call."""
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
