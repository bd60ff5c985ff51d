"""`visprompt answer` and `visprompt export` as people use them."""

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from visprompt.cli import app as cli
from visprompt.data.scenes.questions import scene_questions
from visprompt.errors import InvalidInputError, UnknownNameError, UnsupportedError

RUNNER = CliRunner()


def run(*words: object) -> str:
    found = RUNNER.invoke(cli.app, [str(word) for word in words], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.output


@pytest.fixture
def mm_vet(tmp_path: Path) -> Path:
    """Six questions about scenes, in MM-Vet's layout."""
    (tmp_path / "images").mkdir()
    entries = {}
    for number, question in enumerate(scene_questions("test", 5, 6, kinds=("colour", "shape"))):
        question.image.save(tmp_path / f"images/{number}.png")
        entries[f"v1_{number}"] = {"imagename": f"{number}.png", "question": question.text, "answer": question.answer}
    (tmp_path / "mm-vet.json").write_text(json.dumps(entries))
    return tmp_path / "mm-vet.json"


@pytest.fixture
def mmmu(tmp_path: Path) -> Path:
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    rows = [
        {
            "id": f"validation_{subject}_{number}",
            "question": "what colour is the square?",
            "options": "['red', 'blue']",
            "answer": "A",
            "question_type": "multiple-choice",
            "image_1": "a.png",
        }
        for subject in ("Art", "Math")
        for number in range(2)
    ]
    (tmp_path / "mmmu.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "mmmu.jsonl"


class TestTheUsersOwnFiles:
    """Writing where one reads would destroy the only copy of a benchmark."""

    def test_answers_never_replace_the_questions(self, mm_vet: Path) -> None:
        before = mm_vet.read_bytes()
        with pytest.raises(InvalidInputError, match="question file itself"):
            run("answer", mm_vet, "-b", "mm-vet", "--out", mm_vet)
        assert mm_vet.read_bytes() == before

    @pytest.mark.parametrize("moved", [False, True], ids=["file and images", "images alone"])
    def test_an_export_replaces_neither_questions_nor_images(self, mm_vet: Path, moved: bool) -> None:
        folder, file = mm_vet.parent, mm_vet
        if moved:
            file = mm_vet.rename(folder / "other.json")
        with pytest.raises(InvalidInputError, match="holds the benchmark itself"):
            run("export", file, "-b", "mm-vet", "--out", folder, "-p", "none")
        assert sorted(path.name for path in folder.rglob("*.*")) == sorted(
            [file.name, *(f"{number}.png" for number in range(6))]
        )


class TestAnswer:
    def test_a_stopped_run_continues_and_the_file_is_the_evaluators(self, mm_vet: Path, tmp_path: Path) -> None:
        out = tmp_path / "runs/out.json"
        told = run("answer", mm_vet, "-b", "mm-vet", "--out", out, "--limit", 2, "--device", "cpu")
        assert "wrote 2 answers to" in told
        told = run("answer", mm_vet, "-b", "mm-vet", "--out", out, "--device", "cpu")
        assert "wrote 6 answers, 2 of them from before" in told
        answers = json.loads(out.read_text())
        assert list(answers) == [f"v1_{number}" for number in range(6)]
        assert all(answers.values())
        assert len((tmp_path / "runs/out.items.jsonl").read_text().splitlines()) == 6
        told = run("answer", mm_vet, "-b", "mm-vet", "--out", out, "--fresh", "--device", "cpu", "-p", "api")
        assert "wrote 6 answers to" in told

    def test_multiple_choice_is_scored_per_subject(self, mmmu: Path, tmp_path: Path) -> None:
        told = run("answer", mmmu, "-b", "mmmu", "--out", tmp_path / "o.json", "--device", "cpu", "--max-new-tokens", 4)
        for wanted in ("exact match", "Art", "Math", "overall", "accuracy"):
            assert wanted in told
        assert set(json.loads((tmp_path / "o.json").read_text()).values()) <= {"A", "B", ""}

    def test_what_cannot_be_done_is_said_before_or_at_the_model(self, mm_vet: Path, tmp_path: Path) -> None:
        out = ("--out", tmp_path / "o.json")
        for words, error, message in (
            (("-b", "mmvet", *out), UnknownNameError, "did you mean 'mm-vet'"),
            (("-b", "mm-vet", "--out", tmp_path / "o.csv"), InvalidInputError, r"takes a \.json file"),
            (("-b", "mm-vet", "--images", tmp_path / "no", *out), InvalidInputError, "no such folder"),
            (("-b", "mm-vet", "-p", "circel", *out), UnknownNameError, "did you mean 'circle'"),
            (("-b", "mm-vet", "-p", "bundled:patch-clip", *out), UnknownNameError, "bundled:patch-scenes-llava"),
            (("-b", "mm-vet", "-p", "bundled:patch-scenes-llava", *out), InvalidInputError, "needs a place"),
            (("-b", "mm-vet", "-m", "bundled:scenes-clip", *out), UnsupportedError, "is an encoder"),
        ):
            with pytest.raises(error, match=message):
                run("answer", mm_vet, *words)


class TestExport:
    def test_images_manifest_and_tables(self, mm_vet: Path, tmp_path: Path) -> None:
        out = tmp_path / "prompted"
        told = run("export", mm_vet, "-b", "mm-vet", "--out", out, "-p", "api", "--device", "cpu", "--limit", 3)
        assert "wrote 3 images, manifest.jsonl and vlmevalkit.tsv" in told
        assert len(list((out / "images").glob("*.png"))) == 3
        run("export", mm_vet, "-b", "mm-vet", "--out", out, "-p", "none")
        assert len(json.loads((out / "mm-vet.json").read_text())) == 6

    def test_what_no_image_shows_is_refused(self, mm_vet: Path, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedError, match="which no image shows"):
            run("export", mm_vet, "-b", "mm-vet", "--out", tmp_path / "x", "-p", "falip", "--device", "cpu")

    def test_a_missing_image_is_told(self, mm_vet: Path, tmp_path: Path) -> None:
        (tmp_path / "images/1.png").unlink()
        told = run("export", mm_vet, "-b", "mm-vet", "--out", tmp_path / "x", "-p", "none")
        assert "1 of 6 questions could not be prompted; the first, v1_1" in told


@pytest.mark.parametrize("command", ["answer", "export"])
def test_every_command_has_an_example(command: str) -> None:
    assert f"Example: visprompt {command}" in run(command, "--help")
