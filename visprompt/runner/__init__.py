"""The runner joins a model and a prompter."""

from visprompt.runner.runner import (
    FIRST_BATCH,
    PATIENCE_SECONDS,
    Runner,
    S,
    T,
)

__all__ = ["FIRST_BATCH", "PATIENCE_SECONDS", "Runner", "S", "T"]
