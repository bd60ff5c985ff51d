"""Crowded scenes of small objects: what `visprompt.data.scenes.questions` asks its hard questions about.

`scenes.scene` shrinks objects only when there is no room; here all of them are small, so that there is something left
to get wrong.

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

#: Radius of the circle around the shape, as a share of the image's side; scenes' own "small" is 0.115 ± 6 %.
SMALL_RADIUS = (0.09, 0.115)
FEWEST_SMALL = 5
SIDE_PX = 64
# Centres are this share of the summed radii apart or more: objects touch at most by their corners.
_MIN_DISTANCE = 0.95
# Apart from every stream of `scenes.scene`, whose kinds are 0, 1 and 2.
_STREAM = 20250611


def small_scene(seed: int, split: str = "test", few: bool = False, index: int = 0) -> Scene:
    """Generate one scene of 5 or 6 small objects, 64 × 64 px.

    Args:
        seed: Any non-negative integer.
        split: "train", "validation" or "test": disjoint streams of random numbers.
        few: Colours and shapes come from 2 or 3 of each, as in hard scenes, so that much occurs twice.
        index: Which scene of this seed's sequence.

    Raises:
        UnknownNameError: A split that does not exist.
        InvalidInputError: A negative seed or index.
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
    """Centres ``(n, 2)`` in pixels, far enough from each other and from the rim."""
    while True:
        low = (radii + 0.5)[:, None]
        centres = low + rng.random((len(radii), 2)) * (SIDE_PX - 2 * low)
        distance = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1))
        needed = _MIN_DISTANCE * (radii[:, None] + radii[None])
        if (distance + np.diag(needed.diagonal()) >= needed).all():
            return np.asarray(centres)
