"""Questions have the answer that the scene gives, derived here anew; they are balanced, reproducible and disjoint."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from visprompt.data.scenes import questions as vqa
from visprompt.data.scenes import world
from visprompt.data.scenes.small import small_scene
from visprompt.errors import InvalidInputError, UnknownNameError

BOTH = [(difficulty, kind) for difficulty in vqa.DIFFICULTIES for kind in vqa.KINDS[difficulty]]


def _named(items: tuple[world.SceneObject, ...], words: str) -> list[world.SceneObject]:
    """Objects that a phrase such as "red stars", "red objects" or "star" can mean."""
    found = list(items)
    for word in words.split():
        singular = next((s for s in world.SHAPES if word in (s, s + "s", s + "es")), None)
        if word in world.COLOURS:
            found = [item for item in found if item.colour == word]
        elif singular is not None:
            found = [item for item in found if item.shape == singular]
        else:
            assert word in ("object", "objects"), word
    return found


def _answers(scene: world.Scene, text: str) -> tuple[set[str], list[world.SceneObject]]:
    """Read a question as a person would: all answers that are true, and the objects that they are about."""
    items = scene.objects
    axes = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1), "above": (1, -1), "below": (1, 1)}
    if found := re.fullmatch(r"is there a (.+)\?", text):
        named = _named(items, found[1])
        return {"yes" if named else "no"}, named
    if found := re.fullmatch(r"how many (.+) are there\?", text):
        named = _named(items, found[1])
        return {str(len(named))}, named
    if found := re.fullmatch(r"is the (\w+ \w+) small or large\?", text):
        named = _named(items, found[1])
        return {item.size for item in named}, named
    if found := re.fullmatch(r"is the (\w+ \w+) (?:on|at) the (\w+) or (?:on|at) the (\w+)\?", text):
        named = _named(items, found[1])
        said = set()
        for item in named:
            for side in found.group(2, 3):
                axis, sign = axes[side]
                if sign * (item.centre_xy[axis] - scene.size_wh[axis] / 2) > 0:
                    said.add(side)
        return said, named
    found = re.fullmatch(r"what (colour|shape) is the (.+)\?", text)
    assert found, text
    attribute, phrase = found.groups()
    if extreme := re.fullmatch(r"(left|right|top|bottom)most object", phrase):
        axis, sign = axes[extreme[1]]
        named = [max(items, key=lambda item: sign * item.centre_xy[axis])]
    elif relation := re.fullmatch(r"first object (left|right|above|below)(?: of)? the (\w+ \w+)", phrase):
        (reference,) = _named(items, relation[2])
        axis, sign = axes[relation[1]]
        beyond = [item for item in items if sign * (item.centre_xy[axis] - reference.centre_xy[axis]) > 0]
        named = [min(beyond, key=lambda item: sign * item.centre_xy[axis])]
    else:
        named = _named(items, phrase)
    return {getattr(item, attribute) for item in named}, named


@pytest.mark.parametrize(("difficulty", "kind"), BOTH)
def test_answers_and_boxes_follow_from_the_scene(difficulty: str, kind: str) -> None:
    for question in vqa.scene_questions("test", 3, 60, difficulty, [kind]):
        scene = question.scene
        right, about = _answers(scene, question.text)
        assert right == {question.answer}
        assert sorted(question.target_boxes) == sorted(item.box_xyxy for item in about)
        assert (question.kind, question.difficulty, question.split) == (kind, difficulty, "test")
        assert question.answer in vqa.ANSWERS[kind]
        if kind not in ("presence", "count"):
            assert question.target_box == about[0].box_xyxy
        if question.wrong_box is not None:
            (wrong,) = [item for item in scene.objects if item.box_xyxy == question.wrong_box]
            assert wrong not in about
            if kind in ("colour", "shape", "leftmost", "relation"):
                assert question.answer not in (wrong.colour, wrong.shape)
        else:
            assert kind in ("presence", "count", "side", "size")


@pytest.mark.parametrize("seed", range(4))
def test_every_question_about_any_scene_has_one_answer(seed: int) -> None:
    for scene in (*world.scenes(12, "train", seed, hard=True), small_scene(seed), small_scene(seed, few=True)):
        for one in vqa.questions_about(scene):
            right, about = _answers(scene, one.text)
            assert right == {one.answer}, one.text
            assert {scene.objects[i] for i in one.targets} == set(about)
            assert not set(one.targets) & set(one.wrong)


def test_a_question_that_two_objects_could_answer_is_not_asked() -> None:
    for scene in world.scenes(60, "train", 5, hard=True):
        asked = {one.text for one in vqa.questions_about(scene)}
        shapes, names = (Counter(values) for values in zip(*((i.shape, i.name) for i in scene.objects), strict=True))
        for shape, n in shapes.items():
            assert n == 1 or f"what colour is the {shape}?" not in asked
        for name, n in names.items():
            assert n == 1 or not any(f"the {name}" in text for text in asked)


@pytest.mark.parametrize(("difficulty", "kind"), BOTH)
def test_the_commonest_answer_is_hardly_better_than_chance(difficulty: str, kind: str) -> None:
    questions = vqa.scene_questions("validation", 0, 240, difficulty, [kind])
    by_wording: dict[str, list[str]] = {}
    for question in questions:  # a blind model reads at least which kind of answer is asked for
        by_wording.setdefault(question.detail.split()[0] if kind != "side" else question.detail, []).append(
            question.answer
        )
    best = sum(Counter(answers).most_common(1)[0][1] for answers in by_wording.values()) / len(questions)
    counts = 3 if difficulty == "easy" else 4
    chance = {"presence": 1 / 2, "size": 1 / 2, "side": 1 / 2, "count": 1 / counts}.get(kind, 1 / 8)
    assert best <= (chance + 0.1 if kind != "presence" else 1.0)
    if kind == "presence":  # here the wording's detail is the answer
        assert Counter(q.answer for q in questions) == {"yes": 120, "no": 120}


def test_a_no_is_a_near_miss() -> None:
    for question in vqa.scene_questions("test", 1, 80, "easy", ["presence"]):
        colour, shape = question.text.removeprefix("is there a ").rstrip("?").split()
        items = question.scene.objects
        assert any(item.colour == colour or item.shape == shape for item in items)


def test_hard_images_are_crowded_with_small_objects_and_easy_ones_are_not() -> None:
    for question in vqa.scene_questions("test", 2, 70, "hard"):
        items = question.scene.objects
        assert len(items) in (5, 6)
        assert {item.size for item in items} == {"small"}
        assert max(item.radius_px for item in items) <= 0.115 * 64
        assert min(item.visible_fraction for item in items) >= world.MIN_VISIBLE_FRACTION
    counts = Counter(len(question.scene.objects) for question in vqa.scene_questions("test", 2, 160))
    assert set(counts) == {2, 3, 4}


def test_hard_extremes_lead_narrowly_and_easy_ones_clearly() -> None:
    for difficulty in vqa.DIFFICULTIES:
        for question in vqa.scene_questions("test", 4, 60, difficulty, ["leftmost"]):
            axis, sign = vqa.EXTREMES[question.detail.split()[1]]
            last, lead = sorted(sign * item.centre_xy[axis] / 64 for item in question.scene.objects)[-2:]
            assert lead - last >= (vqa.NARROW[0] if difficulty == "hard" else vqa.MARGIN)
            assert lead - last <= (vqa.NARROW[1] if difficulty == "hard" else 1.0)


def test_small_scenes_know_their_pixels() -> None:
    palette = np.array(list(world.COLOUR_RGB.values()), dtype=float)
    for index in range(20):
        scene = small_scene(4, few=bool(index % 2), index=index)
        assert np.sum([item.mask for item in scene.objects], axis=0).max() == 1
        for depth, item in enumerate(scene.objects):
            rows, columns = np.nonzero(item.mask)
            assert item.depth == depth
            assert item.box_xyxy == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            typical = np.median(scene.image[item.mask].astype(float), axis=0)
            assert world.COLOURS[int(np.linalg.norm(palette - typical, axis=1).argmin())] == item.colour


def test_the_same_arguments_give_the_same_questions_whatever_else_is_asked() -> None:
    for difficulty in vqa.DIFFICULTIES:
        first, again = (vqa.scene_questions("test", 5, 40, difficulty) for _ in range(2))
        assert first == again
        assert all(np.array_equal(a.scene.image, b.scene.image) for a, b in zip(first[:8], again, strict=False))
        alone = vqa.scene_questions("test", 5, 3, difficulty, ["relation"])
        assert alone == [q for q in first if q.kind == "relation"][:3]
    assert vqa.scene_questions("test", 5, 40) != vqa.scene_questions("test", 6, 40)


def test_questions_stay_the_ones_that_figures_were_measured_on() -> None:
    texts = [
        f"{q.text} {q.answer} {q.target_boxes}"
        for d in vqa.DIFFICULTIES
        for q in vqa.scene_questions(count=16, difficulty=d)
    ]
    assert hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16] == "bd29f3eea32778f7"


def test_splits_seeds_difficulties_and_kinds_share_no_image() -> None:
    seen, ids, total = set(), set(), 0
    for split in world.SPLITS:
        for seed in (0, 1):
            for difficulty in vqa.DIFFICULTIES:
                for question in vqa.scene_questions(split, seed, 24, difficulty):
                    seen.add(question.scene.image.tobytes())
                    ids.add(question.id)
                    total += 1
    assert len(seen) == len(ids) == total
    assert question.image.size == (64, 64)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"split": "tset"}, UnknownNameError, "did you mean 'test'"),
        ({"difficulty": "hrad"}, UnknownNameError, "did you mean 'hard'"),
        ({"kinds": ["color"]}, UnknownNameError, "did you mean 'colour'"),
        ({"difficulty": "hard", "kinds": ["size"]}, UnknownNameError, "kind of hard question 'size'"),
        ({"kinds": []}, InvalidInputError, "at least one kind"),
        ({"seed": -1}, InvalidInputError, "seed and a count >= 0"),
        ({"count": -1}, InvalidInputError, "seed and a count >= 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        vqa.scene_questions(**arguments)  # type: ignore[arg-type]


def test_small_scenes_refuse_what_they_cannot_make() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'train'"):
        small_scene(0, "trian")
    with pytest.raises(InvalidInputError, match=">= 0"):
        small_scene(0, index=-1)


def test_importing_the_questions_does_not_import_torch() -> None:
    code = (
        "import sys, visprompt.data.scenes.questions; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
