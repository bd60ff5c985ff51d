"""The small models in the package and the patches learned on them: names and folders.

    >>> from visprompt import bundled
    >>> bundled.names()
    ('scenes-clip', 'scenes-clip-annotated', 'scenes-llava', 'scenes-mae')
    >>> bundled.path("scenes-clip").name
    'scenes_clip'
    >>> bundled.patch_path("patch-scenes-clip").name
    'scenes-clip'

Each folder is a complete ``transformers`` checkpoint (weights, config, processor, model card, a tokenizer where there
is a text tower), so ``CLIPModel.from_pretrained(bundled.path(name))`` works without a network, for scenes-llava
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
    """The names of the bundled models; `load_model` takes ``bundled:<name>``."""
    return tuple(_FOLDERS)


def path(name: str) -> Path:
    """The folder of a bundled model.

    Args:
        name: One of `names`, with or without the ``bundled:`` in front.

    Returns:
        Its path.

    Raises:
        ValueError: There is no such model; the message lists all of them.
    """
    key = name.removeprefix("bundled:").replace("_", "-").lower()
    if key not in _FOLDERS:
        close = difflib.get_close_matches(key, _FOLDERS, n=1, cutoff=0.4)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"no bundled model is called {name!r}; there are {', '.join(_FOLDERS)}{hint}")
    return _HERE / _FOLDERS[key]


def patches() -> tuple[str, ...]:
    """The names of the learned patches: ``patch-<name of the model>``, for those models that have one."""
    found = (name for name in _FOLDERS if (_HERE / "patches" / name / "config.json").is_file())
    return tuple(f"{_PATCH}{name}" for name in found)


def patch_of(name: str) -> str:
    """The name of the patch that was learned on a bundled model.

    >>> patch_of("scenes-clip")
    'bundled:patch-scenes-clip'

    Args:
        name: One of `names`, with or without the ``bundled:`` in front.

    Returns:
        ``bundled:patch-<name>``, for `Prompter.from_pretrained`; empty if there is none.
    """
    key = f"{_PATCH}{name.removeprefix('bundled:')}"
    return f"bundled:{key}" if key in patches() else ""


def patch_path(name: str) -> Path:
    """The folder of a learned patch.

    Args:
        name: One of `patches`, with or without the ``bundled:`` in front.

    Returns:
        Its path.

    Raises:
        ValueError: There is no such patch; the message lists all of them.
    """
    key = name.removeprefix("bundled:")
    if key not in patches():
        raise ValueError(f"no bundled patch is called {name!r}; there are {', '.join(patches())}")
    return _HERE / "patches" / key.removeprefix(_PATCH)
