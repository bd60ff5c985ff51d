"""Darkens everything but the region, written for visprompt 0.4.0.

`out = picture · (1 − dim · (1 − inside))`, with `inside` the share of every pixel that lies in the region.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from visprompt import InvalidInputError, Options, Prompter, VisualPrompt

if TYPE_CHECKING:
    from visprompt.models import Model


@dataclass(frozen=True)
class LanternOptions(Options):
    """Settings of `lantern`.

    Args:
        dim: how much darker the surroundings get: 0 leaves the picture alone, 1 makes them black.
    """

    dim: float = 0.7

    def __post_init__(self) -> None:
        if not 0.0 <= self.dim <= 1.0:
            raise InvalidInputError(f"dim lies between 0 and 1; got {self.dim}.")


class Lantern(Prompter):
    """Darkens everything but the region."""

    Options = LanternOptions
    acts_on = frozenset({"pixels"})
    needs = frozenset({"region"})
    neutral: ClassVar[dict[str, Any]] = {"dim": 0.0}

    def edit(self, prompt: VisualPrompt, model: Model) -> VisualPrompt:
        if self.options.dim == 0:
            return prompt
        inside = np.max([region.rasterise(prompt.picture.size) for region in prompt.regions], axis=0)
        factor = 1.0 - self.options.dim * (1.0 - inside[..., None])
        pixels = (np.asarray(prompt.picture) * factor).round().astype(np.uint8)
        return prompt.with_(picture=Image.fromarray(pixels))
