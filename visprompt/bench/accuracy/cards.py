"""One answer of a model, as a report shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """One answer: the question with its boxes, and what the model got.

    Attributes:
        question, seen: images as data URIs; `seen` is None where nothing was pointed at.
        alt: what the image shows, for those who do not see it.
        text: what was asked.
        answer: what came out.
    """

    question: str
    seen: str | None
    alt: str
    text: str
    answer: str
    correct: bool
