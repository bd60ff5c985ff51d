"""Answering and exporting LVLM benchmarks: files in, files out, nothing done twice."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from visprompt import Prompter
from visprompt.errors import InvalidInputError, RemoteError, UnknownNameError, UnsupportedError
from visprompt.models import load_model
from visprompt.tasks import Condition
from visprompt.tasks.export import export, exported
from visprompt.tasks.lvlm_benchmarks import BENCHMARKS, answer_all, benchmark, scores
from visprompt.utils.jsonl import RowLog, read_jsonl

NAMES = ("mm-vet", "llava-wild", "mmmu", "vlmevalkit")


def made_up(name: str, folder: Path, count: int = 5) -> Path:
    """A benchmark's files with so many questions, in its official layout."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (40, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
    numbers = range(count)
    if name == "mm-vet":
        entries = {
            f"v1_{i}": {
                "imagename": f"{i}.png",
                "question": f"what is {i}?",
                "answer": "x",
                "capability": ["ocr", "rec"],
            }
            for i in numbers
        }
        path = folder / "mm-vet.json"
        path.write_text(json.dumps(entries))
        return path
    if name == "llava-wild":
        rows: list[dict[str, Any]] = [
            {"question_id": i, "image": f"{i}.png", "text": f"what is {i}?", "category": "conv"} for i in numbers
        ]
        path = folder / "questions.jsonl"
    elif name == "mmmu":
        rows = [
            {
                "id": f"validation_{'Art' if i % 2 else 'Math'}_{i}",
                "question": f"<image 1> what is {i}?",
                "options": "['a', 'b']" if i else "[]",
                "answer": "B" if i else "seven",
                "question_type": "multiple-choice" if i else "open",
                "image_1": f"images/{i}.png",
                "image_2": "images/0.png" if i == 2 else None,
            }
            for i in numbers
        ]
        path = folder / "validation.jsonl"
    else:
        path = folder / "bench.tsv"
        lines = ["index\timage_path\tquestion\tA\tB\tanswer\tcategory"]
        lines += [f"{i}\timages/{i}.png\twhat is {i}?\tred\tblue\tB\tcolour" for i in numbers]
        path.write_text("\n".join(lines) + "\n")
        return path
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Writer:
    name = "writer"
    generates = True

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "weights": "0" * 16}


class Says:
    """Answers "(B), because …" to everything, after it looked at the images."""

    asked: list[str] = []

    def __init__(self, model: Any, prompter: Any, fit: str) -> None: ...

    def generate(self, requests: Any, max_new_tokens: int = 64) -> list[str]:
        assert all(request.pil_images for request in requests)
        Says.asked += [request.query for request in requests]
        return [f"(B), because of {request.query}" for request in requests]


def answered(name: str, path: Path, log: RowLog, **options: Any) -> Any:
    Says.asked.clear()
    questions = BENCHMARKS[name].read(path)
    outcome = answer_all(
        questions, Writer(), options.pop("condition", Condition("none")), log, make_runner=Says, **options
    )
    return questions, outcome


class TestAnswering:
    @pytest.mark.parametrize("name", NAMES)
    def test_the_official_file_holds_every_answer_and_a_second_run_asks_nothing(
        self, tmp_path: Path, name: str
    ) -> None:
        path = made_up(name, tmp_path)
        log = tmp_path / "items.jsonl"
        _, first = answered(name, path, RowLog(log), limit=2)
        assert (len(first.rows), len(Says.asked)) == (2, 2)
        questions, outcome = answered(name, path, RowLog(log))
        assert (outcome.reused, len(outcome.rows), len(Says.asked)) == (2, 5, 3)
        told = {row["id"]: row["answer"] for row in outcome.rows}
        out = tmp_path / f"out{BENCHMARKS[name].suffix}"
        BENCHMARKS[name].write(out, questions, told, "writer", {})
        if name == "mm-vet":
            assert json.loads(out.read_text())["v1_3"] == "(B), because of what is 3?"
        elif name == "llava-wild":
            assert [json.loads(line)["text"][:4] for line in out.read_text().splitlines()] == ["(B),"] * 5
        elif name == "mmmu":
            content = json.loads(out.read_text())
            assert content["validation_Art_1"] == "B"
            assert content["validation_Math_0"].startswith("(B), because")  # an open question: their script parses it
        else:
            with open(out, newline="") as file:
                assert [row["prediction"] for row in csv.DictReader(file, delimiter="\t")] == ["B"] * 5

    def test_scores_per_subject_and_overall_with_intervals(self, tmp_path: Path) -> None:
        _, outcome = answered("mmmu", made_up("mmmu", tmp_path), RowLog(tmp_path / "items.jsonl"))
        found = scores(outcome.rows)
        assert [(row["kind"], row["n"], row["correct"]) for row in found] == [
            ("Art", 2, 2),
            ("Math", 2, 2),
            ("overall", 4, 4),
        ]
        assert found[-1]["ci95"][0] < 0.7
        _, outcome = answered("mm-vet", made_up("mm-vet", tmp_path / "v"), RowLog(tmp_path / "v.jsonl"))
        assert scores(outcome.rows) == []
        assert {row["correct"] for row in outcome.rows} == {None}

    def test_a_missing_image_costs_its_question_and_is_tried_again(self, tmp_path: Path) -> None:
        path, log = made_up("mm-vet", tmp_path), tmp_path / "items.jsonl"
        (tmp_path / "images/3.png").rename(tmp_path / "3.png")
        _, outcome = answered("mm-vet", path, RowLog(log))
        assert (len(outcome.rows), [row["id"] for row in outcome.errors]) == (4, ["v1_3"])
        assert "3.png" in outcome.errors[0]["error"]
        (tmp_path / "3.png").rename(tmp_path / "images/3.png")
        assert len(answered("mm-vet", path, RowLog(log))[1].rows) == 5
        assert len(Says.asked) == 1

    def test_another_strategy_or_length_is_another_answer(self, tmp_path: Path) -> None:
        path, log = made_up("mm-vet", tmp_path), tmp_path / "items.jsonl"
        answered("mm-vet", path, RowLog(log))
        for options in ({"max_new_tokens": 8}, {"condition": Condition("api")}, {"data": {"file": "x"}}):
            assert answered("mm-vet", path, RowLog(log), **options)[1].reused == 0

    def test_a_strategy_that_needs_a_place_says_so_instead_of_doing_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match="circle needs a place to point at, and question v1_0"):
            answered("mm-vet", made_up("mm-vet", tmp_path), RowLog(tmp_path / "i"), condition=Condition("circle"))

    def test_a_server_that_refuses_one_question_or_goes_away(self, tmp_path: Path) -> None:
        gone = []

        class Server(Says):
            def generate(self, requests: Any, max_new_tokens: int = 64) -> list[str]:
                if gone and any(request.id == "v1_20" for request in requests):
                    raise RemoteError("no server", stopped=True)
                if any(request.id == "v1_3" for request in requests):
                    raise RemoteError("refused", failed={0: "refused"})
                return super().generate(requests, max_new_tokens)

        path, log = made_up("mm-vet", tmp_path, 24), tmp_path / "items.jsonl"
        questions = BENCHMARKS["mm-vet"].read(path)
        gone.append(True)
        with pytest.raises(RemoteError, match="no server"):
            answer_all(questions, Writer(), Condition("none"), RowLog(log), make_runner=Server)
        assert len(RowLog(log).rows()) == 16  # one of them an error
        gone.clear()
        outcome = answer_all(questions, Writer(), Condition("none"), RowLog(log), make_runner=Server)
        assert (outcome.reused, len(outcome.rows)) == (15, 23)
        assert [row["error"] for row in outcome.errors] == ["refused"]

    def test_names(self) -> None:
        with pytest.raises(UnknownNameError, match="did you mean 'mm-vet'"):
            benchmark("mmvet")


class TestExport:
    def prompted(self, name: str, path: Path, out: Path, **options: Any) -> Any:
        questions = BENCHMARKS[name].read(path)
        model = load_model("bundled:scenes-clip")
        prompter = options.pop("prompter", "api")
        made = None if prompter is None else Prompter.from_name(prompter)
        return questions, *export(questions, made, model, out, benchmark=name, **options)

    @pytest.mark.parametrize("name", NAMES)
    def test_every_tool_finds_its_images(self, tmp_path: Path, name: str) -> None:
        path, out = made_up(name, tmp_path, 3), tmp_path / "out"
        questions, rows, errors = self.prompted(name, path, out)
        assert (len(rows), errors) == (3, [])
        assert [len(row["images"]) for row in rows] == [len(question.images) for question in questions]
        for row in rows:
            for image in row["images"]:
                with Image.open(out / image) as shown:
                    assert (shown.format, shown.size) == ("PNG", (70, 40))
        first = np.asarray(Image.open(out / rows[0]["images"][0]), dtype=float)
        assert first.mean() < np.asarray(Image.open(tmp_path / "images/0.png"), dtype=float).mean() - 5
        with open(out / "vlmevalkit.tsv", newline="") as file:
            table = list(csv.DictReader(file, delimiter="\t"))
        assert [row["index"] for row in table] == [question.id for question in questions]
        assert Path(table[0]["image_path"]).is_file()
        assert set(exported(out)) == {question.id for question in questions}
        assert all(Path(image).is_file() for row in exported(out).values() for image in row["images"])

    @pytest.mark.parametrize(
        ("name", "file"), [("mm-vet", "mm-vet.json"), ("llava-wild", "questions.jsonl"), ("mmmu", "mmmu.jsonl")]
    )
    def test_the_question_file_reads_as_the_original_did(self, tmp_path: Path, name: str, file: str) -> None:
        questions, _, _ = self.prompted(name, made_up(name, tmp_path, 3), tmp_path / "out")
        again = BENCHMARKS[name].read(tmp_path / "out" / file)
        keys = ("id", "text", "answer", "kind", "options")
        assert [[getattr(one, key) for key in keys] for one in again] == [
            [getattr(one, key) for key in keys] for one in questions
        ]
        assert all(Path(image).is_file() for one in again for image in one.images)  # type: ignore[arg-type]

    def test_the_table_of_vlmevalkit_reads_as_the_original_did(self, tmp_path: Path) -> None:
        questions, _, _ = self.prompted("vlmevalkit", made_up("vlmevalkit", tmp_path, 3), tmp_path / "out")
        again = BENCHMARKS["vlmevalkit"].read(tmp_path / "out/vlmevalkit.tsv")
        assert [(one.text, one.answer) for one in again] == [(one.text, one.answer) for one in questions]

    def test_what_is_there_is_not_made_again_and_what_was_changed_is(self, tmp_path: Path) -> None:
        path, out = made_up("mm-vet", tmp_path, 4), tmp_path / "out"
        self.prompted("mm-vet", path, out, limit=2)
        stamps = {file.name: file.stat().st_mtime_ns for file in (out / "images").iterdir()}
        (out / "images/v1_1.png").write_bytes(b"damaged")
        _, rows, _ = self.prompted("mm-vet", path, out)
        assert len(rows) == 4
        assert (out / "images/v1_0.png").stat().st_mtime_ns == stamps["v1_0.png"]
        with Image.open(out / "images/v1_1.png") as image:
            assert image.size == (70, 40)
        before = len(read_jsonl(out / "manifest.jsonl"))
        self.prompted("mm-vet", path, out)
        assert len(read_jsonl(out / "manifest.jsonl")) == before
        _, rows, _ = self.prompted("mm-vet", path, out, prompter=None)
        assert rows[0]["prompter"] == "none"
        assert (
            np.asarray(Image.open(out / rows[0]["images"][0])) == np.asarray(Image.open(path.parent / "images/0.png"))
        ).all()

    def test_a_missing_image_costs_its_question(self, tmp_path: Path) -> None:
        path = made_up("mm-vet", tmp_path, 3)
        (tmp_path / "images/1.png").unlink()
        _, rows, errors = self.prompted("mm-vet", path, tmp_path / "out", prompter=None)
        assert ([row["id"] for row in rows], [row["id"] for row in errors]) == (["v1_0", "v1_2"], ["v1_1"])
        for name in ("0", "2"):
            (tmp_path / f"images/{name}.png").unlink()
        with pytest.raises(InvalidInputError, match="none of the 3 questions could be prompted"):
            self.prompted("mm-vet", path, tmp_path / "other", prompter=None)

    def test_what_no_image_shows_is_refused(self, tmp_path: Path) -> None:
        path = made_up("mm-vet", tmp_path, 1)
        for name in ("falip", "circle+falip"):
            with pytest.raises(UnsupportedError, match=r"acts on attention.*Strategies that can be exported:.*circle"):
                self.prompted("mm-vet", path, tmp_path / "out", prompter=name)
        assert not (tmp_path / "out").exists()

    def test_ids_become_file_names_that_never_meet(self, tmp_path: Path) -> None:
        path = made_up("mm-vet", tmp_path, 1)
        entry = json.loads(path.read_text())["v1_0"]
        path.write_text(json.dumps(dict.fromkeys(("a/b", "a?b", "A-B", "a-b", "../x", "."), entry)))
        _, rows, _ = self.prompted("mm-vet", path, tmp_path / "out", prompter=None)
        names = [row["images"][0].lower() for row in rows]
        assert len(set(names)) == 6
        assert all((tmp_path / "out" / row["images"][0]).resolve().parent == tmp_path / "out/images" for row in rows)
