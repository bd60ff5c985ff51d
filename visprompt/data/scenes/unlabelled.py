"""Images of the generated world without labels: what self-supervised prompts learn from where no data are given."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from visprompt.data.labelled.parts import Splits
from visprompt.data.labelled.unlabelled import unlabelled
from visprompt.data.scenes.world import scene

if TYPE_CHECKING:
    from PIL.Image import Image

#: images of the generated world per split: as many as the other sets that are drawn from it
SIZES: dict[str, int] = {"train": 800, "validation": 200, "test": 500}
# Part of every seed, apart from the streams in `visprompt.data.scenes.downstream`: changing it changes every image.
_STREAM = 4 * 10**12


def generated(wh: tuple[int, int] = (64, 64), *, seed: int = 0, sizes: dict[str, int] | None = None) -> Splits:
    """Scenes of the generated world, drawn when they are asked for; none occurs in what the bundled models or sets
    were made of.

    Args:
        wh: width and height, pixels; at least 24 each.
        seed: another one gives other images.
        sizes: images per split; None: `SIZES`.
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
