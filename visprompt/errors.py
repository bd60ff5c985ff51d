"""Errors with messages for users: what was expected, what was given, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar


class VispromptError(Exception):
    """Base class of every error that visprompt raises on purpose."""


class InvalidInputError(VispromptError, ValueError):
    """An image, region, request or option cannot be used."""


class RegionNotVisibleError(InvalidInputError):
    """A region lies outside the image, or too little of it reaches the model. Other regions of the request may
    be fine.
    """


class UnknownNameError(VispromptError, ValueError):
    """A strategy, preset, option, model or suite does not exist; the message lists those that do."""


class UnsupportedError(VispromptError, RuntimeError):
    """A model cannot do what a strategy needs; if the model is given, the message ends with the strategies that run on
    it.

    Models do not import strategies, so they report only what is missing. The names are added when the error is shown.

    Args:
        message: what is missing, and why.
        model: the model that lacks it; None where naming other strategies would not help.
    """

    #: function from a model to the names of the strategies that run on it; the package's `__init__` sets it
    strategies_on: ClassVar[Callable[[Any], Iterable[str]] | None] = None

    def __init__(self, message: str = "", model: Any = None) -> None:
        super().__init__(message)
        self._model = model

    def __str__(self) -> str:
        find = type(self).strategies_on
        if self._model is not None and find is not None:
            model, self._model = self._model, None
            self.args = (f"{super().__str__()} Strategies that work on it: {', '.join(find(model))}.",)
        return super().__str__()

    def __reduce__(self) -> Any:
        return type(self), (str(self),)  # a model is not sent between processes


class SiteNotReachedError(VispromptError, RuntimeError):
    """An attention edit was requested but its block never ran, so the prompt would have had no effect."""


class RemoteError(VispromptError):
    """A remote model left questions unanswered; the error holds the answers that did arrive.

    It is not a `RuntimeError`: a server's message ("out of memory") must not be mistaken for an error of this machine.

    Args:
        message: what happened and what to do.
        done: answers by the index of their question.
        failed: reasons by the index of the question that failed. Questions in neither were not sent.
        stopped: sending was stopped because further questions would fail too (a wrong key, no server).
    """

    def __init__(
        self,
        message: str,
        done: Mapping[int, Any] | None = None,
        failed: Mapping[int, str] | None = None,
        stopped: bool = False,
    ) -> None:
        super().__init__(message)
        self.done: dict[int, Any] = dict(done or {})
        self.failed: dict[int, str] = dict(failed or {})
        self.stopped = stopped


def unknown_name(kind: str, name: object, known: Iterable[str], hint: str = "") -> UnknownNameError:
    """Builds the error for a misspelt name, closest known names first.

    >>> str(unknown_name("strategy", "falp", ["falip", "circle"]))
    "unknown strategy 'falp': did you mean 'falip'? Known: circle, falip."

    Args:
        kind: what the name is for, e.g. "strategy".
        name: the name that was given.
        known: the names that exist.
        hint: a sentence for the end of the message.

    Returns:
        The error, for the caller to raise.
    """
    names = sorted(str(item) for item in known)
    close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.6)
    guess = " did you mean " + " or ".join(repr(item) for item in close) + "?" if close else ""
    listing = f" Known: {', '.join(names)}." if names else ""
    return UnknownNameError(f"unknown {kind} {name!r}:{guess}{listing}{' ' + hint if hint else ''}")
