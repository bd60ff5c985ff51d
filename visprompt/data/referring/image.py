"""Images with referring expressions: the data type that all readers return and all referring tasks take.

Coordinates are pixels of the original image, boxes are xyxy. This module imports no models or strategies and opens no
image: a path stays a path until a task opens it.
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
    """A referring expression and the box of the object that it refers to.

    Attributes:
        id: unique within the data set.
        text: the expression as written, for example "the red star on the left".
        gold_xyxy: `[g, 4]` gold boxes, usually one. An answer that overlaps any of them counts as right.
    """

    id: str
    text: str
    gold_xyxy: Boxes


@dataclass(frozen=True, eq=False)
class ReferringImage:
    """An image, the candidate boxes, and the referring expressions about it.

    Attributes:
        id: unique within the data set; confidence intervals treat each image as one independent draw.
        image: path, or the image itself (PIL, or RGB array `[h, w, 3]`).
        candidates_xyxy: `[k, 4]` boxes to choose from, annotated or from a detector.
        expressions: the referring expressions, at least one.
        names: the category of every candidate; empty if the boxes have no categories (detector boxes).
        extra: further annotations of the data set, by name.
    """

    id: str
    image: Path | Image | NDArray[np.uint8]
    candidates_xyxy: Boxes
    expressions: tuple[Expression, ...]
    names: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def region(self, xyxy: Xyxy) -> Box:
        """Returns the region that a strategy gets for a candidate box."""
        return Box(*xyxy)

    @property
    def image_name(self) -> str:
        """The image's file name, or `id` if the image is not a file."""
        return self.image.name if isinstance(self.image, Path) else self.id


def xyxy_from_xywh(boxes: Iterable[Sequence[float]], where: str) -> Boxes:
    """Converts COCO boxes `[x, y, width, height]` to `[n, 4]` boxes xyxy.

    >>> xyxy_from_xywh([[10, 20, 5, 4]], "an example").tolist()
    [[10.0, 20.0, 15.0, 24.0]]

    Args:
        boxes: n boxes in pixels.
        where: file and entry, for error messages.

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
    """Converts boxes `[x, y, width, height]` to xyxy and leaves out those without an area.

    Published annotations contain a few boxes of width or height 0; they cannot be candidates.

    >>> boxes, kept = usable_xyxy([[10, 20, 5, 4], [3, 3, 0, 2]], "an example")
    >>> boxes.tolist(), kept.tolist()
    ([[10.0, 20.0, 15.0, 24.0]], [True, False])

    Args:
        boxes: n boxes in pixels.
        where: file and entry, for error messages.

    Returns:
        The usable boxes `[k, 4]`, xyxy, and a boolean array `[n]` that is true for the boxes kept.

    Raises:
        InvalidInputError: for boxes that are not four numbers.
    """
    array = _xywh(boxes, where)
    kept = _has_area(array)
    return _corners(array[kept]), kept


def report_problem(problems: list[str] | None, message: str) -> None:
    """Reports what a reader left out: appends the message to `problems`, or warns if `problems` is None."""
    if problems is None:
        warnings.warn(message, UserWarning, stacklevel=3)
    else:
        problems.append(message)


def report_dropped(problems: list[str] | None, path: str | Path, dropped: int, first: str) -> None:
    """Reports how many candidate boxes without an area were left out, in one sentence; nothing if there were none.

    Args:
        problems: list that the sentence is appended to; None: warn instead.
        path: the file with the boxes.
        dropped: number of boxes left out.
        first: description of the first of them.
    """
    if dropped:
        boxes = "1 candidate box has" if dropped == 1 else f"{dropped} candidate boxes have"
        report_problem(
            problems, f"{path}: {boxes} no area, or a number that is not finite, and left out; the first: {first}."
        )


def report_undetected(
    problems: list[str] | None, path: str | Path, images: Iterable[str], detections: Mapping[str, Boxes]
) -> None:
    """Reports the images of a data set that the detector's file has no boxes for.

    Args:
        problems: list that the sentence is appended to; None: warn instead.
        path: the data set's file.
        images: ids of all images of the data set.
        detections: the detector's boxes by image id.

    Raises:
        InvalidInputError: if the detector's file has none of the images, so that every answer would be wrong.
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
        report_problem(
            problems,
            f"{path}: {len(without)} of {len(wanted)} images have no detections, so every answer on them counts as "
            f"wrong; the first: {without[0]}.",
        )


def iou(first_xyxy: Boxes, second_xyxy: Boxes) -> Boxes:
    """Computes the intersection over union of every pair of boxes.

    Args:
        first_xyxy: `[n, 4]` boxes in pixels.
        second_xyxy: `[m, 4]` boxes in pixels.

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
    """Merges entries that have the same image and the same candidates, in the order of their first occurrence.

    Annotation files have one entry per object. After merging, an image is opened once and its regions are encoded
    together.

    Args:
        samples: images, each with the expressions of one entry.

    Returns:
        One `ReferringImage` per image and set of candidates, with all its expressions.
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


#: names of visprompt 0.4.0, which work with a DeprecationWarning
__getattr__ = renamed_names(__name__, {"ReferringPicture": "ReferringImage", "tell": "report_problem"}, globals())
