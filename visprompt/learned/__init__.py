"""Learned prompts: the base class, baselines, and the learned patches in the package."""

from visprompt.learned.strategy import (
    Learned,
    learned_parts,
)

__all__ = ["Learned", "learned_parts"]
