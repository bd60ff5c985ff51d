"""Questions in words, with a runner that knows the answers if it is pointed at the right place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from visprompt import Box
from visprompt.data.questions.question import Question
from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.models import load_model
from visprompt.prompter import Prompter
from visprompt.tasks import Condition, Referring, Vqa, evaluate
from visprompt.tasks.base import run_hash
from visprompt.tasks.data_sources import load_data, scene_images
from visprompt.tasks.even_dimming import UniformDimming
from visprompt.tasks.scene_questions import scene_vqa
from visprompt.utils.jsonl import RowLog
from visprompt.visual_prompt import VisualPrompt

QUESTIONS = scene_vqa(32)


class Writer:
    """A model that writes."""

    name = "writer"
    generates = True
    supports = frozenset({"pixels", "attention", "text"})

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "weights": "0" * 16}

    def require(self, *_: Any) -> None: ...


class Answering:
    """Answers right where a region is one of the question's targets; "no" without a region; remembers what it got."""

    seen: list[tuple[str, tuple[Any, ...], str | None]] = []

    def __init__(self, model: Any, prompter: Any, fit: str) -> None:
        self.prompter = prompter
        self.known = {question.id: question for question in QUESTIONS}

    def generate(self, requests: Any, max_new_tokens: int = 64) -> list[str]:
        answers = []
        for request in requests:
            Answering.seen.append((request.id, request.regions, None if self.prompter is None else self.prompter.name))
            question = self.known[request.id]
            right = [region.xyxy for region in question.targets]
            hit = [region.xyxy for region in request.regions] == right and bool(right)
            answers.append(f" {str(question.answer).upper()}. " if hit else "no")
        return answers


def run(condition: Condition, questions: Sequence[Question] = QUESTIONS, **options: Any) -> Any:
    Answering.seen.clear()
    options.setdefault("make_runner", Answering)
    return evaluate(options.pop("task", Vqa()), options.pop("model", Writer()), condition, questions, **options)


class TestAsking:
    def test_the_right_box_gives_the_right_answer_and_rows_say_what_was_asked(self) -> None:
        outcome = run(Condition("circle"))
        assert outcome.accuracy == 1.0
        row = outcome.rows[0]
        assert {"id", "image", "kind", "text", "gold", "answer", "correct", "pointed", "boxes"} <= row.keys()
        assert row["gold"] == QUESTIONS[0].answer
        assert {row["kind"] for row in outcome.rows} == set(load_kinds())
        assert 0.2 < outcome.chance < 0.45
        json.dumps(outcome.rows)

    def test_absent_objects_are_asked_about_without_a_prompt_in_every_row(self) -> None:
        absent = {question.id for question in QUESTIONS if not question.targets}
        assert absent
        outcome = run(Condition("circle"))
        assert {row["id"] for row in outcome.rows if not row["pointed"]} == absent
        assert {name for key, _, name in Answering.seen if key in absent} == {None}
        assert {name for key, _, name in Answering.seen if key not in absent} == {"circle"}
        assert not any(row["pointed"] for row in run(Condition("none")).rows)

    def test_controls_point_at_something_else(self) -> None:
        other = run(Condition("circle", region="other"))
        assert all(row["answer"] == "no" for row in other.rows)
        wrong = {question.id: [region.xyxy for region in question.wrong] for question in QUESTIONS}
        assert all([region.xyxy for region in regions] == wrong[key] for key, regions, name in Answering.seen if name)
        random = run(Condition("circle", region="random"))
        first = [regions for _, regions, _ in Answering.seen]
        assert len(random.rows) == len(QUESTIONS)
        assert random.accuracy < 0.3
        run(Condition("circle", region="random"))
        assert [regions for _, regions, _ in Answering.seen] == first

    def test_outlines_and_all_objects(self) -> None:
        from visprompt import Mask

        run(Condition("fgvp", region="mask"))
        assert all(isinstance(region, Mask) for _, regions, name in Answering.seen if name for region in regions)
        run(Condition("som", region="all"))
        counts = {key: len(regions) for key, regions, name in Answering.seen}
        assert all(counts[question.id] == len(question.objects) >= 2 for question in QUESTIONS)

    def test_strategies_without_a_place_get_none(self) -> None:
        run(Condition("api"))
        assert {(len(regions), name) for _, regions, name in Answering.seen} == {(0, "api")}

    def test_what_cannot_be_asked_in_words(self) -> None:
        with pytest.raises(UnsupportedError, match="ensemble"):
            run(Condition("circle|crop"))
        with pytest.raises(UnsupportedError, match="chance level"):
            run(Condition("random"))
        encoder = load_model("bundled:scenes-clip")
        with pytest.raises(UnsupportedError, match="region: all is for questions"):
            evaluate(Referring(), encoder, Condition("circle", region="all"), scene_images(1))
        assert "asks in words" in str(Vqa().refusal(object()))
        assert Vqa().refusal(Writer()) is None
        assert Referring().refusal(object()) is None

    def test_settings(self) -> None:
        with pytest.raises(InvalidInputError, match="template needs"):
            Vqa(template="answer")
        with pytest.raises(InvalidInputError, match="at least 1"):
            Vqa(max_new_tokens=0)
        open_one = Question("q", (Image.new("RGB", (8, 8)),), "why?")
        with pytest.raises(InvalidInputError, match="question q has no answer to compare with"):
            run(Condition("none"), [open_one])

    def test_runs_resume(self, tmp_path: Path) -> None:
        log = tmp_path / "items.jsonl"
        assert run(Condition("circle"), log=RowLog(log), limit=5).reused == 0
        again = run(Condition("circle"), log=RowLog(log))
        assert (again.reused, len(again.rows)) == (5, 32)
        assert run(Condition("circle"), task=Vqa(max_new_tokens=4), log=RowLog(log)).reused == 0

    def test_multiple_choice_and_several_images(self, tmp_path: Path) -> None:
        Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
        question = Question(
            "q",
            (tmp_path / "a.png", Image.new("RGB", (8, 8))),
            "which?",
            answer="B",
            options=("red", "blue"),
            targets=(Box(1, 1, 9, 9),),
        )
        asked = []

        class Says:
            def __init__(self, *_: Any) -> None: ...

            def generate(self, requests: Any, max_new_tokens: int) -> list[str]:
                asked.extend(one for one in requests if one.pil_images)
                return ["It is (B), blue."] * len(requests)

        outcome = run(Condition("circle"), [question], make_runner=Says)
        assert (outcome.rows[0]["correct"], outcome.rows[0]["letter"]) == (True, "B")
        assert [one.size for one in asked[0].pil_images] == [(30, 20), (8, 8)]
        assert (len(asked[0].regions_of(0)), len(asked[0].regions_of(1))) == (1, 0)
        assert outcome.rows[0]["file"][0] == "a.png"
        (tmp_path / "a.png").unlink()
        with pytest.raises(InvalidInputError, match=r"none of the first 1 items.*a\.png"):
            run(Condition("circle"), [question], make_runner=Says, chunk=1)


class TestEverywhere:
    def test_the_mean_is_the_strategys_and_nothing_stands_out(self) -> None:
        sample = Image.fromarray(np.random.default_rng(0).integers(60, 255, (40, 40, 3), dtype=np.uint8))
        prompt = VisualPrompt(sample, regions=(Box(5, 5, 20, 20),))
        inner = Prompter.from_name("grey")
        (after,) = inner.edit_all([prompt], Writer())  # type: ignore[list-item]
        (evenly,) = UniformDimming(inner).edit_all([prompt], Writer())  # type: ignore[list-item]
        means = [np.asarray(one.image, dtype=float).mean() for one in (after, evenly)]
        assert means[0] == pytest.approx(means[1], rel=0.02)
        ratio = np.asarray(evenly.image, dtype=float) / np.asarray(sample, dtype=float)
        assert ratio.std() < 0.02
        assert evenly.label == "grey evenly"

    def test_in_a_row(self) -> None:
        condition = Condition("api", region="everywhere")
        assert condition.is_control
        assert condition.label == "api evenly"
        (member,) = condition.describe()["members"]
        assert (member["name"], member["of"]["name"]) == ("everywhere", "api")
        hashes = {run_hash(Vqa(), {}, one, None) for one in (condition, Condition("api"))}
        assert len(hashes) == 2
        with pytest.raises(UnsupportedError, match="changes no pixels"):
            Condition("falip", region="everywhere").members()

    def test_the_weights_of_an_auxiliary_model_are_part_of_the_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        condition = Condition("api", {"auxiliary": "bundled:scenes-clip"})
        before = run_hash(Vqa(), {}, condition, None)
        monkeypatch.setattr("visprompt.tasks.fingerprint.file_digest", lambda *_: "other weights")
        assert run_hash(Vqa(), {}, condition, None) != before


class TestSources:
    def test_scenes(self) -> None:
        spec = {"source": "scenes-vqa", "difficulty": "hard", "split": "validation", "n": 4}
        data = load_data(spec)
        assert len(data.images) == 4
        assert load_data({**spec, "n": 9}).identity == data.identity
        assert load_data({**spec, "split": "train"}).identity != data.identity
        only = load_data({**spec, "kinds": ["relation"]})
        assert {question.kind for question in only.images} == {"relation"}
        with pytest.raises(Exception, match="unknown difficulty"):
            load_data({"source": "scenes-vqa", "difficulty": "harder"})

    def test_masks_are_those_of_the_boxes(self) -> None:
        for question in QUESTIONS:
            boxes = [tuple(region.xyxy) for region in question.targets]
            assert [tuple(region.xyxy) for region in question.outlines] == boxes

    def test_files_of_benchmarks(self, tmp_path: Path) -> None:
        rows = [
            {"id": "validation_Art_1", "question": "x", "options": "['a', 'b']", "answer": "A", "image_1": "a.png"},
            {"id": "validation_Art_2", "question": "x", "options": "[]", "answer": "y", "image_1": "a.png"},
        ]
        (tmp_path / "v.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        data = load_data({"source": "mmmu", "file": "v.jsonl"}, tmp_path, tmp_path)
        assert [question.id for question in data.images] == ["validation_Art_1"]
        assert "1 of 2 questions have no answer" in data.problems[0]
        (tmp_path / "t.tsv").write_text("index\timage_path\tquestion\tanswer\n1\ta.png\tx\tyes\n")
        assert load_data({"source": "vlmevalkit", "file": "t.tsv"}, tmp_path, tmp_path).images[0].answer == "yes"


def load_kinds() -> tuple[str, ...]:
    from visprompt.data.scenes.questions import KINDS

    return KINDS["easy"]
