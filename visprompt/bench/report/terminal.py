"""A `Document` in a terminal: the tables that are meant for it, as wide as the terminal allows."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from visprompt.bench.report.document import Cell, Column, Document, Table
from visprompt.bench.report.tables import by_group, pieces

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table as RichTable

_HEAD_WIDTH, _LABEL_WIDTH, _WORDS_WIDTH, _NUMBER_WIDTH = 14, 20, 14, 5


def terminal(document: Document) -> RenderableType:
    """What `visprompt bench` prints: findings and tables; it fits itself to the console that prints it."""
    return _Shown(document)


class _Shown:
    def __init__(self, document: Document) -> None:
        self.document = document

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        from rich.text import Text

        first = self.document.title
        for section, table in self.document.tables():
            if table.where == "page":
                continue
            title, first = first or table.title or section, ""
            for group, part in by_group(table):
                yield Text(" · ".join(filter(None, (title, group))), style="bold")
                yield from _fitted(part, options.max_width)
            yield Text(f"{table.caption}\n" if table.caption else "", style="dim")
        for sentence in self.document.findings:
            yield Text(sentence)


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
        texts = _head(column) if column.text else [*_head(column), *_lines(table, place, beside)]
        widths.append(max(_WORDS_WIDTH if column.text else _NUMBER_WIDTH, *map(len, texts)))
    return sum(widths) + (len(widths) if tight else 3 * len(widths) + 1)


def _lines(table: Table, place: int, beside: bool) -> list[str]:
    cells = [row.cells[place] for row in table.rows]
    return [line for cell in cells for line in _plain(cell, beside).split("\n")]


def _plain(cell: Cell, beside: bool) -> str:
    interval = f"{' ' if beside else chr(10)}{cell.interval}" if cell.interval else ""
    return f"{cell.text}{interval}" + (f"\n{cell.more}" if cell.more else "")


def _head(column: Column) -> list[str]:
    """The head of a column in short lines, its note below."""
    note = [line for part in column.note.split(", ") for line in textwrap.wrap(part, _HEAD_WIDTH)]
    return [*(textwrap.wrap(column.label, _HEAD_WIDTH) or [""]), *note]


def _grid(table: Table, beside: bool, tight: bool) -> RichTable:
    from rich import box
    from rich.markup import escape
    from rich.table import Table as NewTable

    grid = NewTable(box=box.SIMPLE_HEAD if tight else box.HEAVY_HEAD)
    if tight:
        grid.padding, grid.pad_edge = (0, 0, 0, 0), False
    grid.add_column(escape(table.head), overflow="fold")
    for column in table.columns:
        named, lines = len(textwrap.wrap(column.label, _HEAD_WIDTH)), [escape(line) for line in _head(column)]
        head = "\n".join([*lines[:named], *(f"[dim]{line}[/dim]" for line in lines[named:])])
        if column.text:
            grid.add_column(head, overflow="fold")
        else:
            grid.add_column(head, justify="right", no_wrap=True, min_width=_NUMBER_WIDTH)
    for place, row in enumerate(table.rows):
        following = table.rows[place + 1 :]
        label = f"[dim]{escape(row.label)}[/dim]" if row.control else escape(row.label)
        ends = bool(following) and following[0].control != row.control
        grid.add_row(label, *(_cell(cell, beside) for cell in row.cells), end_section=ends)
    return grid


def _cell(cell: Cell, beside: bool) -> str:
    from rich.markup import escape

    text = f"[bold]{escape(cell.text)}[/bold]" if cell.best else escape(cell.text)
    if cell.interval:
        text += f"{' ' if beside else chr(10)}[dim]{escape(cell.interval)}[/dim]"
    return f"{text}\n{escape(cell.more)}" if cell.more else text
