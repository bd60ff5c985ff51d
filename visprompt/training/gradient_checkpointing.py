"""Gradient checkpointing of a tower's blocks inside a scope, through the model library's own switches.

A checkpointed block keeps only its input and is run again in the backward pass: with a frozen model this takes up to
half as much time again and a fraction of the memory. Prompts stay correct, since their hooks act on every run of a
block inside the scope of `Model.prompting`. The two scopes may be nested either way; call `backward()` inside both.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from visprompt.errors import UnsupportedError

if TYPE_CHECKING:
    from visprompt.models.base import Model

_lock = threading.Lock()
#: attributes that open scopes have set: (id of the object, attribute) → number of scopes, function that restores it
_held: dict[tuple[int, str], tuple[int, Any]] = {}


@contextmanager
def checkpointed(model: Model, tower: str = "vision") -> Iterator[None]:
    """Checkpoints the blocks of a tower inside `with`, for forward and backward.

    All attributes are restored at the end, also after an error. Scopes may be nested, and several threads may open them
    on one model: the last one to end restores the attributes. Dropout, drop path and position jitter inside the blocks
    keep their mode.

    Args:
        model: a wrapped model.
        tower: name of the tower: `"vision"`, or `"decoder"` of an LVLM.

    Raises:
        UnsupportedError: for a model whose library has no gradient checkpointing for these blocks.
    """
    blocks = model.tower_named(tower).blocks
    with ExitStack() as stack:
        for owner, name, value in _switches(model, blocks):
            stack.enter_context(_set(owner, name, value))
        yield


def _switches(model: Model, blocks: tuple[nn.Module, ...]) -> list[tuple[Any, str, Any]]:
    """The attributes to set, as (object, attribute, value)."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    if all(isinstance(block, GradientCheckpointingLayer) for block in blocks):
        again = functools.partial(checkpoint, use_reentrant=False)
        found: list[tuple[Any, str, Any]] = []
        for block in blocks:
            # transformers checks the block's own `training` flag; the submodules, which hold the dropout, keep theirs.
            found += [(block, "_gradient_checkpointing_func", again), (block, "gradient_checkpointing", True)]
            found.append((block, "training", True))
        return found
    # timm and open_clip: a flag of the module that runs the blocks.
    around = [
        module
        for module in model.module.modules()
        if isinstance(getattr(module, "grad_checkpointing", None), bool) and set(blocks) <= set(module.modules())
    ]
    if not around:
        raise UnsupportedError(
            f"{model.name} cannot trade time for memory: its library has no gradient checkpointing for the blocks of "
            f"{type(model.module).__name__} ({type(blocks[0]).__name__}). Train it without, on smaller batches."
        )
    flags = [(module, "grad_checkpointing", True) for module in around]
    return [*flags, (_TIMM, "reentrant", False)]


@contextmanager
def _set(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Sets an attribute while at least one scope that wants it is open."""
    key = (id(owner), name)
    with _lock:
        count, undo = _held.get(key, (0, None))
        if not count:
            undo = _undo(owner, name)
            setattr(owner, name, value)
        _held[key] = (count + 1, undo)
    try:
        yield
    finally:
        with _lock:
            count, undo = _held.pop(key)
            if count > 1:
                _held[key] = (count - 1, undo)
            else:
                undo()


def _undo(owner: Any, name: str) -> Callable[[], None]:
    if name in vars(owner) or isinstance(owner, _Timm):
        return functools.partial(setattr, owner, name, getattr(owner, name))
    return functools.partial(delattr, owner, name)  # uncovers the class attribute


class _Timm:
    """timm's global flag for reentrant checkpointing, as an attribute.

    Reentrant checkpointing needs an input with gradients, which a frozen model does not have, and runs blocks again
    outside of the prompts' scope.
    """

    @property
    def reentrant(self) -> bool:
        """Whether timm uses reentrant checkpointing."""
        from timm.layers import use_reentrant_ckpt

        return bool(use_reentrant_ckpt())

    @reentrant.setter
    def reentrant(self, value: bool) -> None:
        from timm.layers import set_reentrant_ckpt

        set_reentrant_ckpt(value)


_TIMM = _Timm()

__all__ = ["checkpointed"]
