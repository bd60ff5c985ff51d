"""Reader of detector boxes in the file formats of ReCLIP and of works that build on it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from visprompt.data.referring.image import Boxes, report_dropped, usable_xyxy
from visprompt.errors import InvalidInputError


def read_detections(
    path: str | Path, min_score: float | None = None, *, problems: list[str] | None = None
) -> dict[str, Boxes]:
    """Reads `{split}_dets_dict.json`, in either of its two layouts.

    The layouts are `{image_id: [[x, y, w, h], …]}`, and a list of `{"image_id": …, "box": [x, y, w, h]}`. In a list,
    COCO's key `bbox` is read as well as `box`. Boxes without an area are left out.

    Args:
        path: the JSON file.
        min_score: lowest `score` of a box that is kept, in the list layout; a box without a score is kept. None: all.
        problems: list to which a sentence is appended for what was left out; None: warn instead.

    Returns:
        For every image id (a string, as JSON keys are) its boxes `[n, 4]`, xyxy in pixels of the original image.

    Raises:
        InvalidInputError: for a file that is missing, not JSON, or in neither layout.
    """
    content = load_json(path, "a detector file")
    found: dict[str, list[Any]] = {}
    if isinstance(content, dict):
        for image_id, boxes in content.items():
            if not isinstance(boxes, list):
                raise _neither(path, f"{image_id!r} holds {type(boxes).__name__}")
            found[str(image_id)] = boxes
    elif isinstance(content, list):
        for number, entry in enumerate(content):
            box = entry.get("box", entry.get("bbox")) if isinstance(entry, dict) else None
            if box is None or "image_id" not in entry:
                raise _neither(path, f"entry {number} is {str(entry)[:60]!r}")
            boxes = found.setdefault(str(entry["image_id"]), [])
            if min_score is None or _score(entry, f"{path}, entry {number}") >= min_score:
                boxes.append(box)
    else:
        raise _neither(path, f"the file holds {type(content).__name__}")
    usable: dict[str, Boxes] = {}
    dropped, first = 0, ""
    for image_id, boxes in found.items():
        usable[image_id], kept = usable_xyxy(boxes, f"{path}, image {image_id}")
        if not kept.all():
            first = first or f"image {image_id}, {boxes[int(kept.argmin())]}"
            dropped += int((~kept).sum())
    report_dropped(problems, path, dropped, first)
    return usable


def load_json(path: str | Path, what: str) -> Any:
    """Reads a JSON file.

    Args:
        path: the file.
        what: description of the file for error messages, for example "a detector file".

    Returns:
        The content as Python objects.

    Raises:
        InvalidInputError: if the file is missing, unreadable or not JSON.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except OSError as error:
        raise InvalidInputError(f"cannot read {what}: {path}: {error.strerror or error}.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} should be {what}, but it is not JSON: {error}.") from error


def _score(entry: dict[str, Any], where: str) -> float:
    value = entry.get("score", 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InvalidInputError(f"{where}: score should be a number, to be compared with min_score; got {value!r:.60}.")
    return float(value)


def _neither(path: str | Path, came: str) -> InvalidInputError:
    return InvalidInputError(
        f"{path}: a detector file is {{image_id: [[x, y, w, h], …]}} or a list of {{image_id, box}}; here {came}."
    )
