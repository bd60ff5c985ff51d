"""Terminal tables for a learned prompt: its figures, and the settings that a sweep tried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visprompt.persistence.model_card import Metric


def figures_table(figures: list[Metric], title: str) -> Any:
    """Makes a table of metrics with their intervals."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left")
    for name, side in (("split", "left"), ("figure", "left"), ("value", "right"), ("95 %", "right"), ("n", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for one in figures:
        cells = (one.split, escape(one.metric.replace("_", " ")), one.text(), one.interval_text(), str(one.n or "–"))
        table.add_row(*cells, style="bold" if one.chosen else "")
    return table


def sweep_table(rows: list[dict[str, Any]]) -> Any:
    """Makes a table of the settings that were tried, best first."""
    from rich.markup import escape
    from rich.table import Table

    from visprompt.persistence.model_card import is_shown

    table = Table(title="sweep, best on validation first", title_justify="left")
    names = list(dict.fromkeys(name for row in rows for name in row if is_shown(name, row)))
    for name in names:
        table.add_column(escape(name), justify="right")
    for row in rows:
        table.add_row(*(escape(_cell(name, row.get(name))) for name in names))
    return table


def _cell(name: str, value: Any) -> str:
    from visprompt.utils.number_text import is_share, shown

    if value is None:
        return "–"
    if isinstance(value, float):
        return shown(name, value) if is_share(name) else f"{value:.4g}"
    return str(value)
