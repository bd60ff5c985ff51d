"""Reads a data set in any of the known formats, with its parts. This module does not import torch."""

from __future__ import annotations

import importlib
import inspect
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from visprompt.data.labelled.columns import COLUMNS, folded, groups_of, option_names
from visprompt.data.labelled.items import IMAGE_SUFFIXES, path_of, real_path
from visprompt.data.labelled.parts import Splits, without_validation
from visprompt.data.labelled.unlabelled import splits_without_labels
from visprompt.errors import InvalidInputError, unknown_name
from visprompt.utils.renamed import renamed_value

if TYPE_CHECKING:
    from visprompt.data.labelled.dataset import Labelled

__all__ = ["FORMATS", "Splits", "load_splits", "warn_of_duplicates", "without_validation"]

#: reader of every format, as "module:function"
FORMATS: dict[str, str] = {
    "folder": "visprompt.data.labelled.folders:read_folder",
    "csv": "visprompt.data.labelled.tables:read_csv",
    "jsonl": "visprompt.data.labelled.tables:read_jsonl",
    "vtab": "visprompt.data.labelled.vtab:read_vtab",
    "fgvc": "visprompt.data.labelled.fgvc:read_fgvc",
    "ade20k": "visprompt.data.labelled.ade20k:read_ade20k",
    "hf": "visprompt.data.labelled.hub:read_hub",
    "scenes": "visprompt.data.scenes.named_sets:read_bundled",
    "images": "visprompt.data.labelled.unlabelled:read_images",
}
#: reader options that concern labels
_OF_LABELS = ("label", "mask", "question", "answer", "classes", "zero_is_none", "ignore_index")
#: reader options that are names
_TEXTS = (*COLUMNS, "images", "config", "revision", "name")
#: files by which the folder of a format is recognised
_MARKS: dict[str, str] = {
    "train800val200.txt": "vtab",
    "train.json": "fgvc",
    "annotations/training": "ade20k",
    "dataset_dict.json": "hf",
    "state.json": "hf",
}


def load_splits(
    where: str | Path,
    format: str | None = None,
    *,
    validation: float = 0.2,
    on_bad: Literal["refuse", "skip"] = "refuse",
    seed: int = 0,
    limit: int | None = None,
    labels: bool = True,
    **reader_options: Any,
) -> Splits:
    """Reads a data set with its train, validation and test parts.

    Args:
        where: a folder, a `.csv` or `.jsonl` file, `scenes:NAME` for a bundled data set, or `hf:NAME` for one on the
            hub.
        format: `"folder"` (one folder per class), `"csv"`, `"jsonl"`, `"vtab"`, `"fgvc"`, `"ade20k"`, `"hf"`,
            `"scenes"`, or `"images"` (all images below a folder, without labels). None: by `where`: a folder is read as
            class folders; files and prefixes determine their format.
        validation: fraction of the training part that is split off if the data set has no validation part, in the
            proportions of the classes; 0: none.
        on_bad: what to do with items that cannot be used, "refuse" or "skip"; see `Labelled`.
        seed: seed of the split and the limit, 0 or more.
        limit: largest number of items of every part; None: all.
        labels: False: only images are read, for strategies that learn without labels. The data need no labels then: all
            images below a folder are used, and a table needs only a column of images.
        **reader_options: options of the format's reader.

    Returns:
        The three parts.

    Raises:
        InvalidInputError: for data that cannot be read or an option out of range; the message says what was expected,
            what was found, and what to do.
        UnknownNameError: for a format or option that does not exist.
    """
    if not 0 <= validation < 1:
        raise InvalidInputError(f"validation is a share of the training part, 0 to below 1; got {validation:g}.")
    if seed < 0:
        raise InvalidInputError(f"a seed is 0 or more; got {seed}.")
    where = os.path.expanduser(os.fspath(where))
    chosen = renamed_value(format, {"pictures": "images"}, "format of data") or _format_of(where, labels)
    if chosen not in FORMATS:
        raise unknown_name("format of data", chosen, FORMATS)
    if not labels:
        chosen = "images" if chosen == "folder" else chosen
        given = next((name for name in _OF_LABELS if name in reader_options), None)
        if given is not None:
            raise InvalidInputError(f"{given}={reader_options[given]!r}: labels are not read here; leave it out.")
    common = {"validation": validation, "seed": seed, "on_bad": on_bad}
    splits = _read(where, chosen, common, labels, reader_options)
    if not labels:
        splits = splits_without_labels(splits)
    _require_several_classes(splits.train, where)
    warn_of_duplicates(splits)
    _warn_of_several_labels(splits)
    _warn_of_unseen(splits)
    return splits.limited(limit, seed)


def _read(where: str, format: str, common: dict[str, Any], labels: bool, given: dict[str, Any]) -> Splits:
    """Calls the format's reader; fields of its option dataclasses are given one by one in `given`.

    Raises:
        UnknownNameError: for an option that the reader does not have.
    """
    module, _, function = FORMATS[format].partition(":")
    reader: Callable[..., Splits] = getattr(importlib.import_module(module), function)
    known = set(inspect.signature(reader).parameters)
    options = known - {"where", "labels", *common, *groups_of(reader)} | set(option_names(reader))
    made: dict[str, Any] = {"labels": labels} if "labels" in known else {}
    for name, value in given.items():
        if name not in options:
            raise unknown_name(f"option of the format {format}", name, options)
        # the command line reads a column called 0 as a number
        made[name] = str(value) if name in _TEXTS and isinstance(value, int | float) else value
    return reader(where, **common, **folded(reader, made))


def warn_of_duplicates(splits: Splits) -> None:
    """Warns of image files that are in two parts: results on images that were trained on are not valid."""
    folders: dict[str, str] = {}
    seen: dict[str, str] = {}
    twice: dict[tuple[str, str], list[str]] = {}
    for name in ("train", "validation", "test"):
        part: Labelled | None = getattr(splits, name)
        for path in dict.fromkeys(part.files() if part is not None else ()):
            first = seen.setdefault(real_path(path, folders), name)
            if first != name:
                twice.setdefault((first, name), []).append(path)
    for (first, second), paths in twice.items():
        files = "1 file is" if len(paths) == 1 else f"{len(paths)} files are"
        warnings.warn(
            f"{files} in {first} and in {second}, the first: {paths[0]}. Figures on {second} are too good by that.",
            UserWarning,
            stacklevel=3,
        )


def _warn_of_several_labels(splits: Splits) -> None:
    """Warns of image files with two classes, which suggests several labels per image; that is not supported."""
    for part in (splits.train, splits.validation, splits.test):
        if part is None or part.kind != "classification":
            continue
        first: dict[str, int] = {}
        several = list(
            dict.fromkeys(
                path
                for (image, label) in part.items
                if (path := path_of(image)) is not None and first.setdefault(path, label) != label
            )
        )
        if several:
            files = "1 file has" if len(several) == 1 else f"{len(several)} files have"
            warnings.warn(
                f"{part.name}: {files} several classes, the first: {several[0]}. One image has one class here.",
                UserWarning,
                stacklevel=3,
            )


def _require_several_classes(train: Labelled, where: str) -> None:
    if train.kind in ("answers", "images") or len(train.classes) > 1:
        return
    inner = os.path.join(where, train.classes[0])
    wrapped = os.path.isdir(inner) and any(entry.is_dir() for entry in os.scandir(inner))
    hint = f" Is {inner!r} the data set?" if wrapped else ""
    raise InvalidInputError(
        f"{where!r} has one class only, {train.classes[0]!r}: there is nothing to tell apart. Every class needs "
        f"images in a folder, or with a label, of its own.{hint}"
    )


def _warn_of_unseen(splits: Splits) -> None:
    if splits.train.kind != "classification":
        return
    known = set(splits.train.labels) | set(splits.validation.labels if splits.validation is not None else ())
    if splits.test is None:
        return
    unseen = [splits.train.classes[number] for number in sorted(set(splits.test.labels) - known)]
    if unseen:
        listed = ", ".join(repr(one) for one in unseen[:5]) + (", …" if len(unseen) > 5 else "")
        classes = "1 class of the test part has" if len(unseen) == 1 else f"{len(unseen)} classes of the test part have"
        warnings.warn(
            f"{classes} no image to learn from: {listed}. Are they spelt alike everywhere?", UserWarning, stacklevel=3
        )


def _format_of(where: str, labels: bool = True) -> str:
    for prefix in ("scenes", "hf"):
        if where.startswith(prefix + ":"):
            return prefix
    ending = Path(where).suffix.lower()
    if ending in (".csv", ".tsv", ".jsonl"):
        return "jsonl" if ending == ".jsonl" else "csv"
    if not labels and (os.path.isdir(where) or (os.path.isfile(where) and ending in IMAGE_SUFFIXES)):
        saved = any(os.path.exists(os.path.join(where, file)) for file, name in _MARKS.items() if name == "hf")
        return "hf" if saved else "images"
    if os.path.isdir(where):
        for file, name in _MARKS.items():
            if os.path.exists(os.path.join(where, file)):
                raise InvalidInputError(
                    f"{where!r} has {file}, so it may be {name}: say so with format={name!r} (--format {name}), or "
                    "folder if its folders are classes."
                )
        return "folder"
    what = "is a file of another kind" if os.path.exists(where) else "does not exist"
    folder = "a folder of class folders" if labels else "an image, a folder with images"
    raise InvalidInputError(
        f"{where!r} {what}. Data is {folder}, a .csv or .jsonl file, scenes:NAME, hf:NAME, or a "
        f"folder with its format named. Formats: {', '.join(FORMATS)}."
    )
