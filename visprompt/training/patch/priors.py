"""Parametrisations of a patch's colours during training, and the fixed patch that is saved afterwards."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: channels of the input noise of `ConvPrior`, and of its widest layer
NOISE_CHANNELS, WIDTH = 8, 32
#: factor from `PixelPrior`'s parameters to logits; one learning rate then suits both priors
_REACH = 8.0


class PatchSource(Protocol):
    """An object with a patch."""

    def patch(self) -> Tensor:
        """The patch `[4, r, r]` in [0, 1], with gradients if it has trainable parameters."""
        ...


class _Learning(nn.Module, ABC):
    """Base class of parametrisations: `colours` gives the colours; alpha is fixed.

    Args:
        alpha: `[r, r]` in [0, 1].
    """

    alpha: Tensor

    def __init__(self, alpha: Tensor) -> None:
        super().__init__()
        self.register_buffer("alpha", alpha.float())

    @abstractmethod
    def colours(self) -> Tensor:
        """The colours, `[3, r, r]` in [0, 1]."""

    def patch(self) -> Tensor:
        """The patch, `[4, r, r]` in [0, 1]."""
        # Float32 whatever the model's precision: there are few parameters.
        with torch.autocast(self.alpha.device.type, enabled=False):
            return torch.cat((self.colours(), self.alpha[None]))


class PixelPrior(_Learning):
    """No prior: the logit of every pixel's colour is a parameter.

    Args:
        alpha: `[r, r]` in [0, 1].
        generator: for the initial colours, a grey noise.
    """

    def __init__(self, alpha: Tensor, generator: torch.Generator) -> None:
        super().__init__(alpha)
        self.logits = nn.Parameter(torch.randn((3, *alpha.shape), generator=generator) / _REACH)

    def colours(self) -> Tensor:
        """The colours, `[3, r, r]` in [0, 1]."""
        return (_REACH * self.logits).sigmoid()


class ConvPrior(_Learning):
    """A small convolutional encoder-decoder on fixed noise; its weights are the parameters. Its outputs are smooth
    areas and edges rather than speckles (Deep Image Prior, Ulyanov et al. 2018, https://arxiv.org/abs/1711.10925).

    Two downsampling layers, two upsampling layers, with skip connections that are added.

    Args:
        alpha: `[r, r]` in [0, 1].
        generator: for the noise and the initial weights.
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
        """The colours, `[3, r, r]` in [0, 1]."""
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
    """A fixed patch in 8 bits, without trainable parameters. This is what is saved.

    Args:
        rgba: uint8 `[4, r, r]`.
    """

    rgba: Tensor

    def __init__(self, rgba: Tensor) -> None:
        super().__init__()
        self.register_buffer("rgba", rgba.to(torch.uint8))

    def patch(self) -> Tensor:
        """The patch, `[4, r, r]` float32 in [0, 1]."""
        return self.rgba.float() / 255


@torch.no_grad()
def bake(source: PatchSource) -> Baked:
    """The current patch of a source, rounded to 8 bits, on the CPU."""
    return Baked((source.patch() * 255).round().clamp(0, 255).to("cpu", torch.uint8))
