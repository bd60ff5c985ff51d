"""Reader of ADE20K as published for its scene parsing benchmark (https://arxiv.org/abs/1608.05442).

The folder `ADEChallengeData2016` has `images/{training,validation}/*.jpg` and
`annotations/{training,validation}/*.png`. In the annotations, 0 is "none of the 150 classes", and the classes are 1 to
150. Results on ADE20K are reported on its validation folder, so this reader returns that folder as the test part and
splits a validation part off the training folder.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from visprompt.data.labelled.dataset import IGNORE, Labelled, OnBad, report
from visprompt.data.labelled.items import ShiftedMask
from visprompt.data.labelled.label_names import Names, class_names, is_ignored, is_image, require_directory
from visprompt.data.labelled.parts import Splits, without_validation
from visprompt.data.questions.question import read_text
from visprompt.errors import InvalidInputError

CLASSES = 150
_LAYOUT = "expected images/training, images/validation, annotations/training and annotations/validation"


def read_ade20k(
    where: str | Path,
    *,
    validation: float = 0.2,
    seed: int = 0,
    on_bad: OnBad = "refuse",
    classes: Names = None,
    name: str | None = None,
) -> Splits:
    """Reads ADE20K, or another data set in its layout.

    The masks returned have classes from 0 on, and 255 for pixels that are ignored.

    Args:
        where: the folder with `images` and `annotations`.
        validation: fraction of the training part that becomes the validation part, 0 to below 1.
        seed: seed of that random split, 0 or more.
        on_bad: what to do with items that cannot be used, images without an annotation among them; see `Labelled`.
        classes: class names, a file of them, or their number; None: those of `objectInfo150.txt`, or "class 1" to
            "class 150".
        name: name of the data set; None: the folder's name.

    Returns:
        The three parts, of kind "segmentation"; `test` is None if there is no folder `validation`.

    Raises:
        InvalidInputError: for a folder in another layout.
    """
    root = require_directory(where, _LAYOUT)
    for folder in ("images/training", "annotations/training"):
        if not (root / folder).is_dir():
            inner = next(iter(sorted(root.glob("*/images/training"))), None)
            hint = f" Is it {str(inner.parent.parent)!r}?" if inner is not None else ""
            raise InvalidInputError(f"{str(root)!r} has no folder {folder}; {_LAYOUT}.{hint}")
    called = name or root.resolve().name
    names = class_names(classes, str(root)) or _names(root)
    train = _part(root, "training", names, called, on_bad)
    has_test = (root / "images/validation").is_dir() and (root / "annotations/validation").is_dir()
    test = _part(root, "validation", names, called, on_bad) if has_test else None
    tested = "test is the folder validation, as everywhere for ADE20K" if test is not None else "no test part"
    return without_validation(train, test, validation, seed, "train is the folder training", tested)


def _part(root: Path, part: str, names: tuple[str, ...], called: str, on_bad: OnBad) -> Labelled:
    folder, masks = root / "images" / part, root / "annotations" / part
    by_stem = {path.stem: path for path in _files(masks) if path.suffix.lower() == ".png"}
    images = _files(folder)
    if not images:
        raise InvalidInputError(f"{str(folder)!r} has no images; {_LAYOUT}.")
    missing = [f"{path}: no {path.stem}.png in {masks}" for path in images if path.stem not in by_stem]
    if len(missing) == len(images):
        raise InvalidInputError(
            f"{str(masks)!r} has no mask for any image of {str(folder)!r}, for example: {missing[0]}."
        )
    if missing:
        report(missing, f"{called} {part}", on_bad)
    items = [(path, ShiftedMask(str(by_stem[path.stem]), IGNORE)) for path in images if path.stem in by_stem]
    return Labelled(items, names, kind="segmentation", ignore_index=IGNORE, name=f"{called} {part}", on_bad=on_bad)


def _files(folder: Path) -> list[Path]:
    # The benchmark's folders are flat; other data sets in its layout have a subfolder per scene category.
    found = (path for path in folder.rglob("*") if is_image(path.name) and not is_ignored(path.name))
    return sorted(path for path in found if path.is_file() or path.is_symlink())


def _names(root: Path) -> tuple[str, ...]:
    for file in ("objectInfo150.txt", "objectInfo150.csv"):
        if (root / file).exists():
            return names_of(read_text(root / file), file)
    return tuple(f"class {number}" for number in range(1, CLASSES + 1))


def names_of(text: str, where: str) -> tuple[str, ...]:
    """Reads class names from ADE20K's list, whose columns are separated by tabs, commas or several spaces.

    A class can have several names; the first one is returned, unless two classes share it.

    >>> names_of("Idx\\tRatio\\tName\\n2\\t0.1\\tbuilding, edifice\\n1\\t0.2\\twall\\n", "an example")
    ('wall', 'building')

    Args:
        text: content of `objectInfo150.txt` or `.csv`.
        where: name of the file, for error messages.

    Returns:
        The names in the order of the class numbers.

    Raises:
        InvalidInputError: for a text in another format; the message names the line.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise InvalidInputError(f"{where} is empty.")
    apart = "\t" if "\t" in lines[0] else "," if "," in lines[0] else r"\s+"
    columns = [one.strip().casefold() for one in re.split(apart, lines[0].strip())]
    if "idx" not in columns or columns[-1] != "name":
        raise InvalidInputError(f"{where}: expected columns from Idx to Name in the first line; got {lines[0]!r:.80}.")
    full: dict[int, str] = {}
    for number, line in enumerate(lines[1:], start=2):
        # Names contain commas and spaces too, so only the columns before the name are split off.
        cells = re.split(apart, line.strip(), maxsplit=len(columns) - 1)
        if len(cells) != len(columns) or not cells[columns.index("idx")].strip().isdigit():
            raise InvalidInputError(f"{where}, line {number}: expected {len(columns)} columns; got {line!r:.80}.")
        full[int(cells[columns.index("idx")])] = cells[-1].strip().strip('"')
    if sorted(full) != list(range(1, len(full) + 1)):
        raise InvalidInputError(f"{where}: classes are numbered from 1 without gaps; got {sorted(full)[:5]}, ….")
    short = {number: re.split(r"[;,]", name)[0].strip() for number, name in full.items()}
    shared = Counter(short.values())
    named = {number: full[number] if shared[name] > 1 else name for number, name in short.items()}
    again = Counter(named.values())
    return tuple(name if again[name] == 1 else f"{name} ({number})" for number, name in sorted(named.items()))
