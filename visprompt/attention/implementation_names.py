"""The names of attention implementations: ours in the config, the kernel's own where the kernel asks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

PREFIX = "visprompt_"


class Over:
    """An object with some attributes replaced; all others are its own.

    >>> Over(1j, real=5).real, Over(1j, real=5).imag
    (5, 1.0)
    """

    def __init__(self, owner: Any, **changes: Any) -> None:
        self.__dict__.update(changes, _owner=owner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._owner, name)


def under_own_name(base: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A kernel that is called with modules whose config names it: flash attention loads itself by that name, and does
    not know ours.
    """
    return functools.partial(_call, base, name) if "flash" in name else base


def _call(base: Callable[..., Any], name: str, module: Any, *args: Any, **kwargs: Any) -> Any:
    return base(Over(module, config=Over(module.config, _attn_implementation=name)), *args, **kwargs)
