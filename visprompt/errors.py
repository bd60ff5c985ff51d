"""Errors meant for people: each says what was expected, what came, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar


class VispromptError(Exception):
    """Base class of every error that visprompt raises on purpose."""


class InvalidInputError(VispromptError, ValueError):
    """An image, region, request or option that cannot be used as it is."""


class RegionNotVisibleError(InvalidInputError):
    """A region of which nothing is in the image, or too little reaches the model; other regions of it may do."""


class UnknownNameError(VispromptError, ValueError):
    """A strategy, preset, option, model or suite that does not exist; the message lists what does."""


class UnsupportedError(VispromptError, RuntimeError):
    """A model that cannot do what a strategy asks of it; if the model is given, the message ends with what it can run.

    Models know no strategies, so they say only what is missing. The names are added when the error is shown.

    Args:
        message: what is missing, and why.
        model: the model that lacks it; None where naming other strategies would not help.
    """

    #: gives the names of the strategies that run on a model; the package's `__init__` sets it
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
        return type(self), (str(self),)  # a model does not travel between processes


class SiteNotReachedError(VispromptError, RuntimeError):
    """An attention edit that was requested but never answered: a prompt that silently does nothing is an error."""


class RemoteError(VispromptError):
    """A remote model that left questions unanswered; the answers that did come are in it.

    Not a `RuntimeError`: a server's own words ("out of memory") must not be taken for this machine's.

    Args:
        message: what happened and what to do.
        done: answers by the position of their question, counted from 0.
        failed: why a question got no answer, by its position. Questions in neither were not asked.
        stopped: asking was given up, because further questions would fare no better (a wrong key, no server).
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
    """
    names = sorted(str(item) for item in known)
    close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.6)
    guess = " did you mean " + " or ".join(repr(item) for item in close) + "?" if close else ""
    listing = f" Known: {', '.join(names)}." if names else ""
    return UnknownNameError(f"unknown {kind} {name!r}:{guess}{listing}{' ' + hint if hint else ''}")
