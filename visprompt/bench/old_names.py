"""Functions and classes of 0.4.0 that `run_suite` and its result have taken the place of. They go with 0.6.0."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visprompt.bench.kind import ProgressCallback, RunContext
from visprompt.bench.pipeline import SuiteResult, run_suite
from visprompt.bench.suite import kind_of, load_suite
from visprompt.errors import InvalidInputError
from visprompt.utils.renamed import warn_replaced


class Listener(ProgressCallback):
    """The methods of `ProgressCallback` under their names of 0.4.0."""

    def row(self, text: str) -> None:
        """Which unit is at work."""

    def done(self, images: int) -> None:
        """How much was done since the last call."""

    def result(self, row: Mapping[str, Any]) -> None:
        """A finished unit."""

    def starts(self, title: str) -> None:
        self.row(title)

    def advanced(self, count: int) -> None:
        self.done(count)

    def finished(self, row: dict[str, Any]) -> None:
        self.result(row)


def run_gain(suite: Any, **options: Any) -> SuiteResult:
    """`run_suite` for a gain suite, with `markers` for `strategies`."""
    return _run("gain", suite, options, markers="strategies")


def run_tuning(suite: Any, **options: Any) -> SuiteResult:
    """`run_suite` for a tuning suite, with `model` for `models` and `methods` for `strategies`."""
    if "model" in options:
        options["model"] = None if options["model"] is None else [options["model"]]
    return _run("tuning", suite, options, model="models", methods="strategies")


def _run(kind: str, suite: Any, options: dict[str, Any], **renamed: str) -> SuiteResult:
    warn_replaced(f"run_{kind}", "visprompt.bench.run_suite", stacklevel=4)
    loaded = load_suite(suite) if isinstance(suite, str | Path) else suite
    if kind_of(loaded).name != kind:
        raise InvalidInputError(f"suite {loaded.name} is of another kind: visprompt.bench.run_suite runs any.")
    return run_suite(loaded, **{renamed.get(name, name): value for name, value in options.items()})


#: names of 0.4.0 in `visprompt.bench`
OLD_NAMES: dict[str, Any] = {"Bench": RunContext, "BenchResult": SuiteResult, "Listener": Listener}
GainBenchResult = TuningResult = SuiteResult
