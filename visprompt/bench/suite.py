"""Loading suites, and the kinds that there are."""

from __future__ import annotations

from typing import Any

from visprompt.bench.accuracy import AccuracyKind
from visprompt.bench.accuracy.spec import list_suites, load_published, load_suite, parse_suite
from visprompt.bench.gain import GainKind
from visprompt.bench.kind import Kind
from visprompt.bench.tuning import TuningKind

__all__ = ["KINDS", "kind_of", "list_suites", "load_published", "load_suite", "parse_suite"]

#: every kind of suite, by the name that a suite's file gives in `kind:`
KINDS: dict[str, Kind] = {one.name: one for one in (AccuracyKind(), TuningKind(), GainKind())}


def kind_of(suite: Any) -> Kind:
    """The kind of a parsed suite.

    Raises:
        TypeError: if it is no suite.
    """
    for kind in KINDS.values():
        if isinstance(suite, kind.suite_type):
            return kind
    raise TypeError(f"{type(suite).__name__} is no parsed suite.")
