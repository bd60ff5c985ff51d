"""Short hashes: of what a value says, not of how it is held."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from visprompt.errors import InvalidInputError
from visprompt.utils.hashing import digest, file_digest, plain_value


def test_hashes_of_values_are_what_they_were() -> None:
    assert digest({"a": 1, "b": [2, "é"]}) == "472f942117488b5b"  # in folders of results, so it must stay
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest([1, 2]) != digest([2, 1])


def test_numbers_of_libraries_count_as_plain_ones() -> None:
    plain = digest({"x": 0.5, "y": [1, 2]})
    assert digest({"x": np.float64(0.5), "y": np.array([1, 2])}) == plain
    assert digest({"x": torch.tensor(0.5), "y": torch.tensor([1, 2])}) == plain
    assert digest({3, 1}) == digest([1, 3])
    assert plain_value(Path("a/b")) == str(Path("a/b"))


def test_files_are_hashed_one_after_the_other(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"ab")
    two.write_bytes(b"c" * (3 << 20))
    assert file_digest(one, two) == hashlib.sha256(b"ab" + b"c" * (3 << 20)).hexdigest()[:16]
    with pytest.raises(InvalidInputError, match=r"cannot read .*missing"):
        file_digest(one, tmp_path / "missing")
