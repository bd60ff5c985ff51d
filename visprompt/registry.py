"""Finds strategies through entry points, the bundled ones and those of plug-ins alike; a plug-in cannot silently
replace a bundled strategy.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module, metadata, resources
from pathlib import Path
from typing import Any, ClassVar

import yaml

from visprompt.errors import InvalidInputError, UnsupportedError, unknown_name
from visprompt.utils.renamed import renamed_names

GROUP = "visprompt.strategies"
OWN_DISTRIBUTION = "visprompt-toolkit"


@dataclasses.dataclass(frozen=True)
class Options:
    """Base class of every strategy's options: a frozen dataclass whose fields are the option names."""


class Strategy:
    """The attributes of a strategy that the registry reads; derive strategies from `visprompt.Prompter`."""

    Options: ClassVar[type[Options]] = Options
    #: what it changes: "pixels", "text", "tokens", "attention"
    acts_on: ClassVar[frozenset[str]] = frozenset()
    #: what it needs: "region", "query", "training", "prompt" (another strategy before it), "vision" (a vision tower
    #: that can be edited), "map" (a model whose attention can be read)
    needs: ClassVar[frozenset[str]] = frozenset({"region"})
    #: options of a learned strategy that can be changed after training; None: all
    free: ClassVar[frozenset[str] | None] = None
    #: for a strategy that needs another one before it: the name of a suitable one, for checks and examples
    follows: ClassVar[str] = ""
    #: the name in the registry; set by the registry
    name: str = ""
    #: names of the options that were given, also by a preset; set by the registry
    given: frozenset[str] = frozenset()

    def __init__(self, options: Any = None) -> None:
        self.options: Any = options if options is not None else self.Options()


@dataclasses.dataclass(frozen=True)
class StrategyInfo:
    """The description of one strategy that `visprompt list` shows."""

    name: str
    summary: str
    acts_on: tuple[str, ...]
    needs: tuple[str, ...]
    origin: str
    presets: tuple[str, ...]
    options: dict[str, Any]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@functools.cache
def _entry_points() -> dict[str, metadata.EntryPoint]:
    found: dict[str, metadata.EntryPoint] = {}

    for point in sorted(metadata.entry_points(group=GROUP), key=lambda item: (not _is_ours(item), _origin(item))):
        if point.name in found:
            # An editable install and leftovers of its build register the same object twice: that is no conflict.
            if point.value != found[point.name].value:
                warnings.warn(
                    f"{_origin(point)} offers a strategy {point.name!r}, which "
                    f"{_origin(found[point.name])} has already: "
                    "the second one is ignored. Its author should rename it.",
                    stacklevel=3,
                )
            continue
        if "+" in point.name or "|" in point.name:
            warnings.warn(
                f"{_origin(point)}: strategy name {point.name!r} is ignored, '+' and '|' mean composition.",
                stacklevel=3,
            )
            continue
        found[point.name] = point
    return found


def _is_ours(point: metadata.EntryPoint) -> bool:
    return point.dist is not None and _normal(point.dist.name) == OWN_DISTRIBUTION


def _origin(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "unknown distribution"


@functools.cache
def _classes() -> dict[str, type[Strategy]]:
    classes: dict[str, type[Strategy]] = {}
    for name, point in _entry_points().items():
        try:
            kind = point.load()
        except Exception as error:
            warnings.warn(
                f"strategy {name!r} from {_origin(point)} is skipped: it fails to import "
                f"({type(error).__name__}: {error}).",
                stacklevel=3,
            )
            continue
        if not (isinstance(kind, type) and issubclass(kind, Strategy)):
            warnings.warn(
                f"strategy {name!r} from {_origin(point)} is skipped: {point.value} is not a Prompter.", stacklevel=3
            )
            continue
        kind.name = name
        classes[name] = kind
    return classes


def refresh() -> None:
    """Searches for installed plug-ins again, e.g. after installing one in a running process."""
    _entry_points.cache_clear()
    _classes.cache_clear()
    _settings_of.cache_clear()


def settings(kind: type[Strategy]) -> dict[str, Any]:
    """Reads the YAML file with the name of a strategy's module: `summary`, `defaults`, `presets`, and `training` for
    learned strategies.

    Args:
        kind: a strategy's class.

    Returns:
        The file's content; empty if there is no file.

    Raises:
        InvalidInputError: if it is not a mapping with these keys.
    """
    return _settings_of(kind.__module__)


@functools.cache
def _settings_of(module_name: str) -> dict[str, Any]:
    module = import_module(module_name)
    stem = (module.__file__ or "").rpartition("/")[2].removesuffix(".py")
    try:
        package = module.__package__ or ""
        file = (
            resources.files(package) / f"{stem}.yaml" if package else Path(module.__file__ or "").with_suffix(".yaml")
        )
        text = file.read_text(encoding="utf-8")
    except (FileNotFoundError, ModuleNotFoundError, TypeError):
        return {}
    content = yaml.safe_load(text) or {}
    if not isinstance(content, dict) or set(content) - {"summary", "defaults", "presets", "training"}:
        raise InvalidInputError(f"{stem}.yaml: expected a mapping with summary, defaults, presets and training.")
    return content


def list_strategies() -> list[StrategyInfo]:
    """Lists all installed strategies; a broken plug-in is skipped with a warning that names it.

    Returns:
        Their descriptions, sorted by name.
    """
    infos = []
    for name, kind in sorted(_classes().items()):
        content = settings(kind)
        first_line = (kind.__doc__ or "").strip().splitlines()[0] if kind.__doc__ else ""
        infos.append(
            StrategyInfo(
                name=name,
                summary=content.get("summary") or first_line,
                acts_on=tuple(sorted(kind.acts_on)),
                needs=tuple(sorted(kind.needs)),
                origin=_origin(_entry_points()[name]),
                presets=tuple(content.get("presets") or ()),
                options={
                    item.name: getattr(defaults_of(name, kind), item.name) for item in dataclasses.fields(kind.Options)
                },
            )
        )
    return infos


def strategies_on(model: Any) -> list[str]:
    """The strategies that run on a model.

    Strategies that need "map" read the model's attention first. For a model behind an API, whose attention cannot be
    read, another model can provide it: such strategies are listed with the option for that.

    Args:
        model: a wrapped model.

    Returns:
        Names, sorted; some with a remark in parentheses.
    """
    from visprompt.models.lvlm.answer_attention import can_look

    fitting = [info for info in list_strategies() if set(info.acts_on) <= model.supports | {"text"}]
    if not model.has_tower("vision"):
        fitting = [info for info in fitting if "vision" not in info.needs]
    if can_look(model):
        return [info.name for info in fitting]
    names = [info.name for info in fitting if "map" not in info.needs]
    if model.generates:
        names += [f"{info.name} (with auxiliary=…, a local model)" for info in fitting if "auxiliary" in info.options]
    return names


def first_strategy(fits: Callable[[type[Strategy]], bool]) -> str:
    """Finds a strategy that meets a condition; bundled strategies come before those of plug-ins, each sorted by name.

    >>> first_strategy(lambda kind: "prompt" in kind.needs)
    'unleash'

    Args:
        fits: the condition, a function of a strategy's class.

    Returns:
        The name of the first one.

    Raises:
        UnsupportedError: if there is none.
    """
    ours = {name for name, point in _entry_points().items() if _is_ours(point)}
    for name, kind in sorted(_classes().items(), key=lambda item: (item[0] not in ours, item[0])):
        if fits(kind):
            return name
    raise UnsupportedError("none of the installed strategies can do that; `visprompt list` shows them.")


def defaults_of(name: str, kind: type[Strategy]) -> Any:
    """The default options of a strategy.

    Args:
        name: its name.
        kind: its class.

    Returns:
        An instance of `kind.Options`.
    """
    return checked_options(kind.Options, name, dict(settings(kind).get("defaults") or {}))


def get_class(name: str) -> type[Strategy]:
    """Looks up a strategy's class.

    Args:
        name: name of one strategy.

    Returns:
        The class.

    Raises:
        UnknownNameError: if there is none, with similar names.
    """
    classes = _classes()
    if name not in classes:
        raise unknown_name("strategy", name, classes, "Join several with '+' (one after the other) or '|' (ensemble).")
    return classes[name]


def checked_options(kind: type[Options], name: str, values: dict[str, Any]) -> Options:
    """Builds the options of a strategy.

    Args:
        kind: the class of the options.
        name: the strategy's name, for the message.
        values: option values by name.

    Returns:
        The options.

    Raises:
        UnknownNameError: for an option that does not exist, naming those that do.
        InvalidInputError: for a value that an option cannot have.
    """
    known = [item.name for item in dataclasses.fields(kind)]
    for key in values:
        if key not in known:
            raise unknown_name(f"option of {name!r}", key, known)
    return kind(**values)


def with_options(prompter: Any, values: Mapping[str, Any]) -> Any:
    """Changes some options of a strategy: for learned strategies only those in `Strategy.free`.

    Args:
        prompter: the strategy, changed in place; in a composition or ensemble every part that has the option.
        values: new values by option name.

    Returns:
        `prompter`.

    Raises:
        UnknownNameError: for an option that no part has.
        InvalidInputError: for an option that is fixed by training, or a value that it cannot have.
    """
    parts = _parts(prompter)
    known = {part: {item.name for item in dataclasses.fields(part.options)} for part in parts}
    free = {part: known[part] if part.free is None else part.free & known[part] for part in parts}
    for key in values:
        if not any(key in names for names in known.values()):
            raise unknown_name(f"option of {prompter.name!r}", key, set().union(*known.values()))
        if not any(key in names for names in free.values()):
            left = ", ".join(sorted(set().union(*free.values()))) or "none"
            raise InvalidInputError(
                f"{key} belongs to what {prompter.name!r} has learned, and cannot be chosen anew; these can: {left}."
            )
    for part in parts:
        own = {key: value for key, value in values.items() if key in free[part]}
        if own:
            part.options = dataclasses.replace(part.options, **own)
            part.given |= frozenset(own)
    return prompter


def _parts(prompter: Any) -> tuple[Any, ...]:
    inside: tuple[Any, ...] = getattr(prompter, "parts", None) or getattr(prompter, "members", None) or ()
    return tuple(leaf for part in inside for leaf in _parts(part)) if inside else (prompter,)


#: names of 0.4.0
__getattr__ = renamed_names(
    __name__, {"Ensemble": "prompter.Ensemble", "make_prompter": "prompter.make_prompter"}, globals()
)
