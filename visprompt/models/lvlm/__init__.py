"""Vision-language models of transformers: inputs, edits, layouts of image tokens, generation."""

from visprompt.models.lvlm.model import (
    LVLM,
    Size,
)

__all__ = ["LVLM", "Size"]
