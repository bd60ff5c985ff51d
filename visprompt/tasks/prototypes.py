"""Prompters that are built once and copied for every run."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visprompt.prompter import Prompter

_LOCKS: dict[type[Any], Any] = {type(make()): make for make in (threading.Lock, threading.RLock)}


def copy_of(member: Prompter | None) -> Prompter | None:
    """Returns a copy of a prompter with its own state; options are shared, because they never change."""
    memo: dict[int, Any] = {}
    for part in [] if member is None else _parts(member):
        memo[id(part.options)] = part.options
        for value in vars(part).values():
            if type(value) in _LOCKS:  # a lock cannot be copied, so the copy gets a new one
                memo[id(value)] = _LOCKS[type(value)]()
    return copy.deepcopy(member, memo)


def _parts(member: Prompter) -> Iterator[Prompter]:
    """Yields a prompter and all prompters that it is composed of."""
    yield member
    inner = getattr(member, "inner", None)
    for part in (*getattr(member, "parts", ()), *getattr(member, "members", ()), *(() if inner is None else (inner,))):
        yield from _parts(part)


def saved_files(strategy: str) -> tuple[tuple[str, int, int], ...]:
    """Returns the files of the saved strategies in a name.

    Args:
        strategy: names and folders, joined with `+` and `|`.

    Returns:
        Path, time of change in nanoseconds and size in bytes of every file.
    """
    found = []
    for name in {strategy, *re.split(r"[+|]", strategy)}:
        folder = Path(name.strip())
        if name.strip() and folder.is_dir():
            found += [(str(file), (stat := file.stat()).st_mtime_ns, stat.st_size) for file in folder.iterdir()]
    return tuple(sorted(found))
