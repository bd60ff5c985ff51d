"""Tasks in which a model scores texts against regions: what they have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from visprompt.data.referring.image import Boxes, ReferringImage
from visprompt.tasks.base import Asker, Row, Task
from visprompt.tasks.condition import Condition, RunnerFactory, Scorer, Scores
from visprompt.utils.renamed import renamed_attributes, renamed_in_methods


@renamed_in_methods(picture="sample", pictures="samples", pointing="condition")
@dataclass(frozen=True)
class ScoringTask(Task):
    """A task that is answered by scores: regions × texts."""

    #: True if the score of the image without a prompt is needed as well
    needs_plain: ClassVar[bool] = False

    def regions(self, sample: ReferringImage) -> Boxes:
        """`[k, 4]` boxes to be pointed at."""
        raise TypeError(f"{type(self).__name__} does not define regions().")

    def texts(self, sample: ReferringImage) -> list[str]:
        """The texts that the regions are scored against."""
        raise TypeError(f"{type(self).__name__} does not define texts().")

    def rows(self, sample: ReferringImage, scores: Scores, plain: Scores | None, condition: Condition) -> Iterable[Row]:
        """One row per item, from `[k, len(texts(image))]` scores; `plain` are those of the unprompted image.

        A region that cannot be pointed at has −inf everywhere.
        """
        raise TypeError(f"{type(self).__name__} does not define rows().")

    def asker(self, model: Any, condition: Condition, make_runner: RunnerFactory) -> Asker:
        return Scoring(self, model, condition, make_runner)


@renamed_in_methods(picture="sample", pictures="samples", pointing="condition")
@renamed_attributes(pointing="condition", ask_apart="evaluate_per_region", pointer="scorer")
class Scoring:
    """Scores the regions of images, and makes rows of it."""

    def __init__(self, task: ScoringTask, model: Any, condition: Condition, make_runner: RunnerFactory) -> None:
        self.task, self.scorer = task, Scorer(model, condition, make_runner)
        self.plain = Scorer(model, Condition("none", fit=condition.fit), make_runner) if task.needs_plain else None

    def ask(self, samples: Sequence[ReferringImage]) -> list[Row]:
        """The rows of some images, scored in one call."""
        texts, boxes = self._texts(samples), [self.task.regions(sample) for sample in samples]
        return self._rows(samples, texts, boxes, self.scorer.score(samples, boxes, texts))

    def evaluate_per_region(self, sample: ReferringImage) -> tuple[list[Row], list[str]]:
        """The rows of one image, whose regions that cannot be pointed at are never chosen."""
        texts, boxes = self._texts([sample]), self.task.regions(sample)
        scores, why = self.scorer.score_per_region(sample, boxes, texts)
        lost = np.flatnonzero(np.isneginf(scores).all(axis=1)).tolist()
        note = {"unpointable": lost, "unpointable_why": why} if lost else {}
        rows = [{**row, **note} for row in self._rows([sample], texts, [boxes], [scores])]
        return rows, [why for _ in rows if lost and len(lost) == len(boxes)]

    def _texts(self, samples: Sequence[ReferringImage]) -> list[str]:
        return list(dict.fromkeys(text for sample in samples for text in self.task.texts(sample)))

    def _rows(
        self,
        samples: Sequence[ReferringImage],
        texts: list[str],
        boxes: Sequence[Boxes],
        scores: Sequence[Scores],
    ) -> list[Row]:
        column = {text: number for number, text in enumerate(texts)}
        base: Sequence[Scores | None] = [None] * len(samples)
        if self.plain is not None:
            base = self.plain.score(samples, boxes, texts)
        rows: list[Row] = []
        for sample, one, unprompted in zip(samples, scores, base, strict=True):
            own = [column[text] for text in self.task.texts(sample)]
            plain = None if unprompted is None else unprompted[:, own]
            rows += self.task.rows(sample, one[:, own], plain, self.scorer.condition)
        return rows
