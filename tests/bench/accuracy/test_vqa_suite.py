"""A suite that asks in words, with a model that answers by rule: kinds, differences, maps and the report."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from visprompt.bench.accuracy.document import document
from visprompt.bench.accuracy.document_tables import kind_table, kind_terminal_table, map_table
from visprompt.bench.accuracy.summary import add_comparisons, kinds_of
from visprompt.bench.pipeline import run_suite
from visprompt.bench.report import terminal, write_report
from visprompt.bench.suite import parse_suite
from visprompt.errors import InvalidInputError, UnknownNameError
from visprompt.models import load_model
from visprompt.tasks import Condition
from visprompt.tasks import map_quality as maps
from visprompt.tasks.condition import default_runner
from visprompt.tasks.scene_questions import scene_vqa
from visprompt.utils.jsonl import read_jsonl

DATA = {"source": "scenes-vqa", "split": "test", "n": 24}
CONTENT: dict[str, Any] = {
    "models": ["fake"],
    "tasks": {"easy": {"task": "vqa", "data": DATA}, "hard": {"task": "vqa", "data": {**DATA, "difficulty": "hard"}}},
    "strategies": ["none", {"strategy": "circle", "label": "circle"}],
    "controls": [{"strategy": "circle", "region": "other"}],
    "tune": [{"strategy": "circle", "grid": {"width": [1, 3]}, "data": {"split": "validation", "n": 8}}],
    "compare_with": ["none"],
}


class Writer:
    name = "writer"
    generates = True
    supports = frozenset({"pixels", "attention", "text"})

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "weights": "0" * 16}


class Pointed:
    """Right where the one region is the target; knows the questions of both splits."""

    def __init__(self, model: Any, prompter: Any, fit: str) -> None:
        self.prompter = prompter

    def generate(self, requests: Any, max_new_tokens: int) -> list[str]:
        answers = []
        for request in requests:
            split, difficulty, *_ = request.id.split("-")
            question = next(one for one in scene_vqa(24, difficulty, split) if one.id == request.id)
            hit = [one.xyxy for one in request.regions] == [one.xyxy for one in question.targets]
            answers.append(str(question.answer) if hit and self.prompter is not None else "no")
        return answers


def run(tmp_path: Path, content: dict[str, Any] = CONTENT, **options: Any) -> Any:
    options.setdefault("models", [Writer()])
    options.setdefault("make_runner", Pointed)
    return run_suite(parse_suite(content, "asked"), out=tmp_path / "out", **options)


class TestKinds:
    def test_rows_have_figures_and_differences_per_kind(self, tmp_path: Path) -> None:
        result = run(tmp_path)
        rows = {(row["task"], row["row"]): row for row in result.rows}
        circle = rows["easy", "circle"]
        assert set(circle["kinds"]) == {"colour", "shape", "presence", "count", "side", "size", "leftmost", "relation"}
        assert set(rows["hard", "circle"]["kinds"]) == set(circle["kinds"]) - {"size"}
        assert sum(one["n"] for one in circle["kinds"].values()) == circle["n"] == 24
        assert sum(one["correct"] for one in circle["kinds"].values()) == circle["correct"]
        assert circle["kinds"]["leftmost"]["ci95"][0] < 1
        against = circle["comparisons"]["none"]
        assert against["kinds"]["leftmost"]["difference"] == 1.0
        assert against["kinds"]["leftmost"]["n"] == 3
        assert set(circle["comparisons"]) == {"none"}
        # absent objects are asked about without a prompt in every row
        assert -1 < against["kinds"]["presence"]["difference"] <= 1
        json.dumps(result.rows)

    def test_items_of_one_kind_need_no_table(self) -> None:
        items = [{"id": str(i), "kind": "colour", "correct": True, "image": str(i)} for i in range(3)]
        assert kinds_of(items) == {}
        assert kinds_of([{**item, "kind": None} for item in items]) == {}
        row: dict[str, Any] = {"row": "a"}
        add_comparisons([row], {"a": items, "none": items}, ["none"])
        assert "kinds" not in row["comparisons"]["none"]

    def test_tables(self, tmp_path: Path) -> None:
        result = run(tmp_path)
        easy, hard = (
            [row for row in result.rows if row["task"] == task and row.get("kinds")] for task in ("easy", "hard")
        )
        table, short = kind_table(easy, "none"), kind_terminal_table(easy, "none", "easy")
        assert (len(table.columns), len(kind_table(hard, "none").columns)) == (8, 7)
        assert (table.rows[0].label, table.rows[0].control) == ("circle", False)
        place = [column.label for column in table.columns].index("leftmost")
        leftmost = table.rows[0].cells[place]
        assert leftmost.text == "100.0"
        assert leftmost.more.startswith("+100.0 (")
        assert [row.label for row in short.rows][:2] == ["none", "circle"]
        assert short.rows[1].cells[place].text == "+100.0"
        report = document(result)
        paths = write_report(report, result.out)
        page, text = (path.read_text() for path in paths)
        for wanted in ("By kind of question", "leftmost", "<span>+100.0</span> <span>("):
            assert wanted in page
        assert "By kind of question" in text
        from rich.console import Console

        console = Console(width=80, record=True, file=io.StringIO())
        console.print(terminal(report))
        shown = console.export_text()
        assert "+100.0" in shown
        assert max(map(len, shown.splitlines())) <= 80


class TestTasksAndModels:
    def test_a_task_that_a_model_cannot_do_is_left_out_and_said_once(self, tmp_path: Path) -> None:
        boxes = {"task": "referring", "template": "{}", "data": {"source": "scenes", "n": 3}}
        content = {
            **CONTENT,
            "tasks": {"boxes": boxes, **CONTENT["tasks"]},
            "tune": [],
            "controls": [],
            "strategies": ["none", "crop"],
        }
        seen = []

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return seen.append if name == "advanced" else lambda *_: seen.append(0)

            def planned(self, total: int) -> None:
                self.total = total

        listener = Counting()
        result = run(
            tmp_path,
            content,
            models=[load_model("bundled:scenes-clip")],
            make_runner=default_runner,
            progress=listener,  # type: ignore[arg-type]
        )
        assert [row["task"] for row in result.rows] == ["boxes", "boxes"]
        assert len(result.problems) == 1
        assert result.problems[0].startswith("easy, hard: left out, because bundled:scenes-clip writes no text")
        assert sum(one for one in seen if isinstance(one, int)) == listener.total

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"maps": {"task": ["easy"]}}, "did you mean 'tasks'"),
            ({"maps": {"tasks": ["esay"]}}, "did you mean 'easy'"),
            ({"maps": {"n": 0}}, "n of maps is a whole number"),
            ({"maps": {"auxiliaries": "x"}}, "auxiliaries of maps: expected a list"),
            ({"tasks": {"a": {"task": "vqa", "data": {**DATA, "dificulty": "hard"}}}}, "did you mean 'difficulty'"),
            ({"tasks": {"a": {"task": "vqa", "data": {**DATA, "kinds": "colour"}}}}, "kinds in data of task a"),
            ({"tasks": {"a": {"task": "vqa", "max_new_tokens": 0, "data": DATA}}}, "max_new_tokens in task a"),
            ({"tasks": {"a": {"task": "vqa", "template": "x", "data": DATA}}}, "task a: template needs"),
            ({"tune": [{"strategy": "circle", "grid": {"width": [1]}, "data": {"n": 8}}]}, "split of its own"),
        ],
    )
    def test_mistakes_are_named(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises((UnknownNameError, InvalidInputError), match=message):
            parse_suite({**CONTENT, **change}, "asked")


class TestMaps:
    def test_shares_of_a_source_that_is_known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        questions = scene_vqa(16)
        chosen = maps.usable(questions)
        assert 8 < len(chosen) < 16
        import numpy as np

        shares = np.stack([np.full(len(chosen), 0.5), np.linspace(0, 1, len(chosen))])
        monkeypatch.setattr(maps, "_of_decoder", lambda *_: (shares, np.full(len(chosen), 0.04)))
        first, second = maps.map_quality(Writer(), questions)
        assert (first["share"], first["ci95"], first["uniform"], first["n"]) == (0.5, [0.5, 0.5], 0.04, len(chosen))
        assert second["ci95"][0] < second["share"] == 0.5 < second["ci95"][1]
        with pytest.raises(InvalidInputError, match="exactly one object"):
            maps.map_quality(Writer(), [one for one in questions if len(one.targets) != 1])

    def test_an_encoders_maps_beat_chance_and_are_kept(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import numpy as np

        calls = []

        def decoder(model: Any, questions: Any, progress: Any) -> Any:
            calls.append(len(questions))
            return np.full((2, len(questions)), 0.1), np.full(len(questions), 0.05)

        monkeypatch.setattr(maps, "_of_decoder", decoder)
        content = {
            **CONTENT,
            "tune": [],
            "maps": {"tasks": ["easy"], "n": 24, "auxiliaries": ["bundled:scenes-clip"]},
        }
        result = run(tmp_path, content)
        (record,) = result.files["maps"]
        assert record["task"] == "easy"
        cls = [row for row in record["maps"] if row["source"] == "scenes-clip Ψ_cls"]
        assert max(row["share"] for row in cls) > 1.5 * cls[0]["uniform"]
        assert len(read_jsonl(tmp_path / "out/maps.jsonl")) == 1
        assert run(tmp_path, content).files["maps"] == result.files["maps"]
        assert len(calls) == 1
        table = map_table(result.files["maps"])
        assert [(column.label, column.note) for column in table.columns[1:]] == [
            ("easy", f"n {record['maps'][0]['n']}")
        ]
        assert sum(row.cells[1].best for row in table.rows if row.label.endswith("Ψ_cls")) >= 1
        text = write_report(document(result), result.out)[1].read_text()
        assert "Do maps lie where the question points?" in text
        run(tmp_path, content, fresh=True)
        assert len(calls) == 2


def test_labels_of_regions() -> None:
    labels = [Condition("circle", region=region).label for region in ("own", "mask", "all", "random", "other")]  # type: ignore[arg-type]
    assert labels == [
        "circle",
        "circle @ mask",
        "circle @ all objects",
        "circle @ random region",
        "circle @ other region",
    ]
