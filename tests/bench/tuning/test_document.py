"""The report of a comparison of ways of tuning, from rows that are made up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from visprompt.bench.report import html, markdown
from visprompt.bench.tuning.document import chart, difference_table, document, findings, summary_table
from visprompt.plots import tuning as plots_tuning


def row(label: str, value: float | None, task: str = "count", **changes: Any) -> dict[str, Any]:
    made = {
        "task": task, "title": "How <many>?", "row": label, "how": "prompt", "strategy": "vpt", "model": "m",
        "control": label == "untrained", "table": True, "value": value, "sd": None, "grid": [], "missing": 0,
        "diverged": 0,
    }  # fmt: skip
    if value is None:
        return {**made, "low": None, "high": None, **changes}
    made |= {
        "low": value - 0.1, "high": value + 0.1, "ci_method": "wilson", "metric": "accuracy", "values": [value],
        "seeds": [0], "n": 40, "sizes": {"train": 4, "validation": 5, "test": 40}, "chance": 0.25, "point": {},
        "options": {"prompts": 0}, "settings": {"lr": 0.1}, "parameters": {"prompt": 1291, "head": 774},
        "best_epochs": [3], "cpu_seconds": 2.0, "blocks": [],
    }  # fmt: skip
    return {**made, **changes}


COMPARED = {"difference": 0.1, "each": [0.1], "sd": None, "ci95": [0.02, 0.18]}
ROWS = [
    row("linear", 0.3, parameters={"prompt": 0, "head": 774}),
    row("gated", 0.45, comparison=COMPARED, grid=[{"point": {"lr": 1}, "validation": 0.4, "best_epoch": 1}]),
    row("untrained", 0.5),
]
RUN = {
    "test": {}, "model": {"name": "m"}, "cpu_seconds": 90.0, "date": "2026-01-01",
    "provenance": {"versions": {"visprompt": "1"}, "git_commit": None, "code": "abc", "machine": "here"},
}  # fmt: skip


def result(rows: list[dict[str, Any]]) -> Any:
    suite = SimpleNamespace(
        title="Tuned", description="About it.", compare_with="linear", name="s", hash="0",
        sets=[SimpleNamespace(key="count", title="How <many>?")],
    )  # fmt: skip
    return SimpleNamespace(suite=suite, rows=rows, problems=[], out=Path(), examples={}, files={"runs": [RUN]})


def test_best_is_the_best_that_is_no_control() -> None:
    table = summary_table(ROWS)
    assert [(line.label, line.control, line.cells[1].best) for line in table.rows] == [
        ("linear", False, False),
        ("gated", False, True),
        ("untrained", True, False),
        ("chance", True, False),
    ]
    assert table.rows[1].cells[1].interval == "35.0–55.0"
    assert "one seed; 95 % intervals" in table.caption


def test_seeds_have_a_spread() -> None:
    table = summary_table([row("gated", 0.45, sd=0.02, seeds=[0, 1], values=[0.43, 0.47])])
    assert table.rows[0].cells[1].interval == "± 2.0"
    assert "mean of 2 seeds ± standard deviation" in table.caption


def test_findings_are_numbers_of_the_rows() -> None:
    assert findings(ROWS, "linear") == [
        "The best method on test images is gated on count (45.0 %, 95 % interval 35.0–55.0).",
        "Their differences to linear, in percentage points: +10.0 (+2.0 to +18.0) on count.",
        "Numbers that they train, in the prompt or model + in the head: gated 1,291 + 774.",
    ]
    assert "linear on digits (60.0 %)" in findings([*ROWS, row("linear", 0.6, "digits", low=None)], "linear")[0]
    assert findings([row("gated", None)], "linear") == []


@pytest.mark.parametrize("change", [{"value": 0.44}, {"low": 0.3}, {"parameters": {"head": 1}}, {"comparison": None}])
def test_findings_change_with_the_rows(change: dict[str, Any]) -> None:
    assert findings([ROWS[0], {**ROWS[1], **change}], "linear") != findings(ROWS[:2], "linear")


def test_one_image_has_no_interval() -> None:
    one = [row("gated", 1.0, n=1, comparison=COMPARED)]
    assert summary_table(one).rows[0].cells[1].interval == ""
    assert [cell.text for cell in difference_table(one).rows[0].cells] == ["count", "+10.0", "", "+10.0"]
    assert "interval" not in " ".join([*findings(one, "linear"), summary_table(one).caption])
    made = chart(one)
    assert made is not None
    assert all(bar.low is None for group in made.panels[0].groups for bar in group.bars)
    assert "Thin" not in made.caption
    assert not list(plots_tuning.methods_figure(one).axes[0].collections)  # no whiskers


def test_all_parts_are_in_the_report() -> None:
    blocks = [{"block": 0, "gate": 0.25, "selection": None, "temperature": 0.5}]
    made = document(result([*ROWS[:1], {**ROWS[1], "blocks": blocks}, ROWS[2]]))
    for text in (html(made), markdown(made)):
        for words in ("0.250", "lr 1: 40.0", "+2.0 to +18.0", "How", "1.5 minutes", "abc", "best epochs 3", "4/5/40"):
            assert words in text, words
    assert "How &lt;many&gt;?" in html(made)
    assert {figure.name for figure in made.figures()} == {"methods", "gates"}
