"""Small labelled data sets for training prompts: three drawn from generated scenes, one of handwritten digits.

| name | image | label | classes |
|---|---|---|---|
| leftmost | 2 or 3 objects | the leftmost object's shape | 8 |
| count | 1 to 6 objects | how many | 6 |
| digits | a handwritten digit | which | 10 |
| segment | 1 to 6 objects | for every pixel: background, or the shape it shows | 9 |

The sizes are those of VTAB-1k (Zhai et al. 2019, https://arxiv.org/abs/1910.04867): 800 images for training, 200 for
choosing settings, 1,000 for testing (digits: the remaining 797). Every item depends only on (name, split, seed, index),
so a longer data set begins with the shorter one. The splits share no image, and no image occurs in the training data of
the bundled models, which used other seeds.

>>> from visprompt.data.scenes.downstream import downstream
>>> data = downstream("leftmost", "test", count=16)
>>> data.kind, len(data.items), len(data.classes)
('classification', 16, 8)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from visprompt.data.labelled.dataset import Labelled
from visprompt.data.scenes.world import MAX_OBJECTS, SHAPES, SPLITS, Scene, scene
from visprompt.errors import InvalidInputError, UnsupportedError, unknown_name

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["DOWNSTREAM", "LEAD", "SIZES", "count", "digits", "downstream", "leftmost", "segment"]

#: Default number of images per split; the test split of digits has 797.
SIZES: dict[str, int] = {"train": 800, "validation": 200, "test": 1000}
#: Smallest distance from the leftmost object's centre to the next one's, as a fraction of the image's width.
LEAD = 0.08
IMAGE_PX = 64
# Part of every seed, one random stream per data set; changing one changes every image of that data set.
_STREAMS = {"leftmost": 1 * 10**12, "count": 2 * 10**12, "segment": 3 * 10**12}
_FEWEST, _MOST = 2, 3


def downstream(name: str, split: str = "train", *, count: int | None = None, seed: int = 0) -> Labelled:
    """Makes one of the data sets by its name.

    >>> downstream("count", "validation", count=6).classes
    ('1', '2', '3', '4', '5', '6')

    Args:
        name: One of `DOWNSTREAM`.
        split: "train", "validation" or "test".
        count: Number of images, from the first; by default the number in `SIZES`.
        seed: Another seed gives other images; for digits, another division into splits.

    Returns:
        The data set, with images of 64 × 64 pixels.

    Raises:
        UnknownNameError: For a data set or split that does not exist.
        InvalidInputError: For a count below 1 or above the number of images, or a negative seed.
        UnsupportedError: For digits, if scikit-learn is not installed.
    """
    if name not in _MAKERS:
        raise unknown_name("downstream set", name, DOWNSTREAM)
    return _MAKERS[name](split, count=count, seed=seed)


def leftmost(split: str = "train", *, count: int | None = None, seed: int = 0) -> Labelled:
    """Makes the data set "which shape does the leftmost object have?". Classes are `SHAPES`, chance is 1 in 8.

    Images have 2 or 3 objects; the leftmost one's centre is at least `LEAD` of the image's width to the left of the
    next. Colours carry no information. Item i is of class i modulo 8, so the first n items are balanced for any n.

    Arguments and errors are those of `downstream`.
    """
    n = _checked("leftmost", split, count, seed)
    stream = _STREAMS["leftmost"] + seed
    found: list[list[int]] = [[] for _ in SHAPES]
    fewest, index = -(-n // len(SHAPES)), 0
    while min(len(one) for one in found) < fewest:
        shape = _leftmost_shape(_scattered(stream, split, index))
        if shape is not None:
            found[SHAPES.index(shape)].append(index)
        index += 1
    order = [(found[i % len(SHAPES)][i // len(SHAPES)], i % len(SHAPES)) for i in range(n)]
    items = [(partial(_painted, _scattered, stream, split, at), label) for at, label in order]
    return Labelled(items, SHAPES, name=f"leftmost-{split}")


def count(split: str = "train", *, count: int | None = None, seed: int = 0) -> Labelled:
    """Makes the data set "how many objects are there?". Classes are 1 to 6, chance is 1 in 6.

    Item i shows (i modulo 6) + 1 objects, so the first n items are balanced for any n.

    Arguments and errors are those of `downstream`.
    """
    n = _checked("count", split, count, seed)
    stream = _STREAMS["count"] + seed
    items = [(partial(_painted, _counted, stream, split, i), i % MAX_OBJECTS) for i in range(n)]
    return Labelled(items, tuple(str(i + 1) for i in range(MAX_OBJECTS)), name=f"count-{split}")


def digits(split: str = "train", *, count: int | None = None, seed: int = 0) -> Labelled:
    """Makes the data set "which digit is it?" from scikit-learn's 1,797 handwritten digits.

    The images are 8 × 8 pixels, enlarged to 64 × 64 pixels RGB. They are the test part of Alpaydın and Kaynak's Optical
    Recognition of Handwritten Digits (https://doi.org/10.24432/C50P49). The seed determines the division into 800, 200
    and 797. Every split, and the first n items of it, has the class proportions of the whole, up to one item.

    Arguments and errors are those of `downstream`.
    """
    n = _checked("digits", split, count, seed)
    images, labels = _digits()
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, len(labels)])))
    share = np.empty(len(labels))
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        share[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = np.lexsort((labels, share))  # every contiguous range of it is stratified by class
    begin = {"train": 0, "validation": SIZES["train"], "test": SIZES["train"] + SIZES["validation"]}[split]
    chosen = order[begin : begin + n]
    items = [(partial(_enlarged, images[i]), int(labels[i])) for i in chosen]
    return Labelled(items, tuple(str(i) for i in range(10)), name=f"digits-{split}")


def segment(split: str = "train", *, count: int | None = None, seed: int = 0) -> Labelled:
    """Makes the data set "what does every pixel show?". Class 0 is background, class 1 + i is shape i of `SHAPES`.

    Images have 1 to 6 objects, as `scenes` draws them; labels are uint8 ``(64, 64)`` and no pixel is ignored. The
    background covers about three quarters of the pixels, so results should be measured by mean intersection over union.

    Arguments and errors are those of `downstream`.
    """
    n = _checked("segment", split, count, seed)
    stream = _STREAMS["segment"] + seed
    items = [(partial(_painted, _any, stream, split, i), partial(_shape_labels, stream, split, i)) for i in range(n)]
    return Labelled(items, ("background", *SHAPES), kind="segmentation", name=f"segment-{split}")


_MAKERS: dict[str, Callable[..., Labelled]] = {
    "leftmost": leftmost,
    "count": count,
    "digits": digits,
    "segment": segment,
}
#: The sets' names.
DOWNSTREAM: tuple[str, ...] = tuple(_MAKERS)


def _checked(name: str, split: str, count: int | None, seed: int) -> int:
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if seed < 0:
        raise InvalidInputError(f"expected a seed >= 0, got {seed}")
    most = 797 if name == "digits" and split == "test" else SIZES[split]
    if count is None:
        return most
    if count < 1 or (name == "digits" and count > most):
        limit = f"from 1 to {most}, there are no more digits" if name == "digits" else "of 1 or more"
        raise InvalidInputError(f"expected a count {limit}, got {count}")
    return count


def _any(stream: int, split: str, index: int) -> Scene:
    return scene(stream, split, index=index)


def _scattered(stream: int, split: str, index: int) -> Scene:
    return scene(stream, split, index=index, n_objects=_FEWEST + index % (_MOST - _FEWEST + 1))


def _counted(stream: int, split: str, index: int) -> Scene:
    return scene(stream, split, index=index, n_objects=1 + index % MAX_OBJECTS)


def _leftmost_shape(made: Scene) -> str | None:
    """Returns the shape of the leftmost object, or None if it is less than `LEAD` to the left of the next one."""
    first, second = sorted(made.objects, key=lambda item: item.centre_xy[0])[:2]
    return first.shape if second.centre_xy[0] - first.centre_xy[0] >= LEAD * made.size_wh[0] else None


def _shape_labels(stream: int, split: str, index: int) -> NDArray[np.uint8]:
    made = _any(stream, split, index)
    labels = np.zeros(made.image.shape[:2], dtype=np.uint8)
    for item in made.objects:
        labels[item.mask] = 1 + SHAPES.index(item.shape)
    return labels


def _painted(make: Callable[[int, str, int], Scene], stream: int, split: str, index: int) -> Image:
    return make(stream, split, index).pil


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Returns the digits' grey levels ``(1797, 8, 8)``, 0 to 255, and their labels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UnsupportedError(
            'the digits come with scikit-learn, which is not installed: pip install "visprompt-toolkit[digits]".'
        ) from None
    images, labels = load_digits(return_X_y=True)
    grey = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return grey, labels.astype(np.int64)


def _enlarged(grey: NDArray[np.uint8]) -> Image:
    from PIL import Image as pil_image

    return pil_image.fromarray(grey).resize((IMAGE_PX, IMAGE_PX), pil_image.Resampling.BICUBIC).convert("RGB")
