"""Questions about generated scenes as labelled data for training: `scene_questions` as a `Labelled` data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from visprompt.data.scenes.questions import KINDS, SceneQuestion, scene_questions
from visprompt.errors import unknown_name
from visprompt.utils.renamed import renamed_names

if TYPE_CHECKING:
    from visprompt.data.labelled.dataset import Labelled
    from visprompt.data.labelled.parts import Splits

__all__ = ["COUNTS", "SETS", "SceneImage", "answer_splits", "scene_answers"]

#: number of questions in every part of a bundled data set
COUNTS: dict[str, int] = {"train": 1024, "validation": 200, "test": 1000}
#: names of the bundled sets → difficulty and kinds
SETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "vqa": ("easy", KINDS["easy"]),
    "vqa-hard": ("hard", KINDS["hard"]),
    **{f"vqa-{kind}": ("easy", (kind,)) for kind in KINDS["easy"]},
}


def scene_answers(
    split: str = "train",
    count: int = 1000,
    kinds: Sequence[str] | None = None,
    difficulty: str = "easy",
    seed: int = 0,
) -> Labelled:
    """Returns the questions of `scene_questions` with their answers as a data set.

    >>> data = scene_answers("test", 4, ["size"])
    >>> data.label(0)
    ('is the yellow heart small or large?', 'small')
    >>> data.image(0).size
    (64, 64)

    Args:
        split: "train", "validation" or "test"; their images are disjoint.
        count: number of questions over all kinds; the kinds alternate.
        kinds: kinds of questions; None: all kinds of the difficulty.
        difficulty: "easy" or "hard".
        seed: an integer, 0 or more.

    Returns:
        A data set of the kind "answers", with images of 64 × 64 pixels.

    Raises:
        UnknownNameError: for a split, kind or difficulty that does not exist.
        InvalidInputError: for a negative seed or a count below 1.
    """
    from visprompt.data.labelled.dataset import Labelled

    questions = scene_questions(split, seed, count, difficulty, kinds)
    items = [(SceneImage(question), (question.text, question.answer)) for question in questions]
    which = "all kinds" if kinds is None or set(kinds) == set(KINDS[difficulty]) else ", ".join(kinds)
    return Labelled(items, (), kind="answers", name=f"scenes-vqa ({which}, {difficulty}, {split})")


def answer_splits(name: str) -> Splits:
    """Returns the train, validation and test parts of a bundled set of questions; `COUNTS` has their sizes.

    Args:
        name: one of `SETS`: "vqa" (all kinds), "vqa-hard", or a single kind: "vqa-size", "vqa-relation", …

    Raises:
        UnknownNameError: for a name that does not exist; the message lists the names.
    """
    from visprompt.data.labelled.parts import Splits

    if name not in SETS:
        raise unknown_name("set of questions", name, SETS)
    difficulty, kinds = SETS[name]
    train, held, test = (scene_answers(part, count, kinds, difficulty) for part, count in COUNTS.items())
    return Splits(train, held, test, f"scenes:{name} as bundled: train, validation and test are drawn apart.")


class SceneImage:
    """Draws a question's image when the object is called.

    Drawing takes half a millisecond, so images are not cached.

    Args:
        question: the question whose image is drawn.
    """

    def __init__(self, question: SceneQuestion) -> None:
        self.question = question

    def __call__(self) -> object:
        return self.question.image

    @property
    def identity(self) -> str:
        """The value that identifies the image in hashes, the same on every machine."""
        return self.question.id


#: names of visprompt 0.4.0, which work with a DeprecationWarning
__getattr__ = renamed_names(__name__, {"ScenePicture": "SceneImage"}, globals())
