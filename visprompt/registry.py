"""Entry points → strategies. Ours come in the same way as everybody's; none can silently replace one of ours."""

from __future__ import annotations

import dataclasses
import functools
import re
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module, metadata, resources
from pathlib import Path
from typing import Any

import yaml

from visprompt.errors import InvalidInputError, UnsupportedError, unknown_name
from visprompt.prompter import Composition, Prompter, checked_options

GROUP = "visprompt.strategies"
OWN_DISTRIBUTION = "visprompt-toolkit"


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

    def ours(point: metadata.EntryPoint) -> bool:
        return point.dist is not None and _normal(point.dist.name) == OWN_DISTRIBUTION

    for point in sorted(metadata.entry_points(group=GROUP), key=lambda item: (not ours(item), _origin(item))):
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


def _origin(point: metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "unknown distribution"


@functools.cache
def _classes() -> dict[str, type[Prompter]]:
    classes: dict[str, type[Prompter]] = {}
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
        if not (isinstance(kind, type) and issubclass(kind, Prompter)):
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


def settings(kind: type[Prompter]) -> dict[str, Any]:
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
    """Names of the strategies that run on a model as it is; those that look need one that can be asked where."""
    from visprompt.models.lvlm.answer_attention import can_look

    fitting = [info for info in list_strategies() if set(info.acts_on) <= model.supports | {"text"}]
    if not model.has_tower("vision"):
        fitting = [info for info in fitting if "vision" not in info.needs]
    return [info.name for info in fitting if "map" not in info.needs or can_look(model)]


def first_strategy(fits: Callable[[type[Prompter]], bool]) -> str:
    """The first strategy whose class is what somebody needs: ours come before those of plug-ins, each by name.

    >>> first_strategy(lambda kind: "prompt" in kind.needs)
    'unleash'

    Args:
        fits: is given a strategy's class.

    Raises:
        UnsupportedError: if none of the installed strategies is.
    """
    for info in sorted(list_strategies(), key=lambda info: not info.origin.startswith(f"{OWN_DISTRIBUTION} ")):
        if fits(get_class(info.name)):
            return info.name
    raise UnsupportedError("none of the installed strategies can do that; `visprompt list` shows them.")


def defaults_of(name: str, kind: type[Prompter]) -> Any:
    """The options of a strategy that none are given for."""
    return checked_options(kind.Options, name, dict(settings(kind).get("defaults") or {}))


def get_class(name: str) -> type[Prompter]:
    """The class behind a name.

    Raises:
        UnknownNameError: with suggestions.
    """
    classes = _classes()
    if name not in classes:
        raise unknown_name("strategy", name, classes, "Join several with '+' (one after the other) or '|' (ensemble).")
    return classes[name]


def make_prompter(name: str, preset: str | None = None, **options: Any) -> Prompter:
    """`Prompter.from_name`: one strategy, a composition `a+b`, or an ensemble `a|b` of either.

    With several parts every option, and the preset, goes to the parts that have it.
    """
    members = [[part.strip() for part in member.split("+")] for member in name.split("|")]
    parts = [part for member in members for part in member]
    kinds = {part: get_class(part) for part in parts}
    fields = {part: {item.name for item in dataclasses.fields(kind.Options)} for part, kind in kinds.items()}
    presets = {part: settings(kind).get("presets") or {} for part, kind in kinds.items()}
    known_options = set().union(*fields.values())
    for key in options:
        if key not in known_options:
            raise unknown_name(f"option of {name!r}", key, known_options)
    known_presets = set().union(*presets.values())
    if preset is not None and preset not in known_presets:
        raise unknown_name(f"preset of {name!r}", preset, known_presets)

    def make(part: str) -> Prompter:
        own = {key: value for key, value in options.items() if key in fields[part]}
        chosen = presets[part].get(preset) or {} if preset is not None else {}
        values = {**(settings(kinds[part]).get("defaults") or {}), **chosen, **own}
        prompter = kinds[part](checked_options(kinds[part].Options, part, values))
        prompter.name, prompter.given = part, frozenset({**chosen, **own})
        return prompter

    made = [[make(part) for part in member] for member in members]
    joined = [member[0] if len(member) == 1 else Composition(member) for member in made]
    return joined[0] if len(joined) == 1 else Ensemble(joined)


class Ensemble(Prompter):
    """Several strategies whose scores are summed (the way FALIP's baselines are ensembled); `from_name("circle|blur")`.

    >>> Prompter.from_name("circle|blur").name
    'circle|blur'
    """

    def __init__(self, members: Sequence[Prompter]) -> None:
        super().__init__()
        if len(members) < 2:
            raise InvalidInputError("an ensemble has at least two members.")
        self.members = tuple(members)
        self.name = "|".join(member.name for member in self.members)
        self.acts_on = frozenset().union(*(member.acts_on for member in self.members))  # type: ignore[misc]
        self.needs = frozenset().union(*(member.needs for member in self.members))  # type: ignore[misc]

    def edit_all(self, prompts: Any, model: Any) -> Any:
        raise InvalidInputError(
            f"the ensemble {self.name!r} has one prompt per member, and scores are what it sums: use Runner.score, or "
            "encode with each member on its own."
        )

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "members": [member.describe() for member in self.members]}
