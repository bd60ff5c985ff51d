"""A tiny labelled data set, for tests of training."""

from __future__ import annotations

import numpy as np
from PIL import Image

from visprompt.data.labelled.dataset import Labelled
from visprompt.utils.renamed import renamed_names


def toy_dataset(n: int, seed: int = 0) -> Labelled:
    """Random images with a red, green or blue tint, which even a random encoder partly separates.

    >>> toy_dataset(4).labels
    [0, 1, 2, 0]

    Args:
        n: number of images; the classes alternate.
        seed: of the random pixels.

    Returns:
        Labelled images of 48 × 48 pixels with three classes.
    """
    generator = np.random.default_rng(seed)
    items = []
    for number in range(n):
        pixels = generator.integers(0, 200, (6, 6, 3), dtype=np.uint8)
        pixels[..., number % 3] += 55
        items.append((Image.fromarray(pixels).resize((48, 48), Image.Resampling.NEAREST), number % 3))
    return Labelled(items, ("red", "green", "blue"), name=f"blotches {seed}")


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"blotches": "toy_dataset"}, globals())
