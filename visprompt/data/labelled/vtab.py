"""Reader of VTAB-1k (https://arxiv.org/abs/1910.04867) in the folder layout of NOAH and most later works.

A data set is a folder with `images/` and four lists with lines `path label`: `train800.txt` and `val200.txt` for
choosing settings, `train800val200.txt` for the final training, and `test.txt` for reported results.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from visprompt.data.labelled.dataset import Labelled, OnBad
from visprompt.data.labelled.label_names import Names, image_path, numbered, require_directory, require_some
from visprompt.data.labelled.parts import Splits, without_validation
from visprompt.data.questions.question import read_text
from visprompt.errors import InvalidInputError

_ALL = "train800val200.txt"
_LAYOUT = "expected images/, train800.txt, val200.txt, train800val200.txt and test.txt, with lines `path label`"


def read_vtab(
    where: str | Path,
    *,
    validation: float = 0.2,
    seed: int = 0,
    on_bad: OnBad = "refuse",
    final: bool = False,
    classes: Names = None,
    name: str | None = None,
) -> Splits:
    """Reads one data set of VTAB-1k.

    Args:
        where: its folder, for example `vtab-1k/dtd`.
        validation: fraction of the 1000 items for validation if the folder has no `train800.txt` and `val200.txt`.
        seed: seed of that random split, 0 or more.
        on_bad: what to do with items that cannot be used, "refuse" or "skip"; see `Labelled`.
        final: True: train on all 1000 items, without validation. `Splits.final()` does the same after settings were
            chosen on val200.
        classes: class names, a file of them, or their number; None: the numbers that occur.
        name: name of the data set; None: the folder's name.

    Returns:
        The three parts, of kind "classification".

    Raises:
        InvalidInputError: for a list in another format; the message names file and line.
    """
    root = require_directory(where, _LAYOUT)
    called = name or root.resolve().name
    separate = (root / "train800.txt").exists() and (root / "val200.txt").exists()
    if not separate and not (root / _ALL).exists():
        raise InvalidInputError(f"{str(root)!r} has no {_ALL}; {_LAYOUT}.{_inside(root)}")
    files = {"train": _ALL} if final or not separate else {"train": "train800.txt", "validation": "val200.txt"}
    if final and not (root / _ALL).exists():
        raise InvalidInputError(f"{str(root)!r} has no {_ALL}, which the final training needs.")
    if (root / "test.txt").exists():
        files["test"] = "test.txt"
    rows = {part: _rows(root, file) for part, file in files.items()}
    numbers, names = numbered((label for part in rows.values() for _, label in part), classes, str(root))
    made = {
        part: Labelled([(path, numbers[label]) for path, label in lines], names, name=f"{called} {part}", on_bad=on_bad)
        for part, lines in rows.items()
    }
    test = made.get("test")
    tested = "test is test.txt" if test is not None else "no test part"
    if "validation" in made:
        protocol = f"VTAB-1k: train is train800.txt, validation val200.txt; {tested}."
        return Splits(made["train"], made["validation"], test, protocol)
    if final:
        return Splits(made["train"], None, test, f"VTAB-1k: train is all of {_ALL}, no validation; {tested}.")
    return without_validation(made["train"], test, validation, seed, f"VTAB-1k: train is {_ALL}", tested)


def _rows(root: Path, file: str) -> list[tuple[Path, int]]:
    rows: list[tuple[Path, int]] = []
    for number, line in enumerate(read_text(root / file).splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        path, _, label = line.strip().rpartition(" ")
        if not path or not label.isdigit():
            raise InvalidInputError(
                f"{where}: expected `path label` with the number of a class; got {line.strip()!r:.80}."
            )
        rows.append((image_path(path, root, where), int(label)))
    if not rows:
        raise InvalidInputError(f"{root / file} is empty.")
    require_some(
        [path for path, _ in rows], str(root / file), f"Paths are relative to {str(root)!r}: is images/ unpacked there?"
    )
    return rows


def _inside(root: Path) -> str:
    """Returns a hint for the error message if the folder contains several data sets."""
    found: Iterable[str] = sorted(entry.parent.name for entry in root.glob(f"*/{_ALL}"))
    listed = ", ".join(found)
    return f" It holds several data sets, of which to give one: {listed}." if listed else ""
