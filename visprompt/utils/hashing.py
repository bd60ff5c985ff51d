"""Short hashes of values and of files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from visprompt.errors import InvalidInputError


def digest(value: Any) -> str:
    """Returns a hash of a JSON-serialisable value, the same in every process: 16 hexadecimal digits of SHA-256.

    The order of keys does not matter.

    >>> digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=plain_value)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(*paths: str | Path) -> str:
    """Returns the SHA-256 of the contents of files, as 16 hexadecimal digits.

    Raises:
        InvalidInputError: if a file cannot be read.
    """
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
    """Converts a value that JSON does not support: numpy and torch values, sets (sorted), others to text."""
    for method in ("tolist", "item"):
        if hasattr(value, method):
            return getattr(value, method)()
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)
