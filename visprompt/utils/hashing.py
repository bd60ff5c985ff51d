"""Short hashes of values and of files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from visprompt.errors import InvalidInputError


def digest(value: Any) -> str:
    """A short hash of anything that can be written as JSON, the same in every process.

    >>> digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=plain_value)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(*paths: str | Path) -> str:
    """SHA-256 over the contents of files, 16 hexadecimal digits."""
    total = hashlib.sha256()
    for path in paths:
        try:
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    total.update(block)
        except OSError as error:
            raise InvalidInputError(f"cannot read {path}: {error.strerror or error}.") from error
    return total.hexdigest()[:16]


def plain_value(value: Any) -> Any:
    """What JSON writes for a value it does not know: numpy and torch numbers and arrays as plain ones, sets sorted."""
    for method in ("tolist", "item"):
        if hasattr(value, method):
            return getattr(value, method)()
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)
