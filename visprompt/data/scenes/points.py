"""Named points in generated scenes, with the object at every point as answer."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from visprompt.data.referring.keypoints import PointedImage
from visprompt.errors import InvalidInputError

_SALT = 603305
KINDS = ("inside", "edge")


@lru_cache(maxsize=8)
def scene_points(
    n: int,
    kind: str = "hard",
    split: str = "test",
    seed: int = 0,
    size_wh: tuple[int, int] = (64, 64),
    points: int = 1,
) -> tuple[PointedImage, ...]:
    """Generates scenes with points on different objects.

    The points depend only on the scene's index. From scene to scene and from point to point two kinds alternate:
    "inside" is the pixel of the object farthest from its edge, "edge" is a random pixel on its visible outline, where
    about half of the surroundings belong to something else.

    Args:
        n: number of scenes.
        kind: kind of scene, as in `visprompt.data.scenes.world.scene`.
        split: "train", "validation" or "test".
        seed: an integer, 0 or more.
        size_wh: width and height of the images in pixels.
        points: number of points per scene, limited by its number of objects.

    Returns:
        One `PointedImage` per scene.

    >>> first = scene_points(1, points=2)[0]
    >>> first.names, first.kinds
    (('blue moon', 'yellow heart'), ('inside', 'edge'))

    Raises:
        InvalidInputError: for a kind or split that does not exist, or less than one point.
    """
    from visprompt.data.scenes import world as scenes

    if points < 1:
        raise InvalidInputError(f"points in a scene: at least 1; got {points}.")
    try:
        made = scenes.scenes(n, split=split, seed=seed, kind=cast(Any, kind), size_wh=size_wh)
    except ValueError as error:
        raise InvalidInputError(f"data source 'scenes-points': {error}.") from error
    found = []
    for number, scene in enumerate(made):
        rng = np.random.default_rng([_SALT, scenes.SPLITS[split], seed, number])
        chosen = rng.permutation(len(scene.objects))[:points]
        kinds = tuple(KINDS[(number + index) % len(KINDS)] for index in range(len(chosen)))
        masks = [scene.objects[index].mask for index in chosen]
        both = zip(masks, kinds, strict=True)
        centres = [_inside(mask) if sort == "inside" else _edge(mask, rng) for mask, sort in both]
        key = f"{kind}-{split}-{seed}-{number:05d}"
        found.append(
            PointedImage(
                key,
                scene.pil,
                np.array(centres, dtype=np.float64),
                tuple(scene.objects[index].name for index in chosen),
                tuple(f"{key}/{index}" for index in range(len(chosen))),
                kinds,
                tuple(dict.fromkeys(item.name for item in scene.objects)),
            )
        )
    return tuple(found)


def _inside(mask: NDArray[np.bool_]) -> tuple[float, float]:
    from visprompt.imaging.paste import centre_of
    from visprompt.regions.shapes import Mask

    return centre_of(Mask(mask))


def _edge(mask: NDArray[np.bool_], rng: np.random.Generator) -> tuple[float, float]:
    """Returns the centre of a random pixel of the mask that has a 4-neighbour outside it."""
    padded = np.pad(mask, 1)
    within = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    rows, columns = np.nonzero(mask & ~within)
    drawn = int(rng.integers(len(rows)))
    return (float(columns[drawn]) + 0.5, float(rows[drawn]) + 0.5)
