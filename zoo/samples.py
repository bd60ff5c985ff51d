"""Training data of scenes-clip: images and the truth of captions, one batch per step number, seeded.

Three sources: whole scenes, single objects, and *zooms* (one object cut out and enlarged, as a crop would do). The
default model is trained on these alone. For the annotated model some images are marked: circled in red, or blurred
outside an object's box; of those only the marked object's captions count as true.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from visprompt.data.scenes.world import COLOURS, MAX_OBJECTS, POSITION_MARGIN, POSITIONS, SHAPES, Scene, scene
from zoo.text import ANY, TRAINED_TOKENS, CaptionSet, encode, every_caption, wording

IMAGE_PX = 64
PATCH_PX = 8
GRID = IMAGE_PX // PATCH_PX
TRUE, FALSE, UNKNOWN = 1, 0, -1
NOTHING = 8  # class of background patches, for colour and for shape
IGNORE = -100
_ABSENT, _PRESENT, _PARTLY = 0, 1, 2
_PLACED_PAIRS = 32


@dataclass(frozen=True)
class Mixture:
    """Fractions of the kinds of images, each in [0, 1]; the rest are whole scenes, half of them hard or with twins."""

    single: float
    zoom: float
    circled: float = 0.0
    blurred: float = 0.0


@dataclass
class SampleImage:
    """One training image.

    Args:
        image: uint8 ``(64, 64, 3)``.
        attributes: colour and shape of each object, ``(6, 2)``.
        state: absent, present or partly visible, ``(6,)``.
        centre: of each object, fractions of width and height, ``(6, 2)``.
        patch_labels: colour and shape per patch, ``(64, 2)``.
        placeless: whether captions with a position are undecided (zooms).
    """

    image: NDArray[np.uint8]
    attributes: NDArray[np.int64]
    state: NDArray[np.int64]
    centre: NDArray[np.float32]
    patch_labels: NDArray[np.int64]
    placeless: bool = False


Batch = dict[str, NDArray[np.generic]]


def batch(seed: int, step: int, size: int, mixture: Mixture) -> Batch:
    """Creates the batch of one step.

    Args:
        seed: of the run.
        step: number of the step.
        size: number of images.
        mixture: fractions of the kinds of images.

    Returns:
        ``images`` uint8 ``(size, 64, 64, 3)``; ``tokens`` int64 ``(captions, 16)``; ``truth`` int8 ``(size,
            captions)``: 1 true, 0 false, -1 undecided; ``weight`` float32 ``(captions,)``; ``patch_labels`` int64
            ``(size, 64, 2)``: colour and shape per patch.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, step])))
    images = [image(rng, seed, step * size + i, mixture) for i in range(size)]
    known: CaptionSet = every_caption()
    chosen = rng.permutation(64)[:_PLACED_PAIRS]
    placed = known.placed.reshape(64, 4, 3)[chosen].reshape(-1, 3)
    captions = np.concatenate([known.pairs, placed, known.single])
    weight = np.concatenate([np.ones(64), np.full(len(placed), 1.0), np.full(16, 0.2)]).astype(np.float32)
    tokens = np.stack([encode(rng, wording(rng, *(int(v) for v in row))) for row in captions])
    return {
        "images": np.stack([p.image for p in images]),
        "tokens": tokens[:, :TRAINED_TOKENS],
        "truth": truth(images, captions),
        "weight": weight,
        "patch_labels": np.stack([p.patch_labels for p in images]),
    }


def truth(images: list[SampleImage], captions: NDArray[np.int64]) -> NDArray[np.int8]:
    """Decides which captions are true of which images.

    A caption with a position is true if such an object is on that side, false if it is on the other side or missing,
    and undecided close to the middle.

    Args:
        images: the images.
        captions: ``(captions, 3)``: colour, shape and position, -1 for none.

    Returns:
        int8 ``(images, captions)`` of TRUE, FALSE and UNKNOWN.
    """
    attributes = np.stack([p.attributes for p in images])[:, :, None, :]  # image, object, 1, (colour, shape)
    state = np.stack([p.state for p in images])[:, :, None]
    centre = np.stack([p.centre for p in images])
    wanted = captions[None, None, :, :2]
    fits = ((attributes == wanted) | (wanted == ANY)).all(axis=-1) & (state != _ABSENT)
    signed = np.stack(
        [sign * (centre[:, :, axis] - 0.5) for axis, sign in POSITIONS.values()] + [np.ones(centre.shape[:2])], axis=-1
    )
    signed[np.array([p.placeless for p in images]), :, :4] = 0.5 * POSITION_MARGIN
    # Index -1 (no position) selects the last column, which is 1.
    on_side = signed[:, :, captions[:, 2]]
    certain = fits & (state == _PRESENT) & (on_side >= POSITION_MARGIN)
    possible = fits & (on_side > 0.0)
    result = np.where(possible.any(axis=1), UNKNOWN, FALSE)
    return np.where(certain.any(axis=1), TRUE, result).astype(np.int8)


def image(rng: np.random.Generator, seed: int, index: int, mixture: Mixture) -> SampleImage:
    """Creates one training image of the mixture.

    Args:
        rng: random generator.
        seed: of the run.
        index: number of the image.
        mixture: fractions of the kinds of images.
    """
    draw = float(rng.random())
    if draw < mixture.single:
        return _whole(scene(seed, "train", index=index, n_objects=1))
    draw -= mixture.single
    if draw < mixture.zoom:
        return _zoomed(rng, scene(seed, "train", index=index, hard=bool(rng.random() < 0.3)))
    draw -= mixture.zoom
    kind = ("any", "any", "hard", "position")[int(rng.integers(4))]
    if draw < mixture.circled + mixture.blurred:
        made = scene(
            seed, "train", index=index, kind="hard" if kind == "position" else kind, n_objects=int(rng.integers(3, 7))
        )
        return _circled(rng, made) if draw < mixture.circled else _blurred(rng, made)
    return _whole(scene(seed, "train", index=index, kind=kind))  # type: ignore[arg-type]


def _whole(made: Scene, only: int | None = None, image: NDArray[np.uint8] | None = None) -> SampleImage:
    attributes = np.full((MAX_OBJECTS, 2), -9, dtype=np.int64)
    state = np.zeros(MAX_OBJECTS, dtype=np.int64)
    centre = np.full((MAX_OBJECTS, 2), 0.5, dtype=np.float32)
    labels = np.zeros(made.image.shape[:2], dtype=np.int64)
    for i, item in enumerate(made.objects):
        attributes[i] = COLOURS.index(item.colour), SHAPES.index(item.shape)
        state[i] = _PRESENT if only is None or only == i else _ABSENT
        centre[i] = np.array(item.centre_xy) / made.size_wh
        labels[item.mask] = i + 1
    image = made.image if image is None else image
    return SampleImage(image, attributes, state, centre, _patch_labels(labels, attributes))


def _patch_labels(labels: NDArray[np.int64], attributes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Labels a patch by the object that covers a quarter of it or more; undecided if an object covers only a few
    pixels.
    """
    tiles = labels.reshape(GRID, PATCH_PX, GRID, PATCH_PX).transpose(0, 2, 1, 3).reshape(GRID * GRID, -1)
    share = (tiles[:, :, None] == np.arange(MAX_OBJECTS + 1)).mean(axis=1)
    most = share[:, 1:].argmax(axis=1)
    result = attributes[most]
    peak = share[:, 1:].max(axis=1)
    result = np.where(peak[:, None] >= 0.25, result, IGNORE)
    return np.asarray(np.where(peak[:, None] < 0.03, NOTHING, result), dtype=np.int64)


def _zoomed(rng: np.random.Generator, made: Scene) -> SampleImage:
    which = int(rng.integers(len(made.objects)))
    x0, y0, x1, y1 = made.objects[which].box_xyxy
    width, height = made.size_wh
    if rng.random() < 0.5:  # half of them square, as a crop that keeps the aspect ratio
        grow_x, grow_y = max(0, (y1 - y0) - (x1 - x0)) / 2, max(0, (x1 - x0) - (y1 - y0)) / 2
    else:
        grow_x = grow_y = 0.0
    margin = max(0.0, float(rng.random()) * 0.5 - 0.15) * max(x1 - x0, y1 - y0)
    left, top = max(int(np.floor(x0 - grow_x - margin)), 0), max(int(np.floor(y0 - grow_y - margin)), 0)
    right, bottom = min(int(np.ceil(x1 + grow_x + margin)), width), min(int(np.ceil(y1 + grow_y + margin)), height)
    how = (cv2.INTER_CUBIC, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_NEAREST)[int(rng.integers(4))]
    window = (slice(top, bottom), slice(left, right))
    image = cv2.resize(made.image[window], (IMAGE_PX, IMAGE_PX), interpolation=how)
    result = _whole(made)
    labels = np.zeros(made.image.shape[:2], dtype=np.uint8)
    for i, item in enumerate(made.objects):
        labels[item.mask] = i + 1
        if i != which:
            result.state[i] = _PARTLY if item.mask[window].any() else _ABSENT
    labels = cv2.resize(labels[window], (IMAGE_PX, IMAGE_PX), interpolation=cv2.INTER_NEAREST)
    result.image, result.placeless = np.asarray(image, np.uint8), True
    result.patch_labels = _patch_labels(labels.astype(np.int64), result.attributes)
    return result


def _circled(rng: np.random.Generator, made: Scene) -> SampleImage:
    which = int(rng.integers(len(made.objects)))
    x0, y0, x1, y1 = made.objects[which].box_xyxy
    grow = int(rng.integers(3))
    image = made.image.copy()
    centre, axes = ((x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2), ((x1 - x0 - 1) / 2 + grow, (y1 - y0 - 1) / 2 + grow)
    thickness = 1 + int(rng.random() < 0.4)
    line = cv2.LINE_AA if rng.random() < 0.3 else cv2.LINE_8
    shift = 16.0
    cv2.ellipse(
        image,
        (round(centre[0] * shift), round(centre[1] * shift)),
        (round(axes[0] * shift), round(axes[1] * shift)),
        0, 0, 360, (255, 0, 0), thickness, line, 4,
    )  # fmt: skip
    return _whole(made, only=which, image=image)


def _blurred(rng: np.random.Generator, made: Scene) -> SampleImage:
    which = int(rng.integers(len(made.objects)))
    x0, y0, x1, y1 = made.objects[which].box_xyxy
    sigma = 1.5 + 8.0 * float(rng.random()) ** 2
    image = np.asarray(cv2.GaussianBlur(made.image, (0, 0), sigma), np.uint8)
    image[y0:y1, x0:x1] = made.image[y0:y1, x0:x1]
    return _whole(made, only=which, image=image)
