"""Looking at a module from outside, without any visprompt code: what the conformance checks compare with."""

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
    """Everything about a module that a prompt could leave changed: our hooks, configs, modes, overrides, weights."""
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
    """The entries of two snapshots that differ."""
    return sorted(key for key in {*before, *after} if before.get(key) != after.get(key))


def own_hooks(module: nn.Module) -> int:
    """How many hooks of ours one module carries; libraries leave some of their own, which are not counted."""
    count = 0
    for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        for hook in getattr(module, kind).values():
            count += str(getattr(hook, "__module__", "")).startswith("visprompt")
    return count


class Crash(RuntimeError):
    """The error of a model that fails mid-forward."""


@contextmanager
def crashing(module: nn.Module) -> Iterator[None]:
    """For the time of the block the sub-module raises when it is called."""

    def crash(*_: Any) -> None:
        raise Crash("crashed on purpose")

    handle = module.register_forward_pre_hook(crash)
    try:
        yield
    finally:
        handle.remove()


def library_embedding(made: Tiny, image: Image.Image) -> torch.Tensor:
    """What the library itself gives for an image, without any visprompt code: for before-and-after comparisons."""
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
    """A seeded permutation and the order it was made with."""
    order = list(range(len(items)))
    random.Random(seed).shuffle(order)
    return [items[index] for index in order], order
