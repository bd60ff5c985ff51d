"""The report of a suite of tasks, from rows that are made up."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from visprompt.bench.accuracy.document import document
from visprompt.bench.accuracy.document_tables import kind_table, protocol, published_table, summary_table
from visprompt.bench.accuracy.examples import Card, ReportExamples
from visprompt.bench.accuracy.findings import best_way, chart, findings
from visprompt.bench.report import html, markdown, terminal, write_report
from visprompt.bench.report.document import Gallery, Table
from visprompt.bench.report.images import data_uri
from visprompt.bench.suite import parse_suite
from visprompt.plots import base as plots

SUITE = parse_suite(
    {
        "title": "A <b>suite</b> & more",
        "description": "About it.",
        "tasks": {
            "boxes": {
                "task": "referring",
                "title": "Which box",
                "data": {"source": "scenes"},
                "published": "refcoco-testa",
            }
        },
        "strategies": ["none", "circle", "falip", "crop|falip"],
    },
    "made-up",
)


def row(strategy: str, value: float | None, model: str = "m", **changes: Any) -> dict[str, Any]:
    made = {
        "suite": "made-up",
        "suite_hash": "0",
        "task": "boxes",
        "task_title": "Which box",
        "model": model,
        "row": strategy,
        "control": strategy in ("none", "random"),
        "metric": "accuracy",
        "value": value,
        "low": None if value is None else value - 0.05,
        "high": None if value is None else value + 0.05,
        "ci_method": "wilson",
        "n": 100,
        "correct": None if value is None else round(100 * value),
        "chance": 0.25,
        "errors": 0,
        "error_example": None,
        "settings": {"task": "referring", "template": "{}"},
        "pointing": {"strategy": strategy},
        "model_identity": {"name": model, "weights": "abc"},
        "data": {"source": "scenes", "hash": "def"},
        "boxes": "gold",
        "published": "refcoco-testa",
        "provenance": {
            "versions": {"visprompt": "0.1.0", "torch": "2"},
            "git_commit": None,
            "code": "123",
            "machine": "here",
            "date": "2026-01-01",
        },
        "seconds": 1.0,
        "reused": 0,
        "comparisons": {},
    }
    return {**made, **changes}


ROWS = [
    row("none", 0.25),
    row("circle", 0.5, comparisons={"none": {"difference": 0.25, "ci95": [0.1, 0.4], "mcnemar_p": 0.0001, "n": 100}}),
    row("falip", 0.9),
    row("crop|falip", None, unsupported="no attention here"),
    row("random", 0.24),
]

HARD = (("easy", 0.8), ("hard", 0.2))


def result(rows: list[dict[str, Any]] = ROWS, examples: ReportExamples | None = None, suite: Any = SUITE) -> Any:
    return SimpleNamespace(
        suite=suite, rows=rows, problems=["one <problem>"], out=Path(), examples=examples or ReportExamples(), files={}
    )


class TestPage:
    def test_text_from_outside_is_escaped(self) -> None:
        text = html(document(result()))
        assert "A &lt;b&gt;suite&lt;/b&gt; &amp; more" in text
        assert "one &lt;problem&gt;" in text

    def test_figures_published_and_unsupported_are_in_it(self) -> None:
        text = html(document(result()))
        wanted = ("90.0", "85.0–95.0", "no attention here", "44.2", "secondary source", "gold boxes, n = 100")
        for words in (*wanted, "+25.0", "+10.0 to +40.0", "&lt; 0.001"):
            assert words in text, words

    def test_points_are_not_called_boxes(self) -> None:
        asked = {"task": "keypoints", "template": "{}"}
        assert protocol([row("none", 0.5, settings=asked)]) == "marked points, n = 100"
        assert protocol([row("none", 0.5), row("none", 0.5, settings=asked)]) == "gold boxes and marked points, n = 100"

    def test_a_question_gets_no_full_stop(self) -> None:
        task = dataclasses.replace(SUITE.tasks[0], title="Which box?")
        made = document(result(suite=dataclasses.replace(SUITE, tasks=(task,))))
        for text in (html(made), markdown(made)):
            assert "Which box?" in text
            assert "?." not in text

    def test_without_matplotlib_the_tables_and_the_chart_are_still_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(plots, "have_matplotlib", lambda: False)
        text = html(document(result()))
        assert "85.0–95.0" in text
        assert "visprompt-toolkit[plots]" in text
        assert 'class="bar s0"' in text

    def test_files(self, tmp_path: Path) -> None:
        paths = write_report(document(result()), tmp_path)
        assert [path.name for path in paths] == ["report.html", "report.md"]
        assert all(path.stat().st_size > 500 for path in paths)

    def test_nothing_measured(self) -> None:
        made = document(result([row("falip", None)]))
        assert "unsupported" not in html(made)
        assert made.findings == ()
        assert made.chart is None

    def test_reused_answers_are_counted(self) -> None:
        text = html(document(result([row("none", 0.25, reused=40), row("falip", 0.9, reused=100, errors=2)])))
        assert "202 answers, 140 of them reused from earlier runs" in text


class TestExamples:
    def test_it_opens_with_right_and_wrong_answers(self) -> None:
        image = data_uri(Image.new("RGB", (8, 8)))
        right, wrong = (Card(image, None, "an image", "“the <star>”", "box 1", correct) for correct in (True, False))
        shown = ReportExamples({("m", "boxes"): {"none": [wrong], "falip": [right, right]}}, {"m": (image, "maps")})
        made = document(result(examples=shown))
        galleries = [block for block in made.examples if isinstance(block, Gallery)]
        assert [(one.title, [card.correct for card in one.cards]) for one in galleries] == [
            ("Answers with falip", [True]),
            ("Answers with none", [False]),
        ]
        text = html(made)
        assert text.index("The best way of pointing") < text.index("Answers with falip") < text.index("About it.")
        assert text.index("Where m looks") < text.index("About it.")
        assert text.count("“the &lt;star&gt;”") == 2 + 3


class TestTable:
    def test_best_is_the_best_that_is_no_control(self) -> None:
        table = summary_table([*ROWS, row("random", 0.99, model="n"), row("falip", 0.3, model="n")])
        best = {
            (line.label, column.group, column.label)
            for line in table.rows
            for column, cell in zip(table.columns, line.cells, strict=True)
            if cell.best
        }
        assert best == {("falip", "m", "boxes"), ("falip", "n", "boxes")}
        assert [line.control for line in table.rows] == sorted(line.control for line in table.rows)
        assert [column.group for column in table.columns] == ["m", "n"]
        assert [cell.text for cell in table.rows[-1].cells] == ["25.0", "25.0"]

    def test_one_item_has_no_interval(self) -> None:
        kinds = {
            "colour": {"value": 1.0, "ci95": [0.2, 1.0], "n": 1, "correct": 1},
            "count": {"value": 0.5, "ci95": None, "n": 1},
        }
        compared = {
            "none": {
                "difference": 1.0,
                "ci95": [-0.5, 1.0],
                "mcnemar_p": 1.0,
                "n": 1,
                "kinds": {"colour": {"difference": 1.0, "ci95": [0.2, 1.0], "n": 1}},
            }
        }
        one = row("falip", 1.0, n=1, correct=1, low=0.2, high=1.0, kinds=kinds, comparisons=compared)
        tables = [summary_table([one]), kind_table([one], "none")]
        tables += [table for _, table in document(result([one])).tables()]
        for table in tables:
            for line in table.rows:
                assert not any(cell.interval or "(" in cell.more or cell.clear for cell in line.cells), line
        made = chart([one])
        assert made is not None
        assert all(bar.low is None for group in made.panels[0].groups for bar in group.bars)
        assert "interval" not in " ".join([*findings([one], ("none",)), made.caption])

    def test_terminal(self) -> None:
        console = Console(width=100, record=True, file=io.StringIO())
        console.print(terminal(document(result())))
        text = console.export_text()
        assert "90.0" in text
        assert "crop|falip" in text

    def test_published_figures_need_the_same_task_and_strategy(self) -> None:
        (table,) = published_table(ROWS)
        assert isinstance(table, Table)
        assert {line.label for line in table.rows} == {"circle", "falip"}
        assert published_table([row("falip", 0.5, published=None)]) == []


class TestFindings:
    def test_one_case(self) -> None:
        rows = [*ROWS[:1], row("falip", 0.9, comparisons=ROWS[1]["comparisons"]), *ROWS[3:]]
        assert findings(rows, ("none",)) == [
            "The best way of pointing is falip: 90.0 % are right (95 % interval 85.0–95.0, n = 100); chance is 25.0 %.",
            "Its difference to none on the same items is +25.0 (+10.0 to +40.0) percentage points.",
            "The best control reaches 25.0 %; every way of pointing exceeds it in at least one case.",
        ]

    def test_several_cases(self) -> None:
        clear, unclear = ({"none": {"difference": 0.1, "ci95": [low, 0.3], "n": 100}} for low in (0.05, -0.1))
        rows = [*ROWS, row("falip", 0.8, "n", comparisons=clear), row("circle", 0.85, "n"), row("random", 0.9, "n")]
        rows += [row("falip", 0.7, "o", comparisons=unclear), row("box", 0.1, "o"), row("none", 0.2, "o")]
        assert best_way(rows) == "falip"
        assert findings(rows, ("none",)) == [
            "The best way of pointing is falip: it is first, or level with the first, in 2 of 3 cases (a task with a "
            "model), and right in 70.0 to 90.0 % of the items; chance is 25.0 %.",
            "Its difference to none on the same items is +10.0 percentage points; the 95 % interval excludes 0 in 1 "
            "of 2 cases.",
            "The best control reaches 20.0 to 90.0 %; 1 way of 3 never exceeds it: “box”.",
        ]

    def test_what_skips_a_case_is_not_the_best_if_another_has_all(self) -> None:
        rows = [row("crop", 0.99), row("falip", 0.9), row("crop", 0.99, "n"), row("falip", 0.9, "n")]
        assert best_way(rows) == "crop"
        assert best_way([*rows, row("falip", 0.9, "o")]) == "falip"

    @pytest.mark.parametrize("change", [{"value": 0.95}, {"low": 0.8}, {"n": 99}, {"chance": 0.2}])
    def test_numbers_are_those_of_the_rows(self, change: dict[str, Any]) -> None:
        assert findings([*ROWS[:2], {**ROWS[2], **change}], ()) != findings(ROWS[:3], ())

    def test_bars_are_the_rows(self) -> None:
        made = chart([*ROWS, row("falip", 0.4, model="n")])
        assert made is not None
        assert made.series == ("m", "n")
        (panel,) = made.panels
        bars = {group.label: [(bar.text, bar.series) for bar in group.bars] for group in panel.groups}
        assert bars["falip"] == [("90.0", 0), ("40.0", 1)]
        assert (panel.start, panel.end, panel.reference) == (0.0, 100.0, 25.0)
        assert [group.control for group in panel.groups] == [False, False, True, True]
        many = chart([row(f"way {i}", i / 20) for i in range(12)])
        assert many is not None
        assert [group.label for group in many.panels[0].groups] == [f"way {i}" for i in range(11, 5, -1)]
        assert "the 6 best of 12 ways of pointing" in many.caption

    def test_a_way_does_not_rank_higher_by_leaving_out_a_hard_task(self) -> None:
        both = [row(f"way {i}", value - i / 100, task=task) for i in range(6) for task, value in HARD]
        made = chart([*both, row("skips", 0.765, task="easy")])
        assert made is not None
        labels = [group.label for group in made.panels[0].groups]
        assert labels == ["way 0", "way 1", "way 2", "way 3", "skips", "way 4"]
        assert "ranked by their mean over the 1 case (a task with a model) that all have" in made.caption
        apart = chart([*both, row("skips", 0.99, task="other")])
        assert apart is not None
        assert "skips" not in [group.label for panel in apart.panels for group in panel.groups]
        assert "those that lack a case (a task with a model) come after" in apart.caption
