"""Visual question answering: questions about images, answered in words and scored by exact match per kind.

A strategy gets the region that the question is about, if the data have one. All rows of a table ask the same questions,
so rows can be compared item by item. A question about no object in the image ("is there a red star?" where there is
none) is asked without a prompt if the strategy needs a region; the answer's row records this (`pointed`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from visprompt.data.questions.question import Question, letter_of, normalised
from visprompt.errors import InvalidInputError, RegionNotVisibleError, UnsupportedError
from visprompt.tasks.base import Asker, Row, Task, rounded
from visprompt.tasks.condition import Condition, RunnerFactory, elsewhere
from visprompt.utils.renamed import renamed_attributes, renamed_in_methods

_SHOWN_CHARACTERS = 200


@renamed_in_methods(picture="sample", pictures="samples", pointing="condition")
@dataclass(frozen=True)
class Vqa(Task):
    """Asks a model that generates text, and compares its answer with the right one.

    Open questions: answers are equal after `visprompt.data.questions.normalised` (case, articles, punctuation).
    Multiple choice: the option's letter, as `letter_of` reads it; an answer that names no option is wrong.

    Args:
        max_new_tokens: longest answer, in tokens.
        template: the text that is asked; `{}` stands for the question.

    Raises:
        InvalidInputError: for a template without `{}`, or data in which a question has no answer.
    """

    name: ClassVar[str] = "vqa"
    writes: ClassVar[bool] = True
    #: False: for a question without a region, a strategy that needs one raises an error
    plain_without_place: ClassVar[bool] = True

    max_new_tokens: int = 8
    template: str = "{}"

    def __post_init__(self) -> None:
        if "{}" not in self.template:
            raise InvalidInputError(f"template needs {{}} for the question; got {self.template!r}.")
        if self.max_new_tokens < 1:
            raise InvalidInputError(f"max_new_tokens must be at least 1; got {self.max_new_tokens}.")

    def prepare(self, samples: Sequence[Question]) -> Vqa:
        """Returns the task unchanged, after checking that every question has an answer.

        Raises:
            InvalidInputError: if a question has none.
        """
        unknown = next((one for one in samples if one.answer is None), None)
        if unknown is not None:
            raise InvalidInputError(
                f"question {unknown.id} has no answer to compare with: `visprompt answer` writes answers for a judge."
            )
        return self

    def questions(self, sample: Question) -> list[str]:
        return [sample.id]

    def chance(self, sample: Question) -> list[float]:
        return [sample.chance or 0.0]

    def asker(self, model: Any, condition: Condition, make_runner: RunnerFactory) -> Asker:
        return Asking(self, model, condition, make_runner)

    def row(self, question: Question, answer: str, regions: Sequence[Any], pointed: bool) -> Row:
        """Returns the row of one answer.

        Args:
            question: the question.
            answer: the model's answer.
            regions: the regions that were pointed at.
            pointed: False if the question was asked without a prompt.
        """
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
        """Returns whether an answer is right, and for multiple choice the letter that was read from it."""
        if question.options:
            letter = letter_of(answer, question.options)
            return {"correct": letter == question.answer, "letter": letter}
        return {"correct": normalised(answer) == normalised(question.answer or "")}


@renamed_in_methods(picture="sample", pictures="samples", pointing="condition")
@renamed_attributes(pointing="condition", ask_apart="evaluate_per_region")
class Asking:
    """Asks a model questions under one condition."""

    def __init__(self, task: Vqa, model: Any, condition: Condition, make_runner: RunnerFactory) -> None:
        if condition.strategy == "random":
            raise UnsupportedError("random has no row where answers are words; the table gives the chance level.")
        members = condition.members()
        if len(members) != 1:
            raise UnsupportedError(f"{condition.strategy!r} is an ensemble: it joins scores, and answers have none.")
        (member,) = members
        self.task, self.condition = task, condition
        self.needs_region = member is not None and "region" in member.needs
        self.runner = make_runner(model, member, condition.fit)
        self.plain = make_runner(model, None, condition.fit) if self.needs_region else self.runner

    def ask(self, samples: Sequence[Question]) -> list[Row]:
        """Returns the rows of some questions, asked in one call, or two if some questions have no region.

        Raises:
            InvalidInputError: if the strategy needs a region, a question has none, and the task does not ask it without
                one.
        """
        regions = [self.regions(question) for question in samples]
        pointed = [bool(found) for found in regions]
        if not self.needs_region:
            pointed = [self.condition.strategy != "none"] * len(samples)
        elif not (all(pointed) or self.task.plain_without_place):
            raise InvalidInputError(
                f"{self.condition.label} needs a place to point at, and question {samples[pointed.index(False)].id} "
                "comes without: take a strategy that reads the question, such as api."
            )
        answers = [""] * len(samples)
        for runner, wanted in ((self.runner, True), (self.plain, False)):
            chosen = [number for number, is_pointed in enumerate(pointed) if is_pointed == wanted]
            if chosen:
                requests = [self.request(samples[i], regions[i] if wanted else []) for i in chosen]
                generated = runner.generate(requests, max_new_tokens=self.task.max_new_tokens)  # type: ignore[attr-defined]
                for number, answer in zip(chosen, generated, strict=True):
                    answers[number] = str(answer)
        return [
            self.task.row(question, answer, found if is_pointed else [], is_pointed)
            for question, answer, found, is_pointed in zip(samples, answers, regions, pointed, strict=True)
        ]

    def evaluate_per_region(self, sample: Question) -> tuple[list[Row], list[str]]:
        """Asks one question without a prompt, because the model's crop removes its region."""
        try:
            return self.ask([sample]), []
        except RegionNotVisibleError as error:
            request = self.request(sample, [])
            (answer,) = self.plain.generate([request], max_new_tokens=self.task.max_new_tokens)  # type: ignore[attr-defined]
            row = self.task.row(sample, str(answer), [], False)
            return [{**row, "unpointable": [0], "unpointable_why": str(error)}], [str(error)]

    def regions(self, question: Question) -> list[Any]:
        """Returns the regions that the strategy points at; empty for strategies that need no region."""
        if not self.needs_region:
            return []
        choice = self.condition.region
        if choice == "mask":
            return list(question.outlines or question.targets)
        if choice == "all":
            return list(question.objects)
        if choice == "other":
            return list(question.wrong)
        if choice == "random" and question.targets:
            from visprompt.request import Box

            boxes = np.array([region.xyxy for region in question.targets], dtype=np.float64)
            size = self.request(question, []).image.size
            return [Box(*box) for box in elsewhere(boxes, size, self.condition.rng(question.id)).tolist()]
        return list(question.targets)

    def request(self, question: Question, regions: Sequence[Any]) -> Any:
        """Returns the request; if the question has several images, the regions are on the first."""
        from visprompt.request import Request

        samples: Any = question.pil_images
        text = self.task.template.replace("{}", question.text)
        several = len(samples) > 1
        region: Any = list(regions) or None
        if several and region is not None:
            region = [region, *([None] * (len(samples) - 1))]
        image = samples if several else samples[0]
        return Request(image, region=region, query=text, regions_as="together", id=question.id)
