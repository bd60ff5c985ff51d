"""Groups of reader options: names of columns, and the version of a data set on the Hugging Face hub.

`load_splits` and the command line take each of these options by its own name.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from visprompt.errors import InvalidInputError

if TYPE_CHECKING:
    from visprompt.data.labelled.parts import Splits

#: usual names of columns, in the order in which they are looked for
COLUMNS: dict[str, tuple[str, ...]] = {
    "image": ("image", "file", "file_name", "filename", "filepath", "path", "image_path"),
    "label": ("label", "class", "category", "class_name", "label_name"),
    "mask": ("mask", "annotation", "segmentation"),
    "question": ("question",),
    "answer": ("answer",),
    "split": ("split", "subset", "set"),
}


@dataclass(frozen=True)
class ColumnSpec:
    """Names of the columns of a table. None: the first column with one of the usual names in `COLUMNS`.

    Args:
        image: column of image paths, or of images.
        label: column of class labels.
        mask: column of masks; giving it makes the data a segmentation data set.
        question: column of questions; giving it makes the data questions with answers, together with `answer`.
        answer: column of answers.
        split: column with the part of a row (train, validation or test); only for tables.
    """

    image: str | None = None
    label: str | None = None
    mask: str | None = None
    question: str | None = None
    answer: str | None = None
    split: str | None = None

    def named(self) -> dict[str, str]:
        """Returns the columns that were given: kind of content → column name."""
        return {what: name for what, name in vars(self).items() if name is not None}


@dataclass(frozen=True)
class HubVersion:
    """The version of a data set on the hub.

    Args:
        config: name of the configuration, for a data set that has several.
        revision: commit, tag or branch on the hub.
        trust_remote_code: True: the data set may run its own code; `datasets` from version 4 on never does.
    """

    config: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False


def takes_groups(**groups: type) -> Callable[[Callable[..., Splits]], Callable[..., Splits]]:
    """Declares that a reader takes these parameters as dataclasses of options.

    The decorated reader also accepts the fields as keyword arguments of its own, as visprompt 0.4.0 did, with a
    DeprecationWarning.

    Args:
        groups: parameter name → dataclass.

    Returns:
        A decorator for readers.
    """

    def mark(reader: Callable[..., Splits]) -> Callable[..., Splits]:
        @functools.wraps(reader)
        def read(*args: Any, **options: Any) -> Splits:
            old = [name for kind in groups.values() for name in _names(kind) if name in options]
            if old:
                group = next(group for group, kind in groups.items() if old[0] in _names(kind))
                warnings.warn(
                    f"{reader.__name__}({old[0]}=…) is taken until 0.6.0: write {group}="
                    f"{groups[group].__name__}({old[0]}=…).",
                    DeprecationWarning,
                    stacklevel=2,
                )
            return reader(*args, **folded(read, options))

        read.groups = groups  # type: ignore[attr-defined]
        return read

    return mark


def groups_of(reader: Callable[..., Splits]) -> dict[str, type]:
    """Returns the dataclasses of options that a reader takes, by parameter name."""
    found: dict[str, type] = getattr(reader, "groups", {})
    return found


def option_names(reader: Callable[..., Splits]) -> tuple[str, ...]:
    """Returns the names of all options that are fields of the reader's dataclasses."""
    return tuple(name for kind in groups_of(reader).values() for name in _names(kind))


def folded(reader: Callable[..., Splits], options: Mapping[str, Any]) -> dict[str, Any]:
    """Moves options that are fields of one of the reader's dataclasses into an instance of that dataclass.

    Args:
        reader: a reader decorated with `takes_groups`.
        options: keyword arguments, with the fields given one by one.

    Returns:
        Keyword arguments for the reader.

    Raises:
        InvalidInputError: for an option that is given both by itself and in its dataclass.
    """
    rest = dict(options)
    for group, kind in groups_of(reader).items():
        own = {name: rest.pop(name) for name in _names(kind) if name in rest}
        if own and rest.get(group) is not None:
            raise InvalidInputError(f"{next(iter(own))} is given by itself and with {group}=: give it once.")
        if own:
            rest[group] = kind(**own)
    return rest


def _names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))
