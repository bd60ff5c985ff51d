"""The report on attention gain, from rows that are made up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from visprompt.bench.gain.document import chart, document, findings, ratio_tables, summary_table, transfer_table
from visprompt.bench.report import html, markdown
from visprompt.bench.report.document import Fold
from visprompt.plots import gain as plots_gain


def row(label: str, value: float, model: str = "bundled:m", task: str = "gain", **changes: Any) -> dict[str, Any]:
    block = {"block": 3, "gain": value, "low": value - 0.1, "high": value + 0.1, "mass": 0.3, "mass_without": 0.125}
    made = {
        "task": task, "row": label, "model": model, "value": value, "low": value - 0.1, "high": value + 0.1, "n": 9,
        "control": label == "noise", "own": label == "patch", "size_tokens": 3.0, "block": 3, "compared_with": None,
        "ratio": None, "ratio_ci95": None, "difference": None, "difference_ci95": None, "blocks": [block],
        "model_identity": {"name": model}, "identity": {"name": "circle"}, "images": {"source": "scenes"},
        "provenance": {"versions": {}, "git_commit": None, "code": "abc", "machine": "here", "date": "2026"},
    }  # fmt: skip
    return {**made, **changes}


def compared(ratio: float | None, low: float | None = 2.0, high: float | None = None) -> dict[str, Any]:
    ends = {"ratio": ratio, "ratio_ci95": [low, high]}
    return {"compared_with": "circle", **ends, "difference": 1.0, "difference_ci95": [0.5, 1.5]}


ROWS = [row("patch", 1.5, **compared(3.0)), row("circle", 0.5), row("noise", 0.2, **compared(0.4, -1.0, 0.9))]
OTHER = [row("patch", 0.25, "n", **compared(None, None)), row("circle", -0.25, "n")]
MOVED = [row("a", 1.5, task="transfer", own=True), row("a", 0.75, "n", "transfer", own=False)]


def result(rows: list[dict[str, Any]]) -> Any:
    suite = SimpleNamespace(
        title="Gain", description="About it.", compare_with="circle", name="s", hash="0", seed=5,
        images={"source": "scenes"},
    )  # fmt: skip
    return SimpleNamespace(suite=suite, rows=rows, problems=[], out=Path(), examples={}, files={})


def test_tables() -> None:
    table = summary_table([*ROWS, *OTHER])
    assert [(line.label, line.control) for line in table.rows] == [
        ("patch", False),
        ("circle", False),
        ("noise", True),
        ("mass without a marker", True),
    ]
    first = table.rows[0].cells[0]
    assert (first.text, first.interval, first.best) == ("1.50", "1.40 to 1.60", True)
    assert "mass 0.300, without a marker 0.125, n = 9; minus circle: +1.00 (+0.50 to +1.50)" in first.note
    assert [cell.text for cell in table.rows[3].cells] == ["0.125", "0.125"]
    (ratios,) = ratio_tables([*ROWS, *OTHER])
    cells = {line.label: line.cells for line in ratios.rows}
    assert [(cell.text, cell.interval, cell.best) for cell in cells["patch"]] == [
        ("3.00 ×", "above 2.00", True),
        ("no ratio", "", False),
    ]
    assert (cells["noise"][0].interval, cells["noise"][0].best) == ("-1.00 to 0.90", True)
    assert ratio_tables([row("patch", 1.0)]) == []
    moved = transfer_table([*ROWS, *OTHER, *MOVED])
    assert [(line.label, [cell.best for cell in line.cells]) for line in moved.rows] == [("a", [True, False])]


def test_findings_are_numbers_of_the_rows() -> None:
    assert findings([*ROWS, *OTHER, *MOVED]) == [
        "Of the markers, patch gains most on 2 of 2 models: in the last block it adds 0.25 to 1.50 times the attention "
        "that the place has without a marker.",
        "Its gain is 3.00 times that of circle; the 95 % interval lies above 1 on 1 of 1 model; circle gains nothing "
        "on n.",
        "Patches gain 1.50 on the model that they were learned on, and 0.75 on others.",
    ]
    assert (
        "1.50 times the attention that the place has without a marker (95 % interval 1.40 to 1.60, n = 9)."
        in (findings(ROWS)[0])
    )
    assert findings(ROWS)[2] == "The controls gain 0.20."
    assert findings([]) == []


@pytest.mark.parametrize("change", [{"value": 1.4}, {"low": 1.0}, {"ratio": 2.5}, {"n": 8}])
def test_findings_change_with_the_rows(change: dict[str, Any]) -> None:
    assert findings([{**ROWS[0], **change}, *ROWS[1:]]) != findings(ROWS)


def test_one_image_has_no_interval() -> None:
    rows = [{**one, "n": 1} for one in ROWS]
    for table in (summary_table(rows), *ratio_tables(rows)):
        assert not any(cell.interval or "+0.50" in cell.note for line in table.rows for cell in line.cells)
    made = chart(rows)
    assert made is not None
    assert all(bar.low is None for group in made.panels[0].groups for bar in group.bars)
    assert "95 %" not in f"{made.caption} {summary_table(rows).caption} {findings(rows)[0]}"
    text = markdown(document(result(rows)))
    assert " to " not in text.split("## Block by block")[1].split("## ")[0].replace("mass", "")
    figure = plots_gain.gain_figure(
        [{**one, "blocks": [one["blocks"][0], {**one["blocks"][0], "block": 4}]} for one in rows]
    )
    for band in figure.axes[0].collections:
        assert all(abs(path.vertices[:, 1].max() - path.vertices[:, 1].min()) < 1e-6 for path in band.get_paths())


def test_panels_have_scales_of_their_own() -> None:
    made = chart([*ROWS, *OTHER])
    assert made is not None
    assert [(panel.title, panel.start, panel.end) for panel in made.panels] == [
        ("m, n = 9", 0.0, pytest.approx(1.6)),
        ("n, n = 9", pytest.approx(-0.35), pytest.approx(0.35)),
    ]


def test_all_parts_are_in_the_report() -> None:
    shown = {"images": {"m": ("data:image/png;base64,", "marked"), "n": ("data:image/png;base64,", "too")}}
    made = result([*ROWS, *OTHER, *MOVED])
    made.examples = {**shown, "patches": {"m": ("data:image/png;base64,", "a patch")}}
    report = document(made)
    assert [block.summary for block in report.examples if isinstance(block, Fold)] == ["Where n looks"]
    assert {figure.name for figure in report.figures()} == {"gain-blocks", "gain-transfer"}
    text = html(report)
    for words in ("From model to model", "Block by block", "seeds of their own", "The patch of m", "marked", "abc"):
        assert words in text, words
