"""Tools for testing strategies and models: tiny random models, and the conformance checks.

They are public, so that plug-ins can run the checks of the built-in strategies:

```python
from visprompt.testing import check_strategy

def test_my_strategy():
    check_strategy("spotlight")
```
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visprompt.testing.conformance import check_strategy as check_strategy
    from visprompt.testing.tiny import Tiny as Tiny
    from visprompt.testing.tiny import randomise as randomise
    from visprompt.testing.tiny import tiny as tiny_model
    from visprompt.testing.tiny import tiny_names as tiny_names

# `tiny` is exported as `tiny_model`, since the sub-module of the same name would shadow it.
_WHERE = {
    "Tiny": ("tiny", "Tiny"),
    "tiny_model": ("tiny", "tiny"),
    "tiny_names": ("tiny", "tiny_names"),
    "randomise": ("tiny", "randomise"),
    "check_strategy": ("conformance", "check_strategy"),
}

__all__ = ["Tiny", "check_strategy", "randomise", "tiny_model", "tiny_names"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'visprompt.testing' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    value = getattr(importlib.import_module(f"visprompt.testing.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
