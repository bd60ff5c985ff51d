"""Saving a strategy: to a folder, and to the Hugging Face hub."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visprompt.persistence.prompt_files import CARD, SavedPart, push_prompt, write_prompt
from visprompt.registry import Strategy
from visprompt.utils.files import write_text

if TYPE_CHECKING:
    from torch import Tensor


class SaveableStrategy(Strategy):
    """The methods of a strategy that write it and give back its saved state."""

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Writes the strategy to a folder: `config.json` (strategy, options, version); for a learned strategy also
        `prompt.safetensors` and a model card.

        Args:
            path: the folder; it is created if it does not exist.
        """
        write_prompt(path, [part.saved() for part in self._saved_parts()], self._write_card)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the files of `save_pretrained` to the Hugging Face hub.

        Args:
            repo_id: "user/name".
            **options: `private`, `token`, `branch`, `commit_message`, …, as in huggingface_hub.

        Returns:
            Its address.
        """
        return push_prompt(self.save_pretrained, self._card, repo_id, **options)

    def saved(self) -> SavedPart:
        """The record that `save_pretrained` writes.

        Returns:
            Name and options; of a learned strategy also its tensors.
        """
        return SavedPart(self.name, dataclasses.asdict(self.options))

    def restore(self, state: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
        """Loads what `saved` returned besides name and options. Strategies that learn override it; others have nothing
        to load.

        Args:
            state: tensors by name.
            content: the other items of the strategy's entry in `config.json`.
        """

    def learned_parts(self) -> list[Any]:
        """The learned strategies that this one consists of, itself or parts of it.

        Returns:
            In the order in which they are applied; empty if it learns nothing.
        """
        return []

    def _saved_parts(self) -> tuple[SaveableStrategy, ...]:
        return (self,)

    def _card(self) -> str:
        from visprompt.persistence.model_card import card

        whole: Any = self  # a `Prompter`, which this module does not import
        return card(whole)

    def _write_card(self, folder: Path) -> None:
        """Writes the model card, and the images of what was learned."""
        write_text(folder / CARD, self._card())
        for number, part in enumerate(self.learned_parts()):
            part.sketch(folder, number)
