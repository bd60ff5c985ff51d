"""What a patch's colours are a function of while they are learned, and what is left of it afterwards."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: channels of the noise that goes into the neural prior, and of its widest layer
NOISE_CHANNELS, WIDTH = 8, 32
#: a logit's step for a step of `PixelPrior`'s parameters: one learning rate then suits both priors
_REACH = 8.0


class PatchSource(Protocol):
    """What gives a patch `[4, r, r]` in [0, 1]."""

    def patch(self) -> Tensor:
        """The patch, with gradients where something is learned."""
        ...


class _Learning(nn.Module, ABC):
    """Base: colours come from `colours`, alpha is fixed.

    Args:
        alpha: `[r, r]`, what is pasted.
    """

    alpha: Tensor

    def __init__(self, alpha: Tensor) -> None:
        super().__init__()
        self.register_buffer("alpha", alpha.float())

    @abstractmethod
    def colours(self) -> Tensor:
        """`[3, r, r]` in [0, 1]."""

    def patch(self) -> Tensor:
        """`[4, r, r]` in [0, 1]."""
        # In float32 whatever the model runs in: what is learned is a handful of numbers.
        with torch.autocast(self.alpha.device.type, enabled=False):
            return torch.cat((self.colours(), self.alpha[None]))


class PixelPrior(_Learning):
    """No prior: every pixel is learned, as a logit.

    Args:
        alpha: `[r, r]`.
        generator: of the first colours, a grey noise.
    """

    def __init__(self, alpha: Tensor, generator: torch.Generator) -> None:
        super().__init__(alpha)
        self.logits = nn.Parameter(torch.randn((3, *alpha.shape), generator=generator) / _REACH)

    def colours(self) -> Tensor:
        return (_REACH * self.logits).sigmoid()


class ConvPrior(_Learning):
    """A small convolutional auto-encoder of a noise that stays as it is; its weights are learned, and with them a
    patch that convolutions like: blotches and edges rather than speckles (Deep Image Prior, Ulyanov et al. 2018,
    https://arxiv.org/abs/1711.10925).

    Two steps down, two up, with what was there before the steps down added on the way up.

    Args:
        alpha: `[r, r]`.
        generator: of the noise and the weights.
        width: channels of the inner layers.
    """

    noise: Tensor

    def __init__(self, alpha: Tensor, generator: torch.Generator, width: int = WIDTH) -> None:
        super().__init__(alpha)
        side = 4 * math.ceil(alpha.shape[0] / 4)
        self.register_buffer("noise", torch.rand((1, NOISE_CHANNELS, side, side), generator=generator) - 0.5)
        self.into = _conv(NOISE_CHANNELS, width, generator)
        self.down = nn.ModuleList(_conv(width, width, generator, stride=2) for _ in range(2))
        self.up = nn.ModuleList(_conv(width, width, generator) for _ in range(2))
        self.out = nn.Conv2d(width, 3, 1)
        with torch.no_grad():
            self.out.weight.normal_(0, 1 / math.sqrt(width), generator=generator)
            self.out.bias.zero_()  # type: ignore[union-attr]

    def colours(self) -> Tensor:
        x = self.into(self.noise)
        passed = []
        for layer in self.down:
            passed.append(x)
            x = layer(x)
        for layer in self.up:
            x = layer(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False) + passed.pop())
        side = self.alpha.shape[0]
        return self.out(x)[0, :, :side, :side].sigmoid()


def _conv(inputs: int, outputs: int, generator: torch.Generator, stride: int = 1) -> nn.Sequential:
    made = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, padding_mode="reflect", bias=False)
    with torch.no_grad():
        made.weight.normal_(0, math.sqrt(2 / (9 * inputs)), generator=generator)
    return nn.Sequential(made, nn.GroupNorm(4, outputs), nn.LeakyReLU(0.1))


class Baked(nn.Module):
    """A patch that is learned: 8 bits, nothing to train. This is what is saved.

    Args:
        rgba: uint8 `[4, r, r]`.
    """

    rgba: Tensor

    def __init__(self, rgba: Tensor) -> None:
        super().__init__()
        self.register_buffer("rgba", rgba.to(torch.uint8))

    def patch(self) -> Tensor:
        return self.rgba.float() / 255


@torch.no_grad()
def bake(source: PatchSource) -> Baked:
    """The patch as it is now, in 8 bits, on the CPU."""
    return Baked((source.patch() * 255).round().clamp(0, 255).to("cpu", torch.uint8))
