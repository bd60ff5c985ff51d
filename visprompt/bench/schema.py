"""Checks what a suite's file says, before anything is computed.

The dataclass that a section of the file becomes says which keys there are and what type each value has. pydantic
compares values with types; this module says in one sentence where a mistake is, what was expected, what came, and which
known name was probably meant. Keys are also read by the names that they had in the last release.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, MinLen
from pydantic import AfterValidator, BeforeValidator, Strict, TypeAdapter, ValidationError, WrapValidator

from visprompt.errors import InvalidInputError, VispromptError, unknown_name
from visprompt.training.settings import FitSettings
from visprompt.utils.hashing import digest

T = TypeVar("T")
#: What is read by its 0.4.0 name for one release, by kind of suite: where (`*` is any key), the old name, the new one.
#: They are names of a key in the mapping that is there, or the value there.
RENAMED: dict[str, tuple[tuple[tuple[str, ...], str, str], ...]] = {
    "gain": (((), "pictures", "images"),),
    "accuracy": ((("tasks", "*", "among"), "picture", "image"),),
}


@dataclasses.dataclass(frozen=True)
class Says:
    """What is said about a value that does not have its type; "; got …" follows.

    Attributes:
        sentence: `{key}` is the value's key; `{at}`, `{inside}` and `{of}` name the section of the file ("task a: ",
            " in task a", " of task a") and are empty at its top.
        needs: of a required value: what it is.
    """

    sentence: str
    needs: str = ""


def _different(values: Sequence[Any]) -> Sequence[Any]:
    if len(set(values)) != len(values):
        raise ValueError("a value is there twice")
    return values


def _as_given(value: Any, check: Callable[[Any], Any]) -> Any:
    """A whole number that stands for a real one: it is hashed and written as it was given."""
    check(value)
    return value


_KEY = Annotated[str, BeforeValidator(str)]  # YAML reads `2024:` as a number
_WHOLE = Annotated[int, Strict(), Ge(0)]

Text = Annotated[str, Strict(), Says("{at}{key} is a text")]
Texts = Annotated[tuple[Annotated[str, Strict()], ...], Says("{key}{of}: expected a list of texts")]
Number = Annotated[float, Strict(), WrapValidator(_as_given), Says("{at}{key} is a number")]
Flag = Annotated[bool, Strict(), Says("{at}{key} is true or false")]
Integer = Annotated[int, Strict(), Says("{key}{inside} is a whole number")]
Whole = Annotated[_WHOLE, Says("{key}{inside} is a whole number, at least 0")]
Count = Annotated[int, Strict(), Ge(1), Says("{key}{inside} is a whole number, at least 1")]
Listed = Annotated[list[Any], Says("{key}{of}: expected a list")]
Keys = Annotated[dict[_KEY, Any], Says("{key}{of}: expected keys with values")]
Grid = Annotated[dict[_KEY, Annotated[list[Any], MinLen(1)]], Says("{key}{of}: every name needs a list of values")]
Seeds = Annotated[
    tuple[_WHOLE, ...],
    MinLen(1),
    AfterValidator(_different),
    Says("{key}{of}: expected a list of different whole numbers, at least 0"),
]
#: what a plain annotation of a dataclass stands for
_PLAIN: dict[Any, Any] = {str: Text, int: Integer, float: Number, bool: Flag}
_PLAIN |= {dict[str, Any]: Keys, tuple[str, ...]: Texts}


def types_of(kind: type, *left_out: str) -> dict[str, Any]:
    """The fields of a dataclass with the types of their values, without those left out; `X | None` is `X`."""
    hints = get_type_hints(kind, include_extras=True)
    found = {item.name: _without_none(hints[item.name]) for item in dataclasses.fields(kind)}
    return {name: _PLAIN.get(hint, hint) for name, hint in found.items() if name not in left_out}


def opened(content: Any, kind: str, name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The top of a suite's file.

    Args:
        content: what the file says.
        kind: of the suite.
        name: of the suite.
        fields: the type of every key that is not in all suites.

    Returns:
        The values by today's names, with `name`, `title`, `description` and `hash`.
    """
    known = {"kind": Text, "title": Text, "description": Text, **fields}
    for path, old, new in RENAMED.get(kind, ()):
        before = content
        content = _renamed(content, path, old, new)
        if content != before:
            said = f"suite {name}: {old!r}{' in ' * bool(path)}{'.'.join(path)} is called {new!r} now"
            warnings.warn(f"{said}; the old name is read until the next release.", DeprecationWarning, stacklevel=5)
    top = {
        "title": name,
        "description": "",
        **checked(content, known),
        "name": name,
        "hash": digest(_without_texts(content)),
    }
    return {key: value.strip() if key == "description" else value for key, value in top.items() if key != "kind"}


def _without_texts(node: Any) -> Any:
    """What a suite says, without the titles and descriptions that only people read: these change no figure."""
    if isinstance(node, Mapping):
        return {key: _without_texts(value) for key, value in node.items() if key not in ("title", "description")}
    return [_without_texts(value) for value in node] if isinstance(node, list) else node


def _renamed(node: Any, path: Sequence[str], old: str, new: str) -> Any:
    if not isinstance(node, Mapping):
        return new if not path and node == old else node
    if path:
        at, *rest = path
        return {key: _renamed(value, rest, old, new) if at in ("*", key) else value for key, value in node.items()}
    if old in node and new in node:
        raise InvalidInputError(f"{new} and {old} are two names of one key: give one of them.")
    return {new if key == old else key: value for key, value in node.items()}


def rows_of(top: dict[str, Any], part: str, parse: Callable[[Any, bool], Any]) -> tuple[Any, ...]:
    """The rows of a table, taken out of the top of a file: those of `part`, then its `controls`.

    Args:
        top: as `opened` gives it.
        part: the key that rows stand under.
        parse: makes a row, which has a `label`, of what the file says and whether it is a control.

    Raises:
        InvalidInputError: if there are none, or two with the same label.
    """
    given = [(value, where == "controls") for where in (part, "controls") for value in top.pop(where, ())]
    rows = tuple(parse(value, control) for value, control in given)
    labels = [row.label for row in rows]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if not rows:
        raise InvalidInputError(f"there are no {part}.")
    if twice:
        name = "rows" if part == "strategies" else part
        raise InvalidInputError(f"there are two {name} called {', '.join(twice)}: give them a label of their own.")
    return rows


def combinations(grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """All combinations of the values of a grid, in the order of the file; one empty one of an empty grid."""
    return (dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values()))


def labelled(rows: Iterable[T], label: Any, what: str) -> T:
    """The row with that label; otherwise raises an `UnknownNameError` with suggestions."""
    by_label: dict[str, T] = {row.label: row for row in rows}  # type: ignore[attr-defined]
    all_of([label], by_label, what)
    return by_label[label]


def checked(content: Any, fields: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The values of a section of the file; a key without a value counts as left out.

    Args:
        content: the section.
        fields: the type of every key that it may have.
        where: what the section is called in messages, e.g. `"task a"`; empty at the top of a file.

    Raises:
        UnknownNameError: for a key, or one of a few choices, that does not exist.
        InvalidInputError: for a value of another type, or a required one that is missing.
    """
    values = mapping(content, where, fields)
    found = {key: valid(value, fields[key], key, where) for key, value in values.items() if value is not None}
    for key, kind in fields.items():
        if _says(kind).needs and not found.get(key):
            raise InvalidInputError(f"{where or 'it'} needs {key}: {_says(kind).needs}.")
    return found


def mapping(content: Any, where: str, known: Iterable[str] | None = None) -> dict[str, Any]:
    """The keys and values of a section of the file, none where it is empty; `known`: the keys that it may have.

    Raises:
        UnknownNameError: for another key.
        InvalidInputError: if it is no mapping.
    """
    if not isinstance(content, Mapping | None):
        raise InvalidInputError(f"{where}{': ' if where else ''}expected keys with values; got {content!r:.60}.")
    all_of(content or () if known is not None else (), known or (), f"key in {where}" if where else "key")
    return {str(key): value for key, value in (content or {}).items()}


def valid(value: Any, kind: Any, key: str, where: str) -> Any:
    """A value of the type `kind`; a list becomes a tuple where the type is one. Raises as `checked` does."""
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
    of, inside, at = (f" of {where}", f" in {where}", f"{where}: ") if where else ("", "", "")
    if problem["type"] == "literal_error":
        raise unknown_name(f"{key}{of}", value, get_args(kind))
    sentence = _says(kind).sentence.format(key=key, of=of, inside=inside, at=at)
    raise InvalidInputError(f"{sentence}; got {problem['input']!r:.60}{' in it' if problem['loc'] else ''}.")


def all_of(names: Iterable[Any], known: Iterable[str], what: str) -> None:
    """Makes sure that all names are among those known; otherwise raises an `UnknownNameError` with suggestions."""
    known = tuple(known)
    for name in names:
        if name not in known:
            raise unknown_name(what, name, known)


def known_settings(content: Any, where: str) -> dict[str, Any]:
    """Settings of `FitSettings` without the seed, by name; values are not looked at. Raises as `mapping` does."""
    return mapping(content, where, types_of(FitSettings, "seed"))


@contextmanager
def within(where: str, *also: type[Exception]) -> Iterator[None]:
    """Puts in front of an error's message where in the file its cause is.

    Args:
        where: e.g. `"row 'falip'"`.
        *also: exceptions of other code that are mistakes of the file too, e.g. `TypeError` of an option's check.
    """
    try:
        yield
    except VispromptError as error:
        raise type(error)(f"{where}: {error}") from error
    except also as error:
        raise InvalidInputError(f"{where}: {error}.") from error


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _without_none(kind: Any) -> Any:
    left = [one for one in get_args(kind) if one is not types.NoneType]
    return left[0] if get_origin(kind) in (Union, types.UnionType) and len(left) == 1 else kind


def _says(kind: Any) -> Says:
    """The last sentence that a type has: a type made of another one may say it anew."""
    found = [one for one in getattr(_without_none(kind), "__metadata__", ()) if isinstance(one, Says)]
    return found[-1] if found else Says("{key}{of} is not what it should be")
