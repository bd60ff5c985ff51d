"""Patches pasted into batches of pixels with gradients, at positions between pixels and tokens.

The arithmetic is that of `visprompt.imaging.paste`, on normalised model inputs. It knows no objectives or strategies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visprompt.errors import InvalidInputError
from visprompt.imaging.paste import Blending

if TYPE_CHECKING:
    from visprompt.geometry.geometry import Tile
    from visprompt.models.preprocessing import ImageReader


@dataclass(frozen=True, eq=False)
class Normalisation:
    """What a processor makes of colours: `input = black + span · colour`, colour in [0, 1].

    Args:
        black: `[3]`, what a black pixel becomes.
        span: `[3]`, how far white is from it.
    """

    black: Tensor
    span: Tensor

    @staticmethod
    def of(reader: ImageReader) -> Normalisation:
        """Asked of the processor itself, with a black and a white image: no name of a setting to get wrong.

        Raises:
            InvalidInputError: if it makes the same of black and of white, or something else of every place.
        """
        ends = []
        for level in (0, 255):
            pixels = reader.preprocess(Image.new("RGB", (64, 64), (level, level, level)))
            value = pixels.reshape(3, -1)
            if np.ptp(value, axis=1).max() > 1e-3:
                raise InvalidInputError("this model's processor does not make one colour of an image of one colour.")
            ends.append(torch.from_numpy(value.mean(axis=1).astype(np.float32)))
        span = ends[1] - ends[0]
        if float(span.abs().min()) < 1e-6:
            raise InvalidInputError("this model's processor makes the same of black and of white.")
        return Normalisation(ends[0], span)

    def to(self, like: Tensor) -> Normalisation:
        """The same, on a tensor's device."""
        return Normalisation(self.black.to(like.device), self.span.to(like.device))


@dataclass(frozen=True, eq=False)
class Marks:
    """Where one patch goes in each of n images, in pixels of the model's input.

    Args:
        centre_yx: `[n, 2]` float64, at pixel edges.
        side_hw: `[n, 2]` float64, height and width.
        brightness: `[n]`, a factor on its colours.
    """

    centre_yx: Tensor
    side_hw: Tensor
    brightness: Tensor

    def __len__(self) -> int:
        return len(self.centre_yx)

    def to(self, device: torch.device) -> Marks:
        """The same on a device, in float32."""
        return Marks(*(item.to(device, torch.float32) for item in (self.centre_yx, self.side_hw, self.brightness)))

    def plain(self) -> Marks:
        """The same with the colours as they are."""
        return replace(self, brightness=torch.ones_like(self.brightness))


def draw_marks(
    seeds: Sequence[int],
    tile: Tile,
    size_tokens: float,
    *,
    shift: float = 1.0,
    scale: float = 0.0,
    brightness: float = 0.0,
    seen: Tensor | None = None,
) -> Marks:
    """A place in every image, and how the patch looks there; each depends on its seed alone.

    A token is drawn, all of them alike, and a place within `shift / 2` tokens of its centre along both axes: with 1
    every place is alike, with 0 it is always a token's centre.

    Args:
        seeds: one for each image.
        tile: the model's input.
        size_tokens: side of the patch, tokens.
        shift: in tokens, 0 to 1.
        scale: s: its side is multiplied by a factor from 1/(1 + s) to 1 + s, its logarithm uniform.
        brightness: b: its colours are multiplied by a factor from 1 − b to 1 + b.
        seen: `[n, 4]` what of each input shows the image and is no padding, left, top, right and bottom in pixels;
            places lie in there. None: all of it.
    """
    whole = (0.0, 0.0, tile.grid_hw[1] * tile.patch_hw[1], tile.grid_hw[0] * tile.patch_hw[0])
    boxes = np.tile(whole, (len(seeds), 1)) if seen is None else seen.cpu().double().numpy()
    low, high = boxes[:, [1, 0]], boxes[:, [3, 2]]
    drawn = np.stack([np.random.Generator(np.random.PCG64(seed)).random(6) for seed in seeds])
    # Tokens whose centre is in there; a strip without any has the one that its middle is in.
    first, behind = np.ceil(low / tile.patch_hw - 0.5), np.floor(high / tile.patch_hw - 0.5) + 1
    first = np.where(behind > first, first, np.floor((low + high) / 2 / tile.patch_hw))
    token = first + np.floor(drawn[:, :2] * np.maximum(behind - first, 1))
    centre = np.clip((token + 0.5 + (drawn[:, 2:4] - 0.5) * shift) * tile.patch_hw, low, high)
    factor = (1 + scale) ** (2 * drawn[:, 4:5] - 1)
    side = size_tokens * np.asarray(tile.patch_hw)[None, :] * factor
    return Marks(
        torch.from_numpy(centre), torch.from_numpy(side), torch.from_numpy(1 + brightness * (2 * drawn[:, 5] - 1))
    )


def paste_batch(
    pixels: Tensor,
    patch: Tensor,
    marks: Marks,
    colours: Normalisation,
    *,
    opacity: float = 1.0,
    blending: Blending = "over",
) -> Tensor:
    """`visprompt.imaging.paste.paste` on normalised inputs, with gradients to the patch and the pixels.

    Args:
        pixels: `[n, 3, h, w]`, normalised.
        patch: `[4, r, r]` in [0, 1].
        marks: where.
        colours: how the pixels are normalised.
        opacity: in [0, 1].
        blending: "over" or "add"; the latter is cut to what an image can show.

    Returns:
        `[n, 3, h, w]`, in the type of the pixels.

    Raises:
        InvalidInputError: if there is not one mark for each image.
    """
    if len(marks) != len(pixels):
        raise InvalidInputError(f"{len(marks)} marks for {len(pixels)} images: give one each.")
    marks, colours = marks.to(pixels.device), colours.to(pixels)
    side = patch.shape[-1]
    down = _overlaps(marks.centre_yx[:, 0], marks.side_hw[:, 0], side, pixels.shape[-2])
    across = _overlaps(marks.centre_yx[:, 1], marks.side_hw[:, 1], side, pixels.shape[-1])
    with torch.autocast(pixels.device.type, enabled=False):
        patch = patch.float()
        # `[n, 4, r, r]`: colours weighted by alpha, brighter or darker, cut as 8 bits cut them; then alpha
        bright = (patch[None, :3] * marks.brightness[:, None, None, None]).clamp(0, 1) * patch[3]
        layers = torch.cat((bright, patch[None, 3:].expand(len(marks), -1, -1, -1)), dim=1)
        placed = down[:, None] @ layers @ across[:, None].transpose(-1, -2)
        colour, alpha = placed[:, :3], placed[:, 3:]
        black, span = colours.black[:, None, None], colours.span[:, None, None]
        below = (pixels.float() - black) / span
        if blending == "add":
            mixed = (below + opacity * (2 * colour - alpha)).clamp(0, 1)
            # What is not under the patch stays as it is, to the bit: a resize may have gone beyond black and white.
            mixed = torch.where(alpha > 0, mixed, below)
        else:
            mixed = (1 - opacity * alpha) * below + opacity * colour
        return torch.where(alpha > 0, mixed * span + black, pixels.float()).to(pixels.dtype)


def _overlaps(centre: Tensor, side: Tensor, cells: int, count: int) -> Tensor:
    """`visprompt.imaging.paste.overlaps` for n patches at once, `[n, count, cells]`."""
    steps = torch.arange(cells + 1, device=centre.device, dtype=centre.dtype) / cells
    edges = (centre - side / 2)[:, None] + side[:, None] * steps
    pixels = torch.arange(count, device=centre.device, dtype=centre.dtype)[None, :, None]
    low, high = edges[:, None, :-1], edges[:, None, 1:]
    return (torch.minimum(high, pixels + 1) - torch.maximum(low, pixels)).clamp(min=0)


def overlaid(marks: Marks, tile: Tile) -> Tensor:
    """Share of every token that lies under the patch's square, float32 `[n, P]`."""
    parts = []
    for axis in (0, 1):
        cells = marks.centre_yx.new_tensor(tile.patch_hw[axis])
        start = (marks.centre_yx[:, axis] - marks.side_hw[:, axis] / 2) / cells
        end = start + marks.side_hw[:, axis] / cells
        tokens = torch.arange(tile.grid_hw[axis], dtype=start.dtype)[None, :]
        parts.append((torch.minimum(end[:, None], tokens + 1) - torch.maximum(start[:, None], tokens)).clamp(0, 1))
    return (parts[0][:, :, None] * parts[1][:, None, :]).flatten(1).float()


def gaussian_target(marks: Marks, tile: Tile, sigma_tokens: float) -> Tensor:
    """Where attention ought to go: a Gaussian over the token grid around every mark's centre, sum 1, float32 `[n, P]`.

    >>> from visprompt.geometry.geometry import Tile
    >>> tile = Tile((1.0, 1.0), (0.0, 0.0), (32, 48), (2, 3))
    >>> one = Marks(torch.tensor([[8.0, 24.0]]), torch.tensor([[16.0, 16.0]]), torch.ones(1))
    >>> gaussian_target(one, tile, 0.5).argmax().item()
    1
    """
    logits = []
    for axis in (0, 1):
        at = marks.centre_yx[:, axis] / tile.patch_hw[axis]
        tokens = torch.arange(tile.grid_hw[axis], dtype=at.dtype)[None, :] + 0.5
        logits.append(-0.5 * ((tokens - at[:, None]) / sigma_tokens) ** 2)
    both = (logits[0][:, :, None] + logits[1][:, None, :]).flatten(1)
    return both.softmax(dim=1).float()


def side_for(size_tokens: float, tile: Tile, most: int = 128) -> int:
    """Pixels of a patch along a side so that it has as many as the model's input there: 8 to `most`."""
    return int(min(max(math.ceil(size_tokens * max(tile.patch_hw)), 8), most))
