"""Overlays a map on an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from visprompt.utils.renamed import renamed_parameters

if TYPE_CHECKING:
    from visprompt.models.base import Model
    from visprompt.visual_prompt import VisualPrompt

TINT_RGB = (255, 64, 200)


@renamed_parameters(picture="image")
def tint(
    image: Image.Image, values: np.ndarray, rgb: tuple[int, int, int] = TINT_RGB, opacity: float = 0.45
) -> Image.Image:
    """Overlays a map on an image: pixels are mixed with a colour in proportion to the map's value.

    >>> tint(Image.new("RGB", (2, 1)), np.array([[0.0, 1.0]]), rgb=(200, 0, 0), opacity=0.5).getpixel((1, 0))
    (100, 0, 0)

    Args:
        image: RGB.
        values: `[H, W]` in [−1, 1], one per pixel; negative values are tinted in the complementary colour.
        rgb: the colour.
        opacity: weight of the colour at value 1, in [0, 1].

    Returns:
        A tinted copy, RGB.
    """
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    weight = np.clip(np.abs(values), 0, 1)[..., None] * opacity
    other = tuple(255 - channel for channel in rgb)
    colour = np.where(values[..., None] >= 0, np.array(rgb, np.float32), np.array(other, np.float32))
    return Image.fromarray(np.round(pixels * (1 - weight) + colour * weight).astype(np.uint8))


def rendered(prompt: VisualPrompt, model: Model) -> Image.Image:
    """Shows what a strategy did: the prompted image, tinted where its attention edits act.

    Args:
        prompt: a prompt that a strategy made.
        model: the model that gives its geometry.

    Returns:
        An image of the size of `prompt.image`.
    """
    image = prompt.image
    for edit in prompt.attention:
        values = edit.columns
        if values is not None:
            geometry = model.geometry_of(prompt, edit.tower)
            shown = geometry.to_map(values / max(float(np.abs(values).max()), 1e-12), resample="nearest")
            image = tint(image, shown)
    return image
