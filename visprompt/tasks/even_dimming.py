"""The control for strategies that dim the image: the same mean brightness, but equal at every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.prompter import Prompter
from visprompt.utils.renamed import renamed_names, renamed_parameters
from visprompt.visual_prompt import VisualPrompt


class UniformDimming(Prompter):
    """Multiplies an image by one factor, so that its mean brightness is that of another strategy's image.

    If a strategy that darkens the image outside a region is not better than this control, then the position of the
    darkening has no effect. `Condition(…, region="everywhere")` makes it; it is not in the registry.

    Args:
        inner: the strategy whose mean brightness is used.

    Raises:
        UnsupportedError: for a strategy that does not edit pixels.
    """

    def __init__(self, inner: Prompter) -> None:
        super().__init__()
        if "pixels" not in inner.acts_on:
            raise UnsupportedError(f"region: everywhere is about brightness, and {inner.name!r} changes no pixels.")
        self.inner, self.name = inner, f"{inner.name} evenly"
        self.acts_on = frozenset({"pixels"})  # type: ignore[misc]
        self.needs = inner.needs  # type: ignore[misc]

    def edit_all(self, prompts: Sequence[VisualPrompt], model: Any) -> list[VisualPrompt]:
        edited = self.inner.edit_all(prompts, model)
        return [
            self._labelled(before.with_(image=scaled(before.image, _factor(before.image, after.image))))
            for before, after in zip(prompts, edited, strict=True)
        ]

    def edit(self, prompt: VisualPrompt, model: Any) -> VisualPrompt:
        """Edits one prompt, as `edit_all` edits many."""
        return self.edit_all([prompt], model)[0].with_(label=prompt.label)

    def check(self, prompts: Sequence[VisualPrompt], model: Any) -> None:
        self.inner.check(prompts, model)

    def describe(self) -> dict[str, Any]:
        return {"name": "everywhere", "of": self.inner.describe()}


@renamed_parameters(picture="image")
def scaled(image: Image.Image, factor: float) -> Image.Image:
    """Multiplies every pixel by a factor and clips at 255.

    >>> scaled(Image.new("RGB", (1, 1), (100, 200, 0)), 0.5).getpixel((0, 0))
    (50, 100, 0)

    Args:
        image: the image, converted to RGB.
        factor: finite, 0 or more.

    Raises:
        InvalidInputError: for a factor that is negative or not finite.
    """
    if not np.isfinite(factor) or factor < 0:
        raise InvalidInputError(f"a factor is a finite number, 0 or more; got {factor}.")
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64) * factor
    return Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))


def _factor(before: Image.Image, after: Image.Image) -> float:
    """Returns the ratio of the mean pixel values, after by before; 1 for a black image."""
    means = [float(np.asarray(one.convert("RGB"), dtype=np.float64).mean()) for one in (before, after)]
    return means[1] / means[0] if means[0] > 0 else 1.0


#: names of visprompt 0.4.0, which work with a DeprecationWarning
__getattr__ = renamed_names(__name__, {"Everywhere": "UniformDimming"}, globals())
