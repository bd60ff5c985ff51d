"""Runs strategies on models: batches, progress, answers and attention maps."""

from visprompt.runner.batching import S, T
from visprompt.runner.progress import PATIENCE_SECONDS
from visprompt.runner.runner import FIRST_BATCH, Runner

__all__ = ["FIRST_BATCH", "PATIENCE_SECONDS", "Runner", "S", "T"]
