"""Tiny random models of every family, built from configs: no downloads, a fraction of a second each.

They have the family's real architecture, its real image processor and a tokenizer that works offline; only the sizes
are small. All parameters are random: with the authors' initialisation LayerScales are 1e-5 and bias tables zero, so
that attention has no effect, and a test could not detect an attention edit without effect.

>>> small = tiny("transformers-clip")
>>> small.backend, small.readout, small.grid_hw
('transformers', 'cls', (8, 8))
>>> small is tiny("transformers-clip")
False
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import nn

from visprompt.errors import unknown_name

Backend = Literal["transformers", "open_clip", "timm"]
ReadoutKind = Literal["cls", "probe", "mean", "pooler", "none"]


class _Tiny(Protocol):
    name: str
    module: nn.Module


Made = TypeVar("Made", bound=_Tiny)

#: modules whose import registers builders
_FAMILIES = ("tiny_transformers", "tiny_open_clip", "tiny_timm")
_BUILDERS: dict[str, Callable[[], Tiny]] = {}


@dataclass
class Tiny:
    """A tiny model with its properties, so that tests need not use the code under test to find them.

    Args:
        name: name in the registry of tiny models.
        module: the model, in eval mode, every parameter random.
        processor: a transformers image processor or a torchvision transform.
        tokenizer: its tokenizer, or None if it has no text tower.
        backend: the library it comes from.
        patch_size: side of a patch in pixels of the model's input; convolutional models: of a cell of the last map.
        grid_hw: rows and columns of the patch grid; None if they depend on the image (NaFlex).
        patch_embedding: path of the sub-module whose output holds one vector per patch.
        has_text: whether it can score texts.
        readout: CLS token, attention-pooling probe, mean of the patches, CoCa's attention pooler, or none with
            attention that can be edited.
        processing: how the processor fits an image: `"crop"` (shortest edge, then centre crop), `"squash"`,
            `"squash-crop"` (DeiT: squashed larger, then cropped) or `"naflex"` (aspect ratio kept, grid varies).
        num_blocks: attention blocks, without a pooling head.
    """

    name: str
    module: nn.Module
    processor: Any
    tokenizer: Any
    backend: Backend
    patch_size: int
    grid_hw: tuple[int, int] | None
    patch_embedding: str
    has_text: bool
    readout: ReadoutKind
    processing: Literal["crop", "squash", "squash-crop", "naflex"]
    num_blocks: int = 4

    @property
    def has_attention(self) -> bool:
        """Whether the readout has attention that can be edited."""
        return self.readout != "none"


def register(builder: Callable[[], Tiny]) -> Callable[[], Tiny]:
    """Decorator that registers the builder of a tiny model under the function's name (underscores become hyphens)."""
    _BUILDERS[builder.__name__.replace("_", "-")] = builder
    return builder


def tiny_names() -> list[str]:
    """The names of all tiny models, grouped by backend.

    >>> len(tiny_names()) >= 20
    True
    """
    for family in _FAMILIES:
        importlib.import_module(f"visprompt.testing.{family}")
    # By family, independent of the order of imports, since parallel test runners need one order in all processes.
    rank = {f"visprompt.testing.{family}": index for index, family in enumerate(_FAMILIES)}
    return sorted(_BUILDERS, key=lambda name: rank.get(_BUILDERS[name].__module__, len(rank)))


def tiny(name: str, seed: int = 0) -> Tiny:
    """Builds a tiny model; the same name and seed give the same weights, and the global random state is unchanged.

    Args:
        name: one of `tiny_names()`.
        seed: of all parameters.

    Returns:
        The model with its properties.

    Raises:
        UnknownNameError: if there is no tiny model of that name.
    """
    known = tiny_names()
    if name not in known:
        raise unknown_name("tiny model", name, known)
    return built(_BUILDERS[name], name, seed)


def built(builder: Callable[[], Made], name: str, seed: int = 0) -> Made:
    """Runs a builder, names the model, randomises its parameters and sets eval mode; the global random state is
    unchanged.

    Args:
        builder: creates the model.
        name: its name, which also determines the seed.
        seed: added to that.
    """
    with torch.random.fork_rng(devices=[]):
        made = builder()
    made.name = name
    randomise(made.module, seed=seed + zlib.crc32(name.encode()))
    made.module.eval()
    return made


@torch.no_grad()
def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Randomises all parameters in place, at a scale at which every part of the model has an effect.

    Matrices get a variance of 1 / fan-in, so that attention logits have a standard deviation of about one; norms are
    close to the identity; LayerScales lie between 0.5 and 1; position tables, relative-position tables, and class,
    register and mask tokens have the scale of the patch embeddings; logit scales are those of CLIP.

    Args:
        module: any model.
        seed: of the random numbers.

    Returns:
        The module.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(like: torch.Tensor, scale: float, mean: float = 0.0) -> torch.Tensor:
        return mean + scale * torch.randn(like.shape, generator=generator)

    norm_weights = {
        f"{path}.weight" if path else "weight"
        for path, child in module.named_modules()
        if "Norm" in type(child).__name__
    }
    for name, parameter in module.named_parameters():
        parameter.copy_(_draw(name, parameter, name in norm_weights, generator, normal))
    for name, buffer in module.named_buffers():
        leaf = name.rsplit(".", 1)[-1]
        if leaf == "running_mean":
            buffer.copy_(normal(buffer, 0.1))
        elif leaf == "running_var":
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return module


def _draw(
    name: str,
    parameter: torch.Tensor,
    is_norm_weight: bool,
    generator: torch.Generator,
    normal: Callable[..., torch.Tensor],
) -> torch.Tensor:
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "logit_scale":
        return torch.full(parameter.shape, 2.66)  # ln(1 / 0.07), CLIP's initial value
    if leaf == "logit_bias":
        return torch.full(parameter.shape, -1.0)
    if is_norm_weight:
        return normal(parameter, 0.1, mean=1.0)
    if leaf in ("lambda1", "lambda_1", "lambda_2", "gamma", "gamma_1", "gamma_2"):
        return 0.5 + 0.5 * torch.rand(parameter.shape, generator=generator)
    if leaf.endswith("bias") or (parameter.ndim == 1 and leaf != "class_embedding"):
        return normal(parameter, 0.1)
    if parameter.ndim >= 2 and leaf in ("weight", "in_proj_weight") and not _is_table(name):
        return normal(parameter, parameter[0].numel() ** -0.5)
    if leaf in ("text_projection", "proj"):  # open_clip multiplies from the left: rows are inputs
        return normal(parameter, parameter.shape[0] ** -0.5)
    return normal(parameter, 0.5)


def _is_table(name: str) -> bool:
    return any(part in name for part in ("position_embedding", "token_embedding", "relative_position", "pos_embed"))
