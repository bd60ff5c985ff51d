"""A `Document` as one HTML page: style and images inside, no scripts, nothing to fetch."""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING

from visprompt.bench.report.document import Bar, Document, Panel, Table
from visprompt.bench.report.images import png_of
from visprompt.bench.report.tables import by_group, pieces

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

#: as many columns of numbers stand side by side on a wide screen; further ones go into a table below
MOST_COLUMNS = 12


def html(document: Document) -> str:
    """The report as a page. Text from outside is escaped, and a name that the template lacks is an error."""
    return environment().get_template("report.html.j2").render(document=document)


def environment() -> Environment:
    """Where the template is: all values are escaped, and none is forgotten."""
    import jinja2

    folder = resources.files("visprompt.bench.report") / "templates"
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= {"parts": _parts, "bar": _bar, "place": _place, "breakable": _breakable}
    made.filters["kind"] = lambda block: type(block).__name__
    # The width of a PNG file in pixels, below which narrow screens do not shrink a figure by much.
    made.filters["natural"] = lambda figure: int.from_bytes(png_of(figure)[16:20], "big")
    # Rows with running text are stacked on narrow screens.
    made.tests["words"] = lambda table: any(column.text for column in table.columns)
    return made


def _parts(table: Table) -> list[tuple[str, Table]]:
    """Tables that stand side by side: one per group, and of wide ones several."""
    return [(group, piece) for group, part in by_group(table) for piece in pieces(part, MOST_COLUMNS)]


def _breakable(label: str) -> Markup:
    """A label that may break after colons and slashes."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([:/])", r"\1<wbr>", str(escape(label))))  # escaped before


def _bar(bar: Bar, panel: Panel) -> dict[str, float | None]:
    """Where a bar and its interval lie on a panel, percent of its width."""
    zero, end = _place(0.0, panel), _place(bar.value, panel)
    found: dict[str, float | None] = {"left": min(zero, end), "width": round(abs(end - zero), 2), "low": None}
    if bar.low is not None and bar.high is not None:
        low, high = _place(bar.low, panel), _place(bar.high, panel)
        found |= {"low": low, "span": round(high - low, 2)}
    return found


def _place(value: float, panel: Panel) -> float:
    """A value's place on a panel, percent of its width; ends that lie outside are cut."""
    share = (value - panel.start) / (panel.end - panel.start)
    return round(100 * min(max(share, 0.0), 1.0), 2)
