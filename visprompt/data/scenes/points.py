"""Points in generated scenes, and what is to be seen there: the counterpart of bird parts in which all is known."""

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
    """Generated scenes with points on different objects, drawn from the scene's number alone.

    By turns, from scene to scene and from point to point, a point is "inside", where its object is deepest, or at the
    "edge", one of the outermost of its visible pixels, drawn at random: half of what lies around that one is something
    else.

    Args:
        n: how many scenes.
        kind: of scene, as `visprompt.data.scenes.world.scene` has them.
        split: "train", "validation" or "test".
        seed: any.
        size_wh: of the images.
        points: in every scene, at most as many as it has objects.

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
        kinds = tuple(KINDS[(number + place) % len(KINDS)] for place in range(len(chosen)))
        masks = [scene.objects[index].mask for index in chosen]
        both = zip(masks, kinds, strict=True)
        spots = [_inside(mask) if sort == "inside" else _edge(mask, rng) for mask, sort in both]
        key = f"{kind}-{split}-{seed}-{number:05d}"
        found.append(
            PointedImage(
                key,
                scene.pil,
                np.array(spots, dtype=np.float64),
                tuple(scene.objects[index].name for index in chosen),
                tuple(f"{key}/{place}" for place in range(len(chosen))),
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
    """The middle of a pixel of the mask one of whose four neighbours is not in it."""
    padded = np.pad(mask, 1)
    within = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    rows, columns = np.nonzero(mask & ~within)
    drawn = int(rng.integers(len(rows)))
    return (float(columns[drawn]) + 0.5, float(rows[drawn]) + 0.5)
