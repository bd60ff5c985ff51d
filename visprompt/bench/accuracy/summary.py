"""What is said about rows once all of them are there: chosen options, differences on the same items, what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from visprompt.bench.accuracy.answers import answers
from visprompt.bench.kind import RunContext
from visprompt.bench.rows import Row, ends
from visprompt.utils.jsonl import read_jsonl
from visprompt.utils.statistics import accuracy_interval, paired

TUNING = "tuning.jsonl"
#: what a report reads of a line of `tuning.jsonl`
_TUNED = ("points", "options", "validation", "data", "metric", "tasks")


def rows(context: RunContext) -> list[Row]:
    """The rows made in this run, each with its differences to the rows that it is compared with.

    Rows of earlier runs of the same model and task are compared anew with those made now.
    """
    made = [row for _, row in context.results_of("rows")]
    before = {(row.get("model"), row.get("run")): row for row in context.store.earlier}
    by_task: dict[tuple[str, str], list[Row]] = {}
    for row in made:
        # Not by the run alone: "random" is the same run for every model.
        old = before.get((row["model"], row.get("run")), {})
        if row["n"] and row["reused"] == row["n"] == old.get("n") and "seconds" in old:
            row |= {"seconds": old["seconds"], "provenance": old["provenance"]}
        by_task.setdefault((row["model"], row["task"]), []).append(row)
    for (model, task), own in by_task.items():
        beside = context.store.beside(context.suite.name, model, task, made)
        found = {row["row"]: answers(context, row) for row in (*beside, *own)}
        kept = {label: items for label, items in found.items() if items}
        add_comparisons([*own, *beside], kept, context.suite.compare_with)
        for text in failures(own):
            context.problem(text)
    return made


def choices(context: RunContext, model: str) -> dict[str, Row]:
    """What was chosen for every tuned row on one model: the point with the best mean over its tasks, first of equals.

    Returns:
        By label: `options`, `validation` (by task and `mean`; None if the model cannot run it), `data`, `metric`, and
        all that a line of `tuning.jsonl` has.
    """
    found = {}
    units = [(unit.what, row["value"]) for unit, row in context.results_of("tune") if unit.what.name == model]
    for tune in context.suite.tune:
        own = [(ask, value) for ask, value in units if ask.condition.label == tune.strategy]
        if not own or any(value is None for _, value in own):
            found[tune.strategy] = {"options": {}, "validation": None, "data": tune.data, "metric": tune.metric}
            continue
        points: list[Row] = []
        for options in tune.points():
            values = {ask.task: value for ask, value in own if ask.point == options}
            mean = round(sum(values.values()) / len(values), 5)
            points.append({"options": options, "validation": values, "mean": mean})
        best = max(points, key=lambda point: point["mean"])
        found[tune.strategy] = {
            "id": f"{model}/{tune.strategy}",
            "suite": context.suite.name,
            "model": model,
            "strategy": tune.strategy,
            "metric": tune.metric,
            "data": tune.data,
            "tasks": list(points[0]["validation"]),
            "limit": context.settings.limit,
            "points": points,
            "options": best["options"],
            "validation": {**best["validation"], "mean": best["mean"]},
        }
    return found


def tuning_records(context: RunContext) -> list[Row]:
    """The lines of `tuning.jsonl`: those of this run, and of earlier runs what was not chosen again. Writes them."""
    path, whole = context.store.out / TUNING, context.settings.whole
    kept = [] if context.settings.fresh or not path.exists() else read_jsonl(path)
    every = {(row.get("suite"), row.get("model"), row.get("strategy")): row for row in kept}
    for model in context.names:
        for label, record in choices(context, model).items():
            if "id" in record:
                every[whole.name, model, label] = record
    labels = [row.condition.label for row in whole.rows]
    own = [row for (suite, _, label), row in every.items() if suite == whole.name and label in labels]
    own.sort(key=lambda row: (context.model_place(row["model"]), labels.index(row["strategy"])))
    if every:
        context.store.write([*own, *(row for row in every.values() if row not in own)], TUNING)
    return [row for row in own if all(key in row for key in _TUNED)]


def add_comparisons(rows: Sequence[Row], answers: Mapping[str, Sequence[Row]], labels: Sequence[str]) -> None:
    """Writes into every row its paired difference to the rows called `labels`, on the items that both answered.

    Args:
        rows: of one model and task.
        answers: by label, what was answered; a row without loses what it was compared with before.
        labels: the rows to compare with.
    """
    for row in rows:
        this = answers.get(row["row"])
        row["comparisons"] = {}
        for label in labels:
            other = answers.get(label)
            if this is None or other is None or label == row["row"]:
                continue
            correct = {item["id"]: bool(item["correct"]) for item in other}
            both = [item for item in this if item["id"] in correct]
            if not both:
                continue
            row["comparisons"][label] = _compared(both, correct)
            kinds = {
                kind: _compared([item for item in both if item.get("kind") == kind], correct) for kind in _kinds(both)
            }
            if kinds:
                row["comparisons"][label]["kinds"] = kinds


def kinds_of(items: Sequence[Row]) -> dict[str, Any]:
    """`{"kinds": {kind: figures}}` where items are of several kinds, else nothing.

    >>> kinds_of([{"kind": kind, "correct": True, "image": kind} for kind in "aab"])["kinds"]["a"]["n"]
    2
    """
    found = {}
    for kind in _kinds(items):
        own = [item for item in items if item.get("kind") == kind]
        images = [item["image"] for item in own]
        interval = accuracy_interval([bool(item["correct"]) for item in own], images)
        right = sum(bool(item["correct"]) for item in own)
        found[kind] = {
            "value": round(right / len(own), 5),
            "ci95": ends(interval.low, interval.high, len(set(images)), 5),
            "correct": right,
            "n": len(own),
        }
    return {"kinds": found} if found else {}


def _kinds(items: Sequence[Row]) -> list[str]:
    found = list(dict.fromkeys(str(item["kind"]) for item in items if item.get("kind")))
    return found if len(found) > 1 else []


def _compared(items: Sequence[Row], correct: Mapping[str, bool]) -> Row:
    images = [item["image"] for item in items]
    result = paired([bool(item["correct"]) for item in items], [correct[item["id"]] for item in items], images)
    return {
        "difference": round(result.difference, 5),
        "ci95": ends(result.interval.low, result.interval.high, len(set(images)), 5),
        "ci_method": result.interval.method,
        "mcnemar_p": result.p_value,
        "wins": result.wins,
        "losses": result.losses,
        "n": result.n,
    }


def failures(rows: Sequence[Row]) -> list[str]:
    """One sentence for all rows of a task: a missing image is missing in every one of them.

    Another for candidates that lie outside of their image or are cropped away, and were therefore never chosen.
    """
    told: list[str] = []
    for key in ("errors", "unpointable"):
        found = [row for row in rows if row.get(key)]
        if not found:
            continue
        worst, names = max(found, key=lambda row: row[key]), ", ".join(row["row"] for row in found)
        where = f"{worst['model']}, {worst['task']}"
        if key == "errors":
            count = f"{worst['errors']} of {worst['errors'] + worst['n']} items"
            told.append(f"{where}: {count} could not be asked ({names}); the first: {worst['error_example']}")
        else:
            told.append(
                f"{where}: in {worst['unpointable']} of {worst['n']} items a candidate lies outside the image or is "
                f"cropped away, and cannot be chosen ({names}); fit: squash shows it whole."
            )
    return told
