"""Identifies the backbone of a learned prompt, by fingerprints of its weights that do not depend on device or floating
type.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from visprompt.attention.sites import Tower
from visprompt.errors import UnsupportedError

if TYPE_CHECKING:
    from visprompt.models.base import Model

#: Largest difference between fingerprints of equal weights, relative to the tensor's norm. Half precision changes the
#: fingerprint of a checkpoint by at most half of it; even slight fine-tuning changes it more, since the signed sum
#: reacts to every change and not only to one of the norm.
TOLERANCE = 0.01
_MOST_TENSORS = 48

_known: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], dict[str, Any]]] = weakref.WeakKeyDictionary()


def width_of(tower: Tower) -> int:
    """The width d of the hidden states of a tower's blocks.

    Args:
        tower: the tower.

    Returns:
        d.

    Raises:
        UnsupportedError: if its attention has no input projection of a known name.
    """
    for module in tower.sites[0].module.modules():
        if isinstance(module, nn.MultiheadAttention):
            return int(module.embed_dim)
        for name in ("qkv", "q_proj", "query", "q", "wqkv"):
            projection = getattr(module, name, None)
            if isinstance(projection, nn.Linear):
                return int(projection.in_features)
    raise UnsupportedError(f"{type(tower.sites[0].module).__name__}: the width of its tokens is unknown.")


def identity(model: Model, tower: str = "vision") -> dict[str, Any]:
    """Describes a backbone so that a learned prompt can recognise it.

    Args:
        model: the model.
        tower: name of the tower that the prompt belongs to.

    Returns:
        Ready for JSON: `name`, `class` and `backend` for readers; `blocks`, `width`, `prefix` (number of the model's
        own tokens before the patches) and `marks` (fingerprints of up to 48 weights of the blocks: norm, and sum with
        fixed signs) to recognise it by; for a vision-language model also the fingerprints of its `decoder`, since a
        prompt trained on answers belongs to the model that gives them.
    """
    content = {
        "name": model.name,
        "class": type(getattr(model.module, "_orig_mod", model.module)).__name__,
        "backend": model.parts.backend,
        "tower": tower,
        **_known_or_measured(model.tower_named(tower)),
    }
    if model.generates and tower != "decoder" and model.has_tower("decoder"):
        content["decoder"] = _known_or_measured(model.tower_named("decoder"))["marks"]
    return content


def _known_or_measured(tower: Tower) -> dict[str, Any]:
    # In-place changes raise a tensor's version; parameters made in inference mode cannot change and have no version.
    items = [parameter for block in tower.blocks for parameter in block.parameters()]
    version = tuple(0 if item.is_inference() else item._version for item in items)
    held = _known.get(tower.blocks[0])
    if held is None or held[0] != version:
        held = (version, _measured(tower))
        _known[tower.blocks[0]] = held
    return held[1]


def difference(saved: dict[str, Any], model: Model) -> str:
    """Compares a model with a saved identity.

    Args:
        saved: the identity of the backbone that a prompt was learned on.
        model: the model.

    Returns:
        How they differ; empty if they are the same.
    """
    now = identity(model, str(saved.get("tower", "vision")))
    reason = _tower_difference(saved, now)
    answering, now_answering = saved.get("decoder"), now.get("decoder")
    if not reason and answering and now_answering:  # an encoder with the same tower has none
        alike = len(answering) == len(now_answering) and not far_apart(answering, now_answering)
        return "" if alike else "its vision tower is the same, and its language model another"
    return reason


def is_tower_of(saved: dict[str, Any], model: Model) -> bool:
    """Whether a model has the tower of a saved identity; its language model is not compared.

    Weights are compared only if the tower has the right shape, so most models are told apart at no cost.

    Args:
        saved: the identity.
        model: the model.

    Returns:
        True if it has.
    """
    name = str(saved.get("tower", "vision"))
    if not model.has_tower(name):
        return False
    tower = model.tower_named(name)
    if (saved.get("blocks"), saved.get("prefix")) != (len(tower.blocks), tower.prefix):
        return False
    try:
        if saved.get("width") != width_of(tower):
            return False
    except UnsupportedError:  # then nothing was learned on it either
        return False
    return not _tower_difference(saved, _known_or_measured(tower))


def _tower_difference(saved: dict[str, Any], now: dict[str, Any]) -> str:
    for name, meaning in (("blocks", "blocks"), ("width", "wide"), ("prefix", "own tokens before the patches")):
        if saved.get(name) != now[name]:
            return f"its tower has {now[name]} {meaning}, and it was {saved.get(name)}"
    old, new = list(saved.get("marks", ())), now["marks"]
    if len(old) != len(new):
        return f"its blocks have other weights ({len(new)} tensors to compare, and there were {len(old)})"
    far = far_apart(old, new)
    if far:
        return f"it has the same shape, but other weights ({far} of {len(new)} compared tensors differ)"
    return ""


def far_apart(old: Sequence[Sequence[float]], new: Sequence[Sequence[float]]) -> int:
    """Counts the fingerprints that differ by more than rounding explains.

    Args:
        old: fingerprints (norm, signed sum) of one model.
        new: as many fingerprints of the other.

    Returns:
        The number of pairs that differ.
    """
    near = (
        max(abs(a - b), abs(p - q)) <= TOLERANCE * max(abs(a), abs(b)) for (a, p), (b, q) in zip(old, new, strict=True)
    )
    return len(new) - sum(near)  # NaN counts as different


@torch.no_grad()
def _measured(tower: Tower) -> dict[str, Any]:
    weights = [item for block in tower.blocks for item in block.parameters() if item.ndim >= 2]
    step = max(1, math.ceil(len(weights) / _MOST_TENSORS))
    fingerprint = [_fingerprint_of(item.detach()) for item in weights[::step]]
    if tower.name == "decoder":
        return {"marks": fingerprint}
    return {"blocks": len(tower.blocks), "width": width_of(tower), "prefix": tower.prefix, "marks": fingerprint}


def _fingerprint_of(weight: torch.Tensor) -> list[float]:
    """A tensor's norm, and its sum with fixed pseudo-random signs, which are computed with integers and so are the same
    on every device.
    """
    flat = weight.float().flatten()
    signs = (torch.arange(len(flat), device=flat.device) * 40503 // 128 % 2) * 2 - 1
    return [float(f"{float(value):.6g}") for value in (flat.norm(), (flat * signs).sum())]


def describe(saved: dict[str, Any]) -> str:
    """Names the backbone in a few words, for errors and cards.

    Args:
        saved: its identity.

    Returns:
        Name, class and backend.
    """
    return f"{saved.get('name')} ({saved.get('class')}, {saved.get('backend')})"
