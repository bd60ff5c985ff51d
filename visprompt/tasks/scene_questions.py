"""The data source `scenes-vqa`: questions about generated scenes, for tasks answered in words."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from visprompt.data.questions.question import Question


@lru_cache(maxsize=8)
def scene_vqa(
    n: int, difficulty: str = "easy", split: str = "test", seed: int = 0, kinds: tuple[str, ...] | None = None
) -> tuple[Question, ...]:
    """Generates questions about scenes with one image each, so that items are independent draws.

    Args:
        n: number of questions.
        difficulty, split, seed, kinds: as in `visprompt.data.scenes.questions.scene_questions`.

    Raises:
        InvalidInputError: for a difficulty, split or kind that does not exist.
    """
    from visprompt.data.scenes.questions import scene_questions
    from visprompt.regions.shapes import Box, Mask

    found = []
    for one in scene_questions(split, seed, n, difficulty, kinds):
        scene = one.scene
        masks = {item.box_xyxy: item.mask for item in scene.objects}
        found.append(
            Question(
                one.id,
                (scene.pil,),
                one.text,
                answer=one.answer,
                kind=one.kind,
                targets=tuple(Box(*box) for box in one.target_boxes),
                outlines=tuple(Mask(masks[box]) for box in one.target_boxes),
                wrong=() if one.wrong_box is None else (Box(*one.wrong_box),),
                objects=tuple(Box(*item.box_xyxy) for item in scene.objects),
                chance=1 / _choices(one.kind, one.detail, difficulty),
                extra={"detail": one.detail},
            )
        )
    return tuple(found)


def content_hash(questions: Sequence[Question]) -> str:
    """Returns a hash of images, questions and regions, which changes whenever the generator changes them."""
    total = hashlib.sha256()
    for one in questions:
        total.update(np.asarray(one.images[0]).tobytes())
        boxes: list[Any] = [region.xyxy for region in (*one.targets, *one.wrong, *one.objects)]
        total.update(repr((one.text, one.answer, boxes)).encode())
    return total.hexdigest()[:16]


def _choices(kind: str, detail: str, difficulty: str) -> int:
    """Returns the number of answers that a guess without the image chooses from."""
    from visprompt.data.scenes.world import COLOURS, SHAPES

    if kind == "count":
        return 3 if difficulty == "easy" else 4
    if kind in ("presence", "side", "size"):
        return 2
    return len(COLOURS) if detail.startswith("colour") else len(SHAPES)
