"""The parts of a labelled data set: train, validation and test. This module does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from visprompt.errors import InvalidInputError

if TYPE_CHECKING:
    from visprompt.data.labelled.dataset import Labelled


@dataclass(frozen=True)
class Splits:
    """The parts of a data set.

    Attributes:
        train: data for training.
        validation: data for choosing settings, or None.
        test: data for reported results; None if the data set has no test part, or does not publish its labels.
        protocol: one sentence on the origin of the parts, for results.

    Raises:
        InvalidInputError: if the parts are of different kinds, or their classes or the order of the classes differ.
    """

    train: Labelled
    validation: Labelled | None
    test: Labelled | None
    protocol: str

    def __post_init__(self) -> None:
        for name in ("validation", "test"):
            part: Labelled | None = getattr(self, name)
            if part is None:
                continue
            if part.kind != self.train.kind:
                raise InvalidInputError(f"train is for {self.train.kind}, and {name} for {part.kind}.")
            if part.classes != self.train.classes:
                raise InvalidInputError(
                    f"{name} has other classes than train, or in another order: {_listed(part.classes)}; train has "
                    f"{_listed(self.train.classes)}. A label is a number, which must mean the same everywhere."
                )

    def final(self) -> Splits:
        """Returns splits for the final training: train and validation joined, after all settings were chosen."""
        if self.validation is None:
            return self
        protocol = f"{self.protocol} Trained on train and validation together after choosing."
        return replace(self, train=self.train.joined(self.validation), validation=None, protocol=protocol)

    def limited(self, n: int | None, seed: int = 0) -> Splits:
        """Returns splits with at most `n` items in every part, drawn by `Labelled.limited`."""
        if n is None:
            return self
        made = self._each(lambda part: part.limited(n, seed))
        return replace(made, protocol=f"{self.protocol} At most {n} items of every part.")

    def check(self, workers: int | None = None, progress: Callable[[int, int], None] | None = None) -> Splits:
        """Applies `Labelled.check` to every part."""
        return self._each(lambda part: part.check(workers, progress))

    def describe(self) -> dict[str, Any]:
        """Returns the description for results: `Labelled.describe` of every part, and `protocol`."""
        parts = {name: getattr(self, name) for name in ("train", "validation", "test")}
        return {name: part and part.describe() for name, part in parts.items()} | {"protocol": self.protocol}

    def _each(self, change: Callable[[Labelled], Labelled]) -> Splits:
        validation = None if self.validation is None else change(self.validation)
        return Splits(change(self.train), validation, None if self.test is None else change(self.test), self.protocol)


def without_validation(
    train: Labelled, test: Labelled | None, share: float, seed: int, source: str, test_from: str = ""
) -> Splits:
    """Makes splits for a data set without a validation part by splitting it off the training part.

    Args:
        train: the whole training part.
        test: the test part, or None.
        share: fraction of the training part for validation; 0: no validation part.
        seed: seed of the draw, 0 or more.
        source: description of the training part, for `protocol`.
        test_from: description of the test part, for `protocol`.

    Returns:
        The splits.
    """
    tested = test_from or ("a test part of its own" if test is not None else "no test part")
    source = source[:1].upper() + source[1:]
    if train.kind == "images" and len(train) == 1:
        share = 0  # a single item is needed for training
    if share == 0:
        return Splits(train, None, test, f"{source}; no validation part; {tested}.")
    rest, held = train.split(share, seed)
    held = held.renamed(f"{train.name}, held out")
    stratified = ", in the proportions of the classes" if train.kind == "classification" else ""
    drawn = f"validation is {share:g} of it, drawn with seed {seed}{stratified}"
    return Splits(rest, held, test, f"{source}; {drawn}; {tested}.")


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:4])}{', …' if len(names) > 4 else ''} ({len(names)})"
