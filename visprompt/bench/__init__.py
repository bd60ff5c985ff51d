"""Benchmarks: suites of any kind, run and reported.

>>> from visprompt.bench import list_suites, run_suite
>>> "scenes" in list_suites()
True
>>> result = run_suite("scenes", limit=100, out="runs/first")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

from visprompt.bench.kind import ProgressCallback
from visprompt.bench.pipeline import SuiteResult, run_suite
from visprompt.bench.suite import list_suites, load_published, load_suite
from visprompt.utils.renamed import warn_replaced

__all__ = ["ProgressCallback", "SuiteResult", "list_suites", "load_published", "load_suite", "run_suite"]


def __getattr__(name: str) -> Any:
    from visprompt.bench.old_names import OLD_NAMES

    if name not in OLD_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    new = OLD_NAMES[name].__name__
    warn_replaced(f"visprompt.bench.{name}", new)
    return OLD_NAMES[name]
