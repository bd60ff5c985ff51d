"""Numbers as text, and tables cut to a width."""

from __future__ import annotations

import pytest

from visprompt.bench.report.document import Cell, Column, Table, TableRow
from visprompt.bench.report.tables import (
    by_group,
    difference_text,
    is_clear,
    nested_interval,
    number_interval,
    percent_interval,
    pieces,
)


def table(groups: str) -> Table:
    heads = tuple(Column(f"c{place}", group) for place, group in enumerate(groups))
    return Table("h", heads, (TableRow("r", tuple(Cell(str(place)) for place in range(len(groups)))),))


@pytest.mark.parametrize("n", [0, 1])
def test_no_interval_of_fewer_than_two_items(n: int) -> None:
    compared = {"difference": 0.5, "ci95": [0.1, 0.9], "n": n}
    assert percent_interval(0.1, 0.9, n) == number_interval(0.1, 0.9, n) == nested_interval(compared) == ""
    assert difference_text(compared) == "+50.0"
    assert not is_clear(compared)


def test_an_interval_that_is_missing_is_not_shown() -> None:
    assert percent_interval(None, None, 9) == nested_interval({"ci95": None, "n": 9}) == ""
    assert difference_text({"difference": 0.5, "ci95": None, "n": 9}) == "+50.0"
    assert difference_text(None) == ""


def test_differences_are_clear_if_zero_is_outside() -> None:
    for ends, clear in (([0.1, 0.9], True), ([-0.9, -0.1], True), ([-0.1, 0.9], False), ([0.0, 0.9], False)):
        assert is_clear({"difference": 0.5, "ci95": ends, "n": 9}) is clear


def test_groups() -> None:
    found = by_group(table("aba"))
    assert [(group, [column.label for column in one.columns]) for group, one in found] == [
        ("a", ["c0", "c2"]),
        ("b", ["c1"]),
    ]
    assert [cell.text for cell in found[0][1].rows[0].cells] == ["0", "2"]
    assert len(by_group(table(""))) == 1


@pytest.mark.parametrize(("columns", "sizes"), [(3, [3]), (4, [4]), (5, [3, 2]), (9, [3, 3, 3]), (13, [4, 4, 4, 1])])
def test_pieces(columns: int, sizes: list[int]) -> None:
    found = pieces(table("a" * columns), 4)
    assert [len(one.columns) for one in found] == sizes
    assert [cell.text for one in found for cell in one.rows[0].cells] == [str(place) for place in range(columns)]
