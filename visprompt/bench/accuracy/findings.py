"""What a suite of tasks found: three sentences and a chart, all of whose numbers are those of result rows.

A case is a task with a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from visprompt.bench.report import tables
from visprompt.bench.report.charts import bar_chart
from visprompt.bench.report.document import Chart, Row
from visprompt.bench.report.tables import counted, percent, span

_SHOWN_WAYS, _SHOWN_CONTROLS = 6, 2


def best_way(rows: Sequence[Row]) -> str | None:
    """The way of pointing that is best, or level with the best, in most cases; None if nothing was measured.

    Of several, the first by `_ranked`; controls are left out.
    """
    ways = [row for row in rows if row["value"] is not None and not row["control"]]
    top = _top(ways)
    won = [row["row"] for row in ways if row["value"] == top[_case(row)]]
    return max(_ranked(ways, _shared(ways)), key=won.count, default=None)


def findings(rows: Sequence[Row], compare_with: Sequence[str]) -> list[str]:
    """Up to three sentences: the best way of pointing, what it adds, and what controls reach.

    Args:
        rows: as in `results.jsonl`.
        compare_with: labels of the rows that differences are to; the first that the best has one to is taken.
    """
    best = best_way(rows)
    measured = [row for row in rows if row["value"] is not None]
    own = [row for row in measured if row["row"] == best]
    if best is None:
        return []
    return [_best(best, own, measured), *_difference(own, compare_with), *_controls(measured)]


def _best(best: str, own: Sequence[Row], measured: Sequence[Row]) -> str:
    chances = [row["chance"] for row in own if row.get("chance") is not None]
    chance = f"; chance is {span(chances)} %" if chances else ""
    if len(set(map(_case, measured))) == 1:
        interval = tables.row_interval(own[0])
        sure = f"95 % interval {interval}, " if interval else ""
        value, n = percent(own[0]["value"]), f"{own[0]['n']:,}"
        return f"The best way of pointing is {best}: {value} % are right ({sure}n = {n}){chance}."
    top = _top(row for row in measured if not row["control"])
    wins = sum(row["value"] == top[_case(row)] for row in own)
    return (
        f"The best way of pointing is {best}: it is first, or level with the first, in {wins} of "
        f"{counted(len(top), 'case')} (a task with a model), and right in {span(row['value'] for row in own)} % of "
        f"the items{chance}."
    )


def _difference(own: Sequence[Row], compare_with: Sequence[str]) -> list[str]:
    compared = {other: [one for row in own if (one := row.get("comparisons", {}).get(other))] for other in compare_with}
    other, found = next(((other, found) for other, found in compared.items() if found), ("", []))
    points, sure = "", ""
    if len(found) == 1:
        points = tables.difference_text(found[0])
    elif found:
        points = span((one["difference"] for one in found), tables.points)
        if any(tables.has_interval(one.get("n")) for one in found):
            clear, cases = sum(map(tables.is_clear, found)), counted(len(found), "case")
            sure = f"; the 95 % interval excludes 0 in {clear} of {cases}"
    sentence = f"Its difference to {other} on the same items is {points} percentage points{sure}."
    return [sentence] if found else []


def _controls(measured: Sequence[Row]) -> list[str]:
    bar = _top(row for row in measured if row["control"])
    ways = [row for row in measured if not row["control"] and _case(row) in bar]
    above = {row["row"] for row in ways if row["value"] > bar[_case(row)]}
    labels = dict.fromkeys(row["row"] for row in ways)
    below = [f"“{label}”" for label in labels if label not in above]
    if not bar:
        return []
    told = f"The best control reaches {span(bar.values())} %"
    if below:
        never = "never exceeds" if len(below) == 1 else "never exceed"
        told += f"; {counted(len(below), 'way')} of {len(labels)} {never} it: {tables.listed(below)}"
    elif labels:
        told += "; every way of pointing exceeds it in at least one case"
    return [f"{told}."]


def chart(rows: Sequence[Row]) -> Chart | None:
    """The best ways of pointing and the best controls as bars, a panel per task, a colour per model."""
    measured = [row for row in rows if row["value"] is not None]
    shared = _shared(measured)
    ways, controls = (
        _ranked([row for row in measured if bool(row["control"]) is here], shared) for here in (False, True)
    )
    shown = [*ways[:_SHOWN_WAYS], *controls[:_SHOWN_CONTROLS]]
    caption = ["Dotted: chance."] if tables.chance_of(measured) is not None else []
    over = ""
    if not shared:
        over = "; those that lack a case (a task with a model) come after those that have more of them"
    elif shared != set(map(_case, measured)):
        over = f" over the {counted(len(shared), 'case')} (a task with a model) that all have"
    if len(shown) < len(ways) + len(controls):
        caption.append(
            f"Shown: the {len(ways[:_SHOWN_WAYS])} best of {counted(len(ways), 'way')} of pointing and the "
            f"{len(controls[:_SHOWN_CONTROLS])} best of {counted(len(controls), 'control')} (in italics), ranked by "
            f"their mean{over}; all are in the table below."
        )
    return bar_chart(
        "Accuracy, percent right",
        measured,
        shown,
        "task",
        lambda row: f"{row['task']}, n = {row['n']:,}",
        caption=" ".join(caption),
        series="model",
    )


def _case(row: Row) -> tuple[str, str]:
    return str(row["model"]), str(row["task"])


def _top(rows: Iterable[Row]) -> dict[tuple[str, str], float]:
    """The highest value of every case."""
    found: dict[tuple[str, str], float] = {}
    for row in rows:
        found[_case(row)] = max(row["value"], found.get(_case(row), row["value"]))
    return found


def _shared(rows: Iterable[Row]) -> set[tuple[str, str]]:
    """The cases that all labels of the rows have."""
    cases: dict[str, set[tuple[str, str]]] = {}
    for row in rows:
        cases.setdefault(row["row"], set()).add(_case(row))
    return set.intersection(*cases.values()) if cases else set()


def _ranked(rows: Sequence[Row], shared: set[tuple[str, str]]) -> list[str]:
    """Labels by their mean over the shared cases: a way that leaves out a hard task must not gain by that.

    Without a shared case, those that lack cases come after those that have more of them.
    """
    values: dict[str, list[float]] = {row["row"]: [] for row in rows}
    for row in rows:
        if not shared or _case(row) in shared:
            values[row["row"]].append(row["value"])
    return sorted(values, key=lambda label: (-len(values[label]), -fmean(values[label])))
