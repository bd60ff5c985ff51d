"""Which backbone a learned prompt belongs to, told so that it survives another device or floating type."""

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

#: Of a tensor's norm. Half precision moves the marks of a checkpoint by half of it at most; a little fine-tuning moves
#: them further, since the signed sum sees every change and not only one of length.
TOLERANCE = 0.01
_MOST_TENSORS = 48

_known: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], dict[str, Any]]] = weakref.WeakKeyDictionary()


def width_of(tower: Tower) -> int:
    """Width d of the hidden states of a tower's blocks.

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
    raise UnsupportedError(f"{type(tower.sites[0].module).__name__}: the width of its tokens cannot be told.")


def identity(model: Model, tower: str = "vision") -> dict[str, Any]:
    """What a learned prompt remembers of its backbone, ready for JSON.

    Returns:
        `name`, `class` and `backend` for people; `blocks`, `width`, `prefix` (the model's own tokens before the
        patches) and `marks` (of up to 48 weights of the blocks: norm, and sum under fixed signs) to recognise it by; of
        a vision-language model also its `decoder`'s marks, since what answers taught goes with who answers.
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
    # In-place changes count a version; parameters made in inference mode cannot change and have none.
    items = [parameter for block in tower.blocks for parameter in block.parameters()]
    version = tuple(0 if item.is_inference() else item._version for item in items)
    held = _known.get(tower.blocks[0])
    if held is None or held[0] != version:
        held = (version, _measured(tower))
        _known[tower.blocks[0]] = held
    return held[1]


def difference(saved: dict[str, Any], model: Model) -> str:
    """Why a model is not the one that a prompt was learned on; empty if it is."""
    now = identity(model, str(saved.get("tower", "vision")))
    reason = _tower_difference(saved, now)
    answering, now_answering = saved.get("decoder"), now.get("decoder")
    if not reason and answering and now_answering:  # an encoder with the same tower has none
        alike = len(answering) == len(now_answering) and not far_apart(answering, now_answering)
        return "" if alike else "its vision tower is the same, and its language model another"
    return reason


def is_tower_of(saved: dict[str, Any], model: Model) -> bool:
    """True if a model's tower is the one of a saved identity, whoever answers behind it.

    Weights are looked at only if the tower has the right shape: most models are told apart for nothing.
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
    """How many of two models' marks, as many of the one as of the other, are further apart than rounding gets them."""
    near = (
        max(abs(a - b), abs(p - q)) <= TOLERANCE * max(abs(a), abs(b)) for (a, p), (b, q) in zip(old, new, strict=True)
    )
    return len(new) - sum(near)  # what is no number is not near


@torch.no_grad()
def _measured(tower: Tower) -> dict[str, Any]:
    weights = [item for block in tower.blocks for item in block.parameters() if item.ndim >= 2]
    step = max(1, math.ceil(len(weights) / _MOST_TENSORS))
    fingerprint = [_fingerprint_of(item.detach()) for item in weights[::step]]
    if tower.name == "decoder":
        return {"marks": fingerprint}
    return {"blocks": len(tower.blocks), "width": width_of(tower), "prefix": tower.prefix, "marks": fingerprint}


def _fingerprint_of(weight: torch.Tensor) -> list[float]:
    """A tensor's norm, and the sum of its numbers under signs that look random and are whole numbers' everywhere."""
    flat = weight.float().flatten()
    signs = (torch.arange(len(flat), device=flat.device) * 40503 // 128 % 2) * 2 - 1
    return [float(f"{float(value):.6g}") for value in (flat.norm(), (flat * signs).sum())]


def describe(saved: dict[str, Any]) -> str:
    """The backbone in a few words, for errors and cards."""
    return f"{saved.get('name')} ({saved.get('class')}, {saved.get('backend')})"
