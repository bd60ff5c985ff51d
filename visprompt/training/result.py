"""What a training run gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Fitted:
    """What was measured while a prompt was learned.

    Args:
        metric: the figure that validation chose by ("accuracy", "miou", "loss").
        validation: figures on validation of the weights that were kept; empty without validation.
        test: figures on the test split, measured once at the end; empty without one.
        best_epoch: the epoch (from 1) whose weights were kept; 0: the untrained ones.
        epochs: how many were run.
        stopped_early: True if patience ran out.
        parameters: numbers that were trained, by part ("prompt", "head").
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
