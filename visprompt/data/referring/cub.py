"""Reader of the bird parts in CUB-200-2011 (Wah et al., http://www.vision.caltech.edu/datasets/cub_200_2011/).

It expects a folder with `images.txt`, `train_test_split.txt`, `image_class_labels.txt`, `bounding_boxes.txt`,
`parts/parts.txt`, `parts/part_locs.txt` (`image_id part_id x y visible`) and the images in `images/`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from visprompt.data.referring.image import report_problem
from visprompt.data.referring.keypoints import PointedImage
from visprompt.errors import InvalidInputError, unknown_name

SPLITS: dict[str, int | None] = {"train": 1, "test": 0, "all": None}
#: files that are read, as paths in the folder
FILES = (
    "images.txt",
    "train_test_split.txt",
    "image_class_labels.txt",
    "bounding_boxes.txt",
    "parts/parts.txt",
    "parts/part_locs.txt",
)
_SIDES = ("left ", "right ")


def read_cub(
    where: str | Path,
    split: str = "test",
    images: str | Path | None = None,
    *,
    merge_sides: bool = False,
    problems: list[str] | None = None,
) -> list[PointedImage]:
    """Reads the visible parts of every bird as named points.

    Args:
        where: the folder `CUB_200_2011`.
        split: "train" or "test" (the authors' split, from `train_test_split.txt`), or "all".
        images: folder of the images; None: the folder `images` in `where`. No image is opened here; a missing one
            becomes an error of its own items when a task opens it.
        merge_sides: True: "left eye" and "right eye" are both called "eye", and likewise legs and wings. This leaves 12
            of the 15 part names.
        problems: list to which a sentence is appended for what was left out; None: warn instead.

    Returns:
        One `PointedImage` for every bird with a visible part, in the order of `images.txt`. Points are pixels of the
            original image; `extra` has `class` (the class number, from 1) and `bird_xyxy` (the bird's box in pixels).

    Raises:
        UnknownNameError: for a split that does not exist.
        InvalidInputError: for a file that is missing or not in the format above; the message names file and line.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    root = Path(where).expanduser()
    if not root.is_dir():
        raise InvalidInputError(f"there is no folder {root}: expected CUB_200_2011, with images.txt in it.")
    folder = root / "images" if images is None else Path(images)
    paths = _by_number(root / "images.txt", 1, lambda fields: fields[0])
    training = _by_number(root / "train_test_split.txt", 1, lambda fields: _flag(fields[0]), paths)
    classes = _by_number(root / "image_class_labels.txt", 1, lambda fields: _whole(fields[0]), paths)
    birds = _by_number(root / "bounding_boxes.txt", 4, _bird, paths)
    parts = _by_number(root / "parts" / "parts.txt", None, " ".join)
    names = {number: _without_side(name) if merge_sides else name for number, name in parts.items()}
    visible = _visible(root / "parts" / "part_locs.txt", paths, parts)
    wanted = SPLITS[split]
    chosen = [number for number in paths if wanted is None or training[number] == wanted]
    if not chosen:
        raise InvalidInputError(f"{root / 'train_test_split.txt'}: not one image is of split {split!r}.")
    found = [
        PointedImage(
            str(number),
            folder / paths[number],
            np.array([xy for _, xy in seen], dtype=np.float64),
            tuple(names[part] for part, _ in seen),
            tuple(f"{number}/{parts[part]}" for part, _ in seen),
            extra={"class": classes[number], "bird_xyxy": birds[number]},
        )
        for number in chosen
        if (seen := visible.get(number))
    ]
    if not found:
        raise InvalidInputError(f"{root / 'parts' / 'part_locs.txt'}: no part is visible in any image of {split!r}.")
    if len(found) < len(chosen):
        report_problem(problems, f"{root}: {len(chosen) - len(found)} of {len(chosen)} birds have no visible part.")
    return found


def _visible(
    path: Path, samples: dict[int, str], parts: dict[int, str]
) -> dict[int, list[tuple[int, tuple[float, float]]]]:
    """Returns the visible parts of every image: image number → list of (part number, (x, y) in pixels)."""
    found: dict[int, list[tuple[int, tuple[float, float]]]] = {}
    seen: set[tuple[int, int]] = set()
    for line, fields in _lines(path, 5):
        where = f"{path}, line {line}"
        try:
            sample, part, x, y, shown = int(fields[0]), int(fields[1]), *map(float, fields[2:4]), _flag(fields[4])
        except ValueError:
            raise _wrong(where, "image_id part_id x y visible (0 or 1)", fields) from None
        if sample not in samples:
            raise InvalidInputError(f"{where}: image {sample} is not in images.txt.")
        if part not in parts:
            raise InvalidInputError(f"{where}: part {part} is not in parts.txt, which has {_few(parts)}.")
        if (sample, part) in seen:
            raise InvalidInputError(f"{where}: part {part} of image {sample} stands in the file twice.")
        seen.add((sample, part))
        if shown:
            if not (math.isfinite(x) and math.isfinite(y)):
                raise _wrong(where, "finite coordinates in pixels", fields)
            found.setdefault(sample, []).append((part, (x, y)))
    return found


def _by_number(
    path: Path, count: int | None, read: Callable[[list[str]], Any], known: dict[int, str] | None = None
) -> dict[int, Any]:
    """Reads a file with lines `number field …`.

    Args:
        path: the file.
        count: number of fields after the number; None: one or more.
        read: turns the fields into a value; it raises ValueError if they are not in the expected format.
        known: image numbers that must all occur, and no others; None: any numbers.

    Returns:
        The value of every line by its number.
    """
    found: dict[int, Any] = {}
    for line, fields in _lines(path, None if count is None else count + 1):
        where = f"{path}, line {line}"
        try:
            number, value = int(fields[0]), read(fields[1:])
        except ValueError:
            raise _wrong(where, _LAYOUTS[path.name], fields) from None
        if number in found:
            raise InvalidInputError(f"{where}: number {number} stands in the file twice.")
        if known is not None and number not in known:
            raise InvalidInputError(f"{where}: image {number} is not in images.txt.")
        found[number] = value
    missing = [number for number in known or {} if number not in found]
    if missing:
        raise InvalidInputError(
            f"{path} has no line for {len(missing)} of the {len(known or {})} images of images.txt, the first: "
            f"{missing[0]}. Is the file cut off?"
        )
    return found


_LAYOUTS = {
    "images.txt": "image_id path",
    "train_test_split.txt": "image_id is_training_image (0 or 1)",
    "image_class_labels.txt": "image_id class_id",
    "bounding_boxes.txt": "image_id x y width height, with an area",
    "parts.txt": "part_id name",
}


def _lines(path: Path, count: int | None) -> Iterator[tuple[int, list[str]]]:
    """Yields line number and fields of every line that is not empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(
            f"cannot read {path}: {error.strerror or error}. Expected a folder CUB_200_2011 as it is published."
        ) from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} should be text, but it is not UTF-8: {error}.") from error
    empty = True
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != count if count is not None else len(fields) < 2:
            expected = _LAYOUTS.get(path.name, "image_id part_id x y visible (0 or 1)")
            raise _wrong(f"{path}, line {number}", expected, fields)
        empty = False
        yield number, fields
    if empty:
        raise InvalidInputError(f"{path} is empty.")


def _wrong(where: str, expected: str, fields: list[str]) -> InvalidInputError:
    return InvalidInputError(f"{where}: expected {expected}; got {' '.join(fields)[:60]!r}.")


def _flag(text: str) -> int:
    if text not in ("0", "1"):
        raise ValueError(text)
    return int(text)


def _whole(text: str) -> int:
    return int(text)


def _bird(fields: list[str]) -> tuple[float, float, float, float]:
    """Turns the texts x, y, width, height into a box xyxy."""
    x, y, width, height = map(float, fields)
    if not all(map(math.isfinite, (x, y, width, height))) or width <= 0 or height <= 0:
        raise ValueError(fields)
    return (x, y, x + width, y + height)


def _without_side(name: str) -> str:
    """Returns a part's name without "left" or "right".

    >>> _without_side("left eye"), _without_side("tail")
    ('eye', 'tail')
    """
    return next((name.removeprefix(side) for side in _SIDES if name.startswith(side)), name)


def _few(parts: dict[int, str]) -> str:
    return f"{min(parts)} to {max(parts)}" if parts else "none"
