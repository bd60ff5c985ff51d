"""Referring expression comprehension: which of the boxes does the expression refer to?

Every candidate is pointed out in turn, and the expression is scored against each prompted image; the candidate with the
highest score is the answer. It is right if it overlaps a gold box with IoU > 0.5 (ReCLIP,
https://arxiv.org/abs/2204.05991; FALIP, https://arxiv.org/abs/2407.05578).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from visprompt.data.referring.image import Boxes, ReferringImage, iou
from visprompt.errors import InvalidInputError, unknown_name
from visprompt.tasks.base import Row, pick, rounded, softmax
from visprompt.tasks.condition import Condition, Scores
from visprompt.tasks.scoring import ScoringTask
from visprompt.utils.renamed import renamed_in_methods

IOU_THRESHOLD = 0.5
Subtract = Literal["none", "negatives"]


@renamed_in_methods(picture="sample", pictures="samples", pointing="condition")
@dataclass(frozen=True)
class Referring(ScoringTask):
    """Chooses one of the candidate boxes for every referring expression.

    With `subtract="negatives"`, a region's score is `s(region, text) − w · mean of s(region, t)` over a fixed sample of
    other expressions t from the data. A region that has high scores with every text then has no advantage (Shtedritski
    et al., https://arxiv.org/abs/2304.06712, and FALIP's code do so). Subtracting the score of the unprompted image
    would have no effect, because it is the same for all candidates.

    Args:
        template: the text; `{}` stands for the lower-cased expression.
        boxes: `"gold"` or `"detector"`: origin of the candidates. It is recorded, because it changes results by 1 to 9
            points.
        subtract: as above.
        weight: w.
        num_negatives: number of expressions in the sample.
        seed: seed of the sample.
        negatives: the sample; filled in by `prepare`.

    Raises:
        InvalidInputError: for a template without `{}`, or numbers out of range.
    """

    name: ClassVar[str] = "referring"

    template: str = "a photo of {}"
    boxes: Literal["gold", "detector"] = "gold"
    subtract: Subtract = "none"
    weight: float = 1.0
    num_negatives: int = 100
    seed: int = 0
    negatives: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if "{}" not in self.template:
            raise InvalidInputError(f"template needs {{}} for the expression; got {self.template!r}.")
        if self.subtract not in get_args(Subtract):
            raise unknown_name("subtract", self.subtract, get_args(Subtract), "('unprompted' is for naming only.)")
        if self.boxes not in ("gold", "detector"):
            raise unknown_name("boxes", self.boxes, ("gold", "detector"))
        if self.num_negatives < 1:
            raise InvalidInputError(f"num_negatives must be at least 1; got {self.num_negatives}.")

    def prepare(self, samples: Sequence[ReferringImage]) -> Referring:
        """Returns a copy with the sample of other expressions, if `subtract` needs one."""
        if self.subtract == "none" or self.negatives:
            return self
        texts = sorted({self.prompt(one.text) for sample in samples for one in sample.expressions})
        order = np.random.default_rng(self.seed).permutation(len(texts))[: self.num_negatives]
        return dataclasses.replace(self, negatives=tuple(texts[number] for number in sorted(order)))

    def prompt(self, expression: str) -> str:
        """Returns the text that the model gets for an expression.

        >>> Referring().prompt("The red star")
        'a photo of the red star'
        """
        return self.template.replace("{}", expression.lower().strip())

    def questions(self, sample: ReferringImage) -> list[str]:
        return [one.id for one in sample.expressions]

    def regions(self, sample: ReferringImage) -> Boxes:
        return sample.candidates_xyxy

    def texts(self, sample: ReferringImage) -> list[str]:
        return [*(self.prompt(one.text) for one in sample.expressions), *self.negatives]

    def rows(self, sample: ReferringImage, scores: Scores, plain: Scores | None, condition: Condition) -> Iterable[Row]:
        count = len(sample.expressions)
        for number, expression in enumerate(sample.expressions):
            text = self.prompt(expression.text)
            column = scores[:, number]
            if self.negatives:
                others = [count + i for i, negative in enumerate(self.negatives) if negative != text]
                if others:
                    # −inf (cannot be pointed at) stays −inf
                    usual = np.where(np.isneginf(column), 0.0, scores[:, others].mean(axis=1))
                    column = column - self.weight * usual
            yield self._row(sample, number, text, column, condition)

    def chance(self, sample: ReferringImage) -> list[float]:
        return [
            float(_hits(sample.candidates_xyxy, one.gold_xyxy).mean()) if len(sample.candidates_xyxy) else 0.0
            for one in sample.expressions
        ]

    def _row(self, sample: ReferringImage, number: int, text: str, scores: Scores, condition: Condition) -> Row:
        expression = sample.expressions[number]
        row: Row = {"id": expression.id, "image": sample.image_name, "text": expression.text, "prompt": text}
        candidates = sample.candidates_xyxy
        if not len(candidates):  # the detector found no box, so no answer is right
            return {**row, "probs": [], "pred": None, "box": None, "bboxes": [], "correct": False, "gold_index": None}
        answer = pick(scores, condition.rng(expression.id))
        overlap = iou(candidates, expression.gold_xyxy).max(axis=1)
        best = int(overlap.argmax())
        return {
            **row,
            "probs": rounded(softmax(scores)),
            "scores": rounded(scores, 4),
            "pred": answer,
            "box": rounded(candidates[answer], 2),
            "bboxes": [rounded(box, 2) for box in candidates],
            "correct": bool(overlap[answer] > IOU_THRESHOLD),
            "gold_index": best if overlap[best] > IOU_THRESHOLD else None,
            "iou": round(float(overlap[answer]), 4),
        }


def _hits(candidates: Boxes, gold: Boxes) -> Scores:
    return np.asarray(iou(candidates, gold).max(axis=1) > IOU_THRESHOLD, dtype=np.float64)
