"""Reader of image folders: `root/class/image.jpg`, or `root/{train,val,test}/class/image.jpg`.

All images below a class folder, at any depth, belong to that class. Hidden files and files that file managers create
are skipped silently; for other files that are not images there is one warning.
"""

from __future__ import annotations

import os
import unicodedata
import warnings
from collections.abc import Mapping
from pathlib import Path

from visprompt.data.labelled.dataset import Labelled, OnBad
from visprompt.data.labelled.label_names import PARTS, is_ignored, is_image, require_directory, walk
from visprompt.data.labelled.parts import Splits, without_validation
from visprompt.errors import InvalidInputError

_LAYOUT = "expected root/class/image.jpg, or root/train/class/image.jpg with val and test beside train"


def read_folder(
    where: str | Path, *, validation: float = 0.2, seed: int = 0, on_bad: OnBad = "refuse", name: str | None = None
) -> Splits:
    """Reads an image folder; the sorted names of its subfolders are the classes.

    Args:
        where: the folder.
        validation: fraction of the training part that becomes the validation part if there is no such folder.
        seed: seed of that random split, 0 or more.
        on_bad: what to do with items that cannot be used, "refuse" or "skip"; see `Labelled`.
        name: name of the data set; None: the folder's name.

    Returns:
        The three parts, of kind "classification".

    Raises:
        InvalidInputError: for another layout (the message says what the folder contains), and for class folders without
            images.
    """
    root = require_directory(where, _LAYOUT)
    called = name or root.resolve().name
    parts = _parts(root)
    if not parts:
        classes, found = _classes({"train": root})
        train = Labelled(found["train"], classes, name=called, on_bad=on_bad)
        return without_validation(train, None, validation, seed, f"train is the folder {called}, a folder per class")
    classes, found = _classes(parts)
    made = {part: Labelled(found[part], classes, name=f"{called} {part}", on_bad=on_bad) for part in found}
    train, test = made["train"], made.get("test")
    folder = {part: parts[part].name for part in found}
    tested = f"test is the folder {folder['test']}" if test is not None else "no test part"
    if "validation" in made:
        protocol = f"train and validation are the folders {folder['train']} and {folder['validation']}; {tested}."
        return Splits(train, made["validation"], test, protocol)
    return without_validation(train, test, validation, seed, f"train is the folder {folder['train']}", tested)


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_ignored(entry.name))


def _parts(root: Path) -> dict[str, Path]:
    """Returns the folders of the parts, or nothing if the subfolders of the root are classes."""
    folders = _folders(root)
    named = [folder for folder in folders if folder.casefold() in PARTS]
    others = [folder for folder in folders if folder not in named]
    parts: dict[str, Path] = {}
    for folder in named:
        part = PARTS[folder.casefold()]
        if part in parts:
            raise InvalidInputError(f"{str(root)!r} has two folders for {part}: {parts[part].name} and {folder}.")
        parts[part] = root / folder
    if "train" not in parts:
        if named and not others:
            raise InvalidInputError(f"{str(root)!r} has {', '.join(named)} and no folder train; {_LAYOUT}.")
        return {}  # a class may be called "test"
    if not _folders(parts["train"]):
        if others:
            return {}  # "train" is a class here, next to other vehicles
        raise InvalidInputError(f"{str(parts['train'])!r} has no folders of classes; {_LAYOUT}.")
    if others:
        warnings.warn(
            f"{root}: beside {', '.join(named)} there are {_some(others)}, which are left out.",
            UserWarning,
            stacklevel=4,
        )
    return parts


def _classes(parts: Mapping[str, Path]) -> tuple[list[str], dict[str, list[tuple[str, int]]]]:
    """Returns the class names over all parts, and the items of each part."""
    found: dict[str, dict[str, list[str]]] = {}
    others: list[str] = []
    for part, folder in parts.items():
        names = _folders(folder)
        if not names and part != "train":
            warnings.warn(
                f"{folder} has no folders of classes, so its images have no labels: it is left out.",
                UserWarning,
                stacklevel=4,
            )
            continue
        found[part] = _images(folder, names, others)
    if others:
        count = "1 file is" if len(others) == 1 else f"{len(others)} files are"
        warnings.warn(f"{count} no image and left out, the first: {others[0]}.", UserWarning, stacklevel=4)
    classes = sorted({name for images in found.values() for name in images})
    numbers = {name: number for number, name in enumerate(classes)}
    items = {
        part: [(path, numbers[name]) for name in sorted(images) for path in images[name]]
        for part, images in found.items()
    }
    return classes, items


def _images(folder: Path, names: list[str], others: list[str]) -> dict[str, list[str]]:
    """Returns the image paths by class, and appends files that are no images to `others`."""
    loose = sorted(entry.name for entry in os.scandir(folder) if is_image(entry.name) and not is_ignored(entry.name))
    if not names:
        what = f"{len(loose)} images and no folders" if loose else "no folders and no images"
        raise InvalidInputError(
            f"{str(folder)!r} has {what}: every class is a folder with its images, or labels stand in a .csv file."
        )
    if loose:
        count = "1 image lies" if len(loose) == 1 else f"{len(loose)} images lie"
        warnings.warn(
            f"{count} in {folder} outside of the folders of classes and left out, the first: {loose[0]}.",
            UserWarning,
            stacklevel=5,
        )
    found: dict[str, list[str]] = {}
    empty: list[str] = []
    for name in names:
        images: list[str] = []
        rest: list[str] = []

        def sort(path: str, image: bool, images: list[str] = images, rest: list[str] = rest) -> None:
            (images if image else rest).append(path)

        walk(folder / name, sort)
        others.extend(rest)
        if not images:
            endings = sorted({os.path.splitext(path)[1].lower() or "no ending" for path in rest})
            empty.append(f"{name} ({', '.join(endings)})" if rest else name)
        # macOS stores é as two code points, other systems as one.
        found.setdefault(unicodedata.normalize("NFC", name), []).extend(images)
    if empty:
        classes = "1 folder of a class has" if len(empty) == 1 else f"{len(empty)} folders of classes have"
        raise InvalidInputError(
            f"{str(folder)!r}: {classes} no images: {_some(empty)}. Fill or remove them; {_LAYOUT}."
        )
    return found


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
