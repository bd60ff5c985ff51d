"""Doctests of the packages that lie outside of visprompt/: by path, a second copy of them would be imported."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import visprompt.benchmarks
import visprompt.strategies

MODULES = [
    f"{package.__name__}.{module.name}"
    for package in (visprompt.strategies, visprompt.benchmarks)
    for module in pkgutil.iter_modules(package.__path__)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
