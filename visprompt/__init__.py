"""visprompt: make a vision model look where you want, without touching its weights.

Public names are resolved on first use, because importing torch alone takes more than a second.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from visprompt.errors import UnsupportedError as UnsupportedError
from visprompt.utils import moved_modules

if TYPE_CHECKING:
    from visprompt.geometry.geometry import Geometry as Geometry
    from visprompt.models import Model as Model
    from visprompt.models import list_models as list_models
    from visprompt.models import load_model as load_model
    from visprompt.models import wrap as wrap
    from visprompt.prompter import Composition as Composition
    from visprompt.prompter import Ensemble as Ensemble
    from visprompt.prompter import Options as Options
    from visprompt.prompter import Prompter as Prompter
    from visprompt.registry import list_strategies as list_strategies
    from visprompt.request import Box as Box
    from visprompt.request import Mask as Mask
    from visprompt.request import Point as Point
    from visprompt.request import Region as Region
    from visprompt.request import Request as Request
    from visprompt.runner.answers import Answer as Answer
    from visprompt.runner.attention_map import AttentionMap as AttentionMap
    from visprompt.runner.predictions import Prediction as Prediction
    from visprompt.runner.runner import Runner as Runner
    from visprompt.visual_prompt import AttentionEdit as AttentionEdit
    from visprompt.visual_prompt import PromptTokens as PromptTokens
    from visprompt.visual_prompt import VisualPrompt as VisualPrompt

__version__ = "0.5.0"


def _refuse_namesake() -> None:
    """An unrelated distribution `visprompt` ships the same import name: a mixture of both would fail in odd places."""
    from importlib import metadata

    try:
        other = metadata.distribution("visprompt")
    except metadata.PackageNotFoundError:
        return
    raise ImportError(
        f"this environment holds visprompt-toolkit and the unrelated distribution visprompt {other.version}, which "
        "share the import name: run 'pip uninstall visprompt visprompt-toolkit', then 'pip install visprompt-toolkit'."
    )


_refuse_namesake()
moved_modules.install()


def _strategies_on(model: Any) -> list[str]:
    from visprompt.registry import strategies_on

    return strategies_on(model)


UnsupportedError.strategies_on = staticmethod(_strategies_on)

_WHERE = {
    "load_model": "models",
    "wrap": "models",
    "list_models": "models",
    "Model": "models",
    "Prediction": "runner.predictions",
    "Prompter": "prompter",
    "Options": "prompter",
    "Composition": "prompter",
    "Ensemble": "prompter",
    "list_strategies": "registry",
    "Runner": "runner.runner",
    "Answer": "runner.answers",
    "AttentionMap": "runner.attention_map",
    "Request": "request",
    "Region": "request",
    "Box": "request",
    "Point": "request",
    "Mask": "request",
    "Geometry": "geometry.geometry",
    "VisualPrompt": "visual_prompt",
    "AttentionEdit": "visual_prompt",
    "PromptTokens": "visual_prompt",
    "VispromptError": "errors",
    "InvalidInputError": "errors",
    "UnknownNameError": "errors",
    "UnsupportedError": "errors",
    "SiteNotReachedError": "errors",
    "RegionNotVisibleError": "errors",
    "RemoteError": "errors",
}

__all__ = ["__version__", *sorted(_WHERE)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module 'visprompt' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"visprompt.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
