"""Entry points → strategies. Ours come in the same way as everybody's; none can silently replace one of ours."""

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
    """Base of every strategy's options: a frozen dataclass whose fields are the option names."""


class Strategy:
    """What the registry knows of a strategy; `visprompt.Prompter` is the class to derive from."""

    Options: ClassVar[type[Options]] = Options
    #: what it changes: "pixels", "text", "tokens", "attention"
    acts_on: ClassVar[frozenset[str]] = frozenset()
    #: what it cannot do without: "region", "query", "training", "prompt" (another strategy before it), "vision" (a
    #: vision tower that can be edited), "map" (a model that can be asked where it looks)
    needs: ClassVar[frozenset[str]] = frozenset({"region"})
    #: options of a learned strategy that can be chosen anew after learning; of others all can
    free: ClassVar[frozenset[str] | None] = None
    #: of a strategy that needs another one before it, the name of one that suits; for checks and examples
    follows: ClassVar[str] = ""
    #: the name in the registry; set by the registry
    name: str = ""
    #: names of the options that were asked for, also by a preset; set by the registry
    given: frozenset[str] = frozenset()

    def __init__(self, options: Any = None) -> None:
        self.options: Any = options if options is not None else self.Options()


@dataclasses.dataclass(frozen=True)
class StrategyInfo:
    """What `visprompt list` shows of one strategy."""

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
            # An editable install and its build leftovers announce the same object twice: that is no conflict.
            if point.value != found[point.name].value:
                warnings.warn(
                    f"{_origin(point)} offers a strategy {point.name!r}, which "
                    f"{_origin(found[point.name])} has already: "
                    "the newcomer is ignored. Its author should rename it.",
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
    """Looks at the installed plug-ins again (after installing one in a running process)."""
    _entry_points.cache_clear()
    _classes.cache_clear()
    _settings_of.cache_clear()


def settings(kind: type[Strategy]) -> dict[str, Any]:
    """The YAML beside a strategy's module: `summary`, `defaults`, `presets`, and for learned ones `training`; empty if
    there is none.

    Raises:
        InvalidInputError: if it is not a mapping of those.
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
    """All strategies that are installed, by name; a broken plug-in is skipped with a warning that names it."""
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
    """Names of the strategies that run on a model as it is.

    Strategies that look before they change anything need a model that can be asked where it looks. On a model behind an
    API, where nothing can be read, another model can look for them: those are named with the option that says so.
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
    """The first strategy whose class is what somebody needs: ours come before those of plug-ins, each by name.

    >>> first_strategy(lambda kind: "prompt" in kind.needs)
    'unleash'

    Args:
        fits: is given a strategy's class.

    Raises:
        UnsupportedError: if none of the installed strategies is.
    """
    ours = {name for name, point in _entry_points().items() if _is_ours(point)}
    for name, kind in sorted(_classes().items(), key=lambda item: (item[0] not in ours, item[0])):
        if fits(kind):
            return name
    raise UnsupportedError("none of the installed strategies can do that; `visprompt list` shows them.")


def defaults_of(name: str, kind: type[Strategy]) -> Any:
    """The options of a strategy that none are given for."""
    return checked_options(kind.Options, name, dict(settings(kind).get("defaults") or {}))


def get_class(name: str) -> type[Strategy]:
    """The class behind a name.

    Raises:
        UnknownNameError: with suggestions.
    """
    classes = _classes()
    if name not in classes:
        raise unknown_name("strategy", name, classes, "Join several with '+' (one after the other) or '|' (ensemble).")
    return classes[name]


def checked_options(kind: type[Options], name: str, values: dict[str, Any]) -> Options:
    """Builds options, naming the known ones if one does not exist."""
    known = [item.name for item in dataclasses.fields(kind)]
    for key in values:
        if key not in known:
            raise unknown_name(f"option of {name!r}", key, known)
    return kind(**values)


def with_options(prompter: Any, values: Mapping[str, Any]) -> Any:
    """The same strategy with some options chosen anew: those that what was learned does not depend on.

    Args:
        prompter: it is changed; of several joined every part that has the option.
        values: by name.

    Raises:
        UnknownNameError: for an option that no part has.
        InvalidInputError: for one that belongs to what was learned, or a value that it cannot have.
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
    return tuple(one for part in inside for one in _parts(part)) if inside else (prompter,)


#: names of 0.4.0
__getattr__ = renamed_names(
    __name__, {"Ensemble": "prompter.Ensemble", "make_prompter": "prompter.make_prompter"}, globals()
)
