"""The public names of 0.4.0 are still found: modules, functions, classes, their members and parameters.

`data/api-0.4.0.json` lists what is kept, by module path of 0.4.0: `name`, `Class.member`, and for functions and
constructors their parameters, `name(parameter, …)`. Internals of the benchmark and the command line are not in it.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import json
import re
import textwrap
import typing
import warnings
from pathlib import Path
from typing import Any

import click
import pytest
import typer

import visprompt as vp

DATA = Path(__file__).parent / "data"
API: dict[str, list[str]] = json.loads((DATA / "api-0.4.0.json").read_text(encoding="utf-8"))
FACE: dict[str, Any] = json.loads((DATA / "face-0.4.0.json").read_text(encoding="utf-8"))
ROOT = Path(__file__).parent.parent


def accepted(function: Any) -> set[str]:
    """The names by which arguments can be given, old ones and those of `**options` with a known type included."""
    names: set[str] = set()
    while True:
        names |= set(getattr(function, "__renamed_parameters__", {}))
        names |= {field.name for kind in getattr(function, "groups", {}).values() for field in dataclasses.fields(kind)}
        if not hasattr(function, "__wrapped__"):
            break
        function = function.__wrapped__
    parameters = inspect.signature(function).parameters.values()
    return names | {"**" if one.kind is one.VAR_KEYWORD else one.name for one in parameters}


@functools.cache
def attributes_set(kind: type) -> set[str]:
    """Names that a class and its bases give a value: in the class, annotated, or as `self.name = …` in a method."""
    found: set[str] = set()
    for base in kind.__mro__[:-1]:
        found |= set(vars(base)) | set(vars(base).get("__annotations__", {}))
        if base.__module__.startswith("visprompt"):
            for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(base)))):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    found.add(node.attr)
    return found


def problem(module: Any, entry: str) -> str | None:
    """What is wrong with an entry of the list, or None."""
    path, _, listed = entry.partition("(")
    name, _, member = path.partition(".")
    try:
        found = getattr(module, name)
    except AttributeError:
        return f"{path} is gone"
    if member:
        if member not in attributes_set(found):
            return f"{path} is gone"
        found = inspect.getattr_static(found, member, None)
        found = getattr(found, "__func__", found)
    if not listed or isinstance(found, property):  # the old name of a method is a property that gives the new one
        return None
    names = accepted(found.__init__ if inspect.isclass(found) and hasattr(found.__init__, "__code__") else found)
    missing = set(filter(None, listed.rstrip(")").split(", "))) - names
    return f"{path} takes no {', '.join(sorted(missing))}" if missing and "**" not in names else None


@pytest.mark.parametrize("module", sorted(API))
def test_all_public_names_of_a_module_are_found(module: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = importlib.import_module(module)
        problems = [text for text in (problem(found, entry) for entry in API[module]) if text]
    assert not problems


def test_the_list_is_the_whole_of_it() -> None:
    """Nobody makes the test pass by making the list shorter."""
    assert len(API) == FACE["modules"]
    assert sum(map(len, API.values())) == FACE["entries"]


def test_the_package_has_all_its_names() -> None:
    assert set(FACE["all"]) <= set(vp.__all__)
    for name in FACE["all"]:
        assert getattr(vp, name) is not None


def test_all_entry_points_are_there() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = dict(re.findall(r'^([\w-]+) = "([\w.]+:\w+)"$', project, re.MULTILINE))
    assert FACE["entry_points"].items() <= named.items()
    assert FACE["scripts"].items() <= named.items()
    for target in [*FACE["entry_points"].values(), *FACE["scripts"].values()]:
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def commands() -> dict[str, click.Command]:
    """The commands by the words one types."""
    from visprompt.cli.app import app

    made = typer.main.get_command(app)
    found = {"": made}
    for name, command in typing.cast(click.Group, made).commands.items():
        found[name] = command
    return found


@pytest.mark.parametrize("command", sorted(FACE["commands"]))
def test_all_commands_and_flags_are_there(command: str) -> None:
    """Every option that the help of 0.4.0 showed, with a value or without, and as many arguments."""
    parameters = commands()[command].params
    options = [one for one in parameters if one.param_type_name == "option"]
    takes_nothing = {flag: one.is_flag for one in options for flag in [*one.opts, *one.secondary_opts]}  # type: ignore[attr-defined]
    assert FACE["commands"][command]["flags"].items() <= takes_nothing.items()
    assert FACE["commands"][command]["arguments"] == [one.nargs for one in parameters if one not in options]
