"""The small models that ship with the package, and what was learned on them: where their folders are.

    >>> from visprompt import bundled
    >>> bundled.names()
    ('scenes-clip', 'scenes-clip-annotated', 'scenes-llava', 'scenes-mae')
    >>> bundled.path("scenes-clip").name
    'scenes_clip'
    >>> bundled.patch_path("patch-scenes-clip").name
    'scenes-clip'

Each folder is a complete ``transformers`` checkpoint (weights, config, processor, model card, a tokenizer where there
is language), so ``CLIPModel.from_pretrained(bundled.path(name))`` works without a network, for scenes-llava
``AutoModelForImageTextToText``, for scenes-mae ``ViTMAEModel``. Patches are folders that ``save_pretrained`` wrote;
``Prompter.from_pretrained("bundled:patch-scenes-clip")`` loads one. This module does not load anything.
"""

from __future__ import annotations

import difflib
from pathlib import Path

__all__ = ["names", "patch_of", "patch_path", "patches", "path"]

_FOLDERS = {
    "scenes-clip": "scenes_clip",
    "scenes-clip-annotated": "scenes_clip_annotated",
    "scenes-llava": "scenes_llava",
    "scenes-mae": "scenes_mae",
}
_HERE = Path(__file__).resolve().parent
_PATCH = "patch-"


def names() -> tuple[str, ...]:
    """List the bundled models; ``bundled:<name>`` is what `load_model` takes."""
    return tuple(_FOLDERS)


def path(name: str) -> Path:
    """Find a bundled model's folder.

    Args:
        name: One of `names`, with or without the ``bundled:`` in front.

    Raises:
        ValueError: There is no such model; the message lists those there are.
    """
    key = name.removeprefix("bundled:").replace("_", "-").lower()
    if key not in _FOLDERS:
        close = difflib.get_close_matches(key, _FOLDERS, n=1, cutoff=0.4)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no bundled model is called {name!r}; there are {', '.join(_FOLDERS)}{hint}")
    return _HERE / _FOLDERS[key]


def patches() -> tuple[str, ...]:
    """List the learned patches: ``patch-<name of the model>``, for those models that have one."""
    found = (name for name in _FOLDERS if (_HERE / "patches" / name / "config.json").is_file())
    return tuple(f"{_PATCH}{name}" for name in found)


def patch_of(name: str) -> str:
    """Name of the patch that was learned on a bundled model.

    Args:
        name: One of `names`, with or without the ``bundled:`` in front.

    Returns:
        What `Prompter.from_pretrained` takes, ``bundled:patch-<name>``; empty if there is none.

    >>> patch_of("scenes-clip")
    'bundled:patch-scenes-clip'
    """
    key = f"{_PATCH}{name.removeprefix('bundled:')}"
    return f"bundled:{key}" if key in patches() else ""


def patch_path(name: str) -> Path:
    """Find a learned patch's folder.

    Args:
        name: One of `patches`, with or without the ``bundled:`` in front.

    Raises:
        ValueError: There is no such patch; the message lists those there are.
    """
    key = name.removeprefix("bundled:")
    if key not in patches():
        raise ValueError(f"no bundled patch is called {name!r}; there are {', '.join(patches())}")
    return _HERE / "patches" / key.removeprefix(_PATCH)
