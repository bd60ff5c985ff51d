"""The base class of tasks in which a model scores texts against regions."""

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
    """A task that is answered by scores of regions against texts."""

    #: True if the image without a prompt is scored as well
    needs_plain: ClassVar[bool] = False

    def regions(self, sample: ReferringImage) -> Boxes:
        """Returns the boxes to point at, `[k, 4]`, xyxy in pixels.

        Raises:
            TypeError: if the sub-class does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not define regions().")

    def texts(self, sample: ReferringImage) -> list[str]:
        """Returns the texts that the regions of an image are scored against.

        Raises:
            TypeError: if the sub-class does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not define texts().")

    def rows(self, sample: ReferringImage, scores: Scores, plain: Scores | None, condition: Condition) -> Iterable[Row]:
        """Makes the result rows of an image from its scores.

        Args:
            sample: the image.
            scores: `[k, len(texts(sample))]` logits; a region that cannot be pointed at has −inf everywhere.
            plain: the scores of the unprompted image, or None if they are not needed.
            condition: how the regions were pointed out.

        Returns:
            One row per item.

        Raises:
            TypeError: if the sub-class does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not define rows().")

    def asker(self, model: Any, condition: Condition, make_runner: RunnerFactory) -> Asker:
        return Scoring(self, model, condition, make_runner)


@renamed_in_methods(picture="sample", pictures="samples", pointing="condition")
@renamed_attributes(pointing="condition", ask_apart="evaluate_per_region", pointer="scorer")
class Scoring:
    """Scores the regions of images and makes result rows."""

    def __init__(self, task: ScoringTask, model: Any, condition: Condition, make_runner: RunnerFactory) -> None:
        self.task, self.scorer = task, Scorer(model, condition, make_runner)
        self.plain = Scorer(model, Condition("none", fit=condition.fit), make_runner) if task.needs_plain else None

    def ask(self, samples: Sequence[ReferringImage]) -> list[Row]:
        """Returns the rows of some images, scored in one call."""
        texts, boxes = self._texts(samples), [self.task.regions(sample) for sample in samples]
        return self._rows(samples, texts, boxes, self.scorer.score(samples, boxes, texts))

    def evaluate_per_region(self, sample: ReferringImage) -> tuple[list[Row], list[str]]:
        """Returns the rows of one image; regions that cannot be pointed at are never chosen."""
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
