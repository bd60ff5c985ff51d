"""Reader of referring expressions in ReCLIP's `.jsonl` files, which FALIP uses too (`refcoco_testa.jsonl`, …).

Each line is a JSON object for one *ref*: `file_name` (with the annotation's id appended), `image_id`, `ann_id`,
`sentences: [{raw}]`, `anns: [{id, bbox (xywh), segmentation}]`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from visprompt.data.referring.image import (
    Boxes,
    Expression,
    ReferringImage,
    grouped,
    report_dropped,
    report_undetected,
    usable_xyxy,
    xyxy_from_xywh,
)
from visprompt.errors import InvalidInputError
from visprompt.utils.renamed import renamed_names

# COCO_train2014_000000581857_16.jpg: refer appends the annotation's id to the image's file name.
_GLUED = re.compile(r"^(COCO_[A-Za-z]+\d{4}_\d{12})_\d+$")


def read_reclip(
    path: str | Path,
    images: str | Path | None = None,
    detections: Mapping[str, Boxes] | None = None,
    *,
    problems: list[str] | None = None,
) -> list[ReferringImage]:
    """Reads a ReCLIP `.jsonl` file.

    Annotated boxes without an area and crowds (`iscrowd`) are no candidates, unless an expression refers to them.

    Args:
        path: the file.
        images: folder of the images. No image is opened here; a missing one becomes an error of its own items when a
            task opens it.
        detections: candidate boxes by image id, from `read_detections`; None: the annotated boxes are the candidates.
        problems: list to which a sentence is appended for what was left out or is missing; None: warn instead.

    Returns:
        One `ReferringImage` per image, in the order of the file.

    Raises:
        InvalidInputError: for a file that is missing or not in the format above (the message names file and line), and
            if the detector's file has none of the images.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} should be a .jsonl file, but it is not UTF-8 text: {error}.") from error
    folder = Path(images) if images is not None else Path()
    found = []
    dropped: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{path.name}, line {number}"
            sample, left_out = _image(where, number, line, folder, detections)
            found.append(sample)
            if left_out:
                dropped[sample.id] = left_out
    if not found:
        raise InvalidInputError(f"{path} has no entries.")
    report_dropped(problems, path, sum(dropped.values()), f"on image {next(iter(dropped), '')}")
    if detections is not None:
        report_undetected(problems, path, (sample.id for sample in found), detections)
    return grouped(found)


def _image(
    where: str, line_number: int, line: str, folder: Path, detections: Mapping[str, Boxes] | None
) -> tuple[ReferringImage, int]:
    """Returns the image of one line with its expressions, and the number of its annotated boxes without an area."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"{where}: not JSON: {error}. Is the file cut off?") from error
    if not isinstance(entry, dict):
        raise InvalidInputError(f"{where}: expected an object, got {type(entry).__name__}.")
    missing = [key for key in ("file_name", "ann_id", "sentences", "anns") if key not in entry]
    if missing:
        raise InvalidInputError(f"{where}: no {', '.join(missing)}; it has {', '.join(sorted(entry))}.")
    wanted = gold_ids(entry["ann_id"])
    try:
        ids = [str(ann["id"]) for ann in entry["anns"]]
        boxes = [(ann["bbox"], str(ann["id"]) in wanted, bool(ann.get("iscrowd"))) for ann in entry["anns"]]
        texts = [str(sentence.get("raw", sentence.get("sent", ""))).strip() for sentence in entry["sentences"]]
    except (TypeError, KeyError, AttributeError) as error:
        raise InvalidInputError(f"{where}: anns need id and bbox, sentences need raw ({error!r}).") from error
    gold = xyxy_from_xywh((box for box, is_gold, _ in boxes if is_gold), where)
    if not len(gold):
        raise InvalidInputError(f"{where}: ann_id {entry['ann_id']!r} is not among the anns ({', '.join(ids[:8])}).")
    image_id = str(entry.get("image_id", ""))
    name = image_name(str(entry["file_name"]), wanted)
    dropped = 0
    if detections is None:
        candidates, kept = usable_xyxy((box for box, is_gold, crowd in boxes if is_gold or not crowd), where)
        dropped = int((~kept).sum())
    else:
        candidates = detections.get(image_id or name, np.zeros((0, 4)))
    # Two lines can be about one annotation, and files need not have ref_id: only the line's number tells them apart.
    ref = f"{'/'.join(sorted(wanted))}/line{line_number}"
    expressions = tuple(
        Expression(f"{image_id or name}/{ref}/{number}", text, gold) for number, text in enumerate(texts) if text
    )
    return ReferringImage(image_id or name, folder / name, candidates, expressions), dropped


def gold_ids(ann_id: Any) -> frozenset[str]:
    """Returns the annotation ids that count as right; files have a number, a string, or a list of either.

    >>> sorted(gold_ids([3, "4"]))
    ['3', '4']
    """
    return frozenset(str(one) for one in ann_id) if isinstance(ann_id, list | tuple) else frozenset({str(ann_id)})


def image_name(file_name: str, ann_ids: frozenset[str] = frozenset()) -> str:
    """Returns an image's file name without the annotation id that refer appends to it.

    >>> image_name("COCO_train2014_000000581857_16.jpg")
    'COCO_train2014_000000581857.jpg'
    >>> image_name("COCO_train2014_000000581857.jpg")
    'COCO_train2014_000000581857.jpg'

    Args:
        file_name: the name as written in the annotation file.
        ann_ids: annotation ids that may be appended; COCO's names are recognised without them.
    """
    stem, dot, suffix = file_name.rpartition(".")
    glued = _GLUED.match(stem)
    if glued:
        return glued.group(1) + dot + suffix
    head, underscore, tail = stem.rpartition("_")
    return head + dot + suffix if underscore and tail in ann_ids else file_name


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"picture_name": "image_name"}, globals())
