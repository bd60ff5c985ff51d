"""Numbers as text, tables of result rows, and tables cut to a width: what all kinds of suites and renderers share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from visprompt.bench.report.document import Cell, Column, Row, Table, TableRow

#: one column of a table: its head (a plain name stands over numbers), and what a row has there
ColumnOf: TypeAlias = tuple[Column | str, Callable[[Any], Cell | str]]


def percent(value: float | None) -> str:
    """A share as percent with one digit; "–" for None.

    >>> percent(0.914), percent(None)
    ('91.4', '–')
    """
    return "–" if value is None else f"{100 * value:.1f}"


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return f"{100 * value:+.1f}"


def has_interval(n: int | None) -> bool:
    """False for one item or none: no spread can be estimated. An unknown number counts as enough."""
    return n is None or n > 1


def percent_interval(low: float | None, high: float | None, n: int | None) -> str:
    """An interval of shares, in percent; empty without one, and with fewer than two items, which give none.

    >>> percent_interval(0.914, 0.945, 200), percent_interval(0.2, 1.0, 1)
    ('91.4–94.5', '')
    """
    return "" if low is None or high is None or not has_interval(n) else f"{percent(low)}–{percent(high)}"


def row_interval(row: Row) -> str:
    """`percent_interval` of a result row."""
    return percent_interval(row["low"], row["high"], row["n"])


def nested_interval(content: Mapping[str, Any]) -> str:
    """`percent_interval` of what stands inside a row, with `ci95` and `n`."""
    low, high = content["ci95"] or (None, None)
    return percent_interval(low, high, content["n"])


def number_interval(low: float | None, high: float | None, n: int | None) -> str:
    """An interval of numbers with two digits; an end without a bound is said in words.

    >>> number_interval(0.62, 0.854, 9), number_interval(1.25, None, 9), number_interval(0.1, 0.2, 1)
    ('0.62 to 0.85', 'above 1.25', '')
    """
    if not has_interval(n):
        return ""
    if low is None:
        return "unbounded" if high is None else f"below {high:.2f}"
    return f"above {low:.2f}" if high is None else f"{low:.2f} to {high:.2f}"


def difference_text(comparison: Mapping[str, Any] | None) -> str:
    """A paired difference in percentage points; empty without one.

    >>> difference_text({"difference": 0.03, "ci95": [0.005, 0.055], "n": 40})
    '+3.0 (+0.5 to +5.5)'
    """
    if not comparison:
        return ""
    interval = difference_interval(comparison)
    return points(comparison["difference"]) + (f" ({interval})" if interval else "")


def difference_interval(comparison: Mapping[str, Any]) -> str:
    """The interval of a paired difference: "+0.5 to +5.5"; empty without one."""
    known = comparison.get("ci95") is not None and has_interval(comparison.get("n"))
    return " to ".join(map(points, comparison["ci95"])) if known else ""


def is_clear(comparison: Mapping[str, Any] | None) -> bool:
    """True if the interval of a paired difference excludes 0."""
    if not comparison or not difference_interval(comparison):
        return False
    low, high = comparison["ci95"]
    return bool(low > 0 or high < 0)


def span(values: Iterable[float], text: Callable[[float], str] = percent) -> str:
    """The lowest and the highest value, or one of them if they look alike.

    >>> span([0.417, 1.0, 0.5]), span([0.5])
    ('41.7 to 100.0', '50.0')
    """
    known = sorted(values)
    return " to ".join(dict.fromkeys((text(known[0]), text(known[-1]))))


def listed(names: Iterable[str], most: int = 4) -> str:
    """Names in a sentence: of more than `most`, the first and how many there are besides.

    >>> listed("abc"), listed("abcdef", most=2)
    ('a, b and c', 'a, b and 4 more')
    """
    known = list(names)
    if len(known) > most:
        known = [*known[:most], f"{len(known) - most} more"]
    return known[0] if len(known) == 1 else f"{', '.join(known[:-1])} and {known[-1]}"


def counted(n: int, noun: str) -> str:
    """A number with its noun, in the plural with "s" unless it is 1.

    >>> counted(1, "model"), counted(1200, "image")
    ('1 model', '1,200 images')
    """
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def pairs(content: Mapping[str, Any]) -> str:
    """A mapping as text: "epochs 3, lr 0.1"."""
    return ", ".join(f"{key} {value}" for key, value in content.items())


def grouped(rows: Iterable[Row], *keys: str) -> dict[Any, list[Row]]:
    """Rows by the value of a key, or by a tuple of several; in the order of their first rows."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys) if len(keys) > 1 else row[keys[0]], []).append(row)
    return found


def measured(rows: Iterable[Row]) -> list[Row]:
    """The rows that have a value."""
    return [row for row in rows if row["value"] is not None]


def wins(rows: Iterable[Row], *keys: str) -> dict[str, int]:
    """In how many groups (see `grouped`) a label has the highest value, or is level with it; controls are left out."""
    groups = grouped(rows, *keys).values()
    tops = [(row, max(one["value"] for one in group)) for group in groups for row in group if not row["control"]]
    found = {row["row"]: 0 for row, _ in tops}
    for row, top in tops:
        found[row["row"]] += row["value"] == top
    return found


def controls_last(rows: Iterable[Row]) -> list[Row]:
    """The rows in their order, controls after all others."""
    return sorted(rows, key=lambda row: bool(row["control"]))


def listing(
    head: str, rows: Iterable[Row], columns: Sequence[ColumnOf], label: str = "row", below: Any = (), **rest: Any
) -> Table:
    """A table with a line per row, whose label stands under a key of the row; `rest` is what else `Table` takes."""
    lines = [
        TableRow(str(row[label]), tuple(_cell(show(row)) for _, show in columns), bool(row.get("control")))
        for row in rows
    ]
    return Table(head, tuple(_column(one) for one, _ in columns), (*lines, *below), **rest)


def _column(head: Column | str) -> Column:
    return Column(head) if isinstance(head, str) else head


def _cell(shown: Cell | str) -> Cell:
    return Cell(shown) if isinstance(shown, str) else shown


def grid(
    head: str,
    rows: Sequence[Row],
    keys: Sequence[str],
    column: Callable[[Sequence[Row]], Column],
    cell: Callable[[Row | None, Sequence[Row]], Cell],
    labels: Sequence[str] | None = None,
    below: tuple[str, Callable[[Sequence[Row]], Cell]] | None = None,
    before: Sequence[ColumnOf] = (),
    **rest: Any,
) -> Table:
    """A table of result rows: their labels down, controls last, and what `keys` (as "model", "task") tell apart across.

    Args:
        head, rest: as of `Table`.
        rows, keys: result rows, and the keys whose values make a column.
        column, cell: the head of a column, of its rows; a cell, of its row (or None) and all rows of its column.
        labels: the labels in order; by default as in `rows`, controls last.
        below: label and cells of a last row, as for chance.
        before: columns before the others, whose cells are made of all rows of a label.
    """
    across, by_label = list(grouped(rows, *keys).values()), grouped(rows, "row")
    controls = {row["row"] for row in rows if row["control"]}
    lines = []
    for label in labels or sorted(by_label, key=controls.__contains__):
        cells = [cell(next((row for row in own if row["row"] == label), None), own) for own in across]
        first = (_cell(show(by_label[label])) for _, show in before)
        lines.append(TableRow(label, (*first, *cells), label in controls))
    if below is not None:
        lines.append(TableRow(below[0], (*(Cell("") for _ in before), *map(below[1], across)), True))
    return Table(head, (*(_column(one) for one, _ in before), *map(column, across)), tuple(lines), **rest)


def best_of(rows: Iterable[Row]) -> float | None:
    """The highest value, controls left out; None without one."""
    return max((row["value"] for row in measured(rows) if not row["control"]), default=None)


def is_best(row: Row, rows: Iterable[Row]) -> bool:
    """Whether a row has the highest value of these rows; a control never has."""
    return bool(row["value"] == best_of(rows) and not row["control"])


def chance_of(rows: Iterable[Row]) -> float | None:
    """The level of chance, of the first row that has one."""
    return next((row["chance"] for row in rows if row.get("chance") is not None), None)


def chance_cell(rows: Sequence[Row]) -> Cell:
    """The level of chance of a column, in percent."""
    return Cell(percent(chance_of(rows)))


def by_group(table: Table) -> list[tuple[str, Table]]:
    """The table as one table per group of columns, with the group's name; without groups, the table itself."""
    groups = dict.fromkeys(column.group for column in table.columns) or [""]
    return [(one, _only(table, [i for i, head in enumerate(table.columns) if head.group == one])) for one in groups]


def pieces(table: Table, most: int) -> list[Table]:
    """The table as tables of at most `most` columns each, as equal in width as possible; all have all rows."""
    count = len(table.columns)
    size = -(-count // max(1, -(-count // most)))
    return [_only(table, range(start, min(start + size, count))) for start in range(0, count, size)] or [table]


def _only(table: Table, places: Sequence[int]) -> Table:
    rows = tuple(dataclasses.replace(row, cells=tuple(row.cells[place] for place in places)) for row in table.rows)
    return dataclasses.replace(table, columns=tuple(table.columns[place] for place in places), rows=rows)
