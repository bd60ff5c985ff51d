"""A report as data: what is said, without how it is shown.

Every kind of suite makes a `Document`, which `visprompt.bench.report` shows in a terminal, as Markdown and as HTML.
Values are text that is ready to be shown, except in `Chart`. Nothing is escaped here: renderers do that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Row: TypeAlias = Mapping[str, Any]

#: "page": HTML and Markdown; "everywhere": these and the terminal
Where: TypeAlias = Literal["page", "terminal", "everywhere"]


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str = "–"
    interval: str = ""  # interval or spread: "91.4–94.5", "± 0.8"
    more: str = ""  # a second statement with its own interval: a difference "+3.0 (+0.5 to +5.5)"
    best: bool = False  # `text` is emphasised, as the best of its column
    clear: bool = False  # `more` is emphasised: its interval excludes "no difference"
    note: str = ""  # a sentence with the details, shown where the pointer rests on the cell


@dataclass(frozen=True)
class Column:
    """The head of a column."""

    label: str
    group: str = ""  # what it belongs to, as a model
    note: str = ""  # a short addition, as "n 200"
    text: bool = False  # its cells are words: they are set left, and their lines may break


@dataclass(frozen=True)
class TableRow:
    """One row: its label, a cell per column, and whether it is a control."""

    label: str
    cells: tuple[Cell, ...]
    control: bool = False


@dataclass(frozen=True)
class Table:
    """A table with labels in its first column, which `head` names; the caption says what the cells are, with units."""

    head: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    title: str = ""
    caption: str = ""
    where: Where = "page"


@dataclass(frozen=True)
class Prose:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Fields:
    """Names with what belongs to each: tasks with their titles, or what the results depend on."""

    items: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Figure:
    """An image as a data URI, what it shows in words (`alt`), its title and its caption."""

    uri: str
    alt: str
    title: str = ""
    caption: str = ""
    name: str = ""  # the stem of the PNG file that is written beside the report; empty: none is written
    pixelated: bool = False  # pixels stay square when it is enlarged


@dataclass(frozen=True)
class Card:
    """One answer of a model: the question (and what the model got, if it differs), what was asked and answered."""

    images: tuple[Figure, ...]
    text: str
    answer: str
    correct: bool


@dataclass(frozen=True)
class Gallery:
    """Answers side by side under a title."""

    title: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class Fold:
    """Blocks that a page shows after a click on `summary`, unless `opened`."""

    summary: str
    blocks: tuple[Block, ...]
    opened: bool = False


Block: TypeAlias = Table | Prose | Fields | Figure | Gallery | Fold


@dataclass(frozen=True)
class Section:
    """A part of a report."""

    title: str
    blocks: tuple[Block, ...]


def sections(found: Mapping[str, Sequence[Block]]) -> tuple[Section, ...]:
    """Sections from blocks by title, without blocks that hold nothing and without sections that have no blocks."""
    kept = {title: tuple(filter(_holds_something, blocks)) for title, blocks in found.items()}
    return tuple(Section(title, blocks) for title, blocks in kept.items() if blocks)


def _holds_something(block: Block) -> bool:
    """False for tables without rows, names without any, and folds of such blocks."""
    if isinstance(block, Fold):
        return any(map(_holds_something, block.blocks))
    return bool(block.rows) if isinstance(block, Table) else not isinstance(block, Fields) or bool(block.items)


@dataclass(frozen=True)
class Bar:
    """One bar of a chart: its value in the chart's unit and as text, the ends of its interval, its series."""

    value: float
    low: float | None
    high: float | None
    text: str
    series: int = 0


@dataclass(frozen=True)
class BarGroup:
    """The bars of one label, one per series."""

    label: str
    bars: tuple[Bar, ...]
    control: bool = False


@dataclass(frozen=True)
class Panel:
    """Bars on one scale, which goes from `start` to `end`; a dotted line stands at `reference`, as for chance."""

    title: str
    groups: tuple[BarGroup, ...]
    start: float
    end: float
    reference: float | None = None


@dataclass(frozen=True)
class Chart:
    """Bars with intervals, panel beside panel, a colour per series; drawn by the page, without a plotting library."""

    title: str
    panels: tuple[Panel, ...]
    series: tuple[str, ...] = ("",)
    caption: str = ""


@dataclass(frozen=True)
class Document:
    """A report."""

    title: str
    findings: tuple[str, ...] = ()  # at most three sentences; every number in them is one of this run's rows
    chart: Chart | None = None  # the findings as bars; None if nothing was measured
    examples: tuple[Block, ...] = ()  # images that are shown first
    description: tuple[str, ...] = ()  # what the suite does, paragraph by paragraph
    sections: tuple[Section, ...] = ()
    problems: tuple[str, ...] = ()  # sentences on what went wrong
    notes: tuple[str, ...] = ()  # sentences on what is not shown, and why
    footer: str = ""  # which files lie beside the report

    def tables(self) -> Iterator[tuple[str, Table]]:
        """All tables, each with the title of its section."""
        for section in self.sections:
            yield from ((section.title, block) for block in flat(section.blocks) if isinstance(block, Table))

    def figures(self) -> Iterator[Figure]:
        """All images that have a file of their own."""
        blocks = [*self.examples, *(block for section in self.sections for block in section.blocks)]
        yield from (block for block in flat(blocks) if isinstance(block, Figure) and block.name)


def flat(blocks: Sequence[Block]) -> Iterator[Block]:
    """The blocks, with those in folds in place of the folds."""
    for block in blocks:
        yield from flat(block.blocks) if isinstance(block, Fold) else (block,)
