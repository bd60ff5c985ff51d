"""Heads on the features of a tuned tower: classifiers on embeddings, and a decoder for labels per pixel.

Heads hold float32 weights and compute in float32, also under autocast. `describe()` gives what `head_from` needs to
build a head again; its weights are loaded afterwards. No head has batch statistics, since these would differ between
processes and accumulation steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visprompt.errors import InvalidInputError, UnsupportedError, unknown_name

Norm = Literal["none", "layer"]
NORMS: tuple[Norm, ...] = ("none", "layer")
#: standard deviation of the classifiers' initial weights, as in linear probing of MAE (arXiv 2111.06377, A.1)
FIRST_WEIGHTS = 0.01


class Head(nn.Module):
    """Base class of heads.

    Attributes:
        kind: name of the kind of head, as in `head_from`.
    """

    kind: str = ""

    def describe(self) -> dict[str, Any]:
        """The arguments of the head for `head_from`, with its `kind`; ready for JSON.

        Raises:
            TypeError: if a sub-class does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not define describe().")

    def _float(self, features: Tensor) -> Tensor:
        """The features in float32.

        Args:
            features: `[..., d]`.

        Raises:
            UnsupportedError: if d is not the width that the head was made for.
        """
        width = self.describe()["width"]
        if features.shape[-1] != width:
            raise UnsupportedError(
                f"this head reads {width} numbers per image, and the model gives {features.shape[-1]}: one tower may "
                "be read in several ways (with a projection, or without). Load the model as it was for training."
            )
        return features.float()


class LinearHead(Head):
    """A linear classifier: `[n, d]` → `[n, C]`.

    Models that average their patch features after the last norm (MAE) give embeddings whose standard deviation is far
    below one. `norm="layer"` brings every embedding to mean 0 and variance 1, without weights. VPT and gated prompt
    tuning do the same for these models (mean, LayerNorm, linear layer); MAE's own linear probing uses a BatchNorm
    without weights.

    Args:
        width: d, width of the embeddings.
        classes: C.
        norm: `"none"` or `"layer"`.
        generator: for the initial weights; None: torch's global generator.
    """

    kind = "linear"

    def __init__(self, width: int, classes: int, norm: Norm = "none", generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.width, self.classes, self.norm = width, classes, _checked(norm)
        self.out = _linear(width, classes, FIRST_WEIGHTS, generator)

    def forward(self, features: Tensor) -> Tensor:
        """Logits `[n, C]`, float32, of embeddings `[n, d]`."""
        with _full_precision(features):
            return self.out(_normed(self._float(features), self.norm))

    def describe(self) -> dict[str, Any]:
        """Kind, width, classes and norm."""
        return {"kind": self.kind, "width": self.width, "classes": self.classes, "norm": self.norm}


class MlpHead(Head):
    """A classifier with one hidden layer and GELU: `[n, d]` → `[n, C]`.

    Args:
        width: d, width of the embeddings.
        classes: C.
        hidden: units of the hidden layer; None: d.
        norm: as in `LinearHead`.
        generator: for the initial weights; None: torch's global generator.
    """

    kind = "mlp"

    def __init__(
        self,
        width: int,
        classes: int,
        hidden: int | None = None,
        norm: Norm = "none",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.width, self.classes, self.hidden, self.norm = width, classes, hidden or width, _checked(norm)
        self.inner = _linear(width, self.hidden, width**-0.5, generator)
        self.out = _linear(self.hidden, classes, FIRST_WEIGHTS, generator)

    def forward(self, features: Tensor) -> Tensor:
        """Logits `[n, C]`, float32, of embeddings `[n, d]`."""
        with _full_precision(features):
            return self.out(F.gelu(self.inner(_normed(self._float(features), self.norm))))

    def describe(self) -> dict[str, Any]:
        """Kind, width, classes, hidden units and norm."""
        content = {"kind": self.kind, "width": self.width, "classes": self.classes}
        return {**content, "hidden": self.hidden, "norm": self.norm}


class ZeroShotHead(Head):
    """A zero-shot classifier from class names (arXiv 2103.00020, 3.1): `scale · cos(image, text) + bias`, `[n, d]` →
    `[n, C]`.

    It has no trainable parameters. The text embeddings are buffers, so that a saved prompt needs neither the class
    names nor the text tower.

    Args:
        text_embeddings: `[C, d]`, one per class; they are normalised to unit length.
        scale: factor on the cosine.
        bias: added to the scaled cosine (SigLIP), or 0.
    """

    kind = "zero-shot"
    text_embeddings: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, text_embeddings: Tensor, scale: float | Tensor, bias: float | Tensor = 0.0) -> None:
        super().__init__()
        self.register_buffer("text_embeddings", F.normalize(text_embeddings.detach().float(), dim=-1))
        self.register_buffer("scale", torch.as_tensor(scale).detach().float().reshape(()).clone())
        self.register_buffer("bias", torch.as_tensor(bias).detach().float().reshape(()).clone())

    def forward(self, features: Tensor) -> Tensor:
        """Logits `[n, C]`, float32, of embeddings `[n, d]`."""
        with _full_precision(features):
            return F.normalize(self._float(features), dim=-1) @ self.text_embeddings.T * self.scale + self.bias

    def describe(self) -> dict[str, Any]:
        """Kind, width and classes."""
        classes, width = self.text_embeddings.shape
        return {"kind": self.kind, "width": width, "classes": classes}


class PupHead(Head):
    """A segmentation decoder with progressive upsampling, after SETR-PUP (Zheng et al. 2021,
    https://arxiv.org/abs/2012.15840): `[n, P, d]` → `[n, C, h, w]`.

    LayerNorm; then `stages` times a 3×3 convolution, norm, ReLU and upsampling by 2; then a 1×1 convolution to the
    classes and bilinear interpolation to the output size. SETR upsamples four times, from patches of 16 pixels to the
    full input size; two times, to a quarter of it, take a twelfth of the work. GroupNorm replaces SETR's BatchNorm,
    since it depends neither on the batch size nor on the number of processes.

    Args:
        width: d, width of the patch features.
        classes: C.
        channels: of the convolutions.
        stages: number of upsamplings by 2; see `stages_for`.
        generator: for the initial weights; None: torch's global generator.
    """

    kind = "pup"

    def __init__(
        self,
        width: int,
        classes: int,
        channels: int = 256,
        stages: int = 2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.width, self.classes, self.channels, self.stages = width, classes, channels, stages
        self.norm = nn.LayerNorm(width)
        inputs = [width, *[channels] * stages]
        self.convolutions = nn.ModuleList(nn.Conv2d(given, channels, 3, padding=1, bias=False) for given in inputs[:-1])
        self.norms = nn.ModuleList(nn.GroupNorm(math.gcd(32, channels), channels) for _ in range(stages))
        self.out = nn.Conv2d(inputs[-1], classes, 1)
        with torch.no_grad():
            for layer in self.convolutions:
                layer.weight.normal_(0, math.sqrt(2 / (9 * layer.in_channels)), generator=generator)
            self.out.weight.normal_(0, FIRST_WEIGHTS, generator=generator)
            assert self.out.bias is not None
            self.out.bias.zero_()

    def forward(self, features: Tensor, grid_hw: tuple[int, int], size_hw: tuple[int, int]) -> Tensor:
        """Logits of every pixel.

        Args:
            features: `[n, P, d]`, patch features in row-major order of the patch grid.
            grid_hw: rows and columns of the patch grid.
            size_hw: height and width of the output, pixels.

        Returns:
            `[n, C, h, w]`, float32.
        """
        with _full_precision(features):
            x = self.norm(self._float(features)).transpose(1, 2).unflatten(2, grid_hw)
            for convolution, norm in zip(self.convolutions, self.norms, strict=True):
                x = F.interpolate(F.relu(norm(convolution(x))), scale_factor=2.0, mode="bilinear")
            return F.interpolate(self.out(x), size=size_hw, mode="bilinear")

    def describe(self) -> dict[str, Any]:
        """Kind, width, classes, channels and stages."""
        content = {"kind": self.kind, "width": self.width, "classes": self.classes}
        return {**content, "channels": self.channels, "stages": self.stages}


def stages_for(patch_px: float) -> int:
    """Number of upsamplings by 2 that bring a patch grid to at least a quarter of the input's resolution.

    >>> [stages_for(patch) for patch in (4, 8, 14, 16, 32)]
    [1, 1, 2, 2, 3]

    Args:
        patch_px: side of a patch, in pixels of the input.

    Returns:
        At least 1.
    """
    return max(math.ceil(math.log2(patch_px / 4)), 1)


def head_from(content: Mapping[str, Any]) -> Head:
    """Builds a head from what its `describe()` gave; weights and buffers are still to be loaded.

    >>> head_from({"kind": "linear", "width": 8, "classes": 3}).out
    Linear(in_features=8, out_features=3, bias=True)

    Args:
        content: `kind`, and the arguments of that kind of head.

    Returns:
        The head, with initial weights.

    Raises:
        UnknownNameError: for a kind of head that does not exist.
        InvalidInputError: if an argument is missing or unknown.
    """
    sizes = dict(content)
    kind = str(sizes.pop("kind", None))
    makers: dict[str, Callable[..., Head]] = {
        "linear": LinearHead,
        "mlp": MlpHead,
        "zero-shot": lambda width, classes: ZeroShotHead(torch.zeros(classes, width), 1.0),
        "pup": PupHead,
    }
    if kind not in makers:
        raise unknown_name("kind of head", kind, list(makers))
    try:
        return makers[kind](**sizes)
    except TypeError as error:
        raise InvalidInputError(f"{dict(content)!r} does not describe a head: {error}.") from None


def _linear(inputs: int, outputs: int, spread: float, generator: torch.Generator | None) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    with torch.no_grad():
        layer.weight.normal_(0, spread, generator=generator)
        layer.bias.zero_()
    return layer


def _checked(norm: str) -> Norm:
    if norm not in NORMS:
        raise InvalidInputError(f"norm is one of {', '.join(NORMS)}; got {norm!r}.")
    return norm


def _normed(features: Tensor, norm: Norm) -> Tensor:
    return F.layer_norm(features, features.shape[-1:]) if norm == "layer" else features


def _full_precision(features: Tensor) -> torch.autocast:
    return torch.autocast(features.device.type, enabled=False)
