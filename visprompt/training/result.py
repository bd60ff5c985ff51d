"""The result of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Fitted:
    """The metrics and counts of a training run.

    Args:
        metric: name of the metric that chooses on the validation split ("accuracy", "miou", "loss").
        validation: validation metrics of the weights that were kept, by name; empty without a validation split.
        test: metrics on the test split, measured once at the end; empty without one.
        best_epoch: the epoch (from 1) whose weights were kept; 0: the untrained weights.
        epochs: epochs that were run.
        stopped_early: whether `patience` ended the run.
        parameters: numbers of trained parameters, by part ("prompt", "head").
        history: one dict per evaluation, as in metrics.jsonl.
        sweep: one dict per setting that was tried, best first; empty without a sweep.
    """

    metric: str
    validation: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    epochs: int = 0
    stopped_early: bool = False
    parameters: dict[str, int] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    sweep: list[dict[str, Any]] = field(default_factory=list)
