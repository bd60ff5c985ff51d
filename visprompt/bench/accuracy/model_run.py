"""One model of a suite: its options chosen on validation, its rows evaluated and compared.

`visprompt.bench.accuracy.run` runs the models of a suite, and owns the files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from visprompt.bench.accuracy.spec import MapSpec, RowSpec, TaskSpec, TuneSpec
from visprompt.bench.accuracy.summary import add_comparisons, failures, kinds_of
from visprompt.bench.store import RESULTS, TUNING
from visprompt.errors import UnsupportedError, VispromptError
from visprompt.tasks import Outcome, Pointing, Referring, Task, evaluate
from visprompt.tasks.base import Row
from visprompt.tasks.data_sources import Data
from visprompt.utils.hashing import digest
from visprompt.utils.provenance import source_digest

if TYPE_CHECKING:
    from visprompt.bench.accuracy.run import Bench


class ModelRun:
    """The rows of one model.

    Args:
        bench: the run that it belongs to.
        model: the model.
        identity: what `model.describe()` says; taken once, because it hashes all weights.
        name: what the table calls the model.
    """

    def __init__(self, bench: Bench, model: Any, identity: Row, name: str) -> None:
        self.bench, self.model, self.identity, self.name = bench, model, identity, name
        self.suite, self.listener = bench.suite, bench.listener

    def run(self) -> None:
        """Tunes, evaluates, compares; rows and problems go to the bench."""
        bench, suite = self.bench, self.suite
        refused = self._refused()
        chosen = {tune.strategy: self._tune(tune, refused) for tune in suite.tune}
        if bench.stage == "tuning":
            return
        rows = [(row, self._settled(row, chosen)) for row in suite.rows]
        for task in suite.tasks:
            if task.key in refused or bench.share not in (None, task.key):
                continue
            outcomes: dict[str, Outcome] = {}
            made: list[Row] = []
            for row, pointing in rows:
                if row.tasks and task.key not in row.tasks:
                    continue
                self.listener.row(f"{self.name} · {task.key} · {row.pointing.label}")
                result = self._result(task, row, pointing, outcomes)
                tuned = chosen.get(row.tuned_as or row.pointing.label)
                if tuned is not None:
                    result["tuned"] = {key: tuned[key] for key in ("options", "validation", "data", "metric")}
                made.append(result)
                bench.add(RESULTS, result)
            beside = bench.earlier[RESULTS].beside(self.name, task.key, bench.rows)
            answers = {label: outcome.rows for label, outcome in outcomes.items()}
            add_comparisons([*made, *beside], {**self._answers(task, beside), **answers}, suite.compare_with)
            bench.problems += failures(made)
            bench.write(RESULTS)
            if bench.pictures:
                self._exhibit(task, [(pointing, outcomes.get(pointing.label)) for _, pointing in rows])
        if suite.maps is not None:
            for key in suite.maps.tasks:
                if key not in refused and bench.share in (None, key):
                    self._maps(suite.task(key), suite.maps)

    def _refused(self) -> set[str]:
        """The keys of the tasks that the model cannot do at all; said once, not for every row."""
        refused = {}
        for task in self.suite.tasks:
            reason = task.task.refusal(self.model)
            if reason is not None:
                refused[task.key] = reason
                rows = [row for row in self.suite.rows if not row.tasks or task.key in row.tasks]
                self.listener.done(len(rows) * len(self._data(task.data).pictures[: self.bench.limit]))
        for reason in dict.fromkeys(refused.values()):
            keys = ", ".join(key for key, why in refused.items() if why == reason)
            self.bench.problems.append(f"{keys}: left out, because {reason}")
        return set(refused)

    def _exhibit(self, task: TaskSpec, answers: list[tuple[Pointing, Outcome | None]]) -> None:
        bench = self.bench
        self.listener.row(f"{self.name} · {task.key} · pictures for the report")
        found = self._data(task.data).pictures[: self.bench.limit]
        answered = [(pointing, outcome) for pointing, outcome in answers if outcome is not None]
        bench.exhibits.add_answers(
            self.model, self.name, task.key, task.task, found, answered, self.suite.examples, bench.make_runner
        )
        if self.name not in bench.exhibits.attention and task is self.suite.tasks[0]:
            bench.exhibits.add_attention(
                self.model, self.name, task.task, found, [pointing for pointing, _ in answered], bench.make_runner
            )

    def _maps(self, task: TaskSpec, wanted: MapSpec) -> None:
        """Where the model's maps, and those of auxiliary models, lie; kept in `maps.jsonl`."""
        from visprompt.tasks.fingerprint import library_versions, model_files
        from visprompt.tasks.map_quality import map_quality

        data = self._data(task.data)
        count = min(wanted.n, self.bench.limit or wanted.n)
        auxiliaries = {name: model_files(name) for name in wanted.auxiliaries}
        depends = [self.identity, data.identity, count, auxiliaries, source_digest(), library_versions()]
        logs, run, key = self.bench.map_logs(), digest(depends), f"{self.name}/{task.key}"
        record = next((row for log in logs for row in log.rows(run) if row["id"] == key), None)
        if record is None:
            self.listener.row(f"{self.name} · {task.key} · do maps lie where the question points?")
            try:
                rows = map_quality(self.model, data.pictures[:count], wanted.auxiliaries)
            except VispromptError as error:
                self.bench.problems.append(f"{self.name}, {task.key}: no figures on maps: {error}")
                return
            record = {
                "run": run,
                "id": key,
                "suite": self.suite.name,
                "model": self.name,
                "task": task.key,
                "maps": rows,
            }
        if not any(row["id"] == key for row in logs[0].rows(run)):
            logs[0].append([record])
        self.bench.maps.append(record)

    def _settled(self, row: RowSpec, chosen: dict[str, Row]) -> Pointing:
        tuned = chosen.get(row.tuned_as or row.pointing.label)
        if tuned is None:
            return row.pointing
        return dataclasses.replace(row.pointing, options={**row.pointing.options, **tuned["options"]})

    def _tune(self, tune: TuneSpec, refused: set[str]) -> Row:
        """The best point of the grid, as a record of `tuning.jsonl`."""
        keys = [key for key in tune.tasks if key not in refused]
        if self.bench.stage == "tuning":
            keys = [key for key in keys if key == self.bench.share]
        if not keys:
            return {"options": {}, "validation": None, "data": tune.data, "metric": tune.metric}
        points: list[Row] = []
        for options in tune.points():
            pointing = dataclasses.replace(tune.pointing, options={**tune.pointing.options, **options})
            shown = ", ".join(f"{key} {value}" for key, value in options.items())
            self.listener.row(f"{self.name} · tuning · {tune.strategy} · {shown}")
            figures: dict[str, float] = {}
            for key in keys:
                task = self.suite.task(key)
                data = self._data({**task.data, **tune.data})
                try:
                    outcome = self._evaluate(task, pointing, data, tuning_of(task.key))
                except UnsupportedError as error:
                    self.bench.problems.append(f"{tune.strategy} was not tuned on {self.name}: {error}")
                    return {"options": {}, "validation": None, "data": tune.data, "metric": tune.metric}
                if not outcome.rows:
                    first = outcome.errors[0]["error"] if outcome.errors else "there are no items"
                    self.bench.problems.append(
                        f"{tune.strategy} with {shown} counts as 0 % on {self.name}, {key}: {first}"
                    )
                figures[key] = round(outcome.accuracy, 5) if outcome.rows else 0.0
            points.append(
                {"options": options, "validation": figures, "mean": round(sum(figures.values()) / len(figures), 5)}
            )
        best = max(points, key=lambda point: point["mean"])
        record = {
            "id": f"{self.name}/{tune.strategy}",
            "suite": self.suite.name,
            "model": self.name,
            "strategy": tune.strategy,
            "metric": tune.metric,
            "data": tune.data,
            "tasks": keys,
            "limit": self.bench.limit,
            "points": points,
            "options": best["options"],
            "validation": {**best["validation"], "mean": best["mean"]},
        }
        self.bench.add(TUNING, record)
        return record

    def _evaluate(self, task: TaskSpec, pointing: Pointing, data: Data, kind: str) -> Outcome:
        return evaluate(
            _with_boxes(task.task, data),
            self.model,
            pointing,
            data.pictures,
            data=data.identity,
            identity=self.identity,
            log=self.bench.log(kind, self.name),
            limit=self.bench.limit,
            # Tuning of others' tasks is only read again here; it was told when it was done.
            progress=None if self.bench.stage == "rows" and kind != task.key else self.listener.done,
            make_runner=self.bench.make_runner,
        )

    def _data(self, spec: Mapping[str, Any]) -> Data:
        return self.bench.data(dict(spec))

    def _result(self, task: TaskSpec, row: RowSpec, pointing: Pointing, outcomes: dict[str, Outcome]) -> Row:
        data = self._data(task.data)
        label = row.pointing.label
        base: Row = {
            "id": f"{self.name}/{task.key}/{label}",
            "suite": self.suite.name,
            "suite_hash": self.suite.hash,
            "task": task.key,
            "task_title": task.title,
            "model": self.name,
            "strategy": label,
            "control": pointing.is_control,
            "metric": task.task.metric,
        }
        details: Row = {
            "settings": _with_boxes(task.task, data).settings(),
            "pointing": pointing.describe(),
            "model_identity": self.identity,
            "data": data.identity,
            "boxes": data.boxes,
            "limit": self.bench.limit,
            "published": task.published,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            **self.bench.provenance,
        }
        try:
            outcome = self._evaluate(task, pointing, data, task.key)
        except UnsupportedError as error:
            self.bench.problems.append(f"{label} cannot run on {self.name}: {error}")
            self.listener.done(len(data.pictures[: self.bench.limit]))
            return {**base, "value": None, "n": 0, "unsupported": str(error), **details}
        outcomes[label] = outcome
        before = self.bench.before.get((self.name, outcome.run), {})
        old = bool(before) and outcome.reused == len(outcome.rows) == before.get("n")
        interval = outcome.interval
        return {
            **base,
            "value": round(outcome.accuracy, 5) if outcome.rows else None,
            "ci95": [round(interval.low, 5), round(interval.high, 5)] if interval else None,
            "ci_method": interval.method if interval else None,
            "n": len(outcome.rows),
            "correct": sum(bool(item["correct"]) for item in outcome.rows),
            "pictures": len({item["image"] for item in outcome.rows}),
            "chance": round(outcome.chance, 5),
            "errors": len(outcome.errors),
            "error_example": outcome.errors[0]["error"] if outcome.errors else None,
            "unpointable": outcome.unpointable,
            **kinds_of(outcome.rows),
            "run": outcome.run,
            "reused": outcome.reused,
            **details,
            "seconds": before["seconds"] if old else round(outcome.seconds, 2),
            "date": before["date"] if old else details["date"],
        }

    def _answers(self, task: TaskSpec, rows: Sequence[Row]) -> dict[str, list[Row]]:
        """The answers behind rows of an earlier run, for comparisons with today's."""
        found = {}
        data = self._data(task.data)
        for row in rows:
            if not row.get("run") or digest(row.get("data")) != digest(data.identity):
                continue
            wanted = {item for picture in data.pictures[: row.get("limit")] for item in task.task.questions(picture)}
            items = [item for item in self.bench.log(task.key, self.name).rows(row["run"]) if "error" not in item]
            found[str(row["strategy"])] = [item for item in items if item["id"] in wanted]
        return {label: items for label, items in found.items() if items}


def tuning_of(key: str) -> str:
    """What the answers of tuning on a task's data are filed under."""
    return f"tuning-{key}"


def _with_boxes(task: Task, data: Data) -> Task:
    return dataclasses.replace(task, boxes=data.boxes) if isinstance(task, Referring) else task  # type: ignore[arg-type]
