"""Images with referring expressions, the one form that every reader gives and every task takes.

Coordinates are pixels of the original image, boxes are xyxy. Nothing here knows about models or strategies, and no
image is opened: a path stays a path until a task asks for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visprompt.errors import InvalidInputError
from visprompt.regions.shapes import Box, Xyxy
from visprompt.utils.renamed import renamed_names, renamed_parameters

if TYPE_CHECKING:
    from PIL.Image import Image

Boxes = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Expression:
    """What somebody said about one thing in an image.

    Attributes:
        id: unique within the data set.
        text: the expression as written, for example "the red star on the left".
        gold_xyxy: `[g, 4]` boxes of which hitting any one counts as right; most often one.
    """

    id: str
    text: str
    gold_xyxy: Boxes


@dataclass(frozen=True, eq=False)
class ReferringImage:
    """An image, the boxes to choose from, and the expressions that were said about it.

    Attributes:
        id: unique within the data set; statistics treat one image as one draw.
        image: path, or the image itself (PIL, or RGB array).
        candidates_xyxy: `[k, 4]` boxes to choose from, gold or from a detector.
        expressions: at least one.
        names: the category of every candidate, or empty where they have none (detector boxes).
    """

    id: str
    image: Path | Image | NDArray[np.uint8]
    candidates_xyxy: Boxes
    expressions: tuple[Expression, ...]
    names: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def region(self, xyxy: Xyxy) -> Box:
        """What a strategy is given for a box."""
        return Box(*xyxy)

    @property
    def image_name(self) -> str:
        """The file name, or the id of an image that has none."""
        return self.image.name if isinstance(self.image, Path) else self.id


def xyxy_from_xywh(boxes: Iterable[Sequence[float]], where: str) -> Boxes:
    """COCO's `[x, y, width, height]` as `[n, 4]` corners.

    >>> xyxy_from_xywh([[10, 20, 5, 4]], "an example").tolist()
    [[10.0, 20.0, 15.0, 24.0]]

    Raises:
        InvalidInputError: for boxes that are not four finite numbers with positive width and height.
    """
    array = _xywh(boxes, where)
    bad = ~_has_area(array)
    if bad.any():
        raise InvalidInputError(
            f"{where}: box {_short(array[bad][0].tolist())} has no area, or a number that is not finite."
        )
    return _corners(array)


def usable_xyxy(boxes: Iterable[Sequence[float]], where: str) -> tuple[Boxes, NDArray[np.bool_]]:
    """Corners of the boxes that have an area, and which those are: candidates, of which annotators make a few without.

    >>> boxes, kept = usable_xyxy([[10, 20, 5, 4], [3, 3, 0, 2]], "an example")
    >>> boxes.tolist(), kept.tolist()
    ([[10.0, 20.0, 15.0, 24.0]], [True, False])

    Raises:
        InvalidInputError: for boxes that are not four numbers.
    """
    array = _xywh(boxes, where)
    kept = _has_area(array)
    return _corners(array[kept]), kept


def tell(problems: list[str] | None, message: str) -> None:
    """Says what a reader left out: to those who collect it, or as a warning."""
    if problems is None:
        warnings.warn(message, UserWarning, stacklevel=3)
    else:
        problems.append(message)


def report_dropped(problems: list[str] | None, path: str | Path, dropped: int, first: str) -> None:
    """One sentence for all candidates without an area; none if there were none."""
    if dropped:
        boxes = "1 candidate box has" if dropped == 1 else f"{dropped} candidate boxes have"
        tell(problems, f"{path}: {boxes} no area, or a number that is not finite, and left out; the first: {first}.")


def report_undetected(
    problems: list[str] | None, path: str | Path, images: Iterable[str], detections: Mapping[str, Boxes]
) -> None:
    """Compares the images of a data set with those of a detector's file.

    Raises:
        InvalidInputError: if the detector's file knows none of the images, so that every answer would be wrong.
    """
    wanted = list(dict.fromkeys(images))
    if not any(image in detections for image in wanted):
        theirs = ", ".join(list(detections)[:3]) or "none at all"
        raise InvalidInputError(
            f"the detector's file has boxes for none of the {len(wanted)} images of {path}: image ids there are "
            f"{', '.join(wanted[:3])}, …, and the detector's are {theirs}. Do the two belong together?"
        )
    without = [image for image in wanted if not len(detections.get(image, ()))]
    if without:
        tell(
            problems,
            f"{path}: {len(without)} of {len(wanted)} images have no detections, so every answer on them counts as "
            f"wrong; the first: {without[0]}.",
        )


def iou(first_xyxy: Boxes, second_xyxy: Boxes) -> Boxes:
    """Intersection over union of every pair of boxes.

    Args:
        first_xyxy: `[n, 4]`.
        second_xyxy: `[m, 4]`.

    Returns:
        `[n, m]` numbers in [0, 1].

    >>> iou(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2], [5, 5, 6, 6]])).round(3).tolist()
    [[0.333, 0.0]]
    """
    low = np.maximum(first_xyxy[:, None, :2], second_xyxy[None, :, :2])
    high = np.minimum(first_xyxy[:, None, 2:], second_xyxy[None, :, 2:])
    shared = np.clip(high - low, 0.0, None).prod(axis=-1)
    area_first = (first_xyxy[:, 2:] - first_xyxy[:, :2]).prod(axis=-1)
    area_second = (second_xyxy[:, 2:] - second_xyxy[:, :2]).prod(axis=-1)
    return np.asarray(shared / (area_first[:, None] + area_second[None, :] - shared))


@renamed_parameters(pictures="samples")
def grouped(samples: Iterable[ReferringImage]) -> list[ReferringImage]:
    """Puts the expressions on one image with the same candidates together, first seen first.

    Annotation files have one entry per object; together, an image is opened once and its regions share their prefix.
    """
    groups: dict[tuple[str, bytes], ReferringImage] = {}
    for sample in samples:
        key = (sample.id, sample.candidates_xyxy.tobytes())
        seen = groups.get(key)
        if seen is None:
            groups[key] = sample
        else:
            expressions = seen.expressions + sample.expressions
            groups[key] = ReferringImage(seen.id, seen.image, seen.candidates_xyxy, expressions, seen.names, seen.extra)
    return list(groups.values())


def _xywh(boxes: Iterable[Sequence[float]], where: str) -> Boxes:
    rows = list(boxes)
    if not rows:
        return np.zeros((0, 4))
    try:
        array = np.asarray(rows, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{where}: a box is [x, y, width, height]; got {_short(rows)}.") from error
    if array.ndim != 2 or array.shape[1] != 4:
        raise InvalidInputError(f"{where}: a box is [x, y, width, height]; got {_short(rows)}.")
    return array


def _has_area(xywh: Boxes) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(xywh).all(axis=1) & (xywh[:, 2:] > 0).all(axis=1))


def _corners(xywh: Boxes) -> Boxes:
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"ReferringPicture": "ReferringImage"}, globals())
