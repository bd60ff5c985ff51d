"""Draws a red ellipse around the region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image, ImageDraw
from visprompt.strategies import _draw

from visprompt.prompter import Options, Prompter
from visprompt.visual_prompt import VisualPrompt

if TYPE_CHECKING:
    from visprompt.regions.shapes import Xyxy


@dataclass(frozen=True)
class CircleOptions(Options):
    """Options of `circle`.

    Args:
        colour: name, `#rrggbb` or RGB triple (paper: red).
        width: of the line, pixels of the image; None: 1/200 of its longer side, at least 1 (the authors' rule);
            0: none.
        padding: distance between the region's box and the ellipse's box, pixels.
        blur_outside: standard deviation of the Gaussian that blurs everything outside the ellipse, pixels (the authors'
            variant: 100). 0: none.
        antialiased: smooth edges; False draws hard ones, as the authors do.
    """

    colour: str | tuple[int, int, int] = "red"
    width: int | None = None
    padding: float = 0.0
    blur_outside: float = 0.0
    antialiased: bool = True

    def __post_init__(self) -> None:
        _draw.frozen_colour(self, "colour")
        if self.width is not None:
            _draw.check_number("width", self.width, 0, unit="pixels")
        _draw.check_number("padding", self.padding, 0, unit="pixels")
        _draw.check_number("blur_outside", self.blur_outside, 0, unit="pixels")


class Circle(Prompter):
    """Red circle (Shtedritski et al., ICCV 2023, https://arxiv.org/abs/2304.06712): draws an ellipse around the region.

    Pixels with `((x − cx)/a)² + ((y − cy)/b)² ≤ 1` in the ellipse inscribed in the region's box, and not in the one
    `width` pixels smaller on every side, get the colour; with `blur_outside=σ` everything outside is blurred first.

    >>> from PIL import Image
    >>> from visprompt import Box, VisualPrompt
    >>> prompt = VisualPrompt(Image.new("RGB", (64, 64)), regions=(Box(16, 16, 48, 48),))
    >>> Circle(CircleOptions(width=3)).edit(prompt, model=None).image.getpixel((32, 17))
    (255, 0, 0)

    Units: pixels of the image that the request gives, before the model's resize.

    Raises:
        InvalidInputError: without a region, or for an option out of range.
    """

    Options = CircleOptions
    acts_on = frozenset({"pixels"})
    needs = frozenset({"region"})
    neutral: ClassVar[dict[str, Any]] = {"width": 0, "blur_outside": 0.0}

    def edit(self, prompt: VisualPrompt, model: Any) -> VisualPrompt:
        """Draws one ellipse per region."""
        options: CircleOptions = self.options
        image, regions = prompt.image, _draw.placed(prompt)
        boxes = [_draw.padded(region.xyxy, options.padding) for region in regions]
        if options.blur_outside > 0:
            inside = np.maximum.reduce([self._filled(box, image.size) for box in boxes])
            image = _draw.blurred_outside(image, inside, options.blur_outside)
        width = _draw.stroke_width(image.size, options.width)
        if width > 0:
            ring = np.maximum.reduce([self._ring(box, width, image.size) for box in boxes])
            image = _draw.lay_over(image, _draw.parse_colour(options.colour), ring)
        return prompt if image is prompt.image else prompt.with_(image=image)

    def _filled(self, box: Xyxy, wh: tuple[int, int]) -> np.ndarray:
        share = _draw.ellipse_share(box, wh)
        return share if self.options.antialiased else np.round(share)

    def _ring(self, box: Xyxy, width: int, wh: tuple[int, int]) -> np.ndarray:
        if self.options.antialiased:
            return _draw.ellipse_share(box, wh) - _draw.ellipse_share(_draw.padded(box, -width), wh)
        layer = Image.new("L", wh)
        ImageDraw.Draw(layer).ellipse(box, outline=255, width=int(width))
        return np.asarray(layer, dtype=np.float32) / 255
