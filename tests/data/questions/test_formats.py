"""Readers and writers of LVLM benchmarks, on made-up files of exactly their layouts."""

import base64
import csv
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from visprompt.data.questions.llava_wild import read_llava_wild, write_llava_wild
from visprompt.data.questions.mm_vet import read_mm_vet, write_mm_vet
from visprompt.data.questions.mmmu import options_of, read_mmmu, write_mmmu
from visprompt.data.questions.question import Question, letter_of, normalised
from visprompt.data.questions.vlmevalkit import read_tsv, write_tsv
from visprompt.errors import InvalidInputError, UnsupportedError


def png(colour: str = "red", size: tuple[int, int] = (6, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def as_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def as_lines(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_tsv(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return path


MM_VET = {
    "v1_0": {
        "imagename": "v1_0.png",
        "question": "What is x in the equation?",
        "answer": "-1<AND>-5",
        "capability": ["ocr", "math"],
        "imagesource": "https://example.org",
    },
    "v1_1": {"imagename": "v1_0.png", "question": "What is y?", "answer": "4", "capability": ["ocr"]},
}
WILD = [
    {"question_id": 0, "image": "001.jpg", "text": "What is the name of the place?", "category": "conv"},
    {"question_id": 1, "image": "001.jpg", "text": "Describe it in detail.", "category": "detail"},
]
MMMU = [
    {
        "id": "validation_Accounting_1",
        "question": "<image 1> Which one?",
        "options": "['$6', \"it's $7\", '<image 2>']",
        "answer": "B",
        "question_type": "multiple-choice",
        "image_1": "a.png",
        "image_2": "b.png",
        "image_3": None,
    },
    {
        "id": "validation_Art_Theory_2",
        "question": "Who? <image 1>",
        "options": "[]",
        "answer": "Monet",
        "question_type": "open",
        "image_1": "a.png",
    },
]


class TestMMVet:
    def test_round_trip(self, tmp_path: Path) -> None:
        found = read_mm_vet(as_json(tmp_path / "mm-vet.json", MM_VET))
        assert [one.id for one in found] == ["v1_0", "v1_1"]
        assert found[0].images == (tmp_path / "images/v1_0.png",)
        assert (found[0].kind, found[0].answer, found[0].extra["reference"]) == ("ocr, math", None, "-1<AND>-5")
        assert found[0].image_name == found[1].image_name
        write_mm_vet(tmp_path / "out/answers.json", found, {"v1_1": "4", "v1_0": "x = −1"})
        assert json.loads((tmp_path / "out/answers.json").read_text()) == {"v1_0": "x = −1", "v1_1": "4"}
        assert not list(tmp_path.rglob("*.part"))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([], "mm-vet.json: expected an object of questions by id, got list"),
            ({}, "has no questions"),
            ({"v1_0": {"imagename": "a.png"}}, "entry 'v1_0': no question; it has imagename"),
            ({"v1_0": "what?"}, "entry 'v1_0': expected an object, got str"),
            ({"v1_0": {"imagename": "../a.png", "question": "x"}}, "leads out of the folder"),
            ({"v1_0": {"imagename": "/etc/a.png", "question": "x"}}, "leads out of the folder"),
            ({"v1_0": {"imagename": 3, "question": "x"}}, "file name; got 3"),
            ({"v1_0": {"imagename": "a", "question": "x", "capability": "ocr"}}, "capability is a list"),
        ],
    )
    def test_mistakes_name_file_and_entry(self, tmp_path: Path, content: Any, message: str) -> None:
        with pytest.raises(InvalidInputError, match=message):
            read_mm_vet(as_json(tmp_path / "mm-vet.json", content))

    def test_a_file_that_is_cut_off(self, tmp_path: Path) -> None:
        (tmp_path / "mm-vet.json").write_text('{\n"v1_0": {')
        with pytest.raises(InvalidInputError, match=r"mm-vet.json, line 2: not JSON"):
            read_mm_vet(tmp_path / "mm-vet.json")
        with pytest.raises(InvalidInputError, match="cannot read"):
            read_mm_vet(tmp_path / "none.json")


class TestLlavaWild:
    def test_round_trip(self, tmp_path: Path) -> None:
        found = read_llava_wild(as_lines(tmp_path / "questions.jsonl", WILD), tmp_path / "images")
        assert found[0].images == (tmp_path / "images/001.jpg",)
        assert [one.kind for one in found] == ["conv", "detail"]
        out = tmp_path / "answers.jsonl"
        write_llava_wild(out, found, {"0": "Diamond Head", "1": "A bay."}, "llava+api", {"prompter": "api"})
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert [list(row) for row in rows] == [
            ["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]
        ] * 2
        assert rows[0]["question_id"] == 0  # a number, as it came: the judge joins on it
        assert rows[0]["prompt"] == WILD[0]["text"]
        assert (rows[1]["text"], rows[1]["model_id"], rows[1]["metadata"]) == (
            "A bay.",
            "llava+api",
            {"prompter": "api"},
        )
        assert rows[0]["answer_id"] != rows[1]["answer_id"]
        before = out.read_text()
        write_llava_wild(out, found, {"0": "Diamond Head", "1": "A bay."}, "llava+api", {"prompter": "api"})
        assert out.read_text() == before

    def test_mistakes_name_file_and_line(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidInputError, match=r"questions.jsonl, line 2: no text; it has image, question_id"):
            read_llava_wild(as_lines(tmp_path / "questions.jsonl", [WILD[0], {"question_id": 1, "image": "a.jpg"}]))
        (tmp_path / "cut.jsonl").write_text(json.dumps(WILD[0]) + "\n\n" + '{"question_id": 2, "ima')
        with pytest.raises(InvalidInputError, match=r"cut.jsonl, line 3: not JSON.*cut off"):
            read_llava_wild(tmp_path / "cut.jsonl")
        with pytest.raises(InvalidInputError, match="1 ids occur more than once, the first: '0'"):
            read_llava_wild(as_lines(tmp_path / "twice.jsonl", [WILD[0], WILD[0]]))


class TestMMMU:
    @pytest.mark.parametrize("layout", ["jsonl", "json list", "json by id"])
    def test_round_trip(self, tmp_path: Path, layout: str) -> None:
        if layout == "jsonl":
            path = as_lines(tmp_path / "v.jsonl", MMMU)
        elif layout == "json list":
            path = as_json(tmp_path / "v.json", MMMU)
        else:
            path = as_json(
                tmp_path / "v.json", {row["id"]: {k: v for k, v in row.items() if k != "id"} for row in MMMU}
            )
        choice, free = read_mmmu(path)
        assert choice.images == (tmp_path / "a.png", tmp_path / "b.png")
        assert choice.options == ("$6", "it's $7", "<image 2>")
        assert choice.text.splitlines() == [
            "<image 1> Which one?",
            "(A) $6",
            "(B) it's $7",
            "(C) <image 2>",
            "Answer with the option's letter from the given choices directly.",
        ]
        assert (choice.answer, choice.kind, choice.chance) == ("B", "Accounting", pytest.approx(1 / 3))
        assert (free.answer, free.kind, free.options) == (None, "Art_Theory", ())
        assert "single word or phrase" in free.text
        answers = {"validation_Accounting_1": "I think it is (B).", "validation_Art_Theory_2": "Monet"}
        write_mmmu(tmp_path / "out.json", [choice, free], answers)
        assert json.loads((tmp_path / "out.json").read_text()) == {
            "validation_Accounting_1": "B",
            "validation_Art_Theory_2": "Monet",
        }
        write_mmmu(tmp_path / "out.json", [choice, free], {"validation_Accounting_1": "no idea"})
        assert json.loads((tmp_path / "out.json").read_text()) == {"validation_Accounting_1": ""}

    def test_options_are_read_as_literals_and_never_run(self, tmp_path: Path) -> None:
        spy = tmp_path / "spy"
        with pytest.raises(InvalidInputError, match="text of a Python list"):
            options_of(f"[open({str(spy)!r}, 'w').write('x')]", "here")
        assert not spy.exists()
        for bad in ("{'a': 1}", "'ab'", "[['a']]", "[" * 5000):
            with pytest.raises(InvalidInputError, match="here: options should be"):
                options_of(bad, "here")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"options": "[]"}, "is a multiple choice without options"),
            ({"options": "['a', 'b'"}, "v.jsonl, line 1: options should be the text of a Python list"),
            ({"answer": "D"}, "answer 'D' of validation_Accounting_1 is none of its 3 options' letters"),
            ({"image_1": None, "image_2": None}, "has no image"),
            ({"image_1": 7}, "an image is a path"),
            ({"question": ""}, "no question"),
        ],
    )
    def test_mistakes_name_file_and_line(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        with pytest.raises(InvalidInputError, match=message):
            read_mmmu(as_lines(tmp_path / "v.jsonl", [{**MMMU[0], **change}]))

    def test_answers_of_the_test_split_are_not_known(self, tmp_path: Path) -> None:
        (one,) = read_mmmu(as_lines(tmp_path / "v.jsonl", [{**MMMU[0], "answer": "?"}]))
        assert one.answer is None

    def test_parquet_rows_hold_their_images(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A stand-in for pyarrow: the rows are what it gives for the hub's files."""
        row = {**MMMU[0], "image_1": {"bytes": png("blue"), "path": "x.png"}, "image_2": {"bytes": b"no", "path": None}}
        (tmp_path / "Accounting").mkdir()
        path = tmp_path / "Accounting/validation-00000-of-00001.parquet"
        path.write_bytes(b"")
        table = type("Table", (), {"to_pylist": lambda self: [row]})
        parquet = type("Parquet", (), {"read_table": staticmethod(lambda file: table())})
        monkeypatch.setitem(sys.modules, "pyarrow", type("Pyarrow", (), {"parquet": parquet}))
        for given in (path, tmp_path):
            (one,) = read_mmmu(given)
            first, second = one.images
            assert first.open().getpixel((0, 0)) == (0, 0, 255)  # type: ignore[union-attr]
            with pytest.raises(InvalidInputError, match="row 1: the image of validation_Accounting_1 is not an image"):
                second.open()  # type: ignore[union-attr]
        (tmp_path / "Accounting/test-00000-of-00001.parquet").write_bytes(b"")
        with pytest.raises(InvalidInputError, match=r"several splits \(test, validation\)"):
            read_mmmu(tmp_path)

    def test_without_the_packages_parquet_and_arrow_say_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        monkeypatch.setitem(sys.modules, "datasets", None)
        (tmp_path / "a.parquet").write_bytes(b"")
        as_json(tmp_path / "dataset_info.json", {})
        for given in (tmp_path / "a.parquet", tmp_path):
            with pytest.raises(UnsupportedError, match=r"visprompt-toolkit\[mmmu\]"):
                read_mmmu(given)
        (tmp_path / "empty").mkdir()
        for given, message in ((tmp_path / "empty", "no folder of parquet"), (tmp_path / "none", "there is no file")):
            with pytest.raises(InvalidInputError, match=message):
                read_mmmu(given)


class TestVLMEvalKit:
    def rows(self) -> list[dict[str, Any]]:
        image = base64.b64encode(png("lime", (40, 30))).decode()
        return [
            {"index": 7, "image": image, "question": "Which?", "A": "red", "B": "lime", "C": "", "answer": "B"},
            {"index": 8, "image": "7", "question": "Again?", "A": "nan", "B": "", "C": "", "answer": "yes"},
            {
                "index": 9,
                "image": str([image, image]),
                "question": "Both?",
                "A": "",
                "B": "",
                "C": "",
                "answer": "",
            },
        ]

    def test_round_trip(self, tmp_path: Path) -> None:
        found = read_tsv(as_tsv(tmp_path / "t.tsv", self.rows()))
        assert [len(one.images) for one in found] == [1, 1, 2]
        assert [one.pil_images[-1].getpixel((0, 0)) for one in found] == [(0, 255, 0)] * 3  # type: ignore[union-attr]
        assert found[0].text.startswith("Which?\n(A) red\n(B) lime\nAnswer with")
        assert (found[0].answer, found[0].letters, found[1].options, found[2].answer) == ("B", "AB", (), None)
        write_tsv(tmp_path / "out.tsv", found, {"7": "lime", "8": "a tab\tand\na line", "9": "hm"})
        with open(tmp_path / "out.tsv", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        assert [row["prediction"] for row in rows] == ["B", "a tab\tand\na line", "hm"]
        assert "image" not in rows[0]
        assert rows[0]["A"] == "red"

    def test_paths_instead_of_images(self, tmp_path: Path) -> None:
        rows = [
            {"index": 1, "image_path": "a.png", "question": "x"},
            {"index": 2, "image_path": "['a.png', 'b.png']", "question": "x"},
        ]
        found = read_tsv(as_tsv(tmp_path / "t.tsv", rows), tmp_path / "images")
        assert found[0].images == (tmp_path / "images/a.png",)
        assert len(found[1].images) == 2

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([{"index": 1, "question": "x"}], "no column image or image_path"),
            ([{"index": 1, "image": "x"}], "no column question"),
            ([{"index": 1, "image": "3", "question": "x"}], "row 1: image '3' is no image"),
            ([{"index": 1, "image_path": "['a'", "question": "x"}], "text of a list"),
            ([{"index": 1, "image_path": "", "question": "x"}], "neither image nor image_path"),
            ([{"index": 1, "image_path": "a.png", "question": ""}], "row 1: no question"),
        ],
    )
    def test_mistakes_name_file_and_row(self, tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
        with pytest.raises(InvalidInputError, match=message):
            read_tsv(as_tsv(tmp_path / "t.tsv", rows))

    def test_a_row_that_is_cut_off_and_a_image_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "t.tsv").write_text("index\timage_path\tquestion\n1\ta.png\n")
        with pytest.raises(InvalidInputError, match="row 1: not as many cells"):
            read_tsv(tmp_path / "t.tsv")
        (one,) = read_tsv(as_tsv(tmp_path / "t.tsv", [{"index": 1, "image": "é" * 80, "question": "x"}]))
        with pytest.raises(InvalidInputError, match="row 1: the image is no base64"):
            one.pil_images  # noqa: B018


class TestLetters:
    @pytest.mark.parametrize(
        ("answer", "letter"),
        [
            ("B", "B"),
            ("b", "B"),
            ("(C)", "C"),
            ("**D**", "D"),
            ("B. a dog", "B"),
            ("B) a dog", "B"),
            ("Answer: D", "D"),
            ("The correct answer is (C).", "C"),
            ("The answer is **A**", "A"),
            ("the answer is b.", "B"),
            ("First the answer is A, but no: the answer is D", "D"),
            ("(A) is wrong, so the answer is (B).", "B"),
            ("Option C is right.", "C"),
            ("A dog", "B"),
            ("a dog", "B"),
            ("The animal is a hot dog, clearly.", "C"),
            ("the answer is a cat", "A"),
            ("A or B", None),
            ("It could be (A) or (B).", None),
            ("E", None),
            ("a cat and a horse", None),
            ("I see nothing", None),
            ("", None),
            ("A is wrong; the answer is D because it neighs", "D"),
            ("The answer is A cat", "A"),
        ],
    )
    def test_of_an_answer(self, answer: str, letter: str | None) -> None:
        assert letter_of(answer, ["a cat", "dog", "a hot dog", "horse"]) == letter

    def test_normalised(self) -> None:
        assert normalised("  An ORANGE_star!  ") == "orange star"
        assert normalised("the") == ""

    def test_a_question_without_a_image_is_none(self) -> None:
        with pytest.raises(InvalidInputError, match="no image"):
            Question("q", (), "what?")


@pytest.mark.parametrize("read", [read_mm_vet, read_llava_wild, read_tsv])
def test_text_that_is_not_utf8(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(InvalidInputError, match="UTF-8"):
        read(tmp_path / "x")
