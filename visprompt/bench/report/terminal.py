"""A `Document` in a terminal: the tables that are meant for it, as wide as the terminal allows."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from visprompt.bench.report.document import Cell, Column, Document, Table
from visprompt.bench.report.tables import by_group, pieces

_HEAD_WIDTH, _LABEL_WIDTH, _WORDS_WIDTH, _NUMBER_WIDTH = 14, 20, 14, 5


def terminal(document: Document) -> RenderableType:
    """What `visprompt bench` prints: findings and tables; it fits itself to the console that prints it."""
    return _Shown(document)


@dataclass(frozen=True)
class _Shown:
    document: Document

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        first = self.document.title
        for section, table in self.document.tables():
            if table.where == "page":
                continue
            title, first = first or table.title or section, ""
            for group, part in by_group(table):
                yield Text(" · ".join(filter(None, (title, group))), style="bold")
                yield from _fitted(part, options.max_width)
            yield Text(f"{table.caption}\n" if table.caption else "", style="dim")
        yield from map(Text, self.document.findings)


def _fitted(table: Table, width: int) -> list[RichTable]:
    """The table in the roomiest form that fits: intervals beside values, below them, less space, several tables."""
    for beside, tight in ((True, False), (False, False), (False, True)):
        if _width(table, beside, tight) <= width:
            return [_grid(table, beside, tight)]
    if len(table.columns) < 2:
        return [_grid(table, beside=False, tight=True)]
    halves = pieces(table, -(-len(table.columns) // 2))
    return [grid for half in halves for grid in _fitted(half, width)]


def _width(table: Table, beside: bool, tight: bool) -> int:
    """Characters that a table needs; words may break, labels only where space is tight."""
    label = max(len(text) for text in (table.head, *(row.label for row in table.rows)))
    widths = [min(label, _LABEL_WIDTH) if tight else label]
    for place, column in enumerate(table.columns):
        cells = [] if column.text else [_shown(row.cells[place], beside) for row in table.rows]
        lines = [line for text in (_head(column), *cells) for line in text.plain.split("\n")]
        widths.append(max(_WORDS_WIDTH if column.text else _NUMBER_WIDTH, *map(len, lines)))
    return sum(widths) + (len(widths) if tight else 3 * len(widths) + 1)


def _shown(cell: Cell, beside: bool) -> Text:
    text = Text().append(cell.text, "bold" if cell.best else "")
    if cell.interval:
        text.append(" " if beside else "\n").append(cell.interval, "dim")
    return text.append(f"\n{cell.more}") if cell.more else text


def _head(column: Column) -> Text:
    """The head of a column in short lines, its note below."""
    text = Text("\n".join(textwrap.wrap(column.label, _HEAD_WIDTH)))
    for part in column.note.split(", ") if column.note else ():
        text.append("".join(f"\n{line}" for line in textwrap.wrap(part, _HEAD_WIDTH)), "dim")
    return text


def _grid(table: Table, beside: bool, tight: bool) -> RichTable:
    grid = RichTable(box=box.SIMPLE_HEAD if tight else box.HEAVY_HEAD)
    if tight:
        grid.padding, grid.pad_edge = (0, 0, 0, 0), False
    grid.add_column(Text(table.head), overflow="fold")
    for column in table.columns:
        if column.text:
            grid.add_column(_head(column), overflow="fold")
        else:
            grid.add_column(_head(column), justify="right", no_wrap=True, min_width=_NUMBER_WIDTH)
    for row, following in zip_longest(table.rows, table.rows[1:]):
        cells = (_shown(cell, beside) for cell in row.cells)
        ends = following is not None and following.control != row.control
        grid.add_row(Text().append(row.label, "dim" if row.control else ""), *cells, end_section=ends)
    return grid
