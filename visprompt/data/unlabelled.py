"""Pictures without labels, in the form that the training loop takes: what self-supervised prompts learn from.

They are a `Labelled` of one class. Without torch; it must not know models or training.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visprompt.data.label_names import PARTS, is_ignored, require_directory, walk
from visprompt.data.labelled import Labelled, OnBad, Splits
from visprompt.data.splits import without_validation
from visprompt.errors import InvalidInputError

if TYPE_CHECKING:
    from PIL.Image import Image

#: the one class of pictures that have none
CLASS = "picture"
#: pictures of the generated world per split: as many as the other sets that are drawn from it
SIZES: dict[str, int] = {"train": 800, "validation": 200, "test": 500}
# Part of every seed, apart from the streams in `visprompt.data.downstream`: changing it changes every picture.
_STREAM = 4 * 10**12


def unlabelled(pictures: Iterable[Any], *, name: str = "", on_bad: OnBad = "refuse") -> Labelled:
    """Pictures from Python as a data set.

    >>> unlabelled(["a.jpg", "b.jpg"], name="photos")
    Labelled(photos: 2 items, 1 classes, classification)

    Args:
        pictures: paths, PIL images, arrays, or functions that give one of these.
        name: of the data set.
        on_bad: see `Labelled`.
    """
    return Labelled([(picture, 0) for picture in pictures], (CLASS,), name=name, on_bad=on_bad)


def without_labels(data: Labelled) -> Labelled:
    """The pictures of a labelled set, whatever their labels are."""
    if data.kind == "classification" and data.classes == (CLASS,):
        return data
    return unlabelled((picture for picture, _ in data.items), name=data.name, on_bad=data.on_bad)


def splits_without_labels(splits: Splits) -> Splits:
    """`without_labels` of every part; the same splits if they have none."""
    parts = (splits.train, splits.validation, splits.test)
    train, validation, test = made = tuple(None if part is None else without_labels(part) for part in parts)
    if train is None or made == parts:
        return splits
    return Splits(train, validation, test, f"{splits.protocol} Labels are not used.")


def read_pictures(
    where: str | os.PathLike[str],
    *,
    validation: float = 0.2,
    seed: int = 0,
    on_bad: OnBad = "refuse",
    limit: int | None = None,
) -> Splits:
    """All pictures below a folder, however deep; folders `train`, `val` and `test` in it are its parts.

    Args:
        where: the folder.
        validation: share of the training part that becomes validation if there is no such folder; 0: none.
        seed: of that draw, and of the limit.
        on_bad: see `Labelled`.
        limit: at most so many pictures of every part.

    Raises:
        InvalidInputError: if there is no such folder, or no picture in it.
    """
    root = require_directory(Path(where), "expected a folder with pictures")
    called = root.resolve().name
    parts: dict[str, Path] = {}
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        part = PARTS.get(entry.name.casefold())
        if entry.is_dir() and part is not None and not is_ignored(entry.name):
            parts.setdefault(part, Path(entry.path))
    if "train" not in parts:
        parts = {"train": root}
    made = {part: _folder(folder, f"{called} {part}".removesuffix(" train"), on_bad) for part, folder in parts.items()}
    source = f"all pictures below the folder {parts['train'].name}"
    if "validation" in made:
        splits = Splits(made["train"], made["validation"], made.get("test"), f"{source}; folders for the other parts.")
    elif validation > 0 and len(made["train"]) < 2:
        splits = Splits(made["train"], None, made.get("test"), f"{source}: too few for a validation part.")
    else:
        splits = without_validation(made["train"], made.get("test"), validation, seed, source)
    return splits.limited(limit, seed)


def _folder(folder: Path, name: str, on_bad: OnBad) -> Labelled:
    found: list[str] = []

    def sort(path: str, picture: bool) -> None:
        if picture:
            found.append(path)

    # `walk` goes through the folders in it as well; loose pictures beside them are part of it here.
    walk(folder, sort)
    if not found:
        raise InvalidInputError(f"{str(folder)!r} has no pictures in it.")
    return unlabelled(sorted(found), name=name, on_bad=on_bad)


def generated(wh: tuple[int, int] = (64, 64), *, seed: int = 0, sizes: dict[str, int] | None = None) -> Splits:
    """Scenes of the generated world, drawn when they are asked for; none occurs in what the bundled models or sets
    were made of.

    Args:
        wh: width and height, pixels; at least 24 each.
        seed: another one gives other pictures.
        sizes: pictures per split; None: `SIZES`.
    """
    wanted = {**SIZES, **(sizes or {})}
    parts = {
        split: unlabelled(
            (partial(_scene, split, seed, i, wh) for i in range(count)), name=f"generated scenes, {split}"
        )
        for split, count in wanted.items()
        if count
    }
    protocol = f"generated scenes of {wh[0]}×{wh[1]} pixels, seed {seed}; train, validation and test are drawn apart."
    return Splits(parts["train"], parts.get("validation"), parts.get("test"), protocol)


def _scene(split: str, seed: int, index: int, wh: tuple[int, int]) -> Image:
    from visprompt.data.scenes import scene

    return scene(_STREAM + seed, split, index=index, size_wh=wh).pil
