"""Writing files: checks before a computation starts, and replacement in one step."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from visprompt.errors import InvalidInputError


def require_folder(path: str | Path) -> Path:
    """Checks that files can be written into a folder, which need not exist yet.

    Call it before a long computation.

    Raises:
        InvalidInputError: if the folder or a part of its path is a file, or is not writable.
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
    """Checks that a file can be written; the file and its folder need not exist yet.

    Args:
        path: the file.
        option: name of the command-line option, for the message.

    Raises:
        InvalidInputError: if the path is a folder, or cannot be written.
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


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Gives a new file to write into, which replaces `path` when the block ends; missing folders are created.

    A reader of `path` sees the old content or the new one, never a part, also after a crash: the new content is on the
    disk before the old one is replaced. Permissions follow the umask. After an error the old file stays and the new one
    is deleted.

    Args:
        path: the file to replace.

    Yields:
        The path of an empty file, for the caller to write.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A unique name, because several processes may write the same file; opened by name, so that the umask applies.
    partial = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with open(partial, "xb"):
            pass
        yield partial
        sync(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_bytes(path: str | Path, content: bytes) -> None:
    """Replaces a file in one step, as `replacing` does, with bytes."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    """Replaces a file in one step, as `replacing` does, with text in UTF-8; line ends are kept."""
    write_bytes(path, text.encode())


def sync(path: str | Path) -> None:
    """Waits until the content of a file is written to the disk."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
