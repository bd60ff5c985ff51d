"""Inputs of the conformance checks: images, requests, and strategies that are ready to run."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image

import visprompt as vp
from visprompt.learned.strategy import learned_parts
from visprompt.models.identity import difference
from visprompt.registry import first_strategy, get_class
from visprompt.testing.tiny import Tiny

#: image size (w, h) → a region that stays visible with every processor, even after a centre crop
IMAGES: dict[tuple[int, int], vp.Box] = {
    (96, 96): vp.Box(14, 20, 50, 62),
    (144, 48): vp.Box(54, 8, 80, 40),
    (48, 144): vp.Box(10, 58, 34, 88),
}


@functools.cache
def image(wh: tuple[int, int], seed: int = 0) -> Image.Image:
    """A random image with structure at every scale, so that no two patches are alike.

    Args:
        wh: width and height, pixels.
        seed: of the random numbers.
    """
    generator = np.random.default_rng([seed, *wh])
    coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(wh, Image.Resampling.BICUBIC)
    noise = generator.normal(0, 20, (wh[1], wh[0], 3))
    return Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8))


def requests() -> list[vp.Request]:
    """One request per aspect ratio: square, 3:1 and 1:3."""
    return [vp.Request(image(wh), region=box, query="the red dog") for wh, box in IMAGES.items()]


def crowded_requests() -> list[vp.Request]:
    """Several regions on one image, and two on another, whose forwards can share a prefix."""
    first = [vp.Box(14, 20, 50, 62), vp.Box(40, 44, 84, 84), vp.Box(30, 14, 64, 40)]
    return [
        vp.Request(image((96, 96)), region=first, query="the red dog"),
        vp.Request(image((144, 48)), region=[vp.Box(54, 8, 80, 40), vp.Box(64, 20, 90, 42)], query="a cat"),
    ]


def encode(model: Any, prompter: vp.Prompter | None, items: Iterable[vp.Request], **options: Any) -> torch.Tensor:
    """Image embeddings `[n, d]`, without gradients.

    Args:
        model: a wrapped model.
        prompter: the strategy; None: without a prompt.
        items: requests.
        **options: of `Runner`.
    """
    with torch.no_grad():
        return vp.Runner(model, ready(prompter, model), **options).encode(items)


def ready(prompter: vp.Prompter | None, model: Any) -> vp.Prompter | None:
    """Gives an untrained strategy random parameters for a model, the same every time.

    Args:
        prompter: the strategy, or None.
        model: a wrapped model.

    Returns:
        The strategy itself.

    Raises:
        UnsupportedError: if the model does not support the prompt.
    """
    for part in learned_parts(prompter) if prompter is not None else ():
        if part.on(model) is not part:
            continue  # there is a bundled prompt for this model
        if part.backbone is None or (not part.transferable and difference(part.backbone, model)):
            part.build(model, seed=0)
    return prompter


def neutral_options(strategy: str) -> dict[str, Any] | None:
    """The options with which a strategy changes nothing, or None if it has none."""
    return getattr(get_class(strategy), "neutral", None)


def recipe(strategy: str) -> tuple[str | None, str]:
    """The strategy to run, after the strategy that it needs before it.

    >>> recipe("falip"), recipe("unleash")
    ((None, 'falip'), ('circle', 'circle+unleash'))

    Args:
        strategy: its name in the registry.

    Returns:
        Name of the strategy before it, or None; and both names joined. The first is `Prompter.follows`, or else the
            first strategy by name that edits pixels and needs only a region.
    """
    kind = get_class(strategy)
    if "prompt" not in kind.needs:
        return None, strategy
    before = kind.follows or first_strategy(lambda one: one.acts_on == {"pixels"} and one.needs == {"region"})
    return before, f"{before}+{strategy}"


def prompter_of(strategy: str, **options: Any) -> vp.Prompter:
    """The strategy, ready to run, after the strategy that it needs before it."""
    return vp.Prompter.from_name(recipe(strategy)[1], **options)


def without(strategy: str) -> vp.Prompter | None:
    """The prompter of `prompter_of` without the strategy itself; None if nothing is left."""
    before, _ = recipe(strategy)
    return None if before is None else vp.Prompter.from_name(before)


def readout_attention(model: Any, prompter: vp.Prompter | None, item: vp.Request) -> np.ndarray:
    """The readout's attention in the last block (or pooling head), for one region.

    Args:
        model: a wrapped model.
        prompter: the strategy; None: without a prompt.
        item: a request with one region.

    Returns:
        `[heads, patches]`.
    """
    ready(prompter, model)
    prompts = item.units() if prompter is None else prompter.prompt(item, model)
    last = model.num_blocks - 1
    with torch.no_grad():
        return np.asarray(model.encode(prompts, read=[last]).attention[last][0].float())


class FittedAs(vp.Prompter):
    """A strategy that only sets `fit`.

    Args:
        fit: how an image is brought to the input's size.
    """

    needs = frozenset()
    name = "fitted"

    def __init__(self, fit: Any) -> None:
        super().__init__()
        self.fit_image = fit

    def edit(self, prompt: vp.VisualPrompt, model: Any) -> vp.VisualPrompt:
        """The prompt with that `fit`."""
        return prompt.with_(fit=self.fit_image)


def input_pixels(made: Tiny, image: Image.Image) -> torch.Tensor:
    """The image as the model's own processor prepares it, `[1, 3, h, w]`."""
    if made.backend == "transformers":
        return made.processor(images=image, return_tensors="pt")["pixel_values"]
    return made.processor(image)[None]
