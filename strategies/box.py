"""Draws a rectangle around the region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from visprompt.strategies import _draw

from visprompt.prompter import Options, Prompter
from visprompt.visual_prompt import VisualPrompt


@dataclass(frozen=True)
class BoxOptions(Options):
    """Options of `box`.

    Args:
        colour: name, `#rrggbb` or RGB triple.
        width: of the line, pixels of the image; None: 1/200 of its longer side, at least 1. 0: none.
        padding: distance between the region and the line's outer edge, pixels.
    """

    colour: str | tuple[int, int, int] = "red"
    width: int | None = None
    padding: float = 0.0

    def __post_init__(self) -> None:
        _draw.frozen_colour(self, "colour")
        if self.width is not None:
            _draw.check_number("width", self.width, 0, unit="pixels")
        _draw.check_number("padding", self.padding, 0, unit="pixels")


class BoxOutline(Prompter):
    """Box outline: draws a rectangle, a baseline of the red circle's paper (https://arxiv.org/abs/2304.06712).

    Pixels inside the region's box, grown by `padding`, and less than `width` from its edge get the colour.

    >>> from PIL import Image
    >>> from visprompt import Box, VisualPrompt
    >>> prompt = VisualPrompt(Image.new("RGB", (64, 64)), regions=(Box(16, 16, 48, 48),))
    >>> edited = BoxOutline(BoxOptions(colour="lime", width=2)).edit(prompt, model=None).image
    >>> edited.getpixel((17, 20)), edited.getpixel((20, 20))
    ((0, 255, 0), (0, 0, 0))

    Units: pixels of the image that the request gives, before the model's resize.

    Raises:
        InvalidInputError: without a region, or for an option out of range.
    """

    Options = BoxOptions
    acts_on = frozenset({"pixels"})
    needs = frozenset({"region"})
    neutral: ClassVar[dict[str, Any]] = {"width": 0}

    def edit(self, prompt: VisualPrompt, model: Any) -> VisualPrompt:
        """Draws one rectangle per region."""
        options: BoxOptions = self.options
        regions, wh = _draw.placed(prompt), prompt.image.size
        width = _draw.stroke_width(wh, options.width)
        if width == 0:
            return prompt
        frame = np.zeros((wh[1], wh[0]), dtype=np.float32)
        for region in regions:
            outer = _draw.padded(region.xyxy, options.padding)
            inner = _draw.padded(outer, -width)
            np.maximum(frame, _draw.rectangle_share(outer, wh) - _draw.rectangle_share(inner, wh), out=frame)
        return prompt.with_(image=_draw.lay_over(prompt.image, _draw.parse_colour(options.colour), frame))
