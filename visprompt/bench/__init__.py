"""Benchmarks: suites of models, tasks and ways of prompting, run side by side and reported."""

from visprompt.bench.accuracy.run import (
    Bench,
    BenchResult,
    Listener,
    list_suites,
    load_published,
    load_suite,
    run_suite,
)

__all__ = ["Bench", "BenchResult", "Listener", "list_suites", "load_published", "load_suite", "run_suite"]
