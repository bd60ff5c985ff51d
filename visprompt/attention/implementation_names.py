"""Names of attention implementations: the config names our shim, and a kernel that reads the config sees its
own name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

PREFIX = "visprompt_"


class Over:
    """A view of an object with some attributes replaced; all other attributes are read from the object.

    >>> Over(1j, real=5).real, Over(1j, real=5).imag
    (5, 1.0)
    """

    def __init__(self, owner: Any, **changes: Any) -> None:
        self.__dict__.update(changes, _owner=owner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._owner, name)


def under_own_name(base: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Makes a kernel see its own name in the config of the module it is called with, where our shim's name stands.

    Flash attention loads itself by that name and does not know the shim's name. Other kernels are returned unchanged.

    Args:
        base: the kernel, an attention function of transformers.
        name: its name.

    Returns:
        A function with the same arguments.
    """
    return functools.partial(_call, base, name) if "flash" in name else base


def _call(base: Callable[..., Any], name: str, module: Any, *args: Any, **kwargs: Any) -> Any:
    return base(Over(module, config=Over(module.config, _attn_implementation=name)), *args, **kwargs)
