"""A tour: several suites one after the other, each on its first images (`benchmarks/tour.yaml`)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import yaml

TOUR = "tour"


@dataclass(frozen=True)
class Stop:
    """One suite of a tour.

    Attributes:
        suite: its name.
        limit: only the first so many images of every task.
        out: its folder below the tour's; empty: the tour's folder itself.
    """

    suite: str
    limit: int
    out: str = ""

    def folder(self, out: Path | None) -> Path:
        """Where its results go."""
        return (out if out is not None else Path("runs") / TOUR) / self.out


def stops() -> list[Stop]:
    """The suites of the tour that ships with the package, in order."""
    text = resources.files("visprompt.benchmarks").joinpath(f"{TOUR}.yaml").read_text(encoding="utf-8")
    return [Stop(**one) for one in yaml.safe_load(text)["suites"]]
