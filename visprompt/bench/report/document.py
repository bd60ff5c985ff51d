"""A report as data: what is said, without how it is shown.

Every kind of suite makes a `Document` of its result; `visprompt.bench.report` shows any of them in a terminal, as
Markdown and as one HTML page. All values here are text that is ready to be shown, except in `Chart`, which is drawn.
Nothing here is escaped: renderers do that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

Row: TypeAlias = Mapping[str, Any]

#: "page": HTML and Markdown; "everywhere": these and the terminal
Where: TypeAlias = Literal["page", "terminal", "everywhere"]


class Result(Protocol):
    """What a document is made of: the result of a suite.

    Attributes:
        suite: the suite, as its kind parses it.
        rows: as in `results.jsonl`.
        problems: sentences on what went wrong.
        out: the folder of the results.
        examples: images for the report, of a type that the kind knows.
        files: rows of further files by their stem.
    """

    @property
    def suite(self) -> Any: ...
    @property
    def rows(self) -> Sequence[Row]: ...
    @property
    def problems(self) -> Sequence[str]: ...
    @property
    def out(self) -> Path: ...
    @property
    def examples(self) -> Any: ...
    @property
    def files(self) -> Mapping[str, Sequence[Row]]: ...


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: the value, "–" where there is none.
        interval: its interval or spread, "91.4–94.5" or "± 0.8"; empty if there is none.
        more: a second statement with its own interval: a difference "+3.0 (+0.5 to +5.5)" or a ratio.
        best: the best of its column; it is emphasised.
        clear: the interval in `more` excludes "no difference"; `more` is emphasised.
        note: a sentence with the details, shown where the pointer rests on the cell.
    """

    text: str = "–"
    interval: str = ""
    more: str = ""
    best: bool = False
    clear: bool = False
    note: str = ""


@dataclass(frozen=True)
class Column:
    """The head of a column.

    Attributes:
        label: its name.
        group: a name that neighbouring columns share, as the model of several tasks; empty without groups.
        note: a short addition, as "n 200".
        text: the cells are words: set left, and lines may break.
    """

    label: str
    group: str = ""
    note: str = ""
    text: bool = False


@dataclass(frozen=True)
class TableRow:
    """One row: its label, one cell per column, and whether it is a control."""

    label: str
    cells: tuple[Cell, ...]
    control: bool = False


@dataclass(frozen=True)
class Table:
    """A table with labels in its first column.

    Attributes:
        head: what the labels are, as "strategy".
        columns: all columns but the first.
        rows: controls last.
        title: above the table; empty if the section's title says it.
        caption: what the cells are, with units.
        where: where it is shown.
    """

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
    """An image.

    Attributes:
        uri: the image as a data URI.
        alt: what it shows, in words.
        title: above it; empty for none.
        caption: below it; shown whole.
        name: the stem of the PNG file that is written beside the report; empty: none is written.
        pixelated: pixels stay square when it is enlarged.
    """

    uri: str
    alt: str
    title: str = ""
    caption: str = ""
    name: str = ""
    pixelated: bool = False


@dataclass(frozen=True)
class Card:
    """One answer of a model.

    Attributes:
        images: the question, and where it differs what the model got.
        text: what was asked.
        answer: what came out.
        correct: whether that is right.
    """

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

    def tables(self) -> Iterator[Table]:
        """All tables, those in folds included."""
        yield from _tables(self.blocks)


@dataclass(frozen=True)
class Bar:
    """One bar of a chart.

    Attributes:
        value: its length, in the chart's unit.
        low, high: ends of its interval; None where there is none.
        text: the value as text.
        series: index into `Chart.series`.
    """

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
    """Bars on one scale.

    Attributes:
        title: above them.
        groups: from above to below.
        start, end: of the scale; 0 lies between or at an end.
        reference: where a dotted line stands, as the level of chance; None for none.
    """

    title: str
    groups: tuple[BarGroup, ...]
    start: float
    end: float
    reference: float | None = None

    def has_intervals(self) -> bool:
        """True if any bar has an interval."""
        return any(bar.low is not None for group in self.groups for bar in group.bars)


@dataclass(frozen=True)
class Chart:
    """Bars with intervals, made from rows; drawn by the page itself, so that it needs no plotting library.

    Attributes:
        title: what is shown, with its unit.
        panels: side by side.
        series: what the colours are, as models; one name needs no key.
        caption: how to read it.
    """

    title: str
    panels: tuple[Panel, ...]
    series: tuple[str, ...] = ("",)
    caption: str = ""


@dataclass(frozen=True)
class Document:
    """A report.

    Attributes:
        title: of the suite.
        findings: at most three sentences on what was found; every number in them is one of this run's rows.
        chart: the findings as bars; None if nothing was measured.
        examples: images that are shown first.
        description: what the suite does, paragraph by paragraph.
        sections: all else, in order.
        problems: sentences on what went wrong.
        notes: sentences on what is not shown, and why.
        footer: which files lie beside the report.
    """

    title: str
    findings: tuple[str, ...] = ()
    chart: Chart | None = None
    examples: tuple[Block, ...] = ()
    description: tuple[str, ...] = ()
    sections: tuple[Section, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    footer: str = ""

    def figures(self) -> Iterator[Figure]:
        """All images that have a file of their own."""
        blocks = [*self.examples, *(block for section in self.sections for block in section.blocks)]
        yield from (figure for figure in _figures(tuple(blocks)) if figure.name)


def _tables(blocks: tuple[Block, ...]) -> Iterator[Table]:
    for block in blocks:
        if isinstance(block, Table):
            yield block
        elif isinstance(block, Fold):
            yield from _tables(block.blocks)


def _figures(blocks: tuple[Block, ...]) -> Iterator[Figure]:
    for block in blocks:
        if isinstance(block, Figure):
            yield block
        elif isinstance(block, Fold):
            yield from _figures(block.blocks)
