"""What a suite's file may hold: checks that say what is wrong, and where."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visprompt.errors import InvalidInputError, unknown_name
from visprompt.tasks.data_sources import SOURCE_DEFAULTS, SOURCE_KEYS

if TYPE_CHECKING:
    from visprompt.bench.accuracy.spec import TaskSpec

_TEXTS = ("title", "note", "published", "template", "subtract", "task", "difficulty")
_NUMBERS = ("weight",)
_COUNTS = ("n", "points", "num_negatives", "max_new_tokens")
_WHOLE = ("seed",)


def mapping(content: Any, where: str, known: Sequence[str] | None = None) -> dict[str, Any]:
    """A mapping with text keys; `known`: the keys that it may have. None is an empty one."""
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise InvalidInputError(f"{where}: expected keys with values, got {content!r:.60}.")
    if known is not None:
        for key in content:
            if key not in known:
                raise unknown_name(f"key in {where}", key, known)
    return {str(key): value for key, value in content.items()}


def listed(content: Any, where: str) -> list[Any]:
    """A list; None is an empty one."""
    if content is None:
        return []
    if not isinstance(content, list):
        raise InvalidInputError(f"{where}: expected a list, got {content!r:.60}.")
    return content


def check_text(values: Mapping[str, Any], key: str, where: str) -> None:
    """Makes sure that a value is a text, if it is there."""
    value = values.get(key)
    if value is not None and not isinstance(value, str):
        raise InvalidInputError(f"{where}: {key} is a text; got {value!r:.60}.")


def texts(content: Any, where: str) -> list[str]:
    """A list of texts."""
    found = listed(content, where)
    for one in found:
        if not isinstance(one, str):
            raise InvalidInputError(f"{where}: expected a list of texts, got {one!r:.60} in it.")
    return found


def whole(value: Any, where: str, least: int) -> int:
    """A whole number, at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidInputError(f"{where} is a whole number, at least {least}; got {value!r:.60}.")
    return value


def check_types(values: Mapping[str, Any], where: str) -> None:
    """Makes sure that texts, numbers and counts are what they should be, wherever they stand."""
    for key in _TEXTS:
        check_text(values, key, where)
    for key in _NUMBERS:
        value = values.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidInputError(f"{where}: {key} is a number; got {value!r}.")
    for key in (*_COUNTS, *_WHOLE):
        if key in values:
            whole(values[key], f"{key} in {where}", least=1 if key in _COUNTS else 0)


def require_other_data(label: str, task: TaskSpec, data: Mapping[str, Any], tasks: Sequence[TaskSpec]) -> None:
    """Refuses to tune on what a figure of the table is measured on, with whatever seed or number of pictures."""
    merged = {**task.data, **data}
    where = f"data of tune of {label} for task {task.key}"
    if merged["source"] not in SOURCE_KEYS:
        raise unknown_name(f"data source of {where}", merged["source"], SOURCE_KEYS)
    mapping(merged, where, ("source", *SOURCE_KEYS[merged["source"]]))
    tuned, advice = pictures_of(merged), "e.g. split: validation, or for ReCLIP's files another file"
    if str(tuned.get("split", "")).lower().startswith("test"):
        raise InvalidInputError(
            f"tune of {label} needs data with a split of its own, {advice}; for task {task.key} it would choose "
            f"options on split {tuned['split']}."
        )
    own = pictures_of(task.data)
    if all(tuned.get(key) == own.get(key) for key in ("source", "split", "file")):
        raise InvalidInputError(
            f"tune of {label} needs data with a split of its own, {advice}; for task {task.key} neither differs from "
            "what is evaluated."
        )
    for other in tasks:
        if pictures_of(other.data) == tuned:
            raise InvalidInputError(
                f"tune of {label} for task {task.key} would choose options on the data that task {other.key} is "
                f"evaluated on ({', '.join(f'{key}: {value}' for key, value in tuned.items())}); "
                f"give it a split of its own, {advice}."
            )


def pictures_of(data: Mapping[str, Any]) -> dict[str, str]:
    """What decides which pictures are asked about: not how many, in which draw, or with which candidate boxes."""
    filled: dict[str, Any] = {**SOURCE_DEFAULTS.get(data["source"], {}), **data}
    left_out = ("n", "seed", "detections", "images")
    files = ("file", "refs", "instances")
    # The same file under another spelling is the same file.
    return {
        key: str(Path(os.path.normpath(str(value)))) if key in files else str(value)
        for key, value in sorted(filled.items())
        if key not in left_out
    }
