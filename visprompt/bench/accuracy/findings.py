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

_CASE = ("model", "task")
_SHOWN_WAYS, _SHOWN_CONTROLS = 6, 2


def best_way(rows: Sequence[Row]) -> str | None:
    """The way of pointing that is best, or level with the best, in most cases; None if nothing was measured.

    A way that was not measured in all cases is taken only if none was: it may lack the hard ones. Of several, the first
    by `_ranked`; controls are left out.
    """
    ways = [row for row in tables.measured(rows) if not row["control"]]
    won, every = tables.wins(ways, *_CASE), _cases(ways)
    complete = {label: _cases(own) == every for label, own in tables.grouped(ways, "row").items()}
    return max(_ranked(ways, _shared(ways)), key=lambda label: (complete[label], won[label]), default=None)


def findings(rows: Sequence[Row], compare_with: Sequence[str]) -> list[str]:
    """Up to three sentences: the best way of pointing, what it adds, and what controls reach.

    Args:
        rows: as in `results.jsonl`.
        compare_with: labels of the rows that differences are to; the first that the best has one to is taken.
    """
    best = best_way(rows)
    measured = tables.measured(rows)
    own = [row for row in measured if row["row"] == best]
    if best is None:
        return []
    return [_best(best, own, measured), *_difference(own, compare_with), *_controls(measured)]


def _best(best: str, own: Sequence[Row], measured: Sequence[Row]) -> str:
    chances = [row["chance"] for row in own if row.get("chance") is not None]
    chance = f"; chance is {span(chances)} %" if chances else ""
    if len(_cases(measured)) == 1:
        interval = tables.row_interval(own[0])
        sure = f"95 % interval {interval}, " if interval else ""
        value, n = percent(own[0]["value"]), f"{own[0]['n']:,}"
        return f"The best way of pointing is {best}: {value} % are right ({sure}n = {n}){chance}."
    ways = [row for row in measured if not row["control"]]
    wins, cases = tables.wins(ways, *_CASE)[best], len(tables.grouped(ways, *_CASE))
    return (
        f"The best way of pointing is {best}: it is first, or level with the first, in {wins} of "
        f"{counted(cases, 'case')} (a task with a model), and right in {span(row['value'] for row in own)} % of "
        f"the items{chance}."
    )


def _difference(own: Sequence[Row], compare_with: Sequence[str]) -> list[str]:
    for other in compare_with:
        found = [row["comparisons"][other] for row in own if row.get("comparisons", {}).get(other)]
        if found:
            return [f"Its difference to {other} on the same items is {_points(found)}."]
    return []


def _points(found: Sequence[Row]) -> str:
    if len(found) == 1:
        return f"{tables.difference_text(found[0])} percentage points"
    text = f"{span((one['difference'] for one in found), tables.points)} percentage points"
    if any(tables.has_interval(one.get("n")) for one in found):
        clear, cases = sum(map(tables.is_clear, found)), counted(len(found), "case")
        text += f"; the 95 % interval excludes 0 in {clear} of {cases}"
    return text


def _controls(measured: Sequence[Row]) -> list[str]:
    bars: list[float] = []
    above: dict[str, bool] = {}
    for own in tables.grouped(measured, *_CASE).values():
        controls = [row["value"] for row in own if row["control"]]
        bars += [max(controls)] if controls else []
        for row in own if controls else ():
            if not row["control"]:
                above[row["row"]] = above.get(row["row"], False) or row["value"] > max(controls)
    below = [f"“{label}”" for label, exceeds in above.items() if not exceeds]
    if not bars:
        return []
    told = f"The best control reaches {span(bars)} %"
    if below:
        never = "never exceeds" if len(below) == 1 else "never exceed"
        told += f"; {counted(len(below), 'way')} of {len(above)} {never} it: {tables.listed(below)}"
    elif above:
        told += "; every way of pointing exceeds it in at least one case"
    return [f"{told}."]


def chart(rows: Sequence[Row]) -> Chart | None:
    """The best ways of pointing and the best controls as bars, a panel per task, a colour per model."""
    measured = tables.measured(rows)
    shared = _shared(measured)
    ways, controls = (
        _ranked([row for row in measured if bool(row["control"]) is here], shared) for here in (False, True)
    )
    shown = [*ways[:_SHOWN_WAYS], *controls[:_SHOWN_CONTROLS]]
    caption = ["Dotted: chance."] if tables.chance_of(measured) is not None else []
    over = ""
    if not shared:
        over = "; those that lack a case (a task with a model) come after those that have more of them"
    elif shared != _cases(measured):
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


def _cases(rows: Iterable[Row]) -> set[tuple[str, str]]:
    return set(tables.grouped(rows, *_CASE))


def _shared(rows: Iterable[Row]) -> set[tuple[str, str]]:
    """The cases that all labels of the rows have."""
    cases = [_cases(own) for own in tables.grouped(rows, "row").values()]
    return set.intersection(*cases) if cases else set()


def _ranked(rows: Sequence[Row], shared: set[tuple[str, str]]) -> list[str]:
    """Labels by their mean over the shared cases: a way that leaves out a hard task must not gain by that.

    Without a shared case, those that lack cases come after those that have more of them.
    """
    counting = tables.grouped((row for row in rows if not shared or (row["model"], row["task"]) in shared), "row")
    return sorted(counting, key=lambda label: (-len(counting[label]), -fmean(row["value"] for row in counting[label])))
