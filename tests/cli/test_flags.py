"""Flags from dataclasses: one per field, and of settings only those that were given."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from visprompt.cli.flags import RegionFlags, SettingsOf, StrategyFlags, settings_of, with_flags
from visprompt.errors import InvalidInputError
from visprompt.training.settings import CHOOSING, TRAINING, FitSettings, Flag

PANELS = {TRAINING: "Training", CHOOSING: "Choosing"}


@dataclass(frozen=True)
class Paint:
    """A group with a flag that must be given."""

    colour: Annotated[str, typer.Option("--colour")]
    width: Annotated[int, typer.Option("--width", min=1, help="Pixels.")] = 2


@dataclass(frozen=True)
class Settings:
    """Settings of which one is no flag."""

    epochs: int = dataclasses.field(default=3, metadata={"flag": Flag("Passes.", short=("-e",))})
    keep_all: bool = dataclasses.field(default=False, metadata={"flag": Flag("Keep all.", CHOOSING)})
    rate: float | None = dataclasses.field(default=None, metadata={"flag": Flag("Rate.")})
    inner: int = 5


def called(*words: str) -> tuple[dict[str, Any], str]:
    """What a command with these words gets, and what it printed."""
    seen: dict[str, Any] = {}

    def command(
        name: str, paint: Paint, given: Annotated[dict[str, Any], SettingsOf(Settings, PANELS)], quiet: bool = False
    ) -> None:
        """Paints."""
        seen.update(name=name, paint=paint, given=given, quiet=quiet)

    app = typer.Typer()
    app.command()(with_flags(command))
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "120"})
    return seen, result.output


def test_groups_and_settings_arrive_as_one_value_each() -> None:
    seen, _ = called("me", "--colour", "red", "--width", "7", "-e", "4", "--keep-all", "--quiet")
    expected = {"epochs": 4, "keep_all": True}
    assert seen == {"name": "me", "paint": Paint("red", 7), "given": expected, "quiet": True}


def test_what_is_not_given_is_default_or_absent() -> None:
    seen, _ = called("me", "--colour", "red")
    assert (seen["paint"], seen["given"]) == (Paint("red"), {})
    assert called("me", "--colour", "red", "--no-keep-all", "--rate", "0.5")[0]["given"] == {
        "keep_all": False,
        "rate": 0.5,
    }


def test_help_has_every_flag_in_its_group() -> None:
    text = called("--help")[1]
    assert "--inner" not in text
    training, choosing = text.partition("─ Choosing")[::2]
    for flag in ("--colour", "--width", "--epochs", "-e", "--rate", "Passes."):
        assert flag in training
    for flag in ("--keep-all", "--no-keep-all"):
        assert flag in choosing


@pytest.mark.parametrize("words", [("me",), ("me", "--colour", "red", "--width", "0"), ("me", "--inner", "3")])
def test_typer_still_checks(words: tuple[str, ...]) -> None:
    assert called(*words)[0] == {}


def test_a_flag_that_two_groups_have_is_an_error() -> None:
    def command(one: StrategyFlags, two: StrategyFlags) -> None:
        raise AssertionError

    with pytest.raises(TypeError, match="two flags called 'option'"):
        with_flags(command)


def test_every_setting_with_a_flag_is_one_of_fit() -> None:
    from visprompt.cli.fit import fit

    flags = inspect.signature(with_flags(fit)).parameters
    for field in dataclasses.fields(FitSettings):
        assert (field.name in flags) == (field.metadata.get("flag") is not None)
    assert {"data", "limit", "option", "preset", "sweep", "device", "setting"} < set(flags)


def test_a_setting_is_given_once() -> None:
    assert settings_of({"epochs": 2, "lr": None}, ["momentum=0.8", "templates=['a {}']"]) == {
        "epochs": 2,
        "momentum": 0.8,
        "templates": ("a {}",),
    }
    with pytest.raises(InvalidInputError, match="batch_size is given twice: as --batch-size and with --set"):
        settings_of({"batch_size": 2}, ["batch_size=4"])


def test_no_region_is_false() -> None:
    assert not RegionFlags(format="xywh")
    assert RegionFlags(point=["1,2"])
