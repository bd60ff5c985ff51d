"""Prompters that are made once and copied for every run."""

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
    """A copy with a state of its own; options are never changed, and shared."""
    memo: dict[int, Any] = {}
    for part in [] if member is None else _parts(member):
        memo[id(part.options)] = part.options
        for value in vars(part).values():
            if type(value) in _LOCKS:  # a lock cannot be copied; a free one of the same kind does
                memo[id(value)] = _LOCKS[type(value)]()
    return copy.deepcopy(member, memo)


def _parts(member: Prompter) -> Iterator[Prompter]:
    """A prompter and all that are joined in it."""
    yield member
    inner = getattr(member, "inner", None)
    for part in (*getattr(member, "parts", ()), *getattr(member, "members", ()), *(() if inner is None else (inner,))):
        yield from _parts(part)


def saved_files(strategy: str) -> tuple[tuple[str, int, int], ...]:
    """The files of the saved strategies in a name, each with its time of change in nanoseconds and its size in bytes.

    Args:
        strategy: names and folders, joined with `+` and `|`.
    """
    found = []
    for name in {strategy, *re.split(r"[+|]", strategy)}:
        folder = Path(name.strip())
        if name.strip() and folder.is_dir():
            found += [(str(file), (stat := file.stat()).st_mtime_ns, stat.st_size) for file in folder.iterdir()]
    return tuple(sorted(found))
