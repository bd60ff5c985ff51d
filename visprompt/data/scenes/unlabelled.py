"""Generated images without labels: the default data of strategies that learn without labels."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from visprompt.data.labelled.parts import Splits
from visprompt.data.labelled.unlabelled import unlabelled
from visprompt.data.scenes.world import scene

if TYPE_CHECKING:
    from PIL.Image import Image

#: number of generated images per split, the same as in the other generated data sets
SIZES: dict[str, int] = {"train": 800, "validation": 200, "test": 500}
# Part of every seed, different from those in `visprompt.data.scenes.downstream`: changing it changes every image.
_STREAM = 4 * 10**12


def generated(wh: tuple[int, int] = (64, 64), *, seed: int = 0, sizes: dict[str, int] | None = None) -> Splits:
    """Makes a data set of generated scenes without labels; the images are drawn on access.

    No image occurs in the training data of the bundled models or in the other bundled data sets.

    Args:
        wh: width and height in pixels, at least 24 each.
        seed: another seed gives other images.
        sizes: number of images per split; None: `SIZES`.

    Returns:
        The parts, of kind "images".
    """
    wanted = {**SIZES, **(sizes or {})}
    parts = {
        split: unlabelled(
            (partial(_scene, split, seed, i, wh) for i in range(count)), name=f"generated scenes, {split}"
        )
        for split, count in wanted.items()
        if count
    }
    protocol = f"Generated scenes of {wh[0]}×{wh[1]} pixels, seed {seed}; train, validation and test are drawn apart."
    return Splits(parts["train"], parts.get("validation"), parts.get("test"), protocol)


def _scene(split: str, seed: int, index: int, wh: tuple[int, int]) -> Image:
    return scene(_STREAM + seed, split, index=index, size_wh=wh).pil
