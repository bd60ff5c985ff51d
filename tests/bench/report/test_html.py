"""The page of a document: one file, escaped, whole, and without hidden columns."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib import resources

import jinja2
import pytest
from PIL import Image

from visprompt.bench.report import html
from visprompt.bench.report.document import (
    Bar,
    BarGroup,
    Card,
    Cell,
    Chart,
    Column,
    Document,
    Fields,
    Figure,
    Fold,
    Gallery,
    Panel,
    Prose,
    Section,
    Table,
    TableRow,
)
from visprompt.bench.report.html import MOST_COLUMNS, environment
from visprompt.bench.report.images import data_uri

EVIL = "<script>alert('&')</script>"
LONG = "A caption that goes on and on. " * 40
IMAGE = data_uri(Image.new("RGB", (8, 8)))
BARS = Panel(
    "p", (BarGroup("a", (Bar(2.0, 1.0, 5.0, "2.0"),)), BarGroup("b", (Bar(-1.0, None, None, "-1.0", 1),))), -1, 3, 0
)


def table(columns: int, text: bool = False, **changes: str) -> Table:
    heads = tuple(Column(f"c{number}", text=text) for number in range(columns))
    return Table("row", heads, (TableRow("first", tuple(Cell(f"v{i}", "0–1") for i in range(columns))),), **changes)  # type: ignore[arg-type]


def whole(text: str = "t") -> Document:
    """A document with every kind of block, and `text` wherever there is text."""
    figure = Figure(IMAGE, text, text, text, pixelated=True)
    cell = Cell(text, text, f"{text} (1 to 2)", best=True, clear=True, note=text)
    made = Table(
        text, (Column(text, text, text),), (TableRow(text, (cell,)), TableRow(text, (Cell(),), True)), text, text
    )
    blocks = (made, Prose(text), Fields(((text, text),)), figure, Gallery(text, (Card((figure,), text, text, False),)))
    chart = Chart(text, (Panel(text, (BarGroup(text, (Bar(1, 0, 2, text),)),), 0, 4, 1),), (text, text), text)
    section = Section(text, (*blocks, Fold(text, blocks)))
    return Document(text, (text,), chart, blocks, (text,), (section,), (text,), (text,), text)


class Page(HTMLParser):
    """Collects what a browser would fetch, images without a description, and tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.mute: list[str] = []
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.fetched += [str(values[key]) for key in ("src", "href") if key in values]
        if tag == "img" and not values.get("alt"):
            self.mute.append(str(values.get("src"))[:40])
        if tag not in ("meta", "img", "br", "link", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag


class TestPage:
    def test_one_file_without_scripts_that_fetches_nothing(self) -> None:
        page = Page(html(whole()))
        assert not page.open
        assert not page.mute
        assert "script" not in page.tags
        assert len(page.fetched) == 6
        assert all(one.startswith("data:image/") for one in page.fetched)
        assert "http" not in html(whole()).replace("http-equiv", "")

    def test_text_from_outside_is_escaped_everywhere(self) -> None:
        text = html(whole(EVIL))
        assert "<script" not in text
        assert text.count("&lt;script&gt;") > 30
        assert Page(text).tags - {"wbr"} == Page(html(whole())).tags

    def test_a_forgotten_name_is_an_error(self) -> None:
        with pytest.raises(jinja2.UndefinedError):
            environment().from_string("{{ nothing }}").render()

    def test_what_was_found_and_images_come_before_prose(self) -> None:
        text = html(Document("t", ("Found.",), None, (Prose("Shown."),), ("Done.",), (Section("s", (table(1),)),)))
        assert text.index("Found.") < text.index("Shown.") < text.index("Done.") < text.index("<table")

    def test_captions_are_whole(self) -> None:
        text = html(whole(LONG))
        assert "…" not in text
        assert text.count(LONG) > 20

    def test_terminal_tables_are_not_on_it(self) -> None:
        text = html(Document("t", sections=(Section("s", (table(1, title="hidden", where="terminal"),)),)))
        assert "hidden" not in text


class TestWidth:
    def test_wide_tables_are_cut_into_several_that_keep_their_labels(self) -> None:
        text = html(Document("t", sections=(Section("s", (table(2 * MOST_COLUMNS + 1),)),)))
        tables = re.findall(r"<table.*?</table>", text, flags=re.DOTALL)
        assert len(tables) == 3
        assert all(one.count("<td") <= MOST_COLUMNS and ">first</th>" in one for one in tables)
        assert text.count("<td") == 2 * MOST_COLUMNS + 1

    def test_groups_are_tables_side_by_side(self) -> None:
        heads = (Column("a", "m"), Column("b", "m"), Column("a", "n"))
        made = Table("row", heads, (TableRow("first", (Cell("1"), Cell("2"), Cell("3"))),))
        text = html(Document("t", sections=(Section("s", (made,)),)))
        assert re.findall(r"<caption>(.)</caption>", text) == ["m", "n"]
        assert text.count(">first</th>") == 2

    def test_only_narrow_screens_scroll_and_nothing_is_cut_off(self) -> None:
        css = resources.files("visprompt.bench.report").joinpath("templates/report.css").read_text(encoding="utf-8")
        wide, narrow = css.split("@media (max-width")
        assert "overflow-x" not in wide
        assert "overflow-x: auto" in narrow
        assert "position: sticky" in narrow  # labels stay while a table scrolls
        for cut in ("ellipsis", "line-clamp", "overflow: hidden"):
            assert cut not in css
        assert "prefers-color-scheme: dark" in css

    def test_rows_of_words_are_stacked_with_their_heads(self) -> None:
        text = html(Document("t", sections=(Section("s", (table(2, text=True),)),)))
        assert '<table class="stack">' in text
        assert re.findall(r'data-label="(c.)"', text) == ["c0", "c1"]


class TestChart:
    def test_bars_lie_where_their_values_are(self) -> None:
        text = html(Document("t", chart=Chart("c", (BARS,), ("x", "y"))))
        assert 'class="bar s0" style="left:25.0%;width:50.0%"' in text
        assert 'class="bar s1" style="left:0.0%;width:25.0%"' in text
        assert 'class="whisker" style="left:50.0%;width:50.0%"' in text  # its end lies outside
        assert text.count('class="whisker"') == 1
        assert text.count('class="reference" style="left:25.0%"') == 2

    def test_one_series_needs_no_key(self) -> None:
        assert 'class="keys"' in html(Document("t", chart=Chart("c", (BARS,), ("x", "y"))))
        assert 'class="keys"' not in html(Document("t", chart=Chart("c", (BARS,))))
