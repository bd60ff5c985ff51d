"""Gradient checkpointing of an image tower's blocks through the library's own switches, for the time of a scope.

Checkpointed blocks keep their input alone and run again in the backward pass: up to half as much time again where the
model is frozen, for a fraction of the memory. Prompts stay right, since their hooks act on every run of a block inside
the scope of `Model.prompting`: open that one inside this one, or this one inside that one, and go backward in both.
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
#: what open scopes hold: (object, attribute) → number of scopes, what to do when the last one ends
_held: dict[tuple[int, str], tuple[int, Any]] = {}


@contextmanager
def checkpointed(model: Model, tower: str = "vision") -> Iterator[None]:
    """Gradient checkpointing in the blocks of a tower, inside `with`, forward and backward.

    Everything is as before behind it, also when something raises. Scopes may be nested, and several threads may open
    them on one model: the last one to end switches off. Blocks never run in training mode: their dropout, drop path and
    jitter of positions stay as they are.

    Args:
        model: a wrapped model.
        tower: whose blocks.

    Raises:
        UnsupportedError: for a model whose library has no switch for these blocks.
    """
    blocks = model.tower_named(tower).blocks
    with ExitStack() as stack:
        for owner, name, value in _switches(model, blocks):
            stack.enter_context(_set(owner, name, value))
        yield


def _switches(model: Model, blocks: tuple[nn.Module, ...]) -> list[tuple[Any, str, Any]]:
    """What to set: (object, attribute, value)."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    if all(isinstance(block, GradientCheckpointingLayer) for block in blocks):
        again = functools.partial(checkpoint, use_reentrant=False)
        found: list[tuple[Any, str, Any]] = []
        for block in blocks:
            # transformers looks at the block's own flag for training; its parts, which have the dropout, keep theirs.
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
    """An attribute's value while any scope is open that wants it."""
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
    return functools.partial(delattr, owner, name)  # the class's own value shows again


class _Timm:
    """timm's flag for all models: reentrant checkpointing wants an input with gradients, which a frozen model has not,
    and runs blocks again where scopes do not see it."""

    @property
    def reentrant(self) -> bool:
        """Whether timm checkpoints the reentrant way."""
        from timm.layers import use_reentrant_ckpt

        return bool(use_reentrant_ckpt())

    @reentrant.setter
    def reentrant(self, value: bool) -> None:
        from timm.layers import set_reentrant_ckpt

        set_reentrant_ckpt(value)


_TIMM = _Timm()

__all__ = ["checkpointed"]
