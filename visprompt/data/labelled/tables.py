"""Reader of tables of images and labels: CSV files with a header, and JSON lines.

Columns: the path of an image relative to the table (`image`, `file`, `file_name`, `filename`, `filepath`, `path`), and
`label` (or `class`, `category`, `class_name`), or `mask` (path of a PNG), or `question` and `answer`. A column `split`
(`train`, `val`, `test`) is optional.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visprompt.data.labelled.columns import COLUMNS, ColumnSpec, takes_groups
from visprompt.data.labelled.dataset import IGNORE, Kind, Labelled, OnBad, report
from visprompt.data.labelled.items import ShiftedMask
from visprompt.data.labelled.label_names import Names, class_names, image_path, numbered, part_of, require_some
from visprompt.data.labelled.parts import Splits, without_validation
from visprompt.data.questions.question import read_lines, read_text
from visprompt.errors import InvalidInputError

_DELIMITERS = (",", ";", "\t")
_PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class _Row:
    where: str
    part: str
    image: Path
    label: Any


@takes_groups(columns=ColumnSpec)
def read_csv(
    where: str | Path,
    *,
    validation: float = 0.2,
    seed: int = 0,
    on_bad: OnBad = "refuse",
    columns: ColumnSpec | None = None,
    images: str | Path | None = None,
    classes: Names = None,
    zero_is_none: bool = False,
    ignore_index: int = IGNORE,
    name: str | None = None,
    labels: bool = True,
) -> Splits:
    """Reads a CSV file: UTF-8, separated by commas, semicolons or tabs, with a header.

    Args:
        where: the file.
        validation: fraction of the training part that becomes the validation part if no row is marked as validation.
        seed: seed of that random split, 0 or more.
        on_bad: what to do with items that cannot be used, rows without a label among them; see `Labelled`.
        columns: names of columns; None: the usual names in `COLUMNS`.
        images: folder that paths are relative to; None: the file's folder.
        classes: class names in the order of their numbers, a file of them, or their number; required for masks. None:
            `classes.txt` next to the table if it exists, else the labels that occur.
        zero_is_none: True: in masks, 0 stands for no class and the classes are numbered from 1.
        ignore_index: value of the mask's pixels that are left out of losses and metrics.
        name: name of the data set; None: the file's name.
        labels: False: only the columns of images and parts are read.

    Returns:
        The three parts; the kind depends on the columns.

    Raises:
        InvalidInputError: for a file that cannot be read; the message names file and line.
    """
    path = _require_file(where, "csv")
    wished = columns or ColumnSpec()
    header, entries = _csv_rows(path, wished.image)
    table = _Table(path, header, wished, images, classes, (zero_is_none, ignore_index), name, on_bad, labels)
    return table.splits(entries, validation, seed)


@takes_groups(columns=ColumnSpec)
def read_jsonl(
    where: str | Path,
    *,
    validation: float = 0.2,
    seed: int = 0,
    on_bad: OnBad = "refuse",
    columns: ColumnSpec | None = None,
    images: str | Path | None = None,
    classes: Names = None,
    zero_is_none: bool = False,
    ignore_index: int = IGNORE,
    name: str | None = None,
    labels: bool = True,
) -> Splits:
    """Reads a file with one JSON object per line.

    The keys are the columns, and the options are those of `read_csv`.

    Raises:
        InvalidInputError: for a file that cannot be read; the message names file and line.
    """
    path = _require_file(where, "jsonl")
    entries = list(read_lines(path))
    if not entries:
        raise InvalidInputError(f"{path} is empty.")
    header = list(dict.fromkeys(key for _, entry in entries for key in entry))
    wished = columns or ColumnSpec()
    table = _Table(path, header, wished, images, classes, (zero_is_none, ignore_index), name, on_bad, labels)
    return table.splits(iter(entries), validation, seed)


class _Table:
    """A table: the roles of its columns, and the data set that its rows make."""

    def __init__(
        self,
        path: Path,
        header: Sequence[str],
        wished: ColumnSpec,
        images: str | Path | None,
        classes: Names,
        masks: tuple[bool, int],
        name: str | None,
        on_bad: OnBad,
        labels: bool,
    ) -> None:
        self.path, self.header, self.on_bad = path, list(header), on_bad
        self.folder = Path(images) if images is not None else path.parent
        self.zero_is_none, self.ignore_index = masks
        self.name = name or path.stem
        self.columns = {what: self._column(what, getattr(wished, what)) for what in COLUMNS}
        self.kind: Kind = self._kind(set(wished.named())) if labels else "images"
        if self.columns["image"] is None:
            raise self._no_column("image")
        listed = path.parent / "classes.txt"
        without = self.kind in ("answers", "images")
        self.classes = classes if classes is not None or without or not listed.exists() else listed

    def splits(self, entries: Iterator[tuple[str, dict[str, Any]]], validation: float, seed: int) -> Splits:
        rows: list[_Row] = []
        problems: list[str] = []
        for where, entry in entries:
            try:
                rows.append(self._row(where, entry))
            except InvalidInputError as error:
                problems.append(str(error))
        self._report(problems)
        if not rows:
            raise InvalidInputError(f"{self.path} has no rows that can be used.")
        advice = f"Paths are relative to {str(self.folder)!r}; give the folder of the images with images=."
        require_some([row.image for row in rows], str(self.path), advice)
        parts = self._made(rows)
        if "train" not in parts:
            raise InvalidInputError(f"{self.path} has rows for {', '.join(parts)} and none for train.")
        source = (
            f"the column {self.columns['split']!r} of {self.path.name}" if self.columns["split"] else self.path.name
        )
        if "validation" in parts:
            return Splits(parts["train"], parts["validation"], parts.get("test"), f"Parts are {source}.")
        return without_validation(parts["train"], parts.get("test"), validation, seed, f"train is {source}")

    def _made(self, rows: list[_Row]) -> dict[str, Labelled]:
        names: tuple[str, ...] = ()
        items: list[tuple[Any, Any]] = [(row.image, row.label) for row in rows]
        if self.kind == "classification":
            numbers, names = numbered((row.label for row in rows), self.classes, str(self.path))
            items = [(row.image, numbers[row.label]) for row in rows]
        elif self.kind == "segmentation":
            names = class_names(self.classes, str(self.path)) or ()
            if not names:
                raise InvalidInputError(
                    f"{self.path}: masks hold numbers; give classes= (a list of names, a file with one a line, or how "
                    "many there are), or put a classes.txt next to the file."
                )
        made: dict[str, Labelled] = {}
        ignore = self.ignore_index if self.kind == "segmentation" else None
        for part in _PARTS:
            chosen = [item for row, item in zip(rows, items, strict=True) if row.part == part]
            if self.kind == "images":
                chosen = list(dict.fromkeys(chosen))  # several rows may name the same image
            if chosen:
                called = f"{self.name} {part}" if self.columns["split"] else self.name
                made[part] = Labelled(
                    chosen, names, kind=self.kind, name=called, on_bad=self.on_bad, ignore_index=ignore
                )
        return made

    def _row(self, where: str, entry: dict[str, Any]) -> _Row:
        columns = self.columns
        part = part_of(entry.get(columns["split"], ""), where) if columns["split"] else "train"
        image = image_path(entry.get(str(columns["image"])), self.folder, where)
        return _Row(where, part, image, self._label(where, entry))

    def _label(self, where: str, entry: dict[str, Any]) -> Any:
        if self.kind == "images":
            return None
        if self.kind == "segmentation":
            mask = image_path(entry.get(str(self.columns["mask"])), self.folder, f"{where}, mask")
            return ShiftedMask(str(mask), self.ignore_index) if self.zero_is_none else mask
        if self.kind == "answers":
            return tuple(self._text(where, entry, what) for what in ("question", "answer"))
        value = entry.get(str(self.columns["label"]))
        if isinstance(value, str):
            value = value.strip()
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None or value == "":
            raise InvalidInputError(f"{where}: no label in the column {self.columns['label']!r}.")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise InvalidInputError(f"{where}: a label is the name or number of one class; got {value!r:.60}.")
        return value

    def _text(self, where: str, entry: dict[str, Any], what: str) -> str:
        value = entry.get(str(self.columns[what]))
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value.strip():
            raise InvalidInputError(f"{where}: no {what} in the column {self.columns[what]!r}; got {value!r:.60}.")
        return value.strip()

    def _column(self, what: str, wish: str | None) -> str | None:
        if wish is not None:
            if wish not in self.header:
                raise self._no_column(what, wish)
            return wish
        usual = {name.strip().casefold(): name for name in reversed(self.header)}
        return next((usual[name] for name in COLUMNS[what] if name in usual), None)

    def _kind(self, wished: set[str]) -> Kind:
        """Chooses the kind by the columns that were named; otherwise masks before answers before labels.

        The order matters because tables of masks or answers often have a column `category` too.
        """
        has = {what for what, column in self.columns.items() if column is not None}
        if "mask" in wished or ("mask" in has and not wished & {"label", "question", "answer"}):
            return "segmentation"
        if wished & {"question", "answer"} or ({"question", "answer"} <= has and "label" not in wished):
            for what in ("question", "answer"):
                if what not in has:
                    raise self._no_column(what)
            return "answers"
        if "label" not in has:
            raise self._no_column("label")
        return "classification"

    def _no_column(self, what: str, wish: str | None = None) -> InvalidInputError:
        expected = repr(wish) if wish else f"{what} ({', '.join(COLUMNS[what])})"
        there = ", ".join(map(repr, self.header[:12])) or "none"
        return InvalidInputError(
            f"{self.path} has no column {expected}; it has {there}. The first line names the columns; name another "
            f"with {what}=."
        )

    def _report(self, problems: list[str]) -> None:
        if problems:
            report(problems, str(self.path), self.on_bad, "row", "rows")


def _require_file(where: str | Path, ending: str) -> Path:
    path = Path(where)
    if path.is_dir():
        raise InvalidInputError(f"{str(path)!r} is a folder; give the .{ending} file in it.")
    if not path.exists():
        raise InvalidInputError(f"there is no file {str(path)!r}; check the path.")
    return path


def _csv_rows(path: Path, image: str | None) -> tuple[list[str], Iterator[tuple[str, dict[str, Any]]]]:
    text = read_text(path)
    if not text.strip():
        raise InvalidInputError(f"{path} is empty.")
    first = text.lstrip("\r\n").splitlines()[0]
    wanted = {image.casefold()} if image else set(COLUMNS["image"])

    def found(delimiter: str) -> bool:
        return bool(wanted & {cell.strip().casefold() for cell in next(csv.reader([first], delimiter=delimiter), [])})

    # If no delimiter gives a known column, the most frequent one makes the most useful error message.
    delimiter = next(filter(found, _DELIMITERS), max(_DELIMITERS, key=first.count))
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    header = _next(reader, path) or []
    while not any(cell.strip() for cell in header):
        header = _next(reader, path) or []
    header = [cell.strip() for cell in header]
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise InvalidInputError(f"{path} has two columns called {twice[0]!r}.")

    def rows() -> Iterator[tuple[str, dict[str, Any]]]:
        while (cells := _next(reader, path)) is not None:
            where = f"{path.name}, line {reader.line_num}"
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise InvalidInputError(
                    f"{where}: {len(cells)} cells, and the header has {len(header)}; quote cells that contain a "
                    f"{'tab' if delimiter == chr(9) else delimiter!r}."
                )
            yield where, dict(zip(header, cells, strict=True))

    return header, rows()


def _next(reader: Any, path: Path) -> list[str] | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        raise InvalidInputError(f"{path.name}, line {reader.line_num}: not CSV: {error}.") from None
