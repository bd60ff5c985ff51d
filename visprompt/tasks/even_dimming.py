"""The control for strategies that dim: as dark on average, but evenly, so that nothing is pointed at."""

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
    """Gives an image the mean brightness that another strategy gives it, the same factor for every pixel.

    If a strategy that darkens what a question is not about does no better than this, then where it darkens does not
    matter. Made by `Pointing(…, region="everywhere")`; it is no strategy of the registry.

    Args:
        inner: the strategy.

    Raises:
        UnsupportedError: for a strategy that changes no pixels.
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
        """One prompt; `edit_all` does many at once."""
        return self.edit_all([prompt], model)[0].with_(label=prompt.label)

    def check(self, prompts: Sequence[VisualPrompt], model: Any) -> None:
        self.inner.check(prompts, model)

    def describe(self) -> dict[str, Any]:
        return {"name": "everywhere", "of": self.inner.describe()}


@renamed_parameters(picture="image")
def scaled(image: Image.Image, factor: float) -> Image.Image:
    """Every pixel times a factor, clipped at 255.

    >>> scaled(Image.new("RGB", (1, 1), (100, 200, 0)), 0.5).getpixel((0, 0))
    (50, 100, 0)

    Raises:
        InvalidInputError: for a factor that is negative or not finite.
    """
    if not np.isfinite(factor) or factor < 0:
        raise InvalidInputError(f"a factor is a finite number, 0 or more; got {factor}.")
    pixels = np.asarray(image.convert("RGB"), dtype=np.float64) * factor
    return Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))


def _factor(before: Image.Image, after: Image.Image) -> float:
    """How much brighter the mean pixel became; a black image stays as it is."""
    means = [float(np.asarray(one.convert("RGB"), dtype=np.float64).mean()) for one in (before, after)]
    return means[1] / means[0] if means[0] > 0 else 1.0


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"Everywhere": "UniformDimming"}, globals())
