"""Questions about pictures, answered in words: exact match, every kind of question on its own.

A strategy is given the place that the question is about, where the data know it: the same questions are asked in every
row, so rows can be compared item by item. A question about nothing in the picture ("is there a red star?", and there is
none) is asked without a prompt by strategies that need a place; the answer's row says so (`pointed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from visprompt.data.questions.question import Question, letter_of, normalised
from visprompt.errors import InvalidInputError, RegionNotVisibleError, UnsupportedError
from visprompt.tasks.base import Asker, Row, Task, rounded
from visprompt.tasks.condition import Pointing, RunnerFactory, elsewhere

_SHOWN_CHARACTERS = 200


@dataclass(frozen=True)
class Vqa(Task):
    """Asks a model that writes, and compares its answer with the right one.

    Open questions: equal after `visprompt.data.questions.normalised` (case, articles, punctuation). Multiple choice:
    the option's letter, as `letter_of` reads it; an answer that names none is wrong.

    Args:
        max_new_tokens: longest answer.
        template: what is asked; `{}` stands for the question.

    Raises:
        InvalidInputError: for a template without `{}`, or data in which a question has no answer.
    """

    name: ClassVar[str] = "vqa"
    writes: ClassVar[bool] = True
    #: False: a strategy that needs a place is an error where the data know none
    plain_without_place: ClassVar[bool] = True

    max_new_tokens: int = 8
    template: str = "{}"

    def __post_init__(self) -> None:
        if "{}" not in self.template:
            raise InvalidInputError(f"template needs {{}} for the question; got {self.template!r}.")
        if self.max_new_tokens < 1:
            raise InvalidInputError(f"max_new_tokens must be at least 1; got {self.max_new_tokens}.")

    def prepare(self, pictures: Sequence[Question]) -> Vqa:
        unknown = next((one for one in pictures if one.answer is None), None)
        if unknown is not None:
            raise InvalidInputError(
                f"question {unknown.id} has no answer to compare with: `visprompt answer` writes answers for a judge."
            )
        return self

    def questions(self, picture: Question) -> list[str]:
        return [picture.id]

    def chance(self, picture: Question) -> list[float]:
        return [picture.chance or 0.0]

    def asker(self, model: Any, pointing: Pointing, make_runner: RunnerFactory) -> Asker:
        return Asking(self, model, pointing, make_runner)

    def row(self, question: Question, answer: str, regions: Sequence[Any], pointed: bool) -> Row:
        """The row of one answer."""
        return {
            "id": question.id,
            "image": question.image_name,
            "kind": question.kind,
            "text": question.text,
            "gold": question.answer,
            "answer": answer[:_SHOWN_CHARACTERS],
            **self.judged(question, answer),
            "pointed": pointed,
            "boxes": [rounded(np.asarray(region.xyxy), 2) for region in regions],
        }

    def judged(self, question: Question, answer: str) -> Row:
        """Whether an answer is right, and which option it was read as."""
        if question.options:
            letter = letter_of(answer, question.options)
            return {"correct": letter == question.answer, "letter": letter}
        return {"correct": normalised(answer) == normalised(question.answer or "")}


class Asking:
    """Asks questions, pointing in one way."""

    def __init__(self, task: Vqa, model: Any, pointing: Pointing, make_runner: RunnerFactory) -> None:
        if pointing.strategy == "random":
            raise UnsupportedError("random has no row where answers are words; the table gives the chance level.")
        members = pointing.members()
        if len(members) != 1:
            raise UnsupportedError(f"{pointing.strategy!r} is an ensemble: it joins scores, and answers have none.")
        (member,) = members
        self.task, self.pointing = task, pointing
        self.needs_region = member is not None and "region" in member.needs
        self.runner = make_runner(model, member, pointing.fit)
        self.plain = make_runner(model, None, pointing.fit) if self.needs_region else self.runner

    def ask(self, pictures: Sequence[Question]) -> list[Row]:
        """The rows of some questions, asked in one call (two, if some have nothing to point at)."""
        regions = [self.regions(question) for question in pictures]
        pointed = [bool(found) for found in regions]
        if not self.needs_region:
            pointed = [self.pointing.strategy != "none"] * len(pictures)
        elif not (all(pointed) or self.task.plain_without_place):
            raise InvalidInputError(
                f"{self.pointing.label} needs a place to point at, and question {pictures[pointed.index(False)].id} "
                "comes without: take a strategy that reads the question, such as api."
            )
        answers = [""] * len(pictures)
        for runner, wanted in ((self.runner, True), (self.plain, False)):
            chosen = [number for number, is_pointed in enumerate(pointed) if is_pointed == wanted]
            if chosen:
                requests = [self.request(pictures[i], regions[i] if wanted else []) for i in chosen]
                told = runner.generate(requests, max_new_tokens=self.task.max_new_tokens)  # type: ignore[attr-defined]
                for number, answer in zip(chosen, told, strict=True):
                    answers[number] = str(answer)
        return [
            self.task.row(question, answer, found if is_pointed else [], is_pointed)
            for question, answer, found, is_pointed in zip(pictures, answers, regions, pointed, strict=True)
        ]

    def ask_apart(self, picture: Question) -> tuple[list[Row], list[str]]:
        """One question whose place the model's crop removes: asked without a prompt."""
        try:
            return self.ask([picture]), []
        except RegionNotVisibleError as error:
            request = self.request(picture, [])
            (answer,) = self.plain.generate([request], max_new_tokens=self.task.max_new_tokens)  # type: ignore[attr-defined]
            row = self.task.row(picture, str(answer), [], False)
            return [{**row, "unpointable": [0], "unpointable_why": str(error)}], [str(error)]

    def regions(self, question: Question) -> list[Any]:
        """Where the strategy is told to point; empty for strategies that need no place."""
        if not self.needs_region:
            return []
        choice = self.pointing.region
        if choice == "mask":
            return list(question.outlines or question.targets)
        if choice == "all":
            return list(question.objects)
        if choice == "other":
            return list(question.wrong)
        if choice == "random" and question.targets:
            from visprompt.request import Box

            boxes = np.array([region.xyxy for region in question.targets], dtype=np.float64)
            size = self.request(question, []).picture.size
            return [Box(*box) for box in elsewhere(boxes, size, self.pointing.rng(question.id)).tolist()]
        return list(question.targets)

    def request(self, question: Question, regions: Sequence[Any]) -> Any:
        """The request; of several pictures, regions are on the first."""
        from visprompt.request import Request

        pictures: Any = question.pictures
        text = self.task.template.replace("{}", question.text)
        several = len(pictures) > 1
        region: Any = list(regions) or None
        if several and region is not None:
            region = [region, *([None] * (len(pictures) - 1))]
        image = pictures if several else pictures[0]
        return Request(image, region=region, query=text, regions_as="together", id=question.id)
