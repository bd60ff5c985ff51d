"""Helpers of the readers of labelled data: class numbers for the labels in files, and paths from texts."""

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

#: class names: a list, a text file with one per line, a JSON file with a list, or the number of classes
Names: TypeAlias = "str | os.PathLike[str] | Sequence[str] | int | None"

_WHOLE = re.compile(r"[+-]?\d+(\.0+)?")
#: usual names of the parts of a data set → "train", "validation" or "test"
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
    """Returns the class names that the user gave, or None if none were given.

    >>> class_names(3, "an example")
    ('class 1', 'class 2', 'class 3')

    Args:
        names: a list of names, a file of them, or their number.
        where: name of the data set, for messages.

    Raises:
        InvalidInputError: for a file without names, or a value of another type.
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
    """Assigns class numbers from 0 to the labels of a data set.

    Labels that are integers are sorted as numbers and others as strings, so that the numbers do not depend on the order
    of the items; gaps are closed. If class names are given, integer labels are indices into them: from 0, or from 1 if
    0 does not occur and the last index does.

    >>> numbered(["10", "9", "9"], None, "an example")
    ({'9': 0, '10': 1}, ('9', '10'))
    >>> numbered(["dog"], ["cat", "dog"], "an example")
    ({'dog': 1}, ('cat', 'dog'))

    Args:
        values: the labels of all items.
        names: class names, a file of them, or their number; None: the labels themselves are the names.
        where: name of the data set, for messages.

    Returns:
        Class number of every label, and the class names.

    Raises:
        InvalidInputError: for labels that are neither integers nor strings, integers mixed with names, or labels
            outside the names.
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
        class_of = {number: index for index, number in enumerate(ordered)}
        by_number = sorted(distinct, key=lambda value: whole[value])
        return {value: class_of[whole[value]] for value in by_number}, tuple(map(str, ordered))
    ordered = sorted(distinct)
    return {value: index for index, value in enumerate(ordered)}, tuple(ordered)


def _positions(distinct: list[Any], whole: dict[Any, int], names: tuple[str, ...], where: str) -> dict[Any, int]:
    by_name = {name: index for index, name in enumerate(names)}
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
    # pandas writes 3.0 for integers in a column with missing values
    if isinstance(value, int):
        return value
    text = value.strip()
    return int(text.partition(".")[0]) if _WHOLE.fullmatch(text) else None


def image_path(text: Any, folder: Path, where: str) -> Path:
    """Returns the image path written in a file, below `folder` unless it is absolute; the image is not opened.

    Backslashes become slashes if no file of that very name exists.

    Args:
        text: the path as written.
        folder: folder that paths are relative to.
        where: file and line, for messages.

    Raises:
        InvalidInputError: if the text is empty, not a string, or a web address.
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
    """Raises an error if the first images are all missing, which means that the folder is wrong.

    Args:
        paths: paths of all images.
        where: name of the data set, for the message.
        advice: a sentence on what to do, for the message.

    Raises:
        InvalidInputError: naming the first path, with `advice`.
    """
    first = paths[:20]
    if first and not any(os.path.exists(path) for path in first):
        count = "none of the images" if len(first) == len(paths) else f"none of the first {len(first)} images"
        raise InvalidInputError(f"{where}: {count} exists, for example {str(first[0])!r}. {advice}")


def require_directory(where: str | Path, what: str) -> Path:
    """Returns the path of a data set's folder.

    Args:
        where: the folder.
        what: what is expected in it, for the message.

    Raises:
        InvalidInputError: if the folder does not exist.
    """
    path = Path(where)
    if not path.exists():
        raise InvalidInputError(f"there is no folder {str(path)!r}; {what}.")
    if not path.is_dir():
        raise InvalidInputError(f"{str(path)!r} is a file; {what}.")
    return path


def part_of(text: Any, where: str) -> str:
    """Returns "train", "validation" or "test" for the name of a part in a file.

    Args:
        text: the name, for example "val" or "dev".
        where: file and line, for messages.

    Raises:
        InvalidInputError: for a name that is not known.
    """
    found = PARTS.get(str(text).strip().casefold())
    if found is None:
        raise InvalidInputError(f"{where}: a split is train, validation (val, valid, dev) or test; got {text!r:.40}.")
    return found


def is_ignored(name: str) -> bool:
    """True for hidden files and files that file managers create."""
    return name.startswith(".") or name.casefold() in IGNORED_FILES


def is_image(name: str) -> bool:
    """True if a file's ending is that of an image, in upper or lower case."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def walk(folder: str | Path, seen: Callable[[str, bool], None]) -> None:
    """Calls `seen(path, is_image)` for every file below a folder, in sorted order; links are followed once each."""
    _walk(os.fspath(folder), seen, frozenset())


def _walk(folder: str, seen: Callable[[str, bool], None], above: frozenset[str]) -> None:
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder that contains it
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


#: names of visprompt 0.4.0, which work with a DeprecationWarning
__getattr__ = renamed_names(__name__, {"is_picture": "is_image", "picture_path": "image_path"}, globals())
