"""Keypoint naming: which part or object is at a marked point?

It is zero-shot, with texts such as "the beak of a bird": every point of an image is pointed out separately, and the
name whose text has the highest score is the answer (Rezaei et al., https://arxiv.org/abs/2406.03303, on CUB-200-2011).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from visprompt.data.referring.image import Boxes
from visprompt.data.referring.keypoints import PointedImage
from visprompt.errors import InvalidInputError, unknown_name
from visprompt.tasks.base import Row
from visprompt.tasks.condition import Condition, Scores
from visprompt.tasks.naming import Naming, named_row
from visprompt.utils.renamed import renamed_in_methods, renamed_value

Among = Literal["all", "image"]


@renamed_in_methods(picture="sample", pictures="samples", pointing="condition")
@dataclass(frozen=True)
class Keypoints(Naming):
    """Names the part or object at every point of an image.

    A point has no size. Strategies that need one (circles, crops, attention on patches) use the default disc of
    `visprompt.Point`, whose radius is 5 % of the image's shorter side, so the region is the same for all strategies.

    Args:
        template: the text; `{}` stands for a name.
        labels: names to choose from; by default all that occur in the data.
        subtract: "unprompted" subtracts the score of the plain image, as in `Naming`.
        weight: factor of the subtracted score.
        among: "all": the answer is one of the labels; "image": one of those that occur in the image, so that only their
            assignment to the points is tested. (Its name in visprompt 0.4.0, "picture", is accepted for one release.)

    Raises:
        InvalidInputError: for a template without `{}`, data without points, or names outside the labels.
    """

    name: ClassVar[str] = "keypoints"

    among: Among = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "among", renamed_value(self.among, {"picture": "image"}, "keypoints: among"))
        if self.among not in get_args(Among):
            raise unknown_name("among", self.among, get_args(Among))

    def prepare(self, samples: Sequence[Any]) -> Keypoints:
        """Returns a copy whose labels are the names that occur in the data, unless labels were given.

        Raises:
            InvalidInputError: for images without points, or names outside the labels.
        """
        other = next((sample for sample in samples if not isinstance(sample, PointedImage)), None)
        if other is not None:
            raise InvalidInputError(
                f"keypoints needs images with points, and image {other.id} has none: the data sources "
                "scenes-points and cub have them; boxes are for the tasks naming and referring."
            )
        named = {name for sample in samples for name in (*sample.names, *sample.choices)}
        if not self.labels:
            return dataclasses.replace(self, labels=tuple(sorted(named)))
        missing = sorted(named - set(self.labels))
        if missing:
            raise InvalidInputError(f"{missing[0]!r} occurs in the data and is none of the {len(self.labels)} labels.")
        return self

    def questions(self, sample: Any) -> list[str]:
        return list(sample.ids)

    def regions(self, sample: Any) -> Boxes:
        """Returns `[k, 4]` squares around the points' discs, xyxy in pixels."""
        found: Boxes = sample.candidates_xyxy
        return found

    def rows(self, sample: Any, scores: Scores, plain: Scores | None, condition: Condition) -> Iterable[Row]:
        labels = self._labels(sample)
        columns = [self.labels.index(label) for label in labels]
        for number, item in enumerate(sample.ids):
            values = scores[number] if plain is None else scores[number] - self.weight * plain[number]
            row = named_row(sample, item, number, labels, values[columns], condition.rng(item))
            point = {"point_xy": [round(float(value), 2) for value in sample.points_xy[number]]}
            kind = {"kind": sample.kinds[number]} if sample.kinds else {}
            yield {**row, "in_image": row["answer"] in (sample.choices or sample.names), **point, **kind}

    def chance(self, sample: Any) -> list[float]:
        labels = self._labels(sample)
        return [1.0 / max(len(labels), 1)] * len(sample.ids)

    def _labels(self, sample: PointedImage) -> tuple[str, ...]:
        """Returns the names to choose from for an image's points, in a fixed order."""
        if self.among == "all":
            return self.labels
        return tuple(sorted(set(sample.choices or sample.names)))
