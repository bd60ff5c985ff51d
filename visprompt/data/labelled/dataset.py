"""Labelled data sets: the data type that all readers of training data return and all training loops take.

A data set is a list of images with labels: one class per image, one class per pixel, a question with its answer, or no
label. Images are opened on access. This module imports no torch, models, augmentation or batching.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from visprompt.data.labelled.drawing import drawn_by_group
from visprompt.data.labelled.items import (
    common_folder,
    identity,
    open_image,
    open_mask,
    path_of,
    require_classes,
    size_mismatch,
)
from visprompt.data.labelled.parts import Splits
from visprompt.errors import InvalidInputError, VispromptError, unknown_name
from visprompt.utils.renamed import renamed_attributes, renamed_value

__all__ = ["IGNORE", "KINDS", "Kind", "Label", "Labelled", "OnBad", "Splits", "report"]

if TYPE_CHECKING:
    from PIL.Image import Image

Kind = Literal["classification", "segmentation", "answers", "images"]
OnBad = Literal["refuse", "skip"]
Label: TypeAlias = "int | np.ndarray | tuple[str, str] | None"
KINDS: tuple[str, ...] = ("classification", "segmentation", "answers", "images")
#: value of ignored pixels in masks, unless `ignore_index` is given
IGNORE = 255
#: number of unusable items that a message lists
NAMED = 10


@renamed_attributes(picture="image")
class Labelled:
    """Images with their labels.

    >>> data = Labelled([("a.jpg", 0), ("b.jpg", 1), ("c.jpg", 1)], ("cat", "dog"), name="pets")
    >>> len(data), data.labels, data.subset([2]).labels
    (3, [0, 1, 1], [1])

    Args:
        items: (image, label) pairs. An image is a path, a PIL image, an array, or a function without arguments that
            returns one (a function that can be pickled, if processes are spawned). The type of a label depends on
            `kind`: the class number; a mask, as path of a PNG, PIL image in mode L or P, `[h, w]` integer array, or
            function; the strings (question, answer); or None for images without labels
            (`visprompt.data.labelled.unlabelled`).
        classes: class names in the order of the class numbers; empty for the kinds "answers" and "images".
        kind: `"classification"`, `"segmentation"`, `"answers"`, or `"images"` for images without labels.
        name: name of the data set, for messages and results.
        ignore_index: mask value of pixels that are left out of losses and metrics; None: 255 for segmentation.
        on_bad: what to do with items that cannot be used: `"refuse"` raises an error that names them, `"skip"` leaves
            them out with a warning.

    Raises:
        InvalidInputError: for labels outside the classes, class names that occur twice, or no items.
    """

    def __init__(
        self,
        items: Iterable[tuple[Any, Any]],
        classes: Iterable[str] = (),
        *,
        kind: Kind = "classification",
        name: str = "",
        ignore_index: int | None = None,
        on_bad: OnBad = "refuse",
    ) -> None:
        self.kind: Kind = renamed_value(kind, {"pictures": "images"}, "Labelled: kind")
        if self.kind not in KINDS:
            raise unknown_name("kind of data set", kind, KINDS)
        if on_bad not in ("refuse", "skip"):
            raise InvalidInputError(f'on_bad is "refuse" or "skip"; got {on_bad!r}.')
        self.name, self.on_bad = name, on_bad
        self.classes = tuple(str(one) for one in classes)
        self.ignore_index = IGNORE if ignore_index is None and kind == "segmentation" else ignore_index
        self._require_names()
        self._items = self._valid([_pair(one, number, self._called) for number, one in enumerate(items)])

    # -- reading ----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> tuple[Image, Label]:
        return self.image(index), self.label(index)

    def __repr__(self) -> str:
        if self.kind == "images":
            return f"Labelled({self._called}: {len(self)} images without labels)"
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"Labelled({self._called}: {len(self)} items{classes}, {self.kind})"

    def image(self, index: int) -> Image:
        """Opens the image of an item and returns it as upright RGB.

        Raises:
            InvalidInputError: if the file is missing, damaged or not an image; the message names it.
        """
        return open_image(self._items[index][0], self.item_name(index))

    def label(self, index: int) -> Label:
        """Returns the label of an item: class number, `[h, w]` integer mask, (question, answer), or None.

        Raises:
            InvalidInputError: if a mask cannot be read or has values that are no classes; the message names it.
        """
        label = self._items[index][1]
        if self.kind != "segmentation":
            return label  # type: ignore[no-any-return]
        path = path_of(label)
        name = f"the mask {path!r}" if path is not None else f"the mask of {self.item_name(index)}"
        return require_classes(open_mask(label, name), len(self.classes), self.ignore_index, name)

    @property
    def labels(self) -> list[int]:
        """Class numbers of all items; no image is opened.

        Raises:
            InvalidInputError: for the kinds "segmentation", "answers" and "images".
        """
        if self.kind == "images":
            raise InvalidInputError(f"{self._called} has images without labels.")
        if self.kind != "classification":
            raise InvalidInputError(f"{self._called} has no class per image: it is a data set of {self.kind}.")
        return [label for _, label in self._items]

    def item_name(self, index: int) -> str:
        """Returns the path of an item's image, or its index in the data set if the image is not a file."""
        path = path_of(self._items[index][0])
        return str(path) if path is not None else f"image {index} of {self._called}"

    @property
    def items(self) -> tuple[tuple[Any, Any], ...]:
        """The (image, label) pairs as given; nothing is opened."""
        return self._items

    # -- parts ------------------------------------------------------------------------------------------------------

    def subset(self, indices: Iterable[int]) -> Labelled:
        """Returns the items with these indices, in this order, as a new data set."""
        return self._with([self._items[int(index)] for index in indices])

    def limited(self, n: int | None, seed: int = 0) -> Labelled:
        """Returns at most `n` items, drawn at random in the proportions of the classes; their order is kept.

        If possible, every class keeps at least one item.

        Args:
            n: largest number of items; None: all.
            seed: seed of the draw, 0 or more.

        Raises:
            InvalidInputError: if `n` is below 1.
        """
        if n is None or n >= len(self):
            return self
        if n < 1:
            raise InvalidInputError(f"a data set needs at least one item; the limit is {n}.")
        return self.subset(sorted(self._drawn(n, seed, least=1)))

    def split(self, share: float, seed: int) -> tuple[Labelled, Labelled]:
        """Splits the data set at random, in the proportions of the classes.

        Every class keeps at least one item in the first part, so that it can be learned.

        >>> data = Labelled([(f"{n}.jpg", n % 2) for n in range(10)], ("cat", "dog"))
        >>> train, validation = data.split(0.2, seed=0)
        >>> len(train), sorted(validation.labels)
        (8, [0, 1])

        Args:
            share: fraction of the items in the second part, between 0 and 1.
            seed: seed of the draw, 0 or more.

        Returns:
            The remaining items, and the items split off.

        Raises:
            InvalidInputError: if one of the two parts would be empty.
        """
        count = round(share * len(self)) if 0 < share < 1 else 0
        if share > 0 and len(self) > 1:
            count = max(count, 1)
        if not 0 < share < 1 or not 0 < count < len(self):
            raise InvalidInputError(
                f"{share:g} of {self._called} ({len(self)} items) cannot be split off: the share lies between 0 and 1, "
                "and both parts need an item."
            )
        taken = set(self._drawn(count, seed, left=1))
        rest = [index for index in range(len(self)) if index not in taken]
        return self.subset(rest), self.subset(sorted(taken))

    def joined(self, other: Labelled) -> Labelled:
        """Returns the items of both data sets, which must have the same classes.

        Raises:
            InvalidInputError: if kind or classes differ.
        """
        if (self.kind, self.classes, self.ignore_index) != (other.kind, other.classes, other.ignore_index):
            raise InvalidInputError(f"{self!r} and {other!r} cannot be joined: kind or classes differ.")
        return self._with([*self._items, *other._items])

    def renamed(self, name: str) -> Labelled:
        """Returns the same data set under another name."""
        made = self._with(self._items)
        made.name = name
        return made

    # -- health -----------------------------------------------------------------------------------------------------

    def check(self, workers: int | None = None, progress: Callable[[int, int], None] | None = None) -> Labelled:
        """Opens every image and mask once and reports those that cannot be used.

        Unusable are: files that are missing, cut off or not images; images below 16 pixels a side or with sides of more
        than 50 to 1; masks with values that are no classes; masks whose size differs from their image's.

        Args:
            workers: number of threads; None: one per processor, at most 8.
            progress: called with (items checked, all items) after every item.

        Returns:
            The same data set, or with `on_bad="skip"` one without the unusable items.

        Raises:
            InvalidInputError: with `on_bad="refuse"`, listing the first ten unusable items and their number.
        """
        bad: dict[int, str] = {}
        pool = ThreadPoolExecutor(workers or min(os.cpu_count() or 1, 8))
        try:
            for index, problem in enumerate(pool.map(self._problem, range(len(self)))):
                if problem is not None:
                    bad[index] = problem
                if progress is not None:
                    progress(index + 1, len(self))
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the remaining items
        if not bad:
            return self
        report(list(bad.values()), self._called, self.on_bad)
        return self.subset(index for index in range(len(self)) if index not in bad)

    def describe(self) -> dict[str, Any]:
        """Returns the data set's description for results: name, kind, numbers of classes and items, and a hash.

        The hash covers file names below their common folder, contents of images in memory, and labels.
        """
        from visprompt.utils.hashing import digest

        folder = common_folder(source for item in self._items for source in item)
        items = [[identity(image, folder), identity(label, folder)] for image, label in self._items]
        return {
            "name": self.name,
            "kind": self.kind,
            "classes": len(self.classes),
            "n": len(self),
            "sha256": digest([self.classes, items]),
        }

    def files(self) -> list[str]:
        """Returns the paths of the images that are files."""
        return [path for image, _ in self._items if (path := path_of(image)) is not None]

    # -- helpers ----------------------------------------------------------------------------------------------------

    @property
    def _called(self) -> str:
        return self.name or "the data set"

    def _with(self, items: Sequence[tuple[Any, Any]]) -> Labelled:
        # The items were validated before; validating them again would make a subset of 70,000 items slow.
        if not items:
            raise InvalidInputError(f"{self._called}: no item is left.")
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        made._items = tuple(items)
        return made

    def _require_names(self) -> None:
        if self.kind == "images" and self.classes:
            raise InvalidInputError(f"{self._called}: images without labels have no classes.")
        if self.kind not in ("answers", "images") and not self.classes:
            raise InvalidInputError(f"{self._called}: {self.kind} needs the names of its classes.")
        twice = sorted({one for one in self.classes if self.classes.count(one) > 1}) if self._repeats() else []
        if twice:
            raise InvalidInputError(f"{self._called}: two classes are called {twice[0]!r}.")
        if self.kind == "segmentation" and self.ignore_index is not None and 0 <= self.ignore_index < len(self.classes):
            raise InvalidInputError(
                f"{self._called}: ignore_index {self.ignore_index} is also the number of a class "
                f"({self.classes[self.ignore_index]!r}); give another."
            )

    def _repeats(self) -> bool:
        return len(set(self.classes)) < len(self.classes)

    def _valid(self, items: list[tuple[Any, Any]]) -> tuple[tuple[Any, Any], ...]:
        kept, problems = [], []
        for number, (image, label) in enumerate(items):
            problem, label = self._label_problem(label)
            if problem:
                problems.append(f"{path_of(image) or f'image {number}'}: {problem}")
            else:
                kept.append((image, label))
        if problems:
            report(problems, self._called, self.on_bad)
        if not kept:
            raise InvalidInputError(f"{self._called} has no items.")
        return tuple(kept)

    def _label_problem(self, label: Any) -> tuple[str, Any]:
        if self.kind == "classification":
            if isinstance(label, bool) or not isinstance(label, int | np.integer):
                return f"a label is the number of a class, no {type(label).__name__}", label
            if not 0 <= label < len(self.classes):
                return f"label {label} is none of the {len(self.classes)} classes, 0 to {len(self.classes) - 1}", label
            return "", int(label)
        if self.kind == "images":
            return ("" if label is None else f"an image without labels has None for one; got {label!r:.60}"), None
        if self.kind == "answers":
            if not (isinstance(label, tuple | list) and len(label) == 2 and all(isinstance(one, str) for one in label)):
                return f"a label is a question and its answer, two texts; got {label!r:.60}", label
            return "", tuple(label)
        if isinstance(label, int | float | tuple | list | None):
            return f"a label is a mask (PNG, PIL image, [h, w] array), no {type(label).__name__}", label
        return "", label

    def _problem(self, index: int) -> str | None:
        from visprompt.geometry.fit import check_processable

        name = self.item_name(index)
        try:
            image = self.image(index)
            check_processable(image.size)
        except VispromptError as error:
            return str(error) if name in str(error) else f"{name}: {error}"
        if self.kind != "segmentation":
            return None
        try:
            mask = self.label(index)
        except VispromptError as error:
            return str(error)
        assert isinstance(mask, np.ndarray)
        if mask.shape[::-1] != image.size:
            return size_mismatch(mask.shape, image, self._items[index][1], f"the mask of {name}")
        return None

    def _drawn(self, count: int, seed: int, least: int = 0, left: int = 0) -> list[int]:
        """Returns indices of `count` items in the proportions of the classes, as `drawn_by_group` does."""
        if seed < 0:
            raise InvalidInputError(f"a seed is 0 or more; got {seed}.")
        groups = np.asarray(self.labels if self.kind == "classification" else [0] * len(self))
        return drawn_by_group(groups, count, seed, least, left)


def report(problems: Sequence[str], where: str, on_bad: OnBad, one: str = "item", many: str = "items") -> None:
    """Reports items that cannot be used: raises an error, or warns with `on_bad="skip"`.

    The message lists the first ten problems and their number.

    Args:
        problems: one sentence per item.
        where: name of the data set or file.
        on_bad: "refuse" or "skip".
        one: the word for one item, in the message.
        many: its plural.

    Raises:
        InvalidInputError: with `on_bad="refuse"`.
    """
    listed = "".join(f"\n  {problem}" for problem in problems[:NAMED])
    more = f"\n  … and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
    count = f"1 {one}" if len(problems) == 1 else f"{len(problems)} {many}"
    if on_bad == "skip":
        warnings.warn(f"{where}: {count} left out:{listed}{more}", UserWarning, stacklevel=4)
        return
    advice = 'Repair or remove them, or leave them out with on_bad="skip" (--on-bad skip).'
    raise InvalidInputError(f"{where}: {count} cannot be used:{listed}{more}\n{advice}")


def _pair(item: Any, number: int, name: str) -> tuple[Any, Any]:
    try:
        image, label = item
    except (TypeError, ValueError):
        raise InvalidInputError(f"{name}: an item is an image and its label; item {number} is {item!r:.60}.") from None
    return image, label
