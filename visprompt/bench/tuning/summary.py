"""From runs of ways of tuning to what is said about them: means over seeds, spread, intervals, differences.

Two things are uncertain, and both are told. How a run comes out depends on its seed: `sd` is the standard deviation
over seeds. And another thousand images would give another value: `low` and `high` are the ends of a 95 % interval over
images, of the mean over these seeds (Wilson's for one seed, else a bootstrap that draws images with the answers of all
seeds).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev

from visprompt.bench.kind import RunContext
from visprompt.bench.rows import Row, ends, result_row
from visprompt.bench.tuning.spec import MethodSpec, SetSpec, TuningSuite
from visprompt.bench.tuning.unit import present
from visprompt.utils.statistics import accuracy_interval, paired


def rows(context: RunContext) -> list[Row]:
    """The rows of the suite, all of them anew from its runs; none if the run ended before the model was there."""
    suite, limit = context.settings.whole, context.settings.limit
    return [row for model in context.names for row in summaries(suite, present(context), model, limit)]


def summaries(suite: TuningSuite, runs: Sequence[Row], model: str = "", limit: int | None = None) -> list[Row]:
    """One row per set and method, in the order of the suite.

    Args:
        suite: the suite.
        runs: rows of `runs.jsonl`.
        model: name of the model in the table.
        limit: of images per part, as this run has it.

    Returns:
        Rows with `value` (mean over seeds of the value on test, None without a run), `sd` (None with one seed), `low`
        and `high` (None where images have no answer of their own, as in segmentation), `n` images, `seeds`,
        `parameters` by part, `blocks` (means over seeds), `grid` (validation values of what was tried), and
        `comparison` to `suite.compare_with`.
    """
    of_set = {one.key: [row for row in runs if row["set"] == one.key] for one in suite.sets}
    return [
        {**_summary(suite, one, method, of_set[one.key], model), "limit": limit}
        for one in suite.sets
        for method in suite.methods
        if one in suite.sets_of(method)
    ]


def _summary(suite: TuningSuite, one: SetSpec, method: MethodSpec, runs: Sequence[Row], model: str) -> Row:
    reported = _reported(runs, method.label)
    searched = method.choice_of or method.label
    values = [float(run["test"][run["metric"]]) for run in reported]
    answers, groups = _answers(reported)
    interval = accuracy_interval(answers, groups) if answers else None
    row = result_row(
        "tuning",
        suite,
        ends(interval.low, interval.high, len(set(groups))) if interval else None,
        id=f"{model}/{one.key}/{method.label}",
        task=one.key,
        row=method.label,
        model=model,
        metric=reported[0]["metric"] if reported else None,
        value=fmean(values) if values else None,
        title=one.title,
        how=method.how,
        strategy=method.strategy,
        control=method.control,
        table=method.table,
        sd=stdev(values) if len(values) > 1 else None,
        n=reported[0]["sizes"]["test"] if reported else 0,
        grid=[_point(run) for run in runs if run["stage"] == "choose" and run["method"] == searched],
        missing=len(suite.seeds_of(method)) - len(reported),
        diverged=sum("diverged" in run for run in runs if run["stage"] == "report" and run["method"] == method.label),
        provenance=_provenance(reported),
    )
    if not reported:
        return row
    first = reported[0]
    row |= {
        "values": values,
        "seeds": [run["seed"] for run in reported],
        "sizes": first["sizes"],
        "chance": 1 / len(first["classes"]) if first["metric"] == "accuracy" else None,
        "point": first["point"],
        "options": first["options"],
        "settings": first["settings"],
        "parameters": first["parameters"],
        "best_epochs": [run["best_epoch"] for run in reported],
        "validation": fmean(float(run["validation"][run["metric"]]) for run in reported),
        "cpu_seconds": round(fmean(run["cpu_seconds"] for run in reported), 1),
        "blocks": mean_blocks(reported),
        "model_identity": first["model"],
    }
    if interval is not None and row["low"] is not None:
        row["ci_method"] = interval.method
    other = suite.compare_with
    if other is not None and other != method.label:
        row["comparison"] = _comparison(reported, _reported(runs, other))
    return row


def _provenance(reported: Sequence[Row]) -> Row:
    """Where a row comes from: as its first run says, with the code of all of them."""
    if not reported:
        return {}
    codes = dict.fromkeys(str(run["provenance"]["code"]) for run in reported)
    return {**reported[0]["provenance"], "code": ", ".join(codes), "date": reported[0]["date"]}


def _reported(runs: Sequence[Row], label: str) -> list[Row]:
    found = [run for run in runs if run["stage"] == "report" and run["method"] == label and "diverged" not in run]
    return sorted(found, key=lambda run: run["seed"])


def _point(run: Row) -> Row:
    value = None if "diverged" in run else float(run["validation"][run["metric"]])
    return {"point": run["point"], "validation": value, "best_epoch": run.get("best_epoch")}


def _answers(reported: Sequence[Row]) -> tuple[list[bool], list[str]]:
    """Whether every answer of every seed was right, and which image it was about."""
    if not all(run.get("right") for run in reported):
        return [], []
    answers = [mark == "1" for run in reported for mark in run["right"]]
    return answers, [str(place) for run in reported for place in range(len(run["right"]))]


def _comparison(reported: Sequence[Row], others: Sequence[Row]) -> Row | None:
    """Difference to another method with the same seeds, on the same images."""
    by_seed = {run["seed"]: run for run in others}
    both = [(run, by_seed[run["seed"]]) for run in reported if run["seed"] in by_seed]
    if not both:
        return None
    metric = both[0][0]["metric"]
    each = [float(run["test"][metric]) - float(other["test"][metric]) for run, other in both]
    found: Row = {"difference": fmean(each), "each": each, "sd": stdev(each) if len(each) > 1 else None, "ci95": None}
    these, groups = _answers([run for run, _ in both])
    those, _ = _answers([other for _, other in both])
    if these and len(these) == len(those):
        interval = paired(these, those, groups).interval
        found["ci95"] = ends(interval.low, interval.high, len(set(groups)))
        found |= {"ci_method": interval.method} if found["ci95"] else {}
    return found


def mean_blocks(runs: Sequence[Row]) -> list[Row]:
    """`blocks_table()` of several runs of one method: means, and for gates and temperatures the spread over seeds.

    >>> runs = [{"blocks": [{"block": 0, "gate": 0.2}]}, {"blocks": [{"block": 0, "gate": 0.4}]}]
    >>> [(row["block"], round(row["gate"], 3), round(row["gate_sd"], 3)) for row in mean_blocks(runs)]
    [(0, 0.3, 0.141)]
    """
    tables = [run["blocks"] for run in runs if run.get("blocks")]
    if not tables:
        return []
    found = []
    for rows in zip(*tables, strict=True):
        mean: Row = {"block": rows[0]["block"]}
        for name in rows[0]:
            values = [row[name] for row in rows if row[name] is not None]
            if name != "block":
                mean[name] = fmean(values) if values else None
                mean[f"{name}_sd"] = stdev(values) if len(values) > 1 else None
        found.append(mean)
    return found
