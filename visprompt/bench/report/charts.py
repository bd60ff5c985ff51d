"""A chart of result rows: bars with intervals, a panel per task or model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from visprompt.bench.report.document import Bar, BarGroup, Chart, Panel, Row
from visprompt.bench.report.tables import chance_of, grouped, has_interval, measured, percent


def value_bar(row: Row, series: int = 0, *, scale: float = 100.0, text: Callable[[float], str] = percent) -> Bar:
    """A row's value with its interval as a bar; by default a share, in percent."""
    low, high = (
        None if end is None or not has_interval(row["n"]) else scale * end for end in (row["low"], row["high"])
    )
    return Bar(scale * row["value"], low, high, text(row["value"]), series)


def bar_chart(
    title: str,
    rows: Sequence[Row],
    labels: Sequence[str],
    panel: str,
    heading: Callable[[Row], str],
    *,
    caption: str,
    bar: Callable[[Row, int], Bar] = value_bar,
    intervals: str = "95 % intervals",
    series: str | None = None,
    shares: bool = True,
) -> Chart | None:
    """Bars of rows that have a value; None without one.

    Args:
        title, caption: above and below the chart.
        rows: result rows.
        labels: the labels that are shown, from above to below.
        panel, heading: the key of a row whose values are the panels; title of a panel, of its first row.
        bar: makes the bar of a row and the number of its series.
        intervals: what the thin lines are, said in the caption if there are any.
        series: the key of a row whose values are the colours.
        shares: values are shares, shown from 0 to 100 % with the level of chance; else every panel has its own scale.
    """
    rows = [row for row in measured(rows) if row["row"] in labels]
    names = [str(name) for name in grouped(rows, series)] if series else [""]
    panels, every = [], []
    for own in grouped(rows, panel).values():
        groups = []
        for label, here in sorted(grouped(own, "row").items(), key=lambda found: labels.index(found[0])):
            bars = tuple(bar(row, names.index(str(row[series])) if series else 0) for row in here)
            groups.append(BarGroup(label, bars, bool(here[0]["control"])))
        drawn = [one for group in groups for one in group.bars]
        chance = chance_of(own)
        scale = (0.0, 100.0, None if chance is None else 100 * chance) if shares else (*_ends(drawn), 0.0)
        panels.append(Panel(heading(own[0]), tuple(groups), *scale))
        every += drawn
    known = f"Thin lines: {intervals}. " if any(one.low is not None for one in every) else ""
    return Chart(title, tuple(panels), tuple(names), known + caption) if panels else None


def _ends(bars: Sequence[Bar]) -> tuple[float, float]:
    """The ends of a scale that holds 0 and all bars with their intervals."""
    values = [0.0, *(end for bar in bars for end in (bar.value, bar.low, bar.high) if end is not None)]
    return min(values), max(values) if max(values) > min(values) else 1.0
