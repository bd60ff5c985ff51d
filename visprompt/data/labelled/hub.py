"""Reader of data sets on the Hugging Face hub, and of folders that its `datasets` package wrote.

Columns are recognised by the features that the data set declares: a column of images, and one of class labels (or of
masks, or of questions and answers). Code that comes with a data set is not run unless the user allows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visprompt.data.labelled.columns import COLUMNS, ColumnSpec, HubVersion, takes_groups
from visprompt.data.labelled.dataset import IGNORE, Kind, Labelled, OnBad
from visprompt.data.labelled.items import ShiftedMask
from visprompt.data.labelled.label_names import PARTS, Names, class_names, is_ignored, numbered, part_of
from visprompt.data.labelled.parts import Splits, without_validation
from visprompt.errors import InvalidInputError, UnsupportedError

#: the first version of `datasets` that runs no code of data sets at all
_NO_CODE = 4


@dataclass(frozen=True, eq=False)
class Cell:
    """One image of a data set, decoded when the object is called.

    Args:
        rows: the data set.
        row: index of the row.
        column: name of the column.
        name: name of data set and part, for messages.
    """

    rows: Any = field(repr=False)
    row: int
    column: str
    name: str

    @property
    def identity(self) -> Any:
        """The values that identify the image in hashes: data set, row and column."""
        return [self.name, self.row, self.column]

    def __call__(self) -> Any:
        """Returns the decoded image (PIL).

        Raises:
            InvalidInputError: if the cell is empty or damaged; the message names the row.
        """
        try:
            value = self.rows[self.row][self.column]
        except Exception as error:  # Pillow's decoders raise errors of many types
            raise InvalidInputError(f"row {self.row} of {self.name}: {self.column} cannot be read ({error}).") from None
        if value is None:
            raise InvalidInputError(f"row {self.row} of {self.name}: {self.column} is empty.")
        return value


@takes_groups(columns=ColumnSpec, version=HubVersion)
def read_hub(
    where: str | Path,
    *,
    validation: float = 0.2,
    seed: int = 0,
    on_bad: OnBad = "refuse",
    columns: ColumnSpec | None = None,
    classes: Names = None,
    zero_is_none: bool = False,
    ignore_index: int = IGNORE,
    parts: Mapping[str, str] | None = None,
    version: HubVersion | None = None,
    name: str | None = None,
    labels: bool = True,
) -> Splits:
    """Reads a data set with the `datasets` package.

    Args:
        where: `hf:NAME` or a NAME on the hub, a folder of `save_to_disk`, or a folder of parquet files.
        validation: fraction of the training part that becomes the validation part if there is no such split.
        seed: seed of that random split, 0 or more.
        on_bad: what to do with items that cannot be used, "refuse" or "skip"; see `Labelled`.
        columns: names of columns. A column that is not given is found by its declared feature: for images the only
            image column that is not a mask; for labels the only column of class labels, or one called `label`; for the
            others the usual names in `COLUMNS`.
        classes: class names, a file of them, or their number; required for masks.
        zero_is_none: True: in masks, 0 stands for no class and the classes are numbered from 1.
        ignore_index: value of the mask's pixels that are left out of losses and metrics.
        parts: the data set's split for each part, for example `{"train": "train", "test": "validation"}`; None: by the
            splits' names.
        version: configuration and revision; None: the only configuration, at its latest revision.
        name: name of the data set; None: its name on the hub, or the folder's name.
        labels: False: only the column of images is read.

    Returns:
        The three parts; the kind depends on the columns.

    Raises:
        UnsupportedError: if the `datasets` package is not installed.
        InvalidInputError: if the data set cannot be loaded, or the columns cannot be recognised.
    """
    wished, chosen = columns or ColumnSpec(), version or HubVersion()
    if wished.split is not None:
        raise InvalidInputError(
            f"split={wished.split!r}: a data set of the hub has splits of its own; say which is which with parts=."
        )
    source = str(where).removeprefix("hf:")
    called = name or (Path(source).resolve().name if Path(source).exists() else source)
    splits = _splits(_loaded(source, chosen), parts, called)
    found = _Columns(splits["train"].features, wished, called, labels)
    items, names, secret = _items(splits, found, called, classes, ignore_index if zero_is_none else None)
    ignore = ignore_index if found.kind == "segmentation" else None
    made = {
        part: Labelled(rows, names, kind=found.kind, name=f"{called} {part}", on_bad=on_bad, ignore_index=ignore)
        for part, rows in items.items()
    }
    at = f" at revision {chosen.revision}" if chosen.revision else ""
    test = made.get("test")
    tested = "test is its own" if test is not None else "no test part" + (" (its labels are secret)" if secret else "")
    if "validation" in made:
        protocol = f"Train and validation are those of {called}{at}; {tested}."
        return Splits(made["train"], made["validation"], test, protocol)
    return without_validation(made["train"], test, validation, seed, f"train is that of {called}{at}", tested)


# -- loading --------------------------------------------------------------------------------------------------------


def _loaded(source: str, version: HubVersion) -> Mapping[str, Any]:
    """Returns the splits by name, from a folder or the hub.

    Raises:
        UnsupportedError: if the `datasets` package is not installed.
        InvalidInputError: if the data set cannot be loaded.
    """
    try:
        import datasets
    except ImportError:
        raise UnsupportedError(
            'data sets of the hub need the datasets package: pip install "visprompt-toolkit[hf]".'
        ) from None
    path = Path(source)
    loaded = _local(datasets, path) if path.exists() else _from_hub(datasets, source, version)
    return loaded if isinstance(loaded, Mapping) else {"train": loaded}


def _local(datasets: Any, path: Path) -> Any:
    if path.is_file():
        raise InvalidInputError(f"{str(path)!r} is a file; give the folder of save_to_disk or of the parquet files.")
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return _tried(str(path), lambda: datasets.load_from_disk(str(path)))
    files = sorted(file for file in path.rglob("*.parquet") if not is_ignored(file.name))
    if not files:
        raise InvalidInputError(
            f"{str(path)!r} has neither dataset_dict.json nor state.json of save_to_disk, nor parquet files."
        )
    # Never load_dataset(folder): older versions run a script that the folder contains.
    by_split: dict[str, list[str]] = {}
    for file in files:
        words = (file.stem.partition("-")[0], file.parent.name)
        split = next((word for word in words if word.casefold() in PARTS), words[0] if len(files) > 1 else "train")
        by_split.setdefault(split, []).append(str(file))
    return _tried(str(path), lambda: datasets.load_dataset("parquet", data_files=by_split))


def _from_hub(datasets: Any, name: str, version: HubVersion) -> Any:
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or not name:
        raise InvalidInputError(f"there is no folder {name!r}, and a data set on the hub is called OWNER/NAME.")
    older = int(str(datasets.__version__).partition(".")[0]) < _NO_CODE
    options: dict[str, Any] = {"trust_remote_code": version.trust_remote_code} if older else {}
    return _tried(name, lambda: datasets.load_dataset(name, version.config, revision=version.revision, **options))


def _tried(name: str, load: Any) -> Any:
    try:
        return load()
    except Exception as error:  # pyarrow, requests, the hub and datasets raise errors of many types
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InvalidInputError(f"datasets cannot load {name!r}: {first} Check its name, and the network.") from error


def _splits(loaded: Mapping[str, Any], parts: Mapping[str, str] | None, called: str) -> dict[str, Any]:
    listed = ", ".join(map(str, loaded))
    if parts is not None:
        if not isinstance(parts, Mapping):
            raise InvalidInputError(f"parts says which split is which, {{train: …, test: …}}; got {parts!r:.60}.")
        wanted = {part_of(part, "parts"): split for part, split in parts.items()}
        for split in wanted.values():
            if split not in loaded:
                raise InvalidInputError(f"{called} has no split {split!r}; it has {listed}.")
        found = {part: loaded[split] for part, split in wanted.items()}
    else:
        found = {}
        for split, rows in loaded.items():
            part = PARTS.get(str(split).casefold())
            if part is not None and part not in found:
                found[part] = rows
        if not found and len(loaded) == 1:
            found = {"train": next(iter(loaded.values()))}
    if "train" not in found:
        raise InvalidInputError(
            f"{called} has no split train; it has {listed}. Say which is which: "
            f'parts={{"train": "{next(iter(loaded))}"}}.'
        )
    return found


# -- columns --------------------------------------------------------------------------------------------------------


class _Columns:
    """The columns of a data set, recognised by the features that it declares."""

    def __init__(self, features: Mapping[str, Any], wished: ColumnSpec, called: str, labels: bool = True) -> None:
        self.features, self.called = features, called
        for what, wish in wished.named().items():
            if wish not in features:
                raise InvalidInputError(f"{called} has no column {wish!r} ({what}); it has {self._listing()}.")
        images = self._of("Image")
        usual_mask = self._usual("mask", images)
        self.mask = wished.mask or (None if wished.label else usual_mask)
        self.question = wished.question or self._usual("question", list(features))
        self.answer = wished.answer or self._usual("answer", list(features))
        others = [name for name in images if name not in (self.mask, usual_mask)]
        self.image = wished.image or self._only(others, "image", "images")
        for column in (self.image, wished.mask):
            if column is not None and column not in images:
                raise InvalidInputError(f"{called}: {column!r} is no column of images; it has {self._listing()}.")
        if not labels:
            self.kind: Kind = "images"
        elif wished.mask or (self.mask and not wished.question):
            self.kind = "segmentation"
        elif wished.question or (self.question and self.answer and not wished.label):
            self.kind = "answers"
            if not (self.question and self.answer):
                raise InvalidInputError(
                    f"{called} has questions without a column of answers; it has {self._listing()}."
                )
        else:
            self.kind = "classification"
            declared = self._of("ClassLabel")
            usual = self._usual("label", list(features))
            self.label = wished.label or (
                self._only(declared, "label", "class labels") if declared or usual is None else usual
            )
            if type(features[self.label]).__name__ not in ("ClassLabel", "Value"):
                raise InvalidInputError(
                    f"{called}: the column {self.label!r} is {features[self.label]}; a label is one class per image."
                )

    @property
    def declared(self) -> tuple[str, ...] | None:
        """Names of the classes, if the label column declares them."""
        names = getattr(self.features[self.label], "names", None)
        return tuple(names) if names else None

    def _of(self, kind: str) -> list[str]:
        return [name for name, feature in self.features.items() if type(feature).__name__ == kind]

    def _usual(self, what: str, among: Sequence[str]) -> str | None:
        by_name = {name.casefold(): name for name in among}
        return next((by_name[name] for name in COLUMNS[what] if name in by_name), None)

    def _only(self, names: Sequence[str], option: str, what: str) -> str:
        if len(names) != 1:
            count = f"{len(names)} columns" if names else "no column"
            raise InvalidInputError(
                f"{self.called} has {count} declared as {what}; name one with {option}=. It has {self._listing()}."
            )
        return names[0]

    def _listing(self) -> str:
        return ", ".join(f"{name} ({_short(feature)})" for name, feature in self.features.items())


def _short(feature: Any) -> str:
    kind = type(feature).__name__
    return str(getattr(feature, "dtype", kind)) if kind == "Value" else kind


def _items(
    splits: Mapping[str, Any], columns: _Columns, called: str, classes: Names, none_becomes: int | None
) -> tuple[dict[str, list[tuple[Any, Any]]], tuple[str, ...], bool]:
    """Returns the items of every part, the class names, and whether a test part without labels was left out."""
    labels: dict[str, list[Any]] = {}
    names: tuple[str, ...] = ()
    secret = False
    for part, rows in splits.items():
        if columns.kind == "images":
            labels[part] = [None] * len(rows)
        elif columns.kind == "segmentation":
            assert columns.mask is not None
            made = _cells(rows, columns.mask, f"{called} {part}")
            labels[part] = (
                list(made)
                if none_becomes is None
                else [ShiftedMask(cell, none_becomes, str(cell.identity)) for cell in made]
            )
        elif columns.kind == "answers":
            questions, answers = (_texts(rows, str(name), part) for name in (columns.question, columns.answer))
            labels[part] = list(zip(questions, answers, strict=True))
        elif columns.label not in rows.features:
            if part != "test":
                raise InvalidInputError(f"{called}: {part} has no column {columns.label!r}, which train has.")
            secret = True
        else:
            labels[part] = list(rows[columns.label])
            if part == "test" and set(labels[part]) <= {
                -1,
                None,
            }:  # the test labels are not published
                del labels[part]
                secret = True
    if columns.kind == "segmentation":
        names = class_names(classes, called) or ()
        if not names:
            raise InvalidInputError(
                f"{called}: masks hold numbers; give classes= (names, a file of them, or how many)."
            )
    elif columns.kind == "classification":
        names, labels = _numbers(splits, columns, labels, called, classes)
    items = {
        part: list(zip(_cells(splits[part], columns.image, f"{called} {part}"), found, strict=True))
        for part, found in labels.items()
    }
    return items, names, secret


def _numbers(
    splits: Mapping[str, Any], columns: _Columns, labels: dict[str, list[Any]], called: str, classes: Names
) -> tuple[tuple[str, ...], dict[str, list[Any]]]:
    names = class_names(classes, called) or columns.declared
    for part, rows in splits.items():
        declared = getattr(rows.features.get(columns.label), "names", None)
        if part in labels and tuple(declared or ()) != (columns.declared or ()):
            raise InvalidInputError(
                f"{called}: {part} declares its classes otherwise than train, {_first(declared)} instead of "
                f"{_first(columns.declared)}: numbers would mean different classes. Cast the column "
                f"{columns.label!r} to the same features."
            )
    if columns.declared is not None and names is not None:
        if len(names) != len(columns.declared):
            raise InvalidInputError(
                f"{called} declares {len(columns.declared)} classes; {len(names)} names were given."
            )
        return names, labels
    numbers, names = numbered((label for part in labels.values() for label in part), classes, called)
    return names, {part: [numbers[label] for label in found] for part, found in labels.items()}


def _first(names: Sequence[str] | None) -> str:
    return ", ".join(map(repr, (names or ())[:4])) or "none"


def _cells(rows: Any, column: str, name: str) -> list[Cell]:
    # A view of one column, so that opening an image does not decode its mask.
    alone = rows.select_columns([column])
    return [Cell(alone, row, column, name) for row in range(len(rows))]


def _texts(rows: Any, column: str, part: str) -> list[str]:
    found = list(rows[column])
    for row, value in enumerate(found):
        if not isinstance(value, str):
            raise InvalidInputError(f"row {row} of {part}: {column} is {value!r:.60}; expected one text.")
    return found
