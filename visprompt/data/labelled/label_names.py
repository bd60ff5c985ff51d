"""What readers of labelled data share: classes out of the labels that files have, and paths out of their texts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from visprompt.data.labelled.items import IGNORED_FILES, IMAGE_SUFFIXES
from visprompt.data.questions.question import read_json, read_text
from visprompt.errors import InvalidInputError, unknown_name
from visprompt.utils.renamed import renamed_names

#: names of classes: a list, or a text file with one a line, or a JSON list
Names: TypeAlias = "str | os.PathLike[str] | Sequence[str] | int | None"

_WHOLE = re.compile(r"[+-]?\d+(\.0+)?")
#: how the parts of a data set are called by those who make them
PARTS: dict[str, str] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def class_names(names: Names, where: str) -> tuple[str, ...] | None:
    """The names that somebody gave: a list, a file, or how many; None if none were given.

    >>> class_names(3, "an example")
    ('class 1', 'class 2', 'class 3')

    Raises:
        InvalidInputError: for a file without names, or something else.
    """
    if names is None:
        return None
    if isinstance(names, int) and not isinstance(names, bool):
        if names < 1:
            raise InvalidInputError(f"{where}: {names} classes are too few.")
        return tuple(f"class {number}" for number in range(1, names + 1))
    if isinstance(names, str) and names.strip().isdigit():
        return class_names(int(names), where)
    if isinstance(names, str | os.PathLike):
        path = Path(names)
        content = read_json(path) if path.suffix.lower() == ".json" else read_text(path).splitlines()
        if isinstance(content, Mapping):
            raise InvalidInputError(f"{path}: names of classes are a list in the order of their numbers, no object.")
        names = content
    if not isinstance(names, Sequence) or not all(isinstance(one, str) for one in names):
        raise InvalidInputError(
            f"{where}: classes are a list of names, a file with one a line, or their number; got {names!r:.60}."
        )
    found = tuple(name for one in names if (name := one.strip()))
    if not found:
        raise InvalidInputError(f"{where}: no names of classes.")
    return found


def numbered(values: Iterable[Any], names: Names, where: str) -> tuple[dict[Any, int], tuple[str, ...]]:
    """Numbers from 0 for the labels that occur anywhere in a data set, and the names of the classes.

    Labels that are whole numbers are sorted as numbers and others as texts, so that the numbers are the same however
    the items are ordered; gaps close. With names, whole numbers are positions in them, from 0 or, if 0 does not occur
    and the last one does, from 1.

    >>> numbered(["10", "9", "9"], None, "an example")
    ({'9': 0, '10': 1}, ('9', '10'))
    >>> numbered(["dog"], ["cat", "dog"], "an example")
    ({'dog': 1}, ('cat', 'dog'))

    Raises:
        InvalidInputError: for labels that are neither, numbers mixed with names, or labels that are none of the names.
    """
    distinct = list(dict.fromkeys(values))
    for value in distinct:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise InvalidInputError(
                f"{where}: a label is the name or number of one class; got {value!r:.60} ({type(value).__name__})."
            )
    whole = {value: number for value in distinct if (number := _whole(value)) is not None}
    known = class_names(names, where)
    if known is not None:
        return _positions(distinct, whole, known, where), known
    if whole and len(whole) < len(distinct):
        other = next(value for value in distinct if value not in whole)
        if any(isinstance(value, int) for value in distinct):
            number = next(iter(whole))
            raise InvalidInputError(
                f"{where}: labels mix numbers and names: {number!r} and {other!r}; use one of them."
            )
        whole = {}
    if whole:
        ordered: list[Any] = sorted(set(whole.values()))
        places = {number: place for place, number in enumerate(ordered)}
        by_number = sorted(distinct, key=lambda value: whole[value])
        return {value: places[whole[value]] for value in by_number}, tuple(map(str, ordered))
    ordered = sorted(distinct)
    return {value: place for place, value in enumerate(ordered)}, tuple(ordered)


def _positions(distinct: list[Any], whole: dict[Any, int], names: tuple[str, ...], where: str) -> dict[Any, int]:
    by_name = {name: place for place, name in enumerate(names)}
    if all(str(value) in by_name for value in distinct):
        return {value: by_name[str(value)] for value in distinct}
    if len(whole) < len(distinct):
        value = next(value for value in distinct if str(value) not in by_name and value not in whole)
        raise unknown_name(f"class (in {where})", value, names)
    first = 1 if min(whole.values()) == 1 and max(whole.values()) == len(names) else 0
    for value, number in whole.items():
        if not first <= number < len(names) + first:
            raise InvalidInputError(
                f"{where}: label {value!r} is none of the {len(names)} classes, {first} to {len(names) - 1 + first}."
            )
    return {value: number - first for value, number in whole.items()}


def _whole(value: Any) -> int | None:
    # pandas writes 3.0 where a column of numbers once had a gap
    if isinstance(value, int):
        return value
    text = value.strip()
    return int(text.partition(".")[0]) if _WHOLE.fullmatch(text) else None


def image_path(text: Any, folder: Path, where: str) -> Path:
    """The path that a line of a file names, below `folder` unless it is absolute. It is not opened.

    Backslashes of Windows become slashes where a file of that very name does not exist.

    Raises:
        InvalidInputError: if it is empty, no text, or a web address.
    """
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise InvalidInputError(f"{where}: an image is a file name; got {text!r:.60}.")
    name = text.strip()
    if re.match(r"(https?|s3|gs)://", name, re.IGNORECASE):
        raise InvalidInputError(f"{where}: {name!r} is a web address; download the images and give their paths.")
    path = folder / name
    if "\\" in name and os.sep == "/" and not path.exists():
        path = folder / name.replace("\\", "/")
    return path


def require_some(paths: Sequence[str | Path], where: str, advice: str) -> None:
    """Makes sure that not all of the first images are missing: then it is the folder that is wrong.

    Raises:
        InvalidInputError: naming the first path, and `advice`.
    """
    first = paths[:20]
    if first and not any(os.path.exists(path) for path in first):
        count = "none of the images" if len(first) == len(paths) else f"none of the first {len(first)} images"
        raise InvalidInputError(f"{where}: {count} exists, for example {str(first[0])!r}. {advice}")


def require_directory(where: str | Path, what: str) -> Path:
    """The folder of a data set.

    Raises:
        InvalidInputError: if there is none.
    """
    path = Path(where)
    if not path.exists():
        raise InvalidInputError(f"there is no folder {str(path)!r}; {what}.")
    if not path.is_dir():
        raise InvalidInputError(f"{str(path)!r} is a file; {what}.")
    return path


def part_of(text: Any, where: str) -> str:
    """ "train", "validation" or "test", from what a file calls it.

    Raises:
        InvalidInputError: for another word.
    """
    found = PARTS.get(str(text).strip().casefold())
    if found is None:
        raise InvalidInputError(f"{where}: a split is train, validation (val, valid, dev) or test; got {text!r:.40}.")
    return found


def is_ignored(name: str) -> bool:
    """True for what file managers leave behind."""
    return name.startswith(".") or name.casefold() in IGNORED_FILES


def is_image(name: str) -> bool:
    """True if a file's ending is that of an image, in letters of any case."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def walk(folder: str | Path, seen: Callable[[str, bool], None]) -> None:
    """Calls `seen(path, is_image)` for every file below a folder, sorted; links are followed, once each."""
    _walk(os.fspath(folder), seen, frozenset())


def _walk(folder: str, seen: Callable[[str, bool], None], above: frozenset[str]) -> None:
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder it lies in
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InvalidInputError(f"cannot read the folder {folder!r}: {error.strerror or error}.") from None
    for entry in entries:
        if is_ignored(entry.name):
            continue
        if entry.is_dir():
            _walk(entry.path, seen, above | {real})
        else:
            seen(entry.path, is_image(entry.name))


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"is_picture": "is_image", "picture_path": "image_path"}, globals())
