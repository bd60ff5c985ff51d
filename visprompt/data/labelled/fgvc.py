"""Reader of FGVC as published with visual prompt tuning (https://arxiv.org/abs/2203.12119).

FGVC is CUB, NABirds, Flowers, Dogs and Cars, each with `train.json`, `val.json` and `test.json` (objects of image path
→ label) next to the images.
"""

from __future__ import annotations

from pathlib import Path

from visprompt.data.labelled.dataset import Labelled, OnBad
from visprompt.data.labelled.label_names import Names, image_path, numbered, require_directory, require_some
from visprompt.data.labelled.parts import Splits, without_validation
from visprompt.data.questions.question import read_json
from visprompt.errors import InvalidInputError

_FILES = {"train": "train.json", "validation": "val.json", "test": "test.json"}
_LAYOUT = "expected train.json, val.json and test.json, objects of path → label"
#: folders in which the five data sets keep their images: CUB and NABirds; Dogs; Flowers and Cars
_IMAGES = ("images", "Images", ".")


def read_fgvc(
    where: str | Path,
    *,
    validation: float = 0.2,
    seed: int = 0,
    on_bad: OnBad = "refuse",
    images: str | Path | None = None,
    classes: Names = None,
    name: str | None = None,
) -> Splits:
    """Reads one data set of FGVC.

    Labels may be numbers from 0 or 1, with gaps, or names. The same label means the same class in all three files.

    Args:
        where: the folder with the JSON files.
        validation: fraction of the training part that becomes the validation part if there is no `val.json`.
        seed: seed of that random split, 0 or more.
        on_bad: what to do with items that cannot be used, "refuse" or "skip"; see `Labelled`.
        images: folder that paths are relative to, itself relative to `where`; None: `images`, `Images` or `where`, the
            first that has the images.
        classes: class names, a file of them, or their number; None: the labels that occur.
        name: name of the data set; None: the folder's name.

    Returns:
        The three parts, of kind "classification".

    Raises:
        InvalidInputError: for files in another format; the message names the file and the entry.
    """
    root = require_directory(where, _LAYOUT)
    called = name or root.resolve().name
    if not (root / "train.json").exists():
        raise InvalidInputError(f"{str(root)!r} has no train.json; {_LAYOUT}.")
    entries = {part: _entries(root / file) for part, file in _FILES.items() if (root / file).exists()}
    folder = _folder(root, list(entries["train"]), images)
    numbers, names = numbered((label for part in entries.values() for label in part.values()), classes, str(root))
    made = {
        part: Labelled(
            [(image_path(path, folder, _FILES[part]), numbers[label]) for path, label in found.items()],
            names,
            name=f"{called} {part}",
            on_bad=on_bad,
        )
        for part, found in entries.items()
    }
    test = made.get("test")
    tested = "test is test.json" if test is not None else "no test part"
    if "validation" in made:
        return Splits(made["train"], made["validation"], test, f"Train is train.json, validation val.json; {tested}.")
    return without_validation(made["train"], test, validation, seed, "train is train.json", tested)


def _entries(path: Path) -> dict[str, str | int]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise InvalidInputError(f"{path}: expected an object of path → label, got {type(content).__name__}.")
    if not content:
        raise InvalidInputError(f"{path} is empty.")
    for image, label in content.items():
        if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
            raise InvalidInputError(f"{path}, {image}: a label is the name or number of a class; got {label!r:.60}.")
    return content


def _folder(root: Path, paths: list[str], images: str | Path | None) -> Path:
    first = paths[:20]
    folders = [root / images] if images is not None else [root / name for name in _IMAGES]
    for folder in folders:
        if any(image_path(path, folder, "train.json").exists() for path in first):
            return folder
    tried = " or ".join(repr(str(folder)) for folder in folders)
    require_some(
        [folders[0] / path for path in paths],
        str(root / "train.json"),
        f"Looked in {tried}; name the folder of the images with images=.",
    )
    return folders[0]
