"""Generated images with full annotations: objects, visible masks, captions and referring expressions.

The world is small (8 colours x 8 shapes x 3 sizes on muted backgrounds), so that a model trained on it fits into the
package and every strategy can be evaluated offline. This module imports no models.

>>> from visprompt.data import scenes
>>> image = scenes.scene(7, split="test", hard=True)
>>> image.size_wh
(64, 64)
>>> expression = image.referring[0]
>>> image.objects[expression.target].name in expression.text
True

A scene depends only on (split, seed, index, kind, size). Random numbers come from numpy's PCG64 seeded through
``SeedSequence``, whose streams are the same on every platform. The three splits draw from disjoint streams.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
from numpy.typing import NDArray

from visprompt.data.scenes.draw import COLOUR_RGB, background, paint
from visprompt.data.scenes.layout import (
    COLOURS,
    MAX_OBJECTS,
    POSITION_MARGIN,
    POSITIONS,
    SHAPES,
    SIZES,
    draw_pairs,
    place,
)

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "COLOURS",
    "COLOUR_RGB",
    "MAX_OBJECTS",
    "POSITIONS",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "Referring",
    "Scene",
    "SceneObject",
    "SceneSequence",
    "all_names",
    "position_scenes",
    "scene",
    "scenes",
]

# The numbers are part of every seed: changing a number changes every image of its split.
SPLITS: dict[str, int] = {"train": 11, "validation": 22, "test": 33}
MIN_VISIBLE_FRACTION = 0.7
_WORLD = 20240705
_KINDS: dict[str, int] = {"any": 0, "hard": 1, "position": 2}
_PHRASE = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}
_OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
_MIN_SIDE_PX = 24

Kind = Literal["any", "hard", "position"]


def all_names() -> list[str]:
    """Lists the 64 names "colour shape", colour by colour: the label set of the naming task."""
    return [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One object of a scene, with its visible pixels.

    Attributes:
        colour: One of ``COLOURS``.
        shape: One of ``SHAPES``.
        size: "small", "medium" or "large", relative to the image's shorter side.
        radius_px: Radius in pixels of the circle around the whole shape, hidden parts included.
        centre_xy: Centre of that circle in pixels; the pixel (0, 0) covers 0 to 1.
        box_xyxy: Bounding box of the visible pixels; right and bottom edges are exclusive.
        mask: Boolean ``(height, width)``, true for the object's visible pixels.
        visible_fraction: Visible pixels divided by all pixels of the shape; at least 0.7.
        depth: Painting order, 0 is farthest back; equals the index in ``Scene.objects``.
    """

    colour: str
    shape: str
    size: str
    radius_px: float
    centre_xy: tuple[float, float]
    box_xyxy: tuple[int, int, int, int]
    mask: NDArray[np.bool_]
    visible_fraction: float
    depth: int

    @property
    def name(self) -> str:
        """Colour and shape, for example "red star"."""
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Referring:
    """An expression that refers to exactly one object of its scene.

    Attributes:
        text: For example "the red star" or "the red star on the left".
        target: Index in ``Scene.objects`` of the object that the expression refers to.
        box_xyxy: That object's visible box in pixels, the gold answer.
        candidates: Indices of the objects to choose from: all objects of the scene.
        kind: "attribute" (colour and shape identify the object) or "position" (an equal object is on the opposite
            side).
    """

    text: str
    target: int
    box_xyxy: tuple[int, int, int, int]
    candidates: tuple[int, ...]
    kind: Literal["attribute", "position"]


@dataclass(frozen=True, eq=False)
class Scene:
    """An image with its objects, from which captions and referring expressions are derived.

    Attributes:
        image: uint8 array ``(height, width, 3)``, RGB.
        objects: The objects from back to front.
        kind: "any", "hard" or "position".
        target: Index of the object that the first referring expression refers to.
    """

    image: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]
    kind: Kind
    target: int

    @property
    def size_wh(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.shape[1], self.image.shape[0]

    @property
    def pil(self) -> Image:
        """The image as a PIL image."""
        from PIL import Image as pil_image

        return pil_image.fromarray(self.image)

    @cached_property
    def captions(self) -> tuple[str, ...]:
        """True statements about one object each: "a red star", and "a red star on the left" if the side is clear."""
        texts: list[str] = []
        for item in self.objects:
            texts.append(f"a {item.name}")
            texts += [f"a {item.name} {_PHRASE[side]}" for side in self.sides(item)]
        return tuple(dict.fromkeys(texts))

    @cached_property
    def referring(self) -> tuple[Referring, ...]:
        """Expressions that refer to one object only; the expression for ``target`` comes first.

        A position scene has two, one for each twin. Other scenes have one for each object whose colour and shape occur
        once; there may be none, unless the scene is hard.
        """
        names = [item.name for item in self.objects]
        found: list[Referring] = []
        for index, item in enumerate(self.objects):
            if self.kind == "position":
                if names[index] != names[self.target]:
                    continue
                twin = next(o for i, o in enumerate(self.objects) if i != index and names[i] == names[index])
                # Twins may be on opposite sides along both axes; the expression names the axis with the wider gap.
                opposite = [side for side in self.sides(item) if _OPPOSITE[side] in self.sides(twin)]
                side = max(opposite, key=lambda name: _gap(self.size_wh, name, item, twin))
                found.append(self._expression(index, f"the {item.name} {_PHRASE[side]}", "position"))
            elif names.count(names[index]) == 1:
                found.append(self._expression(index, f"the {item.name}", "attribute"))
        return tuple(sorted(found, key=lambda one: one.target != self.target))

    def sides(self, item: SceneObject) -> tuple[str, ...]:
        """Returns the sides of the image on which an object clearly is: "left", "right", "top", "bottom".

        A side is clear if the object's centre is at least 8 % of the width (or height) from the middle.

        Args:
            item: One of the scene's objects.

        Returns:
            Up to two names.
        """
        found = []
        for side, (axis, sign) in POSITIONS.items():
            if sign * (item.centre_xy[axis] / self.size_wh[axis] - 0.5) >= POSITION_MARGIN:
                found.append(side)
        return tuple(found)

    def _expression(self, target: int, text: str, kind: Literal["attribute", "position"]) -> Referring:
        return Referring(text, target, self.objects[target].box_xyxy, tuple(range(len(self.objects))), kind)


def scene(
    seed: int,
    split: str = "test",
    hard: bool = False,
    *,
    kind: Kind | None = None,
    index: int = 0,
    size_wh: tuple[int, int] = (64, 64),
    n_objects: int | None = None,
) -> Scene:
    """Generates one scene.

    >>> [item.name for item in scene(3, "train", n_objects=2).objects]
    ['white star', 'green moon']

    Args:
        seed: A non-negative integer.
        split: "train", "validation" or "test": disjoint streams of random numbers.
        hard: Short for ``kind="hard"``.
        kind: "any": 1 to 6 objects of any colours and shapes. "hard": 3 to 6 objects from 2 or 3 colours and 2 or 3
            shapes; the target is unique, and at least one other object shares its colour or its shape. "position": two
            objects of the same colour, shape and size on opposite sides, and up to 3 others.
        index: Index of the scene in this seed's sequence.
        size_wh: Width and height in pixels, each at least 24.
        n_objects: Number of objects; by default drawn at random within the limits of ``kind``.

    Returns:
        The scene.

    Raises:
        ValueError: For an unknown split or kind, an image that is too small, a negative seed, or a number of objects
            outside the limits of the kind.
    """
    kind = _checked_kind(kind, hard)
    _check(split, seed, size_wh)
    fewest, most = {"any": (1, MAX_OBJECTS), "hard": (3, MAX_OBJECTS), "position": (2, 5)}[kind]
    if n_objects is not None and not fewest <= n_objects <= most:
        raise ValueError(f"a scene of kind {kind!r} has {fewest} to {most} objects, got n_objects={n_objects}")
    entropy = [_WORLD, SPLITS[split], seed, index, _KINDS[kind]]
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
    while True:
        count = int(rng.integers(fewest, most + 1)) if n_objects is None else n_objects
        made = _attempt(rng, kind, count, size_wh)
        if made is not None:
            return made


def _attempt(rng: np.random.Generator, kind: Kind, count: int, size_wh: tuple[int, int]) -> Scene | None:
    twin_axis: int | None = None
    if kind == "position":
        twin_axis = int(rng.integers(2))
        twin = (int(rng.integers(8)), int(rng.integers(8)))
        others = draw_pairs(rng, count - 2, hard=False) if count > 2 else []
        if twin in others:
            return None
        pairs = [twin, twin, *others]
    else:
        pairs = draw_pairs(rng, count, hard=kind == "hard")
    placements = place(rng, pairs, size_wh, twin_axis)
    order = [int(i) for i in rng.permutation(count)]
    canvas = background(rng, size_wh)
    whole: list[NDArray[np.bool_]] = []
    for number in order:
        item = placements[number]
        whole.append(paint(rng, canvas, SHAPES[item.shape], COLOURS[item.colour], item.centre_xy, item.radius_px))
    objects: list[SceneObject] = []
    hidden = np.zeros(whole[0].shape, dtype=np.bool_)
    for depth in range(count - 1, -1, -1):
        item, mask = placements[order[depth]], whole[depth] & ~hidden
        hidden |= whole[depth]
        fraction = float(np.count_nonzero(mask)) / max(int(np.count_nonzero(whole[depth])), 1)
        if fraction < MIN_VISIBLE_FRACTION:
            return None
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        objects.append(
            SceneObject(
                colour=COLOURS[item.colour],
                shape=SHAPES[item.shape],
                size=item.size,
                radius_px=item.radius_px,
                centre_xy=item.centre_xy,
                box_xyxy=box,
                mask=mask,
                visible_fraction=fraction,
                depth=depth,
            )
        )
    image = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return Scene(image=image, objects=tuple(reversed(objects)), kind=kind, target=order.index(0))


class SceneSequence(Sequence[Scene]):
    """A lazy sequence of scenes: a scene is generated whenever it is indexed, and none is cached.

    Slices are sequences too. Two passes give equal images.

    Args:
        indices: Indices of the scenes in the seed's sequence.
        split, seed, kind, size_wh: As in `scene`.
    """

    def __init__(self, indices: range, split: str, seed: int, kind: Kind, size_wh: tuple[int, int]) -> None:
        _check(split, seed, size_wh)
        self.indices, self.split, self.seed, self.kind, self.size_wh = indices, split, seed, kind, size_wh

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, position: int) -> Scene: ...
    @overload
    def __getitem__(self, position: slice) -> SceneSequence: ...
    def __getitem__(self, position: int | slice) -> Scene | SceneSequence:
        if isinstance(position, slice):
            return SceneSequence(self.indices[position], self.split, self.seed, self.kind, self.size_wh)
        index = self.indices[position]
        return scene(self.seed, self.split, kind=self.kind, index=index, size_wh=self.size_wh)

    def __iter__(self) -> Iterator[Scene]:
        for position in range(len(self)):
            yield self[position]

    def __repr__(self) -> str:
        return f"SceneSequence({len(self)} scenes, split={self.split!r}, seed={self.seed}, kind={self.kind!r})"


def scenes(
    n: int,
    split: str = "test",
    seed: int = 0,
    hard: bool = False,
    *,
    kind: Kind | None = None,
    size_wh: tuple[int, int] = (64, 64),
) -> SceneSequence:
    """Returns ``n`` scenes as a lazy sequence.

    >>> [len(s.objects) for s in scenes(5, split="validation", hard=True)]
    [6, 3, 6, 3, 3]

    Args:
        n: Number of scenes.
        split, seed, hard, kind, size_wh: As in `scene`.

    Raises:
        ValueError: For a negative ``n``, or arguments that `scene` refuses.
    """
    if n < 0:
        raise ValueError(f"expected a number of scenes >= 0, got {n}")
    return SceneSequence(range(n), split, seed, _checked_kind(kind, hard), size_wh)


def position_scenes(
    n: int, split: str = "test", seed: int = 0, *, size_wh: tuple[int, int] = (64, 64)
) -> SceneSequence:
    """Returns ``n`` scenes with two equal objects that only their position ("on the left", "at the top") distinguishes.

    The candidates of every expression include both, so a model that sees only the cropped region is right half the time
    at best.

    >>> position_scenes(1)[0].referring[0].kind
    'position'

    Args:
        n: Number of scenes.
        split, seed, size_wh: As in `scene`.
    """
    return scenes(n, split, seed, kind="position", size_wh=size_wh)


def _gap(size_wh: tuple[int, int], side: str, item: SceneObject, twin: SceneObject) -> float:
    axis, sign = POSITIONS[side]
    return sign * (item.centre_xy[axis] - twin.centre_xy[axis]) / size_wh[axis]


def _checked_kind(kind: Kind | None, hard: bool) -> Kind:
    if kind is None:
        return "hard" if hard else "any"
    if kind not in _KINDS:
        raise ValueError(f"unknown kind of scene {kind!r}; known: {', '.join(_KINDS)}")
    if hard and kind != "hard":
        raise ValueError(f"hard=True contradicts kind={kind!r}; give one of them")
    return kind


def _check(split: str, seed: int, size_wh: tuple[int, int]) -> None:
    if split not in SPLITS:
        close = difflib.get_close_matches(str(split), SPLITS, n=1, cutoff=0.3)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}{hint}")
    if seed < 0:
        raise ValueError(f"expected a seed >= 0, got {seed}")
    if min(size_wh) < _MIN_SIDE_PX:
        raise ValueError(f"expected an image of at least {_MIN_SIDE_PX} x {_MIN_SIDE_PX} px, got size_wh={size_wh}")
