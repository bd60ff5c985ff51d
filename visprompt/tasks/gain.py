"""Attention gain: how much more the readout attends to what a marker lies on (arXiv 2406.03303, Fig. 4).

Markers are compared as they are used: painted into the picture in 8 bits, through the model's own processor.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.request import Box, Request

if TYPE_CHECKING:
    from PIL import Image

    from visprompt.geometry import Geometry
    from visprompt.models.base import Model
    from visprompt.prompter import Prompter

_RESAMPLES, _SALT = 2000, 603304


@dataclass(frozen=True)
class BlockGain:
    """Gain in one block.

    Args:
        block: its number.
        gain: `(mass − mass_without) / mass_without`, of the means over the pictures.
        low: lower end of its 95 % interval, a bootstrap over pictures.
        high: upper end.
        mass: mean share of the attention over the patches that the marked tokens get.
        mass_without: the same without the marker.
    """

    block: int
    gain: float
    low: float
    high: float
    mass: float
    mass_without: float


@dataclass(frozen=True, eq=False)
class GainResult:
    """Gain in every block that was looked at.

    Args:
        blocks: one for each block, in order.
        masses: `[n, B]`, picture by picture, with the marker.
        without: `[n, B]`, without.
    """

    blocks: tuple[BlockGain, ...]
    masses: NDArray[np.float64]
    without: NDArray[np.float64]


def attention_gain(
    model: Model,
    prompter: Prompter,
    pictures: Iterable[Image.Image],
    *,
    size_tokens: float = 3.0,
    blocks: Sequence[int] | None = None,
    seed: int = 0,
    **runner: Any,
) -> GainResult:
    """Gain of a marker at one place in every picture.

    The place is a square of `size_tokens` tokens, wholly visible, drawn from the seed and the picture's number alone,
    so that all markers are measured on the same places. It is the region that the strategy gets; a patch of that size
    covers it, a circle is inscribed in it. What counts is the attention on tokens under the square, in proportion to
    how much of them it covers.

    Args:
        model: an encoder with attention.
        prompter: any strategy that takes a region.
        pictures: any; they are read once.
        size_tokens: side of the square.
        blocks: as in `Runner.attention`.
        seed: of the places.
        **runner: of `Runner` (`batch_size`, `fit`, …).

    Raises:
        UnsupportedError: for a model without attention of its own picture tokens.
        InvalidInputError: without pictures, or for a square that does not fit into the model's input.
    """
    import visprompt as vp

    if model.generates:
        raise UnsupportedError(f"{model.name} writes text: gain is measured on image encoders.")
    requests, under = [], []
    for number, picture in enumerate(pictures):
        geometry = model.geometry(picture.size, runner.get("fit", "model"))
        box = marked_square(geometry, size_tokens, [_SALT, seed, number])
        requests.append(Request(picture, region=box))
        under.append(geometry.coverage(box))
    if not requests:
        raise InvalidInputError("gain is measured on pictures, and there are none.")
    options = {"progress": False, **runner}
    seen = [vp.Runner(model, one, **options).attention(requests, blocks) for one in (prompter, None)]
    masses, without = (
        np.stack([_mass(item.values.float().numpy(), tokens) for item, tokens in zip(maps, under, strict=True)])
        for maps in seen
    )
    return GainResult(_summary(masses, without, seen[0][0].blocks), masses, without)


def marked_square(geometry: Geometry, size_tokens: float, seed: Sequence[int]) -> Box:
    """A square of so many tokens somewhere in what the model sees of a picture, in pixels of the picture.

    Raises:
        InvalidInputError: if it is larger than that, or the model makes several tiles.
    """
    if len(geometry.tiles) != 1:
        raise InvalidInputError("gain is measured on models that see a picture in one tile.")
    tile = geometry.tiles[0]
    x0, y0, x1, y1 = geometry.visible_xyxy()
    width, height = (size_tokens * tile.patch_hw[i] / tile.scale_xy[1 - i] for i in (1, 0))
    if width > x1 - x0 + 1e-6 or height > y1 - y0 + 1e-6:
        raise InvalidInputError(
            f"a square of {size_tokens:g} tokens is {width:.0f}×{height:.0f} pixels of a picture of which the model "
            f"sees {x1 - x0:.0f}×{y1 - y0:.0f}."
        )
    across, down = np.random.default_rng(list(seed)).random(2)
    left, top = x0 + across * max(x1 - x0 - width, 0), y0 + down * max(y1 - y0 - height, 0)
    return Box(left, top, min(left + width, x1), min(top + height, y1))


def _mass(values: NDArray[np.float32], under: NDArray[np.float32]) -> NDArray[np.float64]:
    """`[B, H, P]` attention and `[P]` coverage → `[B]`: mean over heads, sum 1 over patches, on what is covered."""
    mean = values.astype(np.float64).mean(axis=1)
    return np.asarray((mean / mean.sum(axis=1, keepdims=True)) @ under)


def _summary(masses: NDArray[np.float64], without: NDArray[np.float64], blocks: Sequence[int]) -> tuple[BlockGain, ...]:
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(masses), size=(_RESAMPLES, len(masses)))
    found = []
    for place, block in enumerate(blocks):
        now, before = masses[:, place], without[:, place]
        ratios = now[drawn].mean(axis=1) / before[drawn].mean(axis=1) - 1
        low, high = np.quantile(ratios, [0.025, 0.975])
        gain = now.mean() / before.mean() - 1
        found.append(BlockGain(block, float(gain), float(low), float(high), float(now.mean()), float(before.mean())))
    return tuple(found)
