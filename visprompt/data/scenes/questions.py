"""Questions about generated scenes, each with exactly one right answer and the box of the object that it is about.

>>> from visprompt.data.scenes.questions import scene_questions
>>> question = scene_questions("test", seed=0, count=8)[7]
>>> question.kind, question.text, question.answer
('relation', 'what colour is the first object left of the yellow star?', 'yellow')
>>> len(question.target_boxes), question.image.size
(1, (64, 64))

Kinds of questions (`KINDS`); all answers are one word:

- **colour**, **shape**: "what colour is the star?", where there is one star. Target: the star.
- **presence**: "is there a red star?" Half of the answers are no; the image then has that colour or that shape.
Targets: all red stars, none if the answer is no.
- **count**: "how many stars are there?", "how many red objects are there?" Targets: all that count.
- **side**: "is the red star on the left or on the right?", "… at the top or at the bottom?" Target: the star.
- **size** (easy images only): "is the red star small or large?" Target: the star.
- **leftmost**: "what colour is the leftmost object?", also rightmost, topmost, bottommost, and shapes. Target: that
object.
- **relation**: "what colour is the first object left of the red star?", also right of, above, below, and shapes. The
first object is the nearest along that axis, whatever its position along the other. Target: the object that is *asked
about*, not the red star.

*Easy* images are those of `world.scene` with 2 to 4 objects (3 or 4 for leftmost and relation). *Hard* images are
those of `small.small_scene` with 5 or 6 small objects, and the leftmost object (rightmost, …) is only two to
five pixels from the next. A question depends only on (split, seed, difficulty, kind, number); splits are disjoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from visprompt.data.scenes.small import small_scene
from visprompt.data.scenes.world import COLOURS, SHAPES, SPLITS, Scene, SceneObject, scene
from visprompt.errors import InvalidInputError, unknown_name

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ANSWERS", "DIFFICULTIES", "KINDS", "Candidate", "SceneQuestion", "questions_about", "scene_questions"]

Box = tuple[int, int, int, int]

DIFFICULTIES: tuple[str, ...] = ("easy", "hard")
#: The kinds of questions of each difficulty, in the order in which `scene_questions` alternates them.
KINDS: dict[str, tuple[str, ...]] = {
    "easy": ("colour", "shape", "presence", "count", "side", "size", "leftmost", "relation"),
    "hard": ("colour", "shape", "presence", "count", "side", "leftmost", "relation"),
}
#: All answers of every kind of question; `Candidate.detail` can restrict them further.
ANSWERS: dict[str, tuple[str, ...]] = {
    "colour": COLOURS,
    "shape": SHAPES,
    "presence": ("yes", "no"),
    "count": ("1", "2", "3", "4"),
    "side": ("left", "right", "top", "bottom"),
    "size": ("small", "large"),
    "leftmost": COLOURS + SHAPES,
    "relation": COLOURS + SHAPES,
}
PLURALS: dict[str, str] = {shape: shape + ("es" if shape.endswith("s") else "s") for shape in SHAPES}
#: Words for the outermost object along an axis: (axis, sign).
EXTREMES = {"leftmost": (0, -1), "rightmost": (0, 1), "topmost": (1, -1), "bottommost": (1, 1)}
#: Words for the relation of one object to another.
RELATIONS = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
#: Centres closer than this fraction of the width (or height) are not compared by a question.
MARGIN = 0.06
#: In hard questions, least and largest distance of the leftmost (…) object to the next, as a fraction of the width.
NARROW = (0.03, 0.08)
_SIDES: dict[str, tuple[str, str]] = {"left or right": ("left", "right"), "top or bottom": ("top", "bottom")}
_ATTRIBUTES = ("colour", "shape")
# Counts above three are too rare among four objects to be asked as often as the others.
_COUNTS = {"easy": ("1", "2", "3"), "hard": ("1", "2", "3", "4")}
# Number of images to try per question; part of every seed. Most questions need only a few.
_TRIES = 4096


class Candidate(NamedTuple):
    """A question that can be asked about a scene.

    Attributes:
        kind: One of `KINDS`.
        detail: The variant of the question: "colour left of", "shape topmost", "left or right", "colour" (for count:
            the attribute that is counted by).
        text: The question.
        answer: One word.
        targets: Indices in ``Scene.objects`` of the objects that the question is about.
        wrong: Indices of the other objects; if the answer is an attribute of the target, only of objects for which the
            answer would differ.
    """

    kind: str
    detail: str
    text: str
    answer: str
    targets: tuple[int, ...]
    wrong: tuple[int, ...]


@dataclass(frozen=True)
class SceneQuestion:
    """A question about a scene, its answer, and the boxes of the objects that it is about.

    Attributes:
        id: Unique over splits, seeds, difficulties and kinds.
        text: The question, for example "what colour is the star?".
        answer: The one right answer, one word of ``ANSWERS[kind]``.
        kind: One of ``KINDS[difficulty]``.
        detail: The variant of the question; see `Candidate`.
        difficulty: "easy" or "hard".
        split: "train", "validation" or "test".
        target_boxes: Visible boxes xyxy, in pixels, of the objects that the question is about: one for most kinds; for
            "count" all objects that count; for "presence" all objects that match, or none.
        wrong_box: Box of another object, drawn at random, or None if there is none. For colour, shape, leftmost and
            relation there always is one, and its object would give another answer.
        source: Arguments of `scene`: seed, index, whether colours and shapes are few, and the number of objects (0: the
            scene's own, for hard images).
    """

    id: str
    text: str
    answer: str
    kind: str
    detail: str
    difficulty: str
    split: str
    target_boxes: tuple[Box, ...]
    wrong_box: Box | None
    source: tuple[int, int, bool, int]

    @property
    def scene(self) -> Scene:
        """The scene, generated on every access (half a millisecond), so that a list of questions holds no images."""
        return _image(self.split, self.source)

    @property
    def image(self) -> Image:
        """The image as a PIL image, 64 × 64 pixels."""
        return self.scene.pil

    @property
    def target_box(self) -> Box | None:
        """The box of the object that the question is about; None if it is about several objects or none."""
        return self.target_boxes[0] if len(self.target_boxes) == 1 else None


def scene_questions(
    split: str = "test",
    seed: int = 0,
    count: int = 1000,
    difficulty: str = "easy",
    kinds: Sequence[str] | None = None,
) -> list[SceneQuestion]:
    """Generates questions with one image each; the kinds alternate and the answers are balanced.

    Yes and no, numbers, sides and sizes alternate; colours and shapes are drawn uniformly. A model that does not see
    the image is therefore right at chance level. The n-th question of a kind depends on neither ``count`` nor
    ``kinds``.

    Args:
        split: "train", "validation" or "test".
        seed: A non-negative integer.
        count: Number of questions over all kinds.
        difficulty: "easy" or "hard".
        kinds: Kinds of questions; by default all of the difficulty, ``KINDS[difficulty]``.

    Returns:
        The questions.

    Raises:
        UnknownNameError: For a split, difficulty or kind that does not exist.
        InvalidInputError: For a negative seed or count, or an empty list of kinds.
    """
    if difficulty not in KINDS:
        raise unknown_name("difficulty", difficulty, DIFFICULTIES)
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    wanted = KINDS[difficulty] if kinds is None else tuple(kinds)
    for kind in wanted:
        if kind not in KINDS[difficulty]:
            raise unknown_name(f"kind of {difficulty} question", kind, KINDS[difficulty])
    if seed < 0 or count < 0:
        raise InvalidInputError(f"expected a seed and a count >= 0, got seed={seed} and count={count}")
    if not wanted and count:
        raise InvalidInputError("expected at least one kind of question, got none")
    return [_question(split, seed, difficulty, wanted[n % len(wanted)], n // len(wanted)) for n in range(count)]


def _question(split: str, seed: int, difficulty: str, kind: str, number: int) -> SceneQuestion:
    stream = (list(ANSWERS).index(kind) * 2 + DIFFICULTIES.index(difficulty)) * 10**6 + number
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([SPLITS[split], seed, stream, 20250611])))
    detail, answer = _wish(kind, difficulty, number)
    for attempt in range(_TRIES):
        source = (seed, stream * _TRIES + attempt, *_draw_layout(rng, difficulty, kind))
        made = _image(split, source)
        narrow = difficulty == "hard" and kind == "leftmost"
        fitting = [
            one
            for one in (_extremes(made, *NARROW) if narrow else questions_about(made, (kind,)))
            if (detail is None or one.detail == detail) and (answer is None or one.answer == answer)
        ]
        if not fitting:
            continue
        chosen = fitting[int(rng.integers(len(fitting)))]
        boxes = [item.box_xyxy for item in made.objects]
        return SceneQuestion(
            id=f"{split}-{difficulty}-{seed}-{kind}-{number}",
            text=chosen.text,
            answer=chosen.answer,
            kind=kind,
            detail=chosen.detail,
            difficulty=difficulty,
            split=split,
            target_boxes=tuple(boxes[i] for i in chosen.targets),
            wrong_box=boxes[chosen.wrong[int(rng.integers(len(chosen.wrong)))]] if chosen.wrong else None,
            source=source,
        )
    raise RuntimeError(f"no {difficulty} image allows the question {kind} {detail} {answer}")


def _wish(kind: str, difficulty: str, number: int) -> tuple[str | None, str | None]:
    """Returns detail and answer of the number-th question of a kind; None where they are drawn at random."""
    if kind == "presence" or kind == "size":
        return None, ANSWERS[kind][number % 2]
    if kind == "side":
        answer = ANSWERS[kind][number % 4]
        return next(detail for detail, sides in _SIDES.items() if answer in sides), answer
    if kind == "count":
        counts = _COUNTS[difficulty]
        return _ATTRIBUTES[number // len(counts) % 2], counts[number % len(counts)]
    if kind in ("leftmost", "relation"):
        words = tuple(EXTREMES if kind == "leftmost" else RELATIONS)
        return f"{_ATTRIBUTES[number // 4 % 2]} {words[number % 4]}", None
    return None, None


def _draw_layout(rng: np.random.Generator, difficulty: str, kind: str) -> tuple[bool, int]:
    """Draws whether colours and shapes are few (otherwise little would occur twice), and the number of objects."""
    few = bool(rng.integers(2))
    if difficulty == "hard":
        return few, 0
    return few, int(rng.integers(3 if few or kind in ("leftmost", "relation") else 2, 5))


def _image(split: str, source: tuple[int, int, bool, int]) -> Scene:
    seed, index, few, n_objects = source
    if n_objects == 0:
        return small_scene(seed, split, few, index)
    return scene(seed, split, hard=few, index=index, n_objects=n_objects)


def questions_about(image: Scene, kinds: Sequence[str] | None = None) -> list[Candidate]:
    """Lists every question that has exactly one right answer in a scene.

    Args:
        image: A scene of any kind and size.
        kinds: Kinds of questions; None: all.

    Returns:
        The questions, kind by kind.
    """
    asked = KINDS["easy"] if kinds is None else kinds
    return [one for kind in asked for one in _MAKERS[kind](image)]


def _attribute(item: SceneObject, name: str) -> str:
    return item.colour if name == "colour" else item.shape


def _others(items: Sequence[SceneObject], target: int, attribute: str) -> tuple[int, ...]:
    """Returns the indices of the objects for which the answer would differ from the target's."""
    value = _attribute(items[target], attribute)
    return tuple(i for i, item in enumerate(items) if _attribute(item, attribute) != value)


def _colours(image: Scene) -> Iterator[Candidate]:
    yield from _attributes(image, "colour", "what colour is the {}?")


def _shapes(image: Scene) -> Iterator[Candidate]:
    yield from _attributes(image, "shape", "what shape is the {} object?")


def _attributes(image: Scene, attribute: str, text: str) -> Iterator[Candidate]:
    """Yields questions for one attribute of an object that the other attribute identifies."""
    items = image.objects
    known = ["shape" if attribute == "colour" else "colour"] * len(items)
    values = [_attribute(item, name) for item, name in zip(items, known, strict=True)]
    for index, item in enumerate(items):
        wrong = _others(items, index, attribute)
        if values.count(values[index]) == 1 and wrong:
            answer = _attribute(item, attribute)
            yield Candidate(attribute, attribute, text.format(values[index]), answer, (index,), wrong)


def _presences(image: Scene) -> Iterator[Candidate]:
    names = [item.name for item in image.objects]
    for name in dict.fromkeys(names):
        targets = tuple(i for i, other in enumerate(names) if other == name)
        wrong = tuple(i for i, other in enumerate(names) if other != name)
        yield Candidate("presence", "present", f"is there a {name}?", "yes", targets, wrong)
    colours, shapes = ({_attribute(item, name) for item in image.objects} for name in _ATTRIBUTES)
    for colour in COLOURS:
        for shape in SHAPES:
            # The image has the colour or the shape; if it had neither, "no" would be too easy.
            if (colour in colours or shape in shapes) and f"{colour} {shape}" not in names:
                wrong = tuple(range(len(names)))
                yield Candidate("presence", "absent", f"is there a {colour} {shape}?", "no", (), wrong)


def _counts(image: Scene) -> Iterator[Candidate]:
    for attribute in _ATTRIBUTES:
        values = [_attribute(item, attribute) for item in image.objects]
        for value in dict.fromkeys(values):
            targets = tuple(i for i, other in enumerate(values) if other == value)
            wrong = tuple(i for i, other in enumerate(values) if other != value)
            noun = f"{value} objects" if attribute == "colour" else PLURALS[value]
            if str(len(targets)) in ANSWERS["count"]:
                text = f"how many {noun} are there?"
                yield Candidate("count", attribute, text, str(len(targets)), targets, wrong)


def _unique(image: Scene) -> Iterator[tuple[int, SceneObject]]:
    """Returns the objects that colour and shape identify, with their indices."""
    names = [item.name for item in image.objects]
    return ((i, item) for i, item in enumerate(image.objects) if names.count(item.name) == 1)


def _sides(image: Scene) -> Iterator[Candidate]:
    stands = [image.sides(item) for item in image.objects]
    for index, item in _unique(image):
        for detail, pair in _SIDES.items():
            for answer, opposite in (pair, pair[::-1]):
                if answer in stands[index]:
                    wrong = tuple(i for i, sides in enumerate(stands) if opposite in sides)
                    where = "on the {} or on the {}" if "left" in pair else "at the {} or at the {}"
                    text = f"is the {item.name} {where.format(*pair)}?"
                    yield Candidate("side", detail, text, answer, (index,), wrong)


def _sizes(image: Scene) -> Iterator[Candidate]:
    for index, item in _unique(image):
        if item.size in ANSWERS["size"]:
            wrong = tuple(i for i, other in enumerate(image.objects) if other.size != item.size)
            text = f"is the {item.name} small or large?"
            yield Candidate("size", "size", text, item.size, (index,), wrong)


def _along(image: Scene, axis: int, sign: int) -> list[float]:
    return [sign * item.centre_xy[axis] / image.size_wh[axis] for item in image.objects]


def _extremes(image: Scene, fewest: float = MARGIN, most: float = 1.0) -> Iterator[Candidate]:
    items = image.objects
    if len(items) < 3:  # of two objects, each is outermost along both axes
        return
    for word, (axis, sign) in EXTREMES.items():
        along = _along(image, axis, sign)
        order = sorted(range(len(items)), key=lambda i: along[i])
        if fewest <= along[order[-1]] - along[order[-2]] <= most:
            yield from _asking("leftmost", image, order[-1], word, f"the {word} object")


def _relations(image: Scene) -> Iterator[Candidate]:
    if len(image.objects) < 3:
        return
    for word, (axis, sign) in RELATIONS.items():
        along = _along(image, axis, sign)
        for reference, item in _unique(image):
            gaps = [value - along[reference] for value in along]
            clear = all(abs(gap) >= MARGIN for i, gap in enumerate(gaps) if i != reference)
            beyond = sorted((gap, i) for i, gap in enumerate(gaps) if gap > 0)
            if clear and beyond and (len(beyond) == 1 or beyond[1][0] - beyond[0][0] >= MARGIN):
                yield from _asking("relation", image, beyond[0][1], word, f"the first object {word} the {item.name}")


def _asking(kind: str, image: Scene, target: int, word: str, phrase: str) -> Iterator[Candidate]:
    for attribute in _ATTRIBUTES:
        wrong = _others(image.objects, target, attribute)
        if wrong:
            answer = _attribute(image.objects[target], attribute)
            yield Candidate(kind, f"{attribute} {word}", f"what {attribute} is {phrase}?", answer, (target,), wrong)


_MAKERS = {
    "colour": _colours,
    "shape": _shapes,
    "presence": _presences,
    "count": _counts,
    "side": _sides,
    "size": _sizes,
    "leftmost": _extremes,
    "relation": _relations,
}
