"""Differentiable pasting of patches into batches of pixels, at positions with subpixel precision.

The arithmetic is that of `visprompt.imaging.paste`, on normalised model inputs. This module imports no objective or
strategy.
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
    """The affine map of a processor's normalisation: `input = black + span · colour`, colour in [0, 1].

    Args:
        black: `[3]`, the input value of a black pixel.
        span: `[3]`, the input value of a white pixel minus that of a black one.
    """

    black: Tensor
    span: Tensor

    @staticmethod
    def of(reader: ImageReader) -> Normalisation:
        """Measures the normalisation of a processor with a black and a white image.

        Args:
            reader: the model's image reader.

        Raises:
            InvalidInputError: if black and white give the same input, or if an image of one colour does not give a
                constant input.
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
        """The same normalisation on a tensor's device."""
        return Normalisation(self.black.to(like.device), self.span.to(like.device))


@dataclass(frozen=True, eq=False)
class Marks:
    """Where one patch is pasted in each of n images, in pixels of the model's input.

    Args:
        centre_yx: `[n, 2]` float64, centre; 0 is the upper or left edge of the input.
        side_hw: `[n, 2]` float64, height and width.
        brightness: `[n]`, a factor on the patch's colours.
    """

    centre_yx: Tensor
    side_hw: Tensor
    brightness: Tensor

    def __len__(self) -> int:
        return len(self.centre_yx)

    def to(self, device: torch.device) -> Marks:
        """The same marks on a device, in float32."""
        return Marks(*(item.to(device, torch.float32) for item in (self.centre_yx, self.side_hw, self.brightness)))

    def plain(self) -> Marks:
        """The same marks with brightness 1."""
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
    """Draws a position in every image and the patch's scale and brightness there; each depends on the image's seed
    alone.

    A token is drawn uniformly, then a position within `shift / 2` tokens of its centre along both axes: with shift 1
    all positions are equally likely, with 0 the patch lies on a token's centre.

    Args:
        seeds: one per image.
        tile: the model's input and patch grid.
        size_tokens: side of the patch, tokens.
        shift: in tokens, 0 to 1.
        scale: s: the side is multiplied by a factor from 1/(1 + s) to 1 + s, uniform in its logarithm.
        brightness: b: the colours are multiplied by a factor from 1 − b to 1 + b.
        seen: `[n, 4]`, the part of each input that shows the image and no padding: left, top, right and bottom in
            pixels; the patch's centre lies inside. None: the whole input.

    Returns:
        One mark per image.
    """
    whole = (0.0, 0.0, tile.grid_hw[1] * tile.patch_hw[1], tile.grid_hw[0] * tile.patch_hw[0])
    boxes = np.tile(whole, (len(seeds), 1)) if seen is None else seen.cpu().double().numpy()
    low, high = boxes[:, [1, 0]], boxes[:, [3, 2]]
    drawn = np.stack([np.random.Generator(np.random.PCG64(seed)).random(6) for seed in seeds])
    # Tokens whose centre lies in the box; a box without one takes the token at its middle.
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
    """Pastes a patch into normalised inputs as `visprompt.imaging.paste.paste` does, with gradients to the patch and
    the pixels.

    Args:
        pixels: `[n, 3, h, w]`, normalised.
        patch: `[4, r, r]` in [0, 1].
        marks: one position per image.
        colours: the normalisation of the pixels.
        opacity: in [0, 1].
        blending: "over" or "add"; the latter is clipped to [0, 1] before normalisation.

    Returns:
        `[n, 3, h, w]`, in the dtype of the pixels.

    Raises:
        InvalidInputError: if the numbers of marks and images differ.
    """
    if len(marks) != len(pixels):
        raise InvalidInputError(f"{len(marks)} marks for {len(pixels)} images: give one each.")
    marks, colours = marks.to(pixels.device), colours.to(pixels)
    side = patch.shape[-1]
    down = _overlaps(marks.centre_yx[:, 0], marks.side_hw[:, 0], side, pixels.shape[-2])
    across = _overlaps(marks.centre_yx[:, 1], marks.side_hw[:, 1], side, pixels.shape[-1])
    with torch.autocast(pixels.device.type, enabled=False):
        patch = patch.float()
        # `[n, 4, r, r]`: colours times brightness, clipped to [0, 1], times alpha; then alpha
        bright = (patch[None, :3] * marks.brightness[:, None, None, None]).clamp(0, 1) * patch[3]
        layers = torch.cat((bright, patch[None, 3:].expand(len(marks), -1, -1, -1)), dim=1)
        placed = down[:, None] @ layers @ across[:, None].transpose(-1, -2)
        colour, alpha = placed[:, :3], placed[:, 3:]
        black, span = colours.black[:, None, None], colours.span[:, None, None]
        below = (pixels.float() - black) / span
        if blending == "add":
            mixed = (below + opacity * (2 * colour - alpha)).clamp(0, 1)
            # Pixels beside the patch stay bit for bit: after bicubic resizing they may lie outside of [0, 1].
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
    """The fraction of every token's area that lies under the patch's square.

    Args:
        marks: one position per image.
        tile: the model's input and patch grid.

    Returns:
        `[n, P]`, float32.
    """
    parts = []
    for axis in (0, 1):
        cells = marks.centre_yx.new_tensor(tile.patch_hw[axis])
        start = (marks.centre_yx[:, axis] - marks.side_hw[:, axis] / 2) / cells
        end = start + marks.side_hw[:, axis] / cells
        tokens = torch.arange(tile.grid_hw[axis], dtype=start.dtype)[None, :]
        parts.append((torch.minimum(end[:, None], tokens + 1) - torch.maximum(start[:, None], tokens)).clamp(0, 1))
    return (parts[0][:, :, None] * parts[1][:, None, :]).flatten(1).float()


def gaussian_target(marks: Marks, tile: Tile, sigma_tokens: float) -> Tensor:
    """The target of attention: a Gaussian over the patch grid around every mark's centre.

    >>> from visprompt.geometry.geometry import Tile
    >>> tile = Tile((1.0, 1.0), (0.0, 0.0), (32, 48), (2, 3))
    >>> one = Marks(torch.tensor([[8.0, 24.0]]), torch.tensor([[16.0, 16.0]]), torch.ones(1))
    >>> gaussian_target(one, tile, 0.5).argmax().item()
    1

    Args:
        marks: one position per image.
        tile: the model's input and patch grid.
        sigma_tokens: standard deviation, tokens.

    Returns:
        `[n, P]`, float32, each with sum 1.
    """
    logits = []
    for axis in (0, 1):
        at = marks.centre_yx[:, axis] / tile.patch_hw[axis]
        tokens = torch.arange(tile.grid_hw[axis], dtype=at.dtype)[None, :] + 0.5
        logits.append(-0.5 * ((tokens - at[:, None]) / sigma_tokens) ** 2)
    both = (logits[0][:, :, None] + logits[1][:, None, :]).flatten(1)
    return both.softmax(dim=1).float()


def side_for(size_tokens: float, tile: Tile, most: int = 128) -> int:
    """Pixels along a side of a patch, so that its resolution is that of the model's input.

    Args:
        size_tokens: side of the patch, tokens.
        tile: the model's input and patch grid.
        most: largest result.

    Returns:
        8 to `most`.
    """
    return int(min(max(math.ceil(size_tokens * max(tile.patch_hw)), 8), most))
