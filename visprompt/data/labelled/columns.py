"""Options of readers that travel together: which column is what, and which data set of the hub is meant.

`load_splits` and the command line take every one of these options by its own name.
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
    """Names of columns; None: the first column with one of the usual names (`COLUMNS`).

    Args:
        image: column of images.
        label: column of class labels.
        mask: column of masks; naming it makes a data set for segmentation.
        question: column of questions; naming it makes a data set of answers, with `answer`.
        answer: column of answers.
        split: column that says to which part a row belongs; only of tables.
    """

    image: str | None = None
    label: str | None = None
    mask: str | None = None
    question: str | None = None
    answer: str | None = None
    split: str | None = None

    def named(self) -> dict[str, str]:
        """The columns that are named, by what they are."""
        return {what: name for what, name in vars(self).items() if name is not None}


@dataclass(frozen=True)
class HubVersion:
    """Which version of a data set of the hub is read.

    Args:
        config: name of the configuration, of a data set that has several.
        revision: commit, tag or branch on the hub.
        trust_remote_code: let a data set run its own code; `datasets` from version 4 on never does.
    """

    config: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False


def takes_groups(**groups: type) -> Callable[[Callable[..., Splits]], Callable[..., Splits]]:
    """Marks a reader whose parameters of these names are groups of options, dataclasses.

    The fields are also accepted as keyword arguments of the reader itself, as up to 0.4.0, with a DeprecationWarning.

    Args:
        groups: the dataclass by the parameter's name.
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
    """The groups of options that a reader takes, by the parameter's name."""
    found: dict[str, type] = getattr(reader, "groups", {})
    return found


def option_names(reader: Callable[..., Splits]) -> tuple[str, ...]:
    """Names of all options that are fields of the reader's groups."""
    return tuple(name for kind in groups_of(reader).values() for name in _names(kind))


def folded(reader: Callable[..., Splits], options: Mapping[str, Any]) -> dict[str, Any]:
    """The same options, those of a group as one value for the reader.

    Raises:
        InvalidInputError: for an option that is given by itself and in its group.
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
