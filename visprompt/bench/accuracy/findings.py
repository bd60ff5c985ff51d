"""What a suite of tasks found: three sentences and a chart, all of whose numbers are those of result rows."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from visprompt.bench.report.charts import bar_chart, share_bar
from visprompt.bench.report.document import Chart, Row
from visprompt.bench.report.tables import (
    counted,
    difference_text,
    has_interval,
    is_clear,
    listed,
    percent,
    row_interval,
    span,
)

_SHOWN_WAYS, _SHOWN_CONTROLS = 6, 2


def best_way(rows: Sequence[Row]) -> str | None:
    """The way of pointing that is best, or level with the best, in most cases (a task with a model).

    Of several, the one with the highest mean over its cases; controls are left out. None if nothing was measured.
    """
    ways = [row for row in rows if row["value"] is not None and not row["control"]]
    top = _top(ways)
    wins: dict[str, int] = {}
    for row in ways:
        wins[row["row"]] = wins.get(row["row"], 0) + (row["value"] == top[_case(row)])
    return max(wins, key=lambda label: (wins[label], _mean(ways, label)), default=None)


def findings(rows: Sequence[Row], compare_with: Sequence[str]) -> list[str]:
    """Up to three sentences: the best way of pointing, what it adds, and what controls reach.

    Args:
        rows: as in `results.jsonl`.
        compare_with: labels of the rows that differences are to; the first that the best has one to is taken.
    """
    best = best_way(rows)
    if best is None:
        return []
    measured = [row for row in rows if row["value"] is not None]
    own = [row for row in measured if row["row"] == best]
    return [_best(best, own, measured), *_difference(best, own, compare_with), *_controls(measured)]


def _best(best: str, own: Sequence[Row], measured: Sequence[Row]) -> str:
    chances = [row["chance"] for row in own if row.get("chance") is not None]
    chance = f"; chance is {span(chances)} %" if chances else ""
    if len({_case(row) for row in measured}) == 1:
        interval = row_interval(own[0])
        sure = f" (95 % interval {interval}, n = {own[0]['n']:,})" if interval else f" (n = {own[0]['n']:,})"
        return f"The best way of pointing is {best}: {percent(own[0]['value'])} % are right{sure}{chance}."
    top = _top([row for row in measured if not row["control"]])
    wins = sum(row["value"] == top[_case(row)] for row in own)
    return (
        f"The best way of pointing is {best}: it is first, or level with the first, in {wins} of "
        f"{counted(len(top), 'case')} (a task with a model), and right in {span(row['value'] for row in own)} % of "
        f"the items{chance}."
    )


def _difference(best: str, own: Sequence[Row], compare_with: Sequence[str]) -> list[str]:
    for other in compare_with:
        found = [row["comparisons"][other] for row in own if row.get("comparisons", {}).get(other)]
        if not found:
            continue
        if len(found) == 1:
            return [f"Its difference to {other} on the same items is {difference_text(found[0])} percentage points."]
        points = span((one["difference"] for one in found), lambda value: f"{100 * value:+.1f}")
        sure = ""
        if any(has_interval(one.get("n")) for one in found):
            sure = f"; the 95 % interval excludes 0 in {sum(map(is_clear, found))} of {counted(len(found), 'case')}"
        return [f"Its difference to {other} on the same items is {points} percentage points{sure}."]
    return []


def _controls(measured: Sequence[Row]) -> list[str]:
    controls = [row for row in measured if row["control"]]
    if not controls:
        return []
    bar = _top(controls)
    ways = [row for row in measured if not row["control"] and _case(row) in bar]
    labels = list(dict.fromkeys(row["row"] for row in ways))
    above = {row["row"] for row in ways if row["value"] > bar[_case(row)]}
    below = [label for label in labels if label not in above]
    told = f"The best control reaches {span(bar.values())} %"
    if not labels:
        return [f"{told}."]
    if not below:
        return [f"{told}; every way of pointing exceeds it in at least one case."]
    names = listed(f"“{label}”" for label in below)
    never = "never exceeds" if len(below) == 1 else "never exceed"
    return [f"{told}; {counted(len(below), 'way')} of {len(labels)} {never} it: {names}."]


def chart(rows: Sequence[Row]) -> Chart | None:
    """The best ways of pointing and the best controls as bars, a panel per task, a colour per model."""
    measured = [row for row in rows if row["value"] is not None]
    ways, controls = (
        sorted(
            dict.fromkeys(row["row"] for row in measured if bool(row["control"]) is control),
            key=lambda label: -_mean(measured, label),
        )
        for control in (False, True)
    )
    shown = [*ways[:_SHOWN_WAYS], *controls[:_SHOWN_CONTROLS]]
    caption = "Dotted: chance. " if any(row.get("chance") is not None for row in measured) else ""
    if len(shown) < len(ways) + len(controls):
        caption += (
            f"Shown: the {len(ways[:_SHOWN_WAYS])} best of {counted(len(ways), 'way')} of pointing and the "
            f"{len(controls[:_SHOWN_CONTROLS])} best of {counted(len(controls), 'control')} (in italics), ranked by "
            "their mean; all are in the table below."
        )
    return bar_chart(
        "Accuracy, percent right",
        measured,
        shown,
        "task",
        lambda row: f"{row['task']}, n = {row['n']:,}",
        share_bar,
        caption=caption,
        series="model",
    )


def _case(row: Row) -> tuple[str, str]:
    return str(row["model"]), str(row["task"])


def _top(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """The highest value of every case."""
    found: dict[tuple[str, str], float] = {}
    for row in rows:
        found[_case(row)] = max(row["value"], found.get(_case(row), row["value"]))
    return found


def _mean(rows: Sequence[Row], label: str) -> float:
    return fmean(row["value"] for row in rows if row["row"] == label)
