"""Data sets of images without labels, for strategies that learn without labels.

They are `Labelled` data sets of the kind "images". This module imports no torch, models or training code.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from visprompt.data.labelled.dataset import Labelled, OnBad
from visprompt.data.labelled.items import IMAGE_SUFFIXES, path_of
from visprompt.data.labelled.label_names import PARTS, is_ignored, is_image, require_directory, walk
from visprompt.data.labelled.parts import Splits, without_validation
from visprompt.errors import InvalidInputError
from visprompt.utils.renamed import renamed_parameters, warn_renamed


@renamed_parameters(pictures="images")
def unlabelled(images: Iterable[Any], *, name: str = "", on_bad: OnBad = "refuse") -> Labelled:
    """Makes a data set from images in memory or paths.

    >>> unlabelled(["a.jpg", "b.jpg"], name="photos")
    Labelled(photos: 2 images without labels)

    Args:
        images: paths, PIL images, arrays, or functions that return one of these.
        name: name of the data set.
        on_bad: what to do with items that cannot be used, "refuse" or "skip"; see `Labelled`.

    Returns:
        A data set of the kind "images".

    Raises:
        InvalidInputError: if there are no images.
    """
    return Labelled([(image, None) for image in images], kind="images", name=name, on_bad=on_bad)


def without_labels(data: Labelled) -> Labelled:
    """Returns the images of a data set without their labels; an image that occurs several times is kept once."""
    if data.kind == "images":
        return data
    once = {path_of(image) or id(image): image for image, _ in data.items}
    return unlabelled(once.values(), name=data.name, on_bad=data.on_bad)


def splits_without_labels(splits: Splits) -> Splits:
    """Applies `without_labels` to every part; returns the same object if there are no labels."""
    parts = (splits.train, splits.validation, splits.test)
    train, validation, test = made = tuple(None if part is None else without_labels(part) for part in parts)
    if train is None or made == parts:
        return splits
    return Splits(train, validation, test, f"{splits.protocol} Labels are not used.")


def read_images(
    where: str | os.PathLike[str],
    *,
    validation: float = 0.2,
    seed: int = 0,
    on_bad: OnBad = "refuse",
    name: str | None = None,
) -> Splits:
    """Reads all images below a folder, at any depth; its subfolders `train`, `val` and `test` become the parts.

    Names of other subfolders have no meaning: their images are read without a class.

    Args:
        where: the folder, or one image.
        validation: fraction of the training part that becomes the validation part if there is no such folder; 0: none.
        seed: seed of that random split, 0 or more.
        on_bad: what to do with items that cannot be used, "refuse" or "skip"; see `Labelled`.
        name: name of the data set; None: the folder's name.

    Returns:
        The parts, of kind "images".

    Raises:
        InvalidInputError: if the folder does not exist or has no images.
    """
    root = Path(where)
    called = name or root.resolve().name
    if root.is_file() and is_image(root.name):
        return without_validation(unlabelled([str(root)], name=called, on_bad=on_bad), None, 0, seed, "one image")
    root = require_directory(root, "expected a folder with images, or one image")
    parts: dict[str, Path] = {}
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        part = PARTS.get(entry.name.casefold())
        if entry.is_dir() and part is not None and not is_ignored(entry.name):
            parts.setdefault(part, Path(entry.path))
    if "train" not in parts:
        parts = {"train": root}
    else:
        _warn_of_others(root, set(parts.values()))
    found = {part: _below(folder) for part, folder in parts.items()}
    made = {
        part: unlabelled(paths, name=f"{called} {part}".removesuffix(" train"), on_bad=on_bad)
        for part, paths in found.items()
    }
    folder = parts["train"].resolve().name
    source = f"All images below the folder {folder}"
    inner = {os.path.dirname(path) for path in found["train"]} - {os.fspath(parts["train"])}
    if inner:
        folders = "1 folder" if len(inner) == 1 else f"{len(inner)} folders"
        source += f" and {folders} in it, whose names are not looked at"
    if "validation" in made:
        return Splits(made["train"], made["validation"], made.get("test"), f"{source}; folders for the other parts.")
    return without_validation(made["train"], made.get("test"), validation, seed, source)


def _below(folder: Path) -> list[str]:
    """Returns the sorted paths of all images below a folder."""
    found: dict[bool, list[str]] = {True: [], False: []}
    walk(folder, lambda path, image: found[image].append(path))
    if not found[True]:
        endings = sorted({os.path.splitext(path)[1].lower() or "no ending" for path in found[False]})
        there = f"files of other kinds ({', '.join(endings[:6])})" if endings else "no files"
        raise InvalidInputError(
            f"{str(folder)!r} has no images in it or in the folders below, but {there}. Images end in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    return sorted(found[True])


def _warn_of_others(root: Path, parts: set[Path]) -> None:
    """Warns of images and folders that are left out because they lie next to the folder `train`."""
    others = sorted(
        entry.name
        for entry in os.scandir(root)
        if not is_ignored(entry.name) and Path(entry.path) not in parts and (entry.is_dir() or is_image(entry.name))
    )
    if others:
        listed = ", ".join(others[:5]) + (", …" if len(others) > 5 else "")
        warnings.warn(
            f"{root} has a folder train, so what lies beside it is left out: {listed}.", UserWarning, stacklevel=4
        )


def __getattr__(name: str) -> Any:
    if name == "read_pictures":  # 0.4.0
        warn_renamed(__name__, name, "read_images")
        return read_images
    if name not in ("generated", "SIZES"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    new = "visprompt.data.scenes.unlabelled"
    warnings.warn(f"{name} has moved to {new}; it is found here until 0.6.0.", DeprecationWarning, stacklevel=2)
    return getattr(importlib.import_module(new), name)
