"""Caches the text embeddings of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from visprompt.models.base import Model

#: number of texts per forward
_AT_ONCE = 256


class TextEmbeddings:
    """Embeds texts, each once as long as the model's weights do not change.

    Args:
        model: a model with a text tower.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._found: dict[str, Tensor] = {}
        self._version: tuple[int, ...] = ()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Embeds texts.

        Args:
            texts: t texts.

        Returns:
            `[t, d]`, in the order of the texts.

        Raises:
            UnsupportedError: for a model without a text tower.
        """
        parameters = list(self.model.module.parameters())
        # Tensors made in inference mode cannot change and have no version counter.
        version = tuple(0 if item.is_inference() else item._version for item in parameters)
        if version != self._version:
            self._found.clear()
            self._version = version
        fresh = [text for text in dict.fromkeys(texts) if text not in self._found]
        for start in range(0, len(fresh), _AT_ONCE):
            part = fresh[start : start + _AT_ONCE]
            self._found.update(zip(part, self.model.embed_text(part), strict=True))
        return torch.stack([self._found[text] for text in texts])
