"""Flags of commands from dataclasses: a dataclass of flags is one parameter, and settings of `fit` are fields.

typer reads flags from a function's signature, and `with_flags` writes that signature. A parameter whose type is a
dataclass becomes one flag per field; a parameter marked with `SettingsOf` becomes the flags that the fields of the
settings describe. This module imports no large library, so that `--help` is fast.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from visprompt.cli.arguments import (
    DeviceArg,
    DtypeArg,
    FitArg,
    FormatArg,
    MaskArg,
    OptionArg,
    PointArg,
    PresetArg,
    RegionArg,
    options_of,
    regions_of,
)
from visprompt.errors import InvalidInputError

if TYPE_CHECKING:
    from visprompt.request import Region


@dataclass(frozen=True)
class RegionFlags:
    """`--region`, `--format`, `--point` and `--mask`: the regions of one image."""

    region: RegionArg = None
    format: FormatArg = "xyxy"
    point: PointArg = None
    mask: MaskArg = None

    def __bool__(self) -> bool:
        return bool(self.region or self.point or self.mask)

    def of(self, image: Path) -> list[Region]:
        """Returns the regions that the flags give, in pixels of `image`.

        Raises:
            InvalidInputError: for numbers that are not a region, or masks that cannot be read.
            UnknownNameError: for a format that does not exist.
        """
        return regions_of(image, self.region, self.format, self.point, self.mask)


@dataclass(frozen=True)
class StrategyFlags:
    """`--preset` and `--option`: the options of a strategy."""

    preset: PresetArg = None
    option: OptionArg = None


@dataclass(frozen=True)
class DeviceFlags:
    """`--device` and `--dtype`: where the model is loaded, and the number type of its weights."""

    device: DeviceArg = "auto"
    dtype: DtypeArg = "auto"


@dataclass(frozen=True)
class InputFlags:
    """`--fit`, `--device` and `--dtype`: how images are resized, and where the model is loaded."""

    fit: FitArg = "model"
    device: DeviceArg = "auto"
    dtype: DtypeArg = "auto"


@dataclass(frozen=True)
class SettingsOf:
    """Marks a parameter that takes settings given as flags, as `{field name: value}`.

    Args:
        kind: dataclass of the settings, as `"package.module:Name"`. Fields with the metadata `flag`, a
            `visprompt.training.settings.Flag`, become flags; other fields do not.
        panels: title of the group in the help text, by the name in `Flag.panel`.
    """

    kind: type
    panels: dict[str, str]

    def parameters(self) -> list[inspect.Parameter]:
        """Returns one parameter per field with a flag; its default None means "not given"."""
        hints = get_type_hints(self.kind)
        made = []
        for field in dataclasses.fields(self.kind):
            flag = field.metadata.get("flag")
            if flag is None:
                continue
            kind = _plain(hints[field.name])
            dashed = field.name.replace("_", "-")
            names = (f"--{dashed}/--no-{dashed}" if kind is bool else f"--{dashed}",)
            option = typer.Option(
                *names, *flag.short, help=flag.help, rich_help_panel=self.panels[flag.panel], show_default=flag.default
            )
            made.append(_parameter(field.name, Annotated[kind | None, option], None))
        return made


def with_flags(function: Callable[..., None]) -> Callable[..., None]:
    """Gives a command a signature that typer reads, with one parameter per flag.

    Args:
        function: a command. Parameters that are dataclasses or marked with `SettingsOf` are built from flags; others
            are unchanged.

    Returns:
        A function with one parameter per flag, which calls `function`.

    Raises:
        TypeError: if two groups have a flag of the same name.
    """
    hints = get_type_hints(function, include_extras=True)
    written: list[inspect.Parameter] = []
    groups: dict[str, tuple[Callable[..., Any], list[str]]] = {}
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        made = _group(kind)
        if made is None:
            written.append(_parameter(parameter.name, kind, parameter.default))
        else:
            maker, inner = made
            written += inner
            groups[parameter.name] = (maker, [one.name for one in inner])
    names = [one.name for one in written]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise TypeError(f"{function.__name__} has two flags called {twice[0]!r}.")

    @functools.wraps(function)
    def command(**values: Any) -> None:
        for name, (maker, inner) in groups.items():
            values[name] = maker(**{one: values.pop(one) for one in inner})
        function(**values)

    command.__signature__ = inspect.Signature(written)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in written}
    del command.__wrapped__  # type: ignore[attr-defined]
    return command


def settings_of(given: dict[str, Any], pairs: list[str] | None) -> dict[str, Any]:
    """Returns the settings given as flags of their own or with `--set`.

    >>> settings_of({"epochs": 2}, ["momentum=0.8"])
    {'epochs': 2, 'momentum': 0.8}

    Args:
        given: values of flags by the setting's name; None: not given.
        pairs: texts `name=value`, with the value as YAML.

    Raises:
        InvalidInputError: for a setting that is given both ways.
    """
    found = {name: value for name, value in given.items() if value is not None}
    for name, value in options_of(pairs).items():
        if name in found:
            raise InvalidInputError(f"{name} is given twice: as --{name.replace('_', '-')} and with --set.")
        found[name] = tuple(value) if isinstance(value, list) else value
    return found


def _group(kind: Any) -> tuple[Callable[..., Any], list[inspect.Parameter]] | None:
    """Returns the constructor of a parameter's value and the flags it takes; None for an ordinary parameter."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind, include_extras=True)
        inner = [_parameter(field.name, hints[field.name], _default(field)) for field in dataclasses.fields(kind)]
        return kind, inner
    marker = next((one for one in getattr(kind, "__metadata__", ()) if isinstance(one, SettingsOf)), None)
    return None if marker is None else (_given, marker.parameters())


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _default(field: dataclasses.Field[Any]) -> Any:
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default


def _plain(kind: Any) -> Any:
    """Returns the type that a flag reads: without None, and for a Literal the type of its values."""
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (one for one in get_args(kind) if one is not type(None))
    return type(get_args(kind)[0]) if get_origin(kind) is Literal else kind
