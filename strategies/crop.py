"""Crops the image to the region."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from PIL import Image
from visprompt.strategies import _draw

from visprompt.geometry.fit import MAX_ASPECT, MIN_SIDE_PX
from visprompt.prompter import Options, Prompter
from visprompt.visual_prompt import FITS, VisualPrompt


@dataclass(frozen=True)
class CropOptions(Options):
    """Options of `crop`.

    Args:
        margin: image kept around the region, as a fraction of the region's width and height on each side.
        fit: how the crop is brought to the input's size. The default changes its aspect ratio, so that a processor's
            centre crop cannot cut off parts of the region; `"pad"` keeps it; None: as the prompt says.
    """

    margin: float = 0.0
    fit: str | None = "squash"

    def __post_init__(self) -> None:
        _draw.check_number("margin", self.margin, 0)
        if self.fit is not None:
            _draw.check_choice("fit", self.fit, FITS)


class Crop(Prompter):
    """Crop (as ReCLIP isolates its proposals, Subramanian et al., ACL 2022, https://arxiv.org/abs/2204.05991).

    The image becomes its part from `⌊x0 − m·w⌋` to `⌈x1 + m·w⌉`, likewise in y, with the region re-mapped into it, so
    `crop+falip` and `crop+circle` work. With several regions in one prompt the crop contains them all. Crops below 16
    pixels are enlarged, and aspect ratios beyond 50 to 1 widened, since processors refuse them.

    >>> from PIL import Image
    >>> from visprompt import Box, VisualPrompt
    >>> prompt = VisualPrompt(Image.new("RGB", (100, 80)), regions=(Box(20, 30, 60, 50),))
    >>> edited = Crop(CropOptions(margin=0.5)).edit(prompt, model=None)
    >>> edited.image.size, edited.regions
    ((80, 40), (Box(x0=20.0, y0=10.0, x1=60.0, y1=30.0),))

    Units: pixels of the image that the request gives.

    Raises:
        InvalidInputError: without a region, or for an option out of range.
    """

    Options = CropOptions
    acts_on = frozenset({"pixels"})
    needs = frozenset({"region"})

    def edit(self, prompt: VisualPrompt, model: Any) -> VisualPrompt:
        """Crops the image to the regions."""
        options: CropOptions = self.options
        regions, (width, height) = _draw.placed(prompt), prompt.image.size
        corners = list(zip(*(region.xyxy for region in regions), strict=True))
        x0, y0, x1, y1 = min(corners[0]), min(corners[1]), max(corners[2]), max(corners[3])
        extra_x, extra_y = options.margin * (x1 - x0), options.margin * (y1 - y0)
        # a narrow region gets enough of its surroundings for an aspect ratio of at most 50 to 1
        extra_x = max(extra_x, (y1 - y0) / MAX_ASPECT - (x1 - x0))
        extra_y = max(extra_y, (x1 - x0) / MAX_ASPECT - (y1 - y0))
        left, right = _whole(x0 - extra_x, x1 + extra_x, width)
        top, bottom = _whole(y0 - extra_y, y1 + extra_y, height)
        crop = prompt.image.crop((left, top, right, bottom))
        scale = max(1.0, MIN_SIDE_PX / min(crop.size))
        if scale > 1:
            size = (math.ceil(crop.width * scale), math.ceil(crop.height * scale))
            scale_xy = (size[0] / crop.width, size[1] / crop.height)
            crop = crop.resize(size, Image.Resampling.BICUBIC)
        else:
            scale_xy = (1.0, 1.0)
        offset_xy = (-left * scale_xy[0], -top * scale_xy[1])
        moved = tuple(region.transform(scale_xy, offset_xy, crop.size) for region in regions)
        return prompt.with_(image=crop, regions=moved, fit=prompt.fit if options.fit is None else options.fit)


def _whole(low: float, high: float, size: int) -> tuple[int, int]:
    """The whole pixels that contain [low, high], within the image, at least one."""
    first = min(max(math.floor(low), 0), size - 1)
    return first, max(min(math.ceil(high), size), first + 1)
