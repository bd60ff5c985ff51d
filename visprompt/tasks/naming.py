"""Naming: one object is pointed out; which of all the names is it?

Ranking the boxes of one picture is easy to get right for the wrong reason (any hint towards one of four boxes wins).
Picking one of 64 names, with other objects in view, needs the model to see the region and nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from visprompt.data.referring.image import Boxes, ReferringPicture, iou
from visprompt.errors import InvalidInputError, unknown_name
from visprompt.tasks.base import Row, pick, rounded, softmax
from visprompt.tasks.condition import Pointing, Scores
from visprompt.tasks.scoring import ScoringTask

Subtract = Literal["none", "unprompted"]
_SHOWN = 5


@dataclass(frozen=True)
class Naming(ScoringTask):
    """Names the object that the first expression of a picture is about.

    With `subtract="unprompted"`, a name's score becomes `s(prompted, name) − w · s(plain picture, name)`: what counts
    is how much pointing raised it.

    Args:
        template: the prompt; `{}` stands for a name.
        labels: the names to choose from; by default all names that occur in the data.
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
        """The plain picture is scored too if it is subtracted."""
        return self.subtract == "unprompted"

    def prepare(self, pictures: Sequence[ReferringPicture]) -> Naming:
        unnamed = next((picture for picture in pictures if len(picture.names) != len(picture.candidates_xyxy)), None)
        if unnamed is not None:
            raise InvalidInputError(
                f"naming needs candidates with names, and those of picture {unnamed.id} have none: "
                "detector boxes and ReCLIP files do not name them; scenes and refer's instances.json do."
            )
        if self.labels:
            return self
        return dataclasses.replace(self, labels=tuple(sorted({name for picture in pictures for name in picture.names})))

    def questions(self, picture: ReferringPicture) -> list[str]:
        return [picture.expressions[0].id]

    def regions(self, picture: ReferringPicture) -> Boxes:
        return picture.candidates_xyxy[[self._marked(picture)]]

    def texts(self, picture: ReferringPicture) -> list[str]:
        return [self.template.replace("{}", label) for label in self.labels]

    def rows(
        self, picture: ReferringPicture, scores: Scores, plain: Scores | None, pointing: Pointing
    ) -> Iterable[Row]:
        values = scores[0] if plain is None else scores[0] - self.weight * plain[0]
        item, marked = picture.expressions[0].id, self._marked(picture)
        yield named_row(picture, item, marked, self.labels, values, pointing.rng(item))

    def chance(self, picture: ReferringPicture) -> list[float]:
        return [1.0 / max(len(self.labels), 1)]

    def _marked(self, picture: ReferringPicture) -> int:
        return int(iou(picture.candidates_xyxy, picture.expressions[0].gold_xyxy).max(axis=1).argmax())


def named_row(
    picture: Any, item: str, marked: int, labels: Sequence[str], values: Scores, rng: np.random.Generator
) -> Row:
    """The row of one thing that was to be named.

    Args:
        picture: with `candidates_xyxy` and `names`.
        item: its id.
        marked: which candidate it is.
        labels: the names to choose from.
        values: their scores.
        rng: breaks ties.
    """
    answer = pick(values, rng)
    order = np.argsort(-values, kind="stable")
    probs = softmax(values)
    return {
        "id": item,
        "image": picture.image_name,
        "text": picture.names[marked],
        "answer": labels[answer],
        "box": rounded(picture.candidates_xyxy[marked], 2),
        "bboxes": [rounded(box, 2) for box in picture.candidates_xyxy],
        "pred": answer,
        "correct": labels[answer] == picture.names[marked],
        "gold_index": marked,
        "in_picture": labels[answer] in picture.names,
        "top": [[labels[i], round(float(probs[i]), 5)] for i in order[:_SHOWN]],
    }
