"""Errors meant for people: each says what was expected, what came, and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VispromptError(Exception):
    """Base class of every error that visprompt raises on purpose."""


class InvalidInputError(VispromptError, ValueError):
    """A picture, region, request or option that cannot be used as it is."""


class RegionNotVisibleError(InvalidInputError):
    """A region of which nothing is in the picture, or too little reaches the model; other regions of it may do."""


class UnknownNameError(VispromptError, ValueError):
    """A strategy, preset, option, model or suite that does not exist; the message lists what does."""


class UnsupportedError(VispromptError, RuntimeError):
    """A model that cannot do what a strategy asks of it; the message says which strategies it can run."""


class SiteNotReachedError(VispromptError, RuntimeError):
    """An attention edit that was requested but never answered: a prompt that silently does nothing is an error."""


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
