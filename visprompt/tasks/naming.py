"""Naming: which of all the names is the object that is pointed out?

Ranking the few boxes of one image can succeed for the wrong reason, because any hint towards one of four boxes is
enough. Choosing one of 64 names, with other objects in view, requires that the model attends to the region.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from visprompt.data.referring.image import Boxes, ReferringImage, iou
from visprompt.errors import InvalidInputError, unknown_name
from visprompt.tasks.base import Row, pick, rounded, softmax
from visprompt.tasks.condition import Condition, Scores
from visprompt.tasks.scoring import ScoringTask
from visprompt.utils.renamed import renamed_in_methods

Subtract = Literal["none", "unprompted"]
_SHOWN = 5


@renamed_in_methods(picture="sample", pictures="samples", pointing="condition")
@dataclass(frozen=True)
class Naming(ScoringTask):
    """Names the object that the first expression of an image refers to.

    With `subtract="unprompted"`, a name's score is `s(prompted, name) − w · s(plain image, name)`: the increase that
    the prompt causes.

    Args:
        template: the text; `{}` stands for a name.
        labels: names to choose from; by default all names that occur in the data.
        subtract: as above.
        weight: w.

    Raises:
        InvalidInputError: for a template without `{}`, or data whose candidates have no names.
    """

    name: ClassVar[str] = "naming"

    template: str = "a photo of a {}"
    labels: tuple[str, ...] = ()
    subtract: Subtract = "none"
    weight: float = 1.0

    def __post_init__(self) -> None:
        if "{}" not in self.template:
            raise InvalidInputError(f"template needs {{}} for the name; got {self.template!r}.")
        if self.subtract not in get_args(Subtract):
            raise unknown_name("subtract", self.subtract, get_args(Subtract), "('negatives' is for referring only.)")
        object.__setattr__(self, "labels", tuple(self.labels))

    @property
    def needs_plain(self) -> bool:  # type: ignore[override]
        """True if the plain image is scored too, because its score is subtracted."""
        return self.subtract == "unprompted"

    def prepare(self, samples: Sequence[ReferringImage]) -> Naming:
        """Returns a copy whose labels are the names that occur in the data, unless labels were given.

        Raises:
            InvalidInputError: for images whose candidates have no names.
        """
        unnamed = next((sample for sample in samples if len(sample.names) != len(sample.candidates_xyxy)), None)
        if unnamed is not None:
            raise InvalidInputError(
                f"naming needs candidates with names, and those of image {unnamed.id} have none: "
                "detector boxes and ReCLIP files do not name them; scenes and refer's instances.json do."
            )
        if self.labels:
            return self
        return dataclasses.replace(self, labels=tuple(sorted({name for sample in samples for name in sample.names})))

    def questions(self, sample: ReferringImage) -> list[str]:
        return [sample.expressions[0].id]

    def regions(self, sample: ReferringImage) -> Boxes:
        return sample.candidates_xyxy[[self._marked(sample)]]

    def texts(self, sample: ReferringImage) -> list[str]:
        return [self.template.replace("{}", label) for label in self.labels]

    def rows(self, sample: ReferringImage, scores: Scores, plain: Scores | None, condition: Condition) -> Iterable[Row]:
        values = scores[0] if plain is None else scores[0] - self.weight * plain[0]
        item, marked = sample.expressions[0].id, self._marked(sample)
        yield named_row(sample, item, marked, self.labels, values, condition.rng(item))

    def chance(self, sample: ReferringImage) -> list[float]:
        return [1.0 / max(len(self.labels), 1)]

    def _marked(self, sample: ReferringImage) -> int:
        return int(iou(sample.candidates_xyxy, sample.expressions[0].gold_xyxy).max(axis=1).argmax())


def named_row(
    sample: Any, item: str, marked: int, labels: Sequence[str], values: Scores, rng: np.random.Generator
) -> Row:
    """Returns the row of one named object.

    Args:
        sample: the image, with `candidates_xyxy` and `names`.
        item: id of the item.
        marked: index of the candidate that was pointed out.
        labels: names to choose from.
        values: scores of the labels, `[len(labels)]`.
        rng: breaks ties.
    """
    answer = pick(values, rng)
    order = np.argsort(-values, kind="stable")
    probs = softmax(values)
    return {
        "id": item,
        "image": sample.image_name,
        "text": sample.names[marked],
        "answer": labels[answer],
        "box": rounded(sample.candidates_xyxy[marked], 2),
        "bboxes": [rounded(box, 2) for box in sample.candidates_xyxy],
        "pred": answer,
        "correct": labels[answer] == sample.names[marked],
        "gold_index": marked,
        "in_image": labels[answer] in sample.names,
        "top": [[labels[i], round(float(probs[i]), 5)] for i in order[:_SHOWN]],
    }
