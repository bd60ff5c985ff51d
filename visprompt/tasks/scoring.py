"""Tasks in which a model scores texts against regions: what they have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from visprompt.data.referring.image import Boxes, ReferringPicture
from visprompt.tasks.base import Asker, Row, Task
from visprompt.tasks.condition import Pointer, Pointing, RunnerFactory, Scores


@dataclass(frozen=True)
class ScoringTask(Task):
    """A task that is answered by scores: regions × texts."""

    #: True if the score of the picture without a prompt is needed as well
    needs_plain: ClassVar[bool] = False

    def regions(self, picture: ReferringPicture) -> Boxes:
        """`[k, 4]` boxes to be pointed at."""
        raise TypeError(f"{type(self).__name__} does not define regions().")

    def texts(self, picture: ReferringPicture) -> list[str]:
        """The texts that the regions are scored against."""
        raise TypeError(f"{type(self).__name__} does not define texts().")

    def rows(
        self, picture: ReferringPicture, scores: Scores, plain: Scores | None, pointing: Pointing
    ) -> Iterable[Row]:
        """One row per item, from `[k, len(texts(picture))]` scores; `plain` are those of the unprompted picture.

        A region that cannot be pointed at has −inf everywhere.
        """
        raise TypeError(f"{type(self).__name__} does not define rows().")

    def asker(self, model: Any, pointing: Pointing, make_runner: RunnerFactory) -> Asker:
        return Scoring(self, model, pointing, make_runner)


class Scoring:
    """Scores the regions of pictures, and makes rows of it."""

    def __init__(self, task: ScoringTask, model: Any, pointing: Pointing, make_runner: RunnerFactory) -> None:
        self.task, self.pointer = task, Pointer(model, pointing, make_runner)
        self.plain = Pointer(model, Pointing("none", fit=pointing.fit), make_runner) if task.needs_plain else None

    def ask(self, pictures: Sequence[ReferringPicture]) -> list[Row]:
        """The rows of some pictures, scored in one call."""
        texts, boxes = self._texts(pictures), [self.task.regions(picture) for picture in pictures]
        return self._rows(pictures, texts, boxes, self.pointer.score(pictures, boxes, texts))

    def ask_apart(self, picture: ReferringPicture) -> tuple[list[Row], list[str]]:
        """The rows of one picture, whose regions that cannot be pointed at are never chosen."""
        texts, boxes = self._texts([picture]), self.task.regions(picture)
        scores, why = self.pointer.score_apart(picture, boxes, texts)
        lost = np.flatnonzero(np.isneginf(scores).all(axis=1)).tolist()
        note = {"unpointable": lost, "unpointable_why": why} if lost else {}
        rows = [{**row, **note} for row in self._rows([picture], texts, [boxes], [scores])]
        return rows, [why for _ in rows if lost and len(lost) == len(boxes)]

    def _texts(self, pictures: Sequence[ReferringPicture]) -> list[str]:
        return list(dict.fromkeys(text for picture in pictures for text in self.task.texts(picture)))

    def _rows(
        self,
        pictures: Sequence[ReferringPicture],
        texts: list[str],
        boxes: Sequence[Boxes],
        scores: Sequence[Scores],
    ) -> list[Row]:
        column = {text: number for number, text in enumerate(texts)}
        base: Sequence[Scores | None] = [None] * len(pictures)
        if self.plain is not None:
            base = self.plain.score(pictures, boxes, texts)
        rows: list[Row] = []
        for picture, one, unprompted in zip(pictures, scores, base, strict=True):
            own = [column[text] for text in self.task.texts(picture)]
            plain = None if unprompted is None else unprompted[:, own]
            rows += self.task.rows(picture, one[:, own], plain, self.pointer.pointing)
        return rows
