"""Hashes of the code behind a figure other than visprompt's own: plug-ins and libraries.

A row is reused only if these hashes are the same.
"""

from __future__ import annotations

import functools
import importlib.metadata
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visprompt.errors import InvalidInputError
from visprompt.utils.hashing import file_digest

if TYPE_CHECKING:
    from visprompt.prompter import Prompter

_LIBRARIES = ("visprompt-toolkit", "torch", "transformers", "open_clip_torch", "timm", "numpy", "pillow")
_SUFFIXES = (".py", ".yaml", ".yml", ".json")
#: hash of code without a file; it is unique to this process, because another process may have other code
_THIS_PROCESS = uuid.uuid4().hex


@functools.cache
def library_versions() -> dict[str, str]:
    """Returns the versions of visprompt and of the installed libraries that load models and images."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def strategy_code(members: Iterable[Prompter | None]) -> list[dict[str, Any]]:
    """Returns name, distribution and source hash of every strategy class behind a row.

    Classes of visprompt itself have no hash here: `source_digest` covers them.

    Args:
        members: the prompters of the row; None is the plain model.
    """
    kinds = sorted({kind for member in members if member is not None for kind in _kinds(member)}, key=_full_name)
    return [
        {"class": _full_name(kind), "distribution": _distribution(kind), "sources": _sources(kind)} for kind in kinds
    ]


def auxiliary_weights(members: Iterable[Prompter | None]) -> dict[str, str]:
    """Returns the weight hashes of bundled models that strategies use as auxiliary encoders (`api`), by name.

    Other auxiliary models are identified by their name only, because hashing their weights would require loading them.

    Args:
        members: the prompters of the row; None is the plain model.
    """
    names = {name for member in members if member is not None for name in _auxiliaries(member)}
    return {name: model_files(name) for name in sorted(names)}


def model_files(name: str) -> str:
    """Returns a hash of the files of a bundled model; "" for other models."""
    from visprompt import bundled

    if not name.startswith("bundled:") or name.partition(":")[2] not in bundled.names():
        return ""
    return file_digest(*sorted(file for file in bundled.path(name).iterdir() if file.is_file()))


def _auxiliaries(member: Prompter) -> Iterator[str]:
    auxiliary = getattr(member.options, "auxiliary", None)
    if auxiliary is not None:
        yield auxiliary if isinstance(auxiliary, str) else str(getattr(auxiliary, "name", auxiliary))
    for part in _inside(member):
        yield from _auxiliaries(part)


def _inside(member: Prompter) -> tuple[Prompter, ...]:
    inner = getattr(member, "inner", None)
    return (*getattr(member, "parts", ()), *getattr(member, "members", ()), *(() if inner is None else (inner,)))


def _kinds(member: Prompter) -> Iterator[type]:
    yield type(member)
    for part in _inside(member):
        yield from _kinds(part)


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


@functools.cache
def _distribution(kind: type) -> str | None:
    for point in importlib.metadata.entry_points(group="visprompt.strategies"):
        if point.value == f"{kind.__module__}:{kind.__qualname__}" and point.dist is not None:
            return f"{point.dist.name} {point.dist.version}"
    return None


@functools.cache
def _sources(kind: type) -> dict[str, str]:
    """Returns the source hash of a class and its base classes: of the module's folder, or of the file alone."""
    modules = {base.__module__ for base in kind.__mro__} - {"builtins"}
    foreign = sorted(name for name in modules if name.partition(".")[0] != "visprompt")
    return {name: _module_digest(name) for name in foreign}


def _module_digest(name: str) -> str:
    module = sys.modules.get(name)
    path = Path(getattr(module, "__file__", None) or "")
    if not path.is_file():
        return _THIS_PROCESS
    files = {path, *(path.with_suffix(suffix) for suffix in _SUFFIXES[1:])}
    if getattr(module, "__package__", ""):
        # A plug-in's helper modules are in the same folder as its strategy.
        files |= {other for other in path.parent.iterdir() if other.suffix in _SUFFIXES}
    try:
        return file_digest(*sorted(file for file in files if file.is_file()))
    except InvalidInputError:
        return _THIS_PROCESS
