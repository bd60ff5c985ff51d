"""Files that a run writes: checked before anything is computed, replaced in one step."""

from __future__ import annotations

import os
from pathlib import Path

from visprompt.errors import InvalidInputError


def require_folder(path: str | Path) -> Path:
    """Makes sure, before anything is computed, that files can be written into a folder; it need not be there yet.

    Raises:
        InvalidInputError: if it, or a part of its path, is a file, or may not be written.
    """
    path = Path(path)
    try:
        there = next(one for one in (path, *path.absolute().parents) if one.exists())
        usable = there.is_dir()
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"cannot write into {path}: {getattr(error, 'strerror', None) or error}.") from error
    if not usable:
        raise InvalidInputError(f"cannot write into {path}: {there} is a file and not a folder.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InvalidInputError(f"cannot write into {path}: permission denied.")
    return path


def require_file(path: str | Path, option: str) -> Path:
    """Makes sure, before anything is computed, that a file can be written; it and its folder need not be there yet.

    Args:
        path: the file.
        option: what it was given with, for the message.

    Raises:
        InvalidInputError: if it is a folder, or cannot be written.
    """
    path = Path(path)
    try:
        require_folder(path.parent)
    except InvalidInputError as error:
        raise InvalidInputError(f"{option} {path}: {error}") from None
    if path.is_dir():
        raise InvalidInputError(f"{option} {path} is a folder: give the name of a file in it.")
    if path.exists() and not os.access(path, os.W_OK):
        raise InvalidInputError(f"{option} {path} cannot be written: permission denied.")
    return path


def write_text(path: str | Path, text: str) -> None:
    """Replaces a file in one step, its folder made if it is not there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
