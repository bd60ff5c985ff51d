"""Reports from rows that are made up, and figures that are looked into."""

import dataclasses
import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from visprompt.bench.accuracy.examples import Card, Exhibits, data_uri
from visprompt.bench.accuracy.report import html, markdown, matching_figures, protocol, summary, terminal, write_report
from visprompt.bench.accuracy.run import BenchResult
from visprompt.bench.suite import parse_suite
from visprompt.errors import UnsupportedError
from visprompt.plots import base as plots

SUITE = parse_suite(
    {
        "title": "A <b>suite</b> & more",
        "description": "About it.",
        "tasks": {
            "boxes": {
                "task": "referring",
                "title": "Which box",
                "data": {"source": "scenes"},
                "published": "refcoco-testa",
            }
        },
        "strategies": ["none", "circle", "falip", "crop|falip"],
    },
    "made-up",
)


def row(strategy: str, value: float | None, model: str = "m", **changes: Any) -> dict[str, Any]:
    made = {
        "suite": "made-up",
        "suite_hash": "0",
        "task": "boxes",
        "task_title": "Which box",
        "model": model,
        "strategy": strategy,
        "control": strategy in ("none", "random"),
        "metric": "accuracy",
        "value": value,
        "ci95": None if value is None else [value - 0.05, value + 0.05],
        "ci_method": "wilson",
        "n": 100,
        "correct": None if value is None else round(100 * value),
        "chance": 0.25,
        "errors": 0,
        "error_example": None,
        "settings": {"task": "referring", "template": "{}"},
        "pointing": {"strategy": strategy},
        "model_identity": {"name": model, "weights": "abc"},
        "data": {"source": "scenes", "hash": "def"},
        "boxes": "gold",
        "published": "refcoco-testa",
        "versions": {"visprompt": "0.1.0", "torch": "2"},
        "git_commit": None,
        "code": "123",
        "machine": "here",
        "seconds": 1.0,
        "date": "2026-01-01",
        "comparisons": {},
    }
    return {**made, **changes}


ROWS = [
    row("none", 0.25),
    row("circle", 0.5, comparisons={"none": {"difference": 0.25, "ci95": [0.1, 0.4], "mcnemar_p": 0.0001, "n": 100}}),
    row("falip", 0.9),
    row("crop|falip", None, unsupported="no attention here"),
    row("random", 0.24),
]


def result(tmp_path: Path, rows: list[dict[str, Any]] = ROWS, exhibits: Exhibits | None = None) -> BenchResult:
    return BenchResult(SUITE, rows, [], ["one <problem>"], tmp_path, exhibits or Exhibits())


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
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag


class TestPage:
    def test_one_file_without_scripts_that_fetches_nothing(self, tmp_path: Path) -> None:
        card = Card(data_uri(Image.new("RGB", (8, 8))), None, "a picture", "“the <star>”", "box 1", True)
        exhibits = Exhibits(
            {("m", "boxes"): {"falip": [card]}}, {"m": (data_uri(plots.to_png(plots.bar_chart(ROWS))), "maps")}
        )
        page = Page(html(result(tmp_path, exhibits=exhibits)))
        assert not page.open
        assert not page.mute
        assert "script" not in page.tags
        assert len(page.fetched) == 3
        assert all(one.startswith("data:image/") for one in page.fetched)

    def test_text_from_outside_is_escaped(self, tmp_path: Path) -> None:
        text = html(result(tmp_path))
        assert "A &lt;b&gt;suite&lt;/b&gt; &amp; more" in text
        assert "one &lt;problem&gt;" in text

    def test_figures_published_and_unsupported_are_in_it(self, tmp_path: Path) -> None:
        text = html(result(tmp_path))
        for wanted in (
            "90.0",
            "85.0–95.0",
            "no attention here",
            "44.2",
            "secondary source",
            "gold boxes, n = 100",
            "+25.0 (+10.0 to +40.0)",
        ):
            assert wanted in text, wanted

    def test_points_are_not_called_boxes(self) -> None:
        asked = {"task": "keypoints", "template": "{}"}
        assert protocol([row("none", 0.5, settings=asked)]) == "marked points, n = 100"
        assert protocol([row("none", 0.5), row("none", 0.5, settings=asked)]) == "gold boxes and marked points, n = 100"

    def test_a_question_gets_no_full_stop(self, tmp_path: Path) -> None:
        made = result(tmp_path)
        task = dataclasses.replace(made.suite.tasks[0], title="Which box?")
        asked = dataclasses.replace(made, suite=dataclasses.replace(made.suite, tasks=(task,)))
        for text in (html(asked), markdown(asked)):
            assert "Which box?" in text
            assert "?." not in text

    def test_without_matplotlib_the_tables_are_still_there(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(plots, "have_matplotlib", lambda: False)
        text = html(result(tmp_path))
        assert "85.0–95.0" in text
        assert "visprompt-toolkit[plots]" in text

    def test_files(self, tmp_path: Path) -> None:
        paths = write_report(result(tmp_path))
        assert [path.name for path in paths] == ["report.html", "report.md"]
        assert all(path.stat().st_size > 500 for path in paths)

    def test_nothing_measured(self, tmp_path: Path) -> None:
        assert "unsupported" not in html(result(tmp_path, [row("falip", None)]))


class TestTable:
    def test_best_is_the_best_that_is_no_control(self) -> None:
        table = summary([*ROWS, row("random", 0.99, model="n"), row("falip", 0.3, model="n")])
        best = {
            (line.label, column)
            for line in table.lines
            for column, cell in zip(table.columns, line.cells, strict=True)
            if cell.best
        }
        assert best == {("falip", ("m", "boxes")), ("falip", ("n", "boxes"))}
        assert [line.control for line in table.lines] == sorted(line.control for line in table.lines)
        assert table.models == (("m", 1), ("n", 1))

    def test_markdown_tables_have_equally_many_columns(self, tmp_path: Path) -> None:
        blocks = re.findall(r"(?:^\|.*\n)+", markdown(result(tmp_path)), flags=re.MULTILINE)
        assert blocks
        for block in blocks:
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1

    def test_terminal(self) -> None:
        from rich.console import Console

        console = Console(width=100, record=True, file=io.StringIO())
        console.print(terminal(ROWS, "A suite"))
        text = console.export_text()
        assert "90.0" in text
        assert "crop|falip" in text

    def test_brackets_in_names_are_text(self) -> None:
        from rich.console import Console

        console = Console(width=120, record=True, file=io.StringIO())
        rows = [
            row("[/b] circle", 0.5, model="m[/]", task="[x]"),
            row("[/i]", 0.2, control=True, model="m[/]", task="[x]"),
        ]
        console.print(terminal(rows, "A [/bold] suite"))
        text = console.export_text()
        for wanted in ("[/b] circle", "m[/]", "[x]", "[/i]", "A [/bold] suite"):
            assert wanted in text

    def test_published_figures_need_the_same_task_and_strategy(self) -> None:
        assert {one["strategy"] for one in matching_figures(ROWS)} == {"circle", "falip"}
        assert matching_figures([row("falip", 0.5, published=None)]) == []


class TestPlots:
    def test_share_in_box_counts_border_pixels_by_area(self) -> None:
        uniform = np.ones((8, 8))
        assert plots.share_in_box(uniform, (64, 64), (0, 0, 32, 64)) == pytest.approx(0.5)
        assert plots.share_in_box(uniform, (64, 64), (4, 0, 12, 64)) == pytest.approx(0.125)
        assert plots.share_in_box(np.zeros((8, 8)), (64, 64), (0, 0, 9, 9)) == 0

    def test_bars_are_where_the_rows_say(self) -> None:
        figure = plots.bar_chart([*ROWS, row("falip", 0.4, model="n")])
        bars = [
            bar for container in figure.axes[0].containers if hasattr(container, "patches") for bar in container.patches
        ]
        assert sorted(round(bar.get_width()) for bar in bars) == [24, 25, 40, 50, 90]
        assert figure.axes[0].get_xlim() == (0, 100)

    @pytest.mark.parametrize("size", [(64, 64), (90, 30), (30, 90)])
    def test_panels(self, size: tuple[int, int]) -> None:
        picture = Image.new("RGB", size, "red")
        attention = np.random.default_rng(0).random((size[1], size[0]))
        figures = [
            plots.heatmap(picture, attention, (2, 2, 20, 20), "a map"),
            plots.before_after(picture, picture, attention, attention * 2, (2, 2, 20, 20), (2, 2, 20, 20), "circle"),
            plots.picture_pair(picture, picture.resize((10, 10)), (2, 2, 20, 20), "crop"),
        ]
        for figure in figures:
            assert plots.to_png(figure, dpi=40).startswith(b"\x89PNG")
        assert len(figures[0].axes) == 2  # the picture and its colour bar

    def test_dollars_are_no_formulas(self) -> None:
        figure = plots.bar_chart([row(r"a $\no{$ b", 0.5, model=r"$\x$", task_title=r"$\y{$")])
        assert plots.to_png(figure, dpi=40).startswith(b"\x89PNG")

    def test_missing_matplotlib_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(UnsupportedError, match=r"pip install"):
            plots.bar_chart(ROWS)

    def test_photographs_become_jpeg_and_small_pictures_png(self) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
        assert data_uri(Image.fromarray(noise)).startswith("data:image/jpeg;base64,")
        assert data_uri(Image.new("RGB", (64, 64))).startswith("data:image/png;base64,")
