"""Learned tokens with a note beside every checkpoint, written for visprompt 0.4.0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from visprompt.saving import write_whole
from visprompt.strategies.vpt import Vpt
from visprompt.training.classification import Classification
from visprompt.training.objective import Objective


class Counted(Classification):
    """Classification that counts how often its pictures are asked for."""

    asked = 0

    def pictures(self, split: Any, **options: bool) -> Any:
        type(self).asked += 1
        return super().pictures(split, **options)


class Glow(Vpt):
    """VPT that writes a note of what it has learned."""

    def objective(self, model: Any, data: Any) -> type[Objective]:
        return Counted

    def sketch(self, folder: Path, number: int = 0) -> None:
        write_whole(folder / f"{number}-glow.txt", ", ".join(sorted(self.state())).encode())
