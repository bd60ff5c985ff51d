"""What errors say, hold, and take along to another process."""

from __future__ import annotations

import pickle

import pytest

import visprompt as vp
from visprompt.errors import unknown_name


@pytest.mark.parametrize(
    ("kind", "others"),
    [
        (vp.InvalidInputError, (ValueError,)),
        (vp.RegionNotVisibleError, (vp.InvalidInputError,)),
        (vp.UnknownNameError, (ValueError,)),
        (vp.UnsupportedError, (RuntimeError,)),
        (vp.SiteNotReachedError, (RuntimeError,)),
        (vp.RemoteError, ()),
    ],
)
def test_every_error_can_be_caught_in_two_ways(kind: type[Exception], others: tuple[type[Exception], ...]) -> None:
    assert issubclass(kind, (vp.VispromptError, *others))
    assert all(issubclass(kind, other) for other in others)


def test_a_server_out_of_memory_is_not_this_machine() -> None:
    assert not issubclass(vp.RemoteError, RuntimeError)


def test_a_misspelt_name_gets_its_neighbours() -> None:
    error = unknown_name("strategy", "cirle", ["falip", "circle", "crop"], "See `visprompt list`.")
    assert str(error) == (
        "unknown strategy 'cirle': did you mean 'circle'? Known: circle, crop, falip. See `visprompt list`."
    )
    assert str(unknown_name("suite", "x", [])) == "unknown suite 'x':"


def test_what_runs_on_the_model_is_looked_up_when_the_error_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def strategies_on(model: object) -> list[str]:
        asked.append(model)
        return ["circle", "crop"]

    monkeypatch.setattr(vp.UnsupportedError, "strategies_on", staticmethod(strategies_on))
    error = vp.UnsupportedError("it has no attention.", "a model")
    assert asked == []
    assert str(error) == str(error) == "it has no attention. Strategies that work on it: circle, crop."
    assert asked == ["a model"]
    assert str(vp.UnsupportedError("it has no attention.")) == "it has no attention."


def test_an_error_travels_without_its_model() -> None:
    again = pickle.loads(pickle.dumps(vp.UnsupportedError("no.", None)))
    assert (type(again), str(again)) == (vp.UnsupportedError, "no.")


def test_answers_that_came_are_in_a_remote_error() -> None:
    done, failed = {0: "red"}, {1: "too long"}
    error = vp.RemoteError("1 of 2", done, failed, stopped=True)
    assert (error.done, error.failed, error.stopped) == (done, failed, True)
    done[5] = "later"
    assert 5 not in error.done
