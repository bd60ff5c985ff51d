"""Tables of a document in terminals of several widths."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from visprompt.bench.report import terminal
from visprompt.bench.report.document import Cell, Column, Document, Fold, Section, Table, TableRow, Where


def shown(document: Document, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(terminal(document))
    return console.export_text()


def table(columns: int, where: Where = "everywhere", group: str = "") -> Table:
    heads = tuple(Column(f"column-{number}", group, "n 200") for number in range(columns))
    cells = tuple(Cell(f"{number}.5", f"{number}.0–{number}.9", best=number == 1) for number in range(columns))
    rows = TableRow("a way of pointing", cells), TableRow("none", cells, True)
    return Table("strategy", heads, rows, "A table", "What the cells are, in words.", where)


def one(*tables: Table, title: str = "Suite") -> Document:
    return Document(title, ("Found.",), sections=(Section("s", tables),))


@pytest.mark.parametrize("columns", [1, 4, 8, 20])
@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_every_cell_label_and_caption_fits(columns: int, width: int) -> None:
    text = shown(one(table(columns)), width)
    assert max(map(len, text.splitlines())) <= width
    for number in range(columns):
        for wanted in (f"column-{number}", f"{number}.5", f"{number}.0–{number}.9"):
            assert wanted in text, wanted
    assert "a way of pointing" in text
    assert "What the cells are, in words." in " ".join(text.split())
    assert "…" not in text


def test_intervals_stand_beside_values_where_there_is_room() -> None:
    assert "1.5 1.0–1.9" in shown(one(table(4)), 140)
    assert "1.5 1.0–1.9" not in shown(one(table(4)), 60)


def test_a_table_per_group_and_what_is_not_for_it_is_left_out() -> None:
    text = shown(one(table(1, group="model-a"), table(1, where="page", group="model-b")), 80)
    assert "Suite · model-a" in text
    assert "model-b" not in text
    folded = Document("Suite", sections=(Section("s", (Fold("f", (table(2),)),)),))
    assert "column-1" in shown(folded, 80)


def test_findings_come_last() -> None:
    assert shown(one(table(1)), 80).rstrip().endswith("Found.")


def test_brackets_in_names_are_text() -> None:
    heads = (Column("[x]", "m[/]", "[n]"),)
    rows = (TableRow("[/b] circle", (Cell("[1]", "[2]", "[3]"),)), TableRow("[/i]", (Cell(),), True))
    text = shown(
        Document("A [/bold] suite", sections=(Section("s", (Table("h", heads, rows, "", "c [/]", "everywhere"),)),)),
        120,
    )
    for wanted in ("[/b] circle", "m[/]", "[x]", "[n]", "[/i]", "A [/bold] suite", "[1] [2]", "[3]", "c [/]"):
        assert wanted in text, wanted
