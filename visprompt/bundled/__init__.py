"""The small models that ship with the package: where their folders are.

    >>> from visprompt import bundled
    >>> bundled.names()
    ('scenes-clip', 'scenes-clip-annotated', 'scenes-llava', 'scenes-mae')
    >>> bundled.path("scenes-clip").name
    'scenes_clip'

Each folder is a complete ``transformers`` checkpoint (weights, config, processor, model card, a tokenizer where there
is language), so ``CLIPModel.from_pretrained(bundled.path(name))`` works without a network, for scenes-llava
``AutoModelForImageTextToText``, for scenes-mae ``ViTMAEModel``. This module does not load anything.
"""

from __future__ import annotations

import difflib
from pathlib import Path

__all__ = ["names", "path"]

_FOLDERS = {
    "scenes-clip": "scenes_clip",
    "scenes-clip-annotated": "scenes_clip_annotated",
    "scenes-llava": "scenes_llava",
    "scenes-mae": "scenes_mae",
}


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
    return Path(__file__).resolve().parent / _FOLDERS[key]
