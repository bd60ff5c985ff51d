"""Objectives of training: one module per kind of data."""

from visprompt.training.objectives.select import (
    objective_for,
)

__all__ = ["objective_for"]
