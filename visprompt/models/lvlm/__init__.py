"""Vision-language models: inputs, edits, layouts of image tokens, generation."""

from visprompt.models.lvlm.model import (
    LVLM,
    Size,
)

__all__ = ["LVLM", "Size"]
