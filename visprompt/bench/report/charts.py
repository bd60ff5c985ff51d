"""A chart of result rows: bars with intervals, a panel per task or model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from visprompt.bench.report.document import Bar, BarGroup, Chart, Panel, Row
from visprompt.bench.report.tables import number_interval, percent, row_interval


def bar_chart(
    title: str,
    rows: Sequence[Row],
    labels: Sequence[str],
    panel: str,
    heading: Callable[[Row], str],
    bar: Callable[[Row, int], Bar],
    *,
    caption: str,
    intervals: str = "95 % intervals",
    series: str | None = None,
    shares: bool = True,
) -> Chart | None:
    """Bars of rows that have a value.

    Args:
        title: above the chart.
        rows: result rows.
        labels: the labels that are shown, from above to below.
        panel: the key of a row whose values are the panels.
        heading: title of a panel, of its first row.
        bar: makes the bar of a row and a series, as `share_bar` does.
        caption: below the chart.
        intervals: what the thin lines are, said in the caption if there are any.
        series: the key of a row whose values are the colours.
        shares: values are shares, shown from 0 to 100 % with the level of chance; else every panel has its own scale.

    Returns:
        None without a value.
    """
    rows = [row for row in rows if row["value"] is not None and row["row"] in labels]
    names = list(dict.fromkeys(str(row[series]) for row in rows)) if series else [""]
    panels = []
    for key in dict.fromkeys(row[panel] for row in rows):
        own = [row for row in rows if row[panel] == key]
        groups = []
        for label in labels:
            here = [row for row in own if row["row"] == label]
            bars = tuple(bar(row, names.index(str(row[series])) if series else 0) for row in here)
            groups += [BarGroup(label, bars, bool(here[0]["control"]))] if bars else []
        chance = next((100 * row["chance"] for row in own if row.get("chance") is not None), None)
        scale = (0.0, 100.0, chance) if shares else (*_ends([one for group in groups for one in group.bars]), 0.0)
        panels.append(Panel(heading(own[0]), tuple(groups), *scale))
    every = [one for made in panels for group in made.groups for one in group.bars]
    known = f"Thin lines: {intervals}. " if any(one.low is not None for one in every) else ""
    return Chart(title, tuple(panels), tuple(names), known + caption) if panels else None


def share_bar(row: Row, series: int) -> Bar:
    """A share as a bar in percent."""
    low, high = (100 * row["low"], 100 * row["high"]) if row_interval(row) else (None, None)
    return Bar(100 * row["value"], low, high, percent(row["value"]), series)


def number_bar(row: Row, series: int) -> Bar:
    """A number as a bar."""
    known = bool(number_interval(row["low"], row["high"], row["n"]))
    low, high = (row["low"], row["high"]) if known else (None, None)
    return Bar(row["value"], low, high, f"{row['value']:.2f}", series)


def _ends(bars: Sequence[Bar]) -> tuple[float, float]:
    """The ends of a scale that holds 0 and all bars with their intervals."""
    values = [0.0, *(end for bar in bars for end in (bar.value, bar.low, bar.high) if end is not None)]
    return min(values), max(values) if max(values) > min(values) else 1.0
