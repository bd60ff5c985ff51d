"""Training data of the bundled LVLM: images and questions, one batch per step number, seeded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from visprompt.data.scenes.questions import KINDS, Candidate, questions_about, scene_questions
from visprompt.data.scenes.small import small_scene
from visprompt.data.scenes.world import MAX_OBJECTS, Scene, scene
from zoo.llava_text import SLOT, encode
from zoo.samples import Batch, _whole

#: questions per image, answered in one forward
SLOTS = 10
#: relative frequency of each kind of question
WEIGHTS = {
    "colour": 1.0,
    "shape": 1.0,
    "presence": 1.0,
    "count": 1.5,
    "side": 1.0,
    "size": 0.5,
    "leftmost": 1.0,
    "relation": 1.0,
}
#: the same in the last steps: more counting; fewer questions that are already solved, and none of "leftmost", so that
#: visual prompts can still improve these
LATE_WEIGHTS = {
    "colour": 0.7,
    "shape": 0.7,
    "presence": 0.7,
    "count": 2.5,
    "side": 1.0,
    "size": 1.5,
    "leftmost": 0.0,
    "relation": 0.5,
}
CROWDED = 0.45


def batch(seed: int, step: int, size: int, full: float = 1.0, weights: Mapping[str, float] = WEIGHTS) -> Batch:
    """Creates the batch of one step.

    Args:
        seed: of the run.
        step: number of the step.
        size: number of images.
        full: difficulty of the images, 0 to 1: at 0 there are at most three objects and no crowded images.
        weights: relative frequency of each kind of question.

    Returns:
        ``images`` uint8 ``(size, 64, 64, 3)``; ``tokens`` int64 ``(size, SLOTS, SLOT)``; ``ask`` int64 ``(size,
            SLOTS)``: index of ``<assistant>``, -1 in an empty slot; ``kinds`` int64 ``(size, SLOTS)``; ``patch_labels``
            int64 ``(size, 64, 2)``: colour and shape per patch.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, step])))
    images, labels = [], []
    tokens = np.zeros((size, SLOTS, SLOT), dtype=np.int64)
    ask = np.full((size, SLOTS), -1, dtype=np.int64)
    kinds = np.full((size, SLOTS), -1, dtype=np.int64)
    most = 3 + round(2 * full)
    for i in range(size):
        index = step * size + i
        few = bool(rng.integers(2))
        crowded = rng.random() < CROWDED * full
        if crowded:
            made = small_scene(seed, "train", few, index)
        else:
            made = scene(seed, "train", hard=few, index=index, n_objects=int(rng.integers(3 if few else 1, most + 1)))
        images.append(photometric(rng, made.image))
        labels.append(_whole(made).patch_labels)
        for slot, one in enumerate(draw_questions(rng, made, KINDS["hard" if crowded else "easy"], weights)):
            tokens[i, slot], ask[i, slot] = encode(rng, one.text, one.answer)
            kinds[i, slot] = KINDS["easy"].index(one.kind)
    return {"images": np.stack(images), "tokens": tokens, "ask": ask, "kinds": kinds, "patch_labels": np.stack(labels)}


def draw_questions(
    rng: np.random.Generator, made: Scene, kinds: tuple[str, ...], weights: Mapping[str, float] = WEIGHTS
) -> list[Candidate]:
    """Draws up to ``SLOTS`` different questions about a scene.

    Yes and no are equally likely answers, and so are all numbers.

    Args:
        rng: random generator.
        made: the scene.
        kinds: kinds of questions to draw from.
        weights: relative frequency of each kind.
    """
    pool: dict[str, dict[str, list[Candidate]]] = defaultdict(lambda: defaultdict(list))
    for one in questions_about(made, [kind for kind in kinds if weights[kind] > 0]):
        pool[one.kind][one.answer if one.kind in ("presence", "count") else ""].append(one)
    drawn: list[Candidate] = []
    while pool and len(drawn) < SLOTS:
        names = list(pool)
        shares = np.array([weights[name] for name in names])
        kind = names[int(np.searchsorted(shares.cumsum() / shares.sum(), rng.random()))]
        answers = list(pool[kind])
        answer = answers[int(rng.integers(len(answers)))]
        group = pool[kind][answer]
        drawn.append(group.pop(int(rng.integers(len(group)))))
        if not group:
            del pool[kind][answer]
        if not pool[kind]:
            del pool[kind]
    return drawn


def photometric(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Changes the light of a whole image with probability ½, independently of the questions.

    Dims, blends with a grey, changes the contrast, adds noise or blurs slightly.

    Args:
        rng: random generator.
        image: uint8 ``(64, 64, 3)``.

    Returns:
        uint8 ``(64, 64, 3)``.
    """
    if rng.random() < 0.5:
        return image
    x = image.astype(np.float32)
    if rng.random() < 0.6:
        x *= 0.3 + 0.7 * float(rng.random())
    if rng.random() < 0.4:
        keep = 0.4 + 0.6 * float(rng.random())
        x = keep * x + (1 - keep) * 220.0 * float(rng.random())
    if rng.random() < 0.4:
        x = x.mean() + (0.6 + 0.7 * float(rng.random())) * (x - x.mean())
    if rng.random() < 0.2:
        x = x + rng.normal(0.0, 8.0 * float(rng.random()), x.shape).astype(np.float32)
    if rng.random() < 0.15:
        x = np.asarray(cv2.GaussianBlur(x, (0, 0), 0.3 + 0.5 * float(rng.random())), np.float32)
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def held_out(n_per_kind: int, seed: int, difficulty: str, split: str = "validation") -> Batch:
    """Creates a batch for evaluation with one question per image, ``n_per_kind`` of every kind.

    Args:
        n_per_kind: questions of each kind.
        seed: of the scenes.
        difficulty: "easy" or "hard".
        split: "validation" or "test".

    Returns:
        As `batch`, with one slot; the token after ``ask`` is the answer. ``target`` and ``wrong``, bool ``(n, 64)``:
            patches that the target's box and the wrong box cover by a quarter or more.
    """
    rng = np.random.default_rng(0)
    questions = scene_questions(split, seed, n_per_kind * len(KINDS[difficulty]), difficulty)
    rows = [encode(rng, one.text, one.answer, reword=False) for one in questions]
    empty = np.zeros(64, dtype=np.bool_)
    return {
        "images": np.stack([one.scene.image for one in questions]),
        "tokens": np.stack([row for row, _ in rows])[:, None],
        "ask": np.array([[at] for _, at in rows]),
        "kinds": np.array([[KINDS["easy"].index(one.kind)] for one in questions]),
        "target": np.stack([covered(one.target_box) if one.target_box else empty for one in questions]),
        "wrong": np.stack([covered(one.wrong_box) if one.wrong_box else empty for one in questions]),
    }


def covered(box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """The patches that a box covers by a quarter or more, bool ``(64,)``."""
    x0, y0, x1, y1 = box
    inside = np.zeros((64, 64), dtype=np.float32)
    inside[y0:y1, x0:x1] = 1.0
    return np.asarray(inside.reshape(8, 8, 8, 8).mean(axis=(1, 3)).reshape(-1) >= 0.25)


assert MAX_OBJECTS == 6  # `_whole` creates arrays of this length
