"""Blurs everything outside the region."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from visprompt.strategies import _draw

from visprompt.prompter import Options, Prompter
from visprompt.visual_prompt import VisualPrompt


@dataclass(frozen=True)
class BlurOptions(Options):
    """Options of `blur`.

    Args:
        sigma: standard deviation of the Gaussian as a fraction of the image's longer side. 0: no blur.
        sigma_px: the same in pixels of the image; replaces `sigma` if given. 0: no blur.
        shape: `"mask"` keeps the region's own shape sharp, `"box"` the box around it.
    """

    sigma: float = 0.1
    sigma_px: float | None = None
    shape: str = "mask"

    def __post_init__(self) -> None:
        _draw.check_sigma(self.sigma, self.sigma_px)
        _draw.check_choice("shape", self.shape, _draw.SHAPES)


class Blur(Prompter):
    """Blur outside (FGVP, Yang et al., NeurIPS 2023, https://arxiv.org/abs/2306.04356): keeps only the region sharp.

    With m the fraction of a pixel inside the region: `m · image + (1 − m) · (image ∗ Gaussian(σ))`. It works
    best with fine masks; FGVP takes those of a segmenter.

    >>> from PIL import Image
    >>> from visprompt import Box, VisualPrompt
    >>> image = Image.new("RGB", (64, 64)); image.putpixel((8, 8), (255, 255, 255))
    >>> prompt = VisualPrompt(image, regions=(Box(16, 16, 48, 48),))
    >>> Blur(BlurOptions(sigma_px=4)).edit(prompt, model=None).image.getpixel((8, 8))
    (2, 2, 2)

    Units: pixels of the image that the request gives, or fractions of its longer side.

    Raises:
        InvalidInputError: without a region, or for an option out of range.
    """

    Options = BlurOptions
    acts_on = frozenset({"pixels"})
    needs = frozenset({"region"})
    neutral: ClassVar[dict[str, Any]] = {"sigma": 0.0, "sigma_px": None}

    def edit(self, prompt: VisualPrompt, model: Any) -> VisualPrompt:
        """Blurs the image outside all regions."""
        options: BlurOptions = self.options
        regions, image = _draw.placed(prompt), prompt.image
        sigma = options.sigma * max(image.size) if options.sigma_px is None else options.sigma_px
        if sigma == 0:
            return prompt
        inside = _draw.inside_share(regions, image.size, options.shape)
        return prompt.with_(image=_draw.blurred_outside(image, inside, sigma))
