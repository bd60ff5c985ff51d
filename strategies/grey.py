"""Paints everything outside the region grey."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from visprompt.strategies import _draw

from visprompt.prompter import Options, Prompter
from visprompt.visual_prompt import VisualPrompt


@dataclass(frozen=True)
class GreyOptions(Options):
    """Options of `grey`.

    Args:
        level: grey level 0 (black) to 255 (white), or a colour.
        alpha: opacity of the grey, 0 to 1. 0: none.
        shape: `"mask"` keeps the region's own shape, `"box"` the box around it.
    """

    level: int | str | tuple[int, int, int] = 128
    alpha: float = 1.0
    shape: str = "mask"

    def __post_init__(self) -> None:
        _draw.frozen_colour(self, "level")
        _draw.check_number("alpha", self.alpha, 0, 1)
        _draw.check_choice("shape", self.shape, _draw.SHAPES)


class Grey(Prompter):
    """Grey outside, a baseline of FGVP (Yang et al., NeurIPS 2023, https://arxiv.org/abs/2306.04356).

    With m the fraction of a pixel inside the region: `image + α · (1 − m) · (level − image)`. The region keeps its
    position and size, unlike with `crop`.

    >>> from PIL import Image
    >>> from visprompt import Box, VisualPrompt
    >>> prompt = VisualPrompt(Image.new("RGB", (64, 64), "white"), regions=(Box(16, 16, 48, 48),))
    >>> edited = Grey().edit(prompt, model=None).image
    >>> edited.getpixel((0, 0)), edited.getpixel((32, 32))
    ((128, 128, 128), (255, 255, 255))

    Units: grey levels 0 to 255.

    Raises:
        InvalidInputError: without a region, or for an option out of range.
    """

    Options = GreyOptions
    acts_on = frozenset({"pixels"})
    needs = frozenset({"region"})
    neutral: ClassVar[dict[str, Any]] = {"alpha": 0.0}

    def edit(self, prompt: VisualPrompt, model: Any) -> VisualPrompt:
        """Paints the image grey outside all regions."""
        options: GreyOptions = self.options
        regions, image = _draw.placed(prompt), prompt.image
        if options.alpha == 0:
            return prompt
        outside = options.alpha * (1 - _draw.inside_share(regions, image.size, options.shape))
        return prompt.with_(image=_draw.lay_over(image, _draw.parse_colour(options.level), outside))
