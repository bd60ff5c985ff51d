"""Prompts that are learned: the base class, baselines, and the patches that ship."""

from visprompt.learned.strategy import (
    Learned,
    learned_parts,
)

__all__ = ["Learned", "learned_parts"]
