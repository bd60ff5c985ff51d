"""A document as Markdown."""

from __future__ import annotations

import re

from visprompt.bench.report import markdown
from visprompt.bench.report.document import (
    Cell,
    Column,
    Document,
    Fields,
    Figure,
    Fold,
    Gallery,
    Prose,
    Section,
    Table,
    TableRow,
)

TABLE = Table(
    "strategy",
    (Column("task", "model", "n 9"), Column("words", text=True)),
    (
        TableRow("crop|falip", (Cell("90.0", "85.0–95.0", best=True), Cell("x\ny"))),
        TableRow("none", (Cell("1.0", "± 0.2", "+1.0 (0 to 2)"), Cell()), True),
    ),
    caption="What it is.",
)
TEXT = markdown(
    Document(
        "Title",
        ("Found.",),
        description=("Done.",),
        sections=(
            Section("One", (TABLE, Fields((("key", "text"),)), Figure("data:", "alt", caption="Below.", name="plot"))),
            Section("Only images", (Prose("Beside them."), Figure("data:", "alt"))),
            Section("Two", (Fold("More", (TABLE,)), Fold("Answers", (Gallery("g", ()), Figure("data:", "alt"))))),
        ),
        problems=("It failed.",),
    )
)


def test_tables() -> None:
    assert "| strategy | model: task (n 9) | words |\n|---|---:|---|\n" in TEXT
    assert "| crop\\|falip | **90.0** (85.0–95.0) | x y |" in TEXT
    assert "| *none* | 1.0 ± 0.2; +1.0 (0 to 2) | – |" in TEXT
    blocks = re.findall(r"(?:^\|.*\n)+", TEXT, flags=re.MULTILINE)
    assert len(blocks) == 2
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_all_parts_are_there() -> None:
    for words in ("# Title\n", "- Found.", "\nDone.", "## One", "What it is.", "- **key**: text", "![alt](plot.png)"):
        assert words in TEXT, words
    assert "### More" in TEXT
    assert "## Problems\n\n- It failed." in TEXT


def test_answers_are_on_the_page_only() -> None:
    assert "Answers" not in TEXT
    assert "data:" not in TEXT
    assert "Only images" not in TEXT
    assert "Beside them" not in TEXT
