"""Crowded scenes of small objects, used by the hard questions of `visprompt.data.scenes.questions`.

`scenes.scene` shrinks objects only if they do not fit; here all objects are small, which makes the questions harder.

>>> image = small_scene(0, "test", few=True)
>>> len(image.objects) in (5, 6), {item.size for item in image.objects}
(True, {'small'})
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from visprompt.data.scenes.draw import background, paint
from visprompt.data.scenes.layout import COLOURS, MAX_OBJECTS, SHAPES, draw_pairs
from visprompt.data.scenes.world import SPLITS, Scene, SceneObject
from visprompt.errors import InvalidInputError, unknown_name

__all__ = ["FEWEST_SMALL", "SMALL_RADIUS", "small_scene"]

#: Radius of the circle around the shape, as a fraction of the image's side; "small" in `scenes` is 0.115 ± 6 %.
SMALL_RADIUS = (0.09, 0.115)
FEWEST_SMALL = 5
SIDE_PX = 64
# Smallest distance of two centres, as a fraction of the sum of the radii: objects touch at their corners at most.
_MIN_DISTANCE = 0.95
# Differs from every random stream of `scenes.scene`, whose kinds are 0, 1 and 2.
_STREAM = 20250611


def small_scene(seed: int, split: str = "test", few: bool = False, index: int = 0) -> Scene:
    """Generates one scene of 5 or 6 small objects, 64 × 64 pixels.

    Args:
        seed: A non-negative integer.
        split: "train", "validation" or "test": disjoint streams of random numbers.
        few: True: 2 or 3 colours and 2 or 3 shapes, as in hard scenes, so that many occur twice.
        index: Index of the scene in this seed's sequence.

    Returns:
        The scene.

    Raises:
        UnknownNameError: For a split that does not exist.
        InvalidInputError: For a negative seed or index.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if seed < 0 or index < 0:
        raise InvalidInputError(f"expected a seed and an index >= 0, got seed={seed} and index={index}")
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([_STREAM, SPLITS[split], seed, index, int(few)])))
    pairs = draw_pairs(rng, int(rng.integers(FEWEST_SMALL, MAX_OBJECTS + 1)), hard=few)
    low, high = SMALL_RADIUS
    radii = SIDE_PX * (low + (high - low) * rng.random(len(pairs)))
    centres = _spread(rng, radii)
    order = [int(i) for i in rng.permutation(len(pairs))]
    canvas = background(rng, (SIDE_PX, SIDE_PX))
    masks: list[NDArray[np.bool_]] = []
    for number in order:
        x, y = centres[number].tolist()
        colour, shape = COLOURS[pairs[number][0]], SHAPES[pairs[number][1]]
        masks.append(paint(rng, canvas, shape, colour, (x, y), float(radii[number])))
    objects: list[SceneObject] = []
    hidden = np.zeros((SIDE_PX, SIDE_PX), dtype=np.bool_)
    for depth in range(len(order) - 1, -1, -1):
        number, mask = order[depth], masks[depth] & ~hidden
        hidden |= masks[depth]
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        objects.append(
            SceneObject(
                colour=COLOURS[pairs[number][0]],
                shape=SHAPES[pairs[number][1]],
                size="small",
                radius_px=float(radii[number]),
                centre_xy=(float(centres[number][0]), float(centres[number][1])),
                box_xyxy=(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1),
                mask=mask,
                visible_fraction=float(np.count_nonzero(mask)) / int(np.count_nonzero(masks[depth])),
                depth=depth,
            )
        )
    image = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return Scene(image, tuple(reversed(objects)), kind="hard" if few else "any", target=order.index(0))


def _spread(rng: np.random.Generator, radii: NDArray[np.float64]) -> NDArray[np.float64]:
    """Draws centres ``(n, 2)`` in pixels, far enough from each other and from the image's edge."""
    while True:
        low = (radii + 0.5)[:, None]
        centres = low + rng.random((len(radii), 2)) * (SIDE_PX - 2 * low)
        distance = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1))
        needed = _MIN_DISTANCE * (radii[:, None] + radii[None])
        if (distance + np.diag(needed.diagonal()) >= needed).all():
            return np.asarray(centres)
