"""Inspection of a module without visprompt code: snapshots, reference embeddings, and errors on purpose."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import nn

from visprompt.testing.tiny import Tiny


def snapshot(module: nn.Module) -> dict[str, Any]:
    """The state of a module that a prompt could change: our hooks, configs, modes, attributes, weights, gradients.

    Args:
        module: any module.

    Returns:
        Values by the path of the sub-module and their name.
    """
    state: dict[str, Any] = {}
    for path, child in module.named_modules():
        state[f"{path} hooks"] = own_hooks(child)
        state[f"{path} training"] = child.training
        state[f"{path} attributes"] = sorted(name for name in vars(child) if not name.startswith("_"))
        config: Any = getattr(child, "config", None)
        if hasattr(config, "to_dict"):
            state[f"{path} config"] = (id(config), config.to_dict(), config._attn_implementation_internal)
    for name, tensor in module.state_dict().items():
        state[f"{name} weight"] = (tensor.dtype, tuple(tensor.shape), tensor.double().sum().item())
    for name, parameter in module.named_parameters():
        state[f"{name} requires_grad"] = (parameter.requires_grad, parameter.grad is None)
    return state


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of the entries that differ between two snapshots."""
    return sorted(key for key in {*before, *after} if before.get(key) != after.get(key))


def own_hooks(module: nn.Module) -> int:
    """The number of visprompt's hooks on a module; hooks of libraries are not counted."""
    count = 0
    for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        for hook in getattr(module, kind).values():
            count += str(getattr(hook, "__module__", "")).startswith("visprompt")
    return count


class Crash(RuntimeError):
    """The error of a model that fails in the middle of a forward."""


@contextmanager
def crashing(module: nn.Module) -> Iterator[None]:
    """Inside `with`, a sub-module raises an error when it is called.

    Args:
        module: the sub-module.

    Raises:
        Crash: in a forward of the model.
    """

    def crash(*_: Any) -> None:
        raise Crash("crashed on purpose")

    handle = module.register_forward_pre_hook(crash)
    try:
        yield
    finally:
        handle.remove()


def library_embedding(made: Tiny, image: Image.Image) -> torch.Tensor:
    """The embedding that the library itself gives for an image.

    Args:
        made: a tiny model.
        image: the image.

    Returns:
        The library's output: embeddings `[1, d]`, or hidden states `[1, N, d]`.
    """
    torch.manual_seed(0)  # ViTMAE shuffles its patches
    with torch.no_grad():
        if made.backend == "transformers":
            inputs = made.processor(images=image, return_tensors="pt")
            output = made.module.get_image_features(**inputs) if made.has_text else made.module(**inputs)  # type: ignore[operator]
            if isinstance(output, torch.Tensor):
                return output
            names = ("image_embeds", "pooler_output", "last_hidden_state")
            return next(item for name in names if (item := getattr(output, name, None)) is not None)
        pixels = made.processor(image)[None]
        return made.module.encode_image(pixels) if made.has_text else made.module(pixels)  # type: ignore[operator]


def shuffled(items: Sequence[Any], seed: int = 0) -> tuple[list[Any], list[int]]:
    """A random permutation.

    Args:
        items: any sequence.
        seed: of the permutation.

    Returns:
        The permuted items, and the index of each in `items`.
    """
    order = list(range(len(items)))
    random.Random(seed).shuffle(order)
    return [items[index] for index in order], order
