"""Rows of earlier runs in the same folder: a run adds to them, and replaces those that it makes again.

A row is known by suite, model, task and strategy label. Nothing here measures anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from visprompt.bench.accuracy.spec import Suite
from visprompt.errors import InvalidInputError
from visprompt.tasks.base import Row
from visprompt.utils.jsonl import read_jsonl

RESULTS = "results.jsonl"
TUNING = "tuning.jsonl"
MAPS = "maps.jsonl"
#: what a report reads of a row; rows without it (of another version) stay in the file but are not shown
_SHOWN: tuple[str, ...] = ("task", "control", "value", "n", "pointing", "model_identity", "data", "boxes", "settings")
_SHOWN += ("versions", "git_commit", "code", "machine", "suite_hash", "date")
_TUNED = ("points", "options", "validation", "data", "metric", "tasks")
_Key = tuple[str, str, str, str]


class Earlier:
    """What is in a folder's `results.jsonl` (or `tuning.jsonl`) already.

    Args:
        path: the file; it need not be there.
        suite: the whole suite, in whose order rows are put.
        fresh: the file is about to be replaced, so it may hold anything.

    Raises:
        InvalidInputError: if the file holds something else.
    """

    def __init__(self, path: Path, suite: Suite, fresh: bool = False) -> None:
        self.suite, self.fresh = suite, fresh
        try:
            self.rows = read_jsonl(path) if path.exists() else []
        except InvalidInputError:
            if not fresh:
                raise
            self.rows = []

    def forget(self, model: str | None = None) -> None:
        """Drops the rows of one model, or every row."""
        self.rows = [] if model is None else [row for row in self.rows if (row.get("model") != model)]

    def merged(self, made: Iterable[Row]) -> list[Row]:
        """Old rows, and those made now in the place of old ones; models, tasks and labels in the suite's order."""
        every = {_key(row): row for row in self.rows}
        every.update((_key(row), row) for row in made)
        models = list(dict.fromkeys([*self.suite.models, *(key[1] for key in every)]))
        tasks = [task.key for task in self.suite.tasks]
        labels = [row.pointing.label for row in self.suite.rows]

        def place(key: _Key) -> tuple[bool, int, int, int]:
            suite, model, task, label = key
            return suite != self.suite.name, models.index(model), _index(tasks, task), _index(labels, label)

        return [every[key] for key in sorted(every, key=place)]

    def shown(self, made: Iterable[Row]) -> list[Row]:
        """Those of `merged` that belong to the suite as it is now."""
        tasks = {task.key for task in self.suite.tasks}
        labels = {row.pointing.label for row in self.suite.rows}
        found = []
        for row in self.merged(made):
            if not self._own(row) or row.get("strategy") not in labels:
                continue
            needed = _SHOWN if "task" in row else _TUNED
            if all(key in row for key in needed) and ("task" not in row or row["task"] in tasks):
                found.append(row)
        return found

    def beside(self, model: str, task: str, made: Iterable[Row]) -> list[Row]:
        """Old rows of the same model and task that were not made again."""
        again = {_key(row) for row in made}
        found = [row for row in self.rows if self._own(row) and (row.get("model"), row.get("task")) == (model, task)]
        return [row for row in found if _key(row) not in again]

    def label(self, name: str, weights: str, made: Iterable[Row]) -> str:
        """The name a model gets in the table: its own, with a piece of the weights' hash if another one has it."""
        taken = {}
        for row in made if self.fresh else [*self.rows, *made]:
            if self._own(row):
                taken[str(row.get("model"))] = (row.get("model_identity") or {}).get("weights", "")
        for label in (name, f"{name}-{weights[:6]}"):
            if taken.get(label, weights) == weights:
                return label
        return f"{name}-{weights}"

    def _own(self, row: Row) -> bool:
        return bool(row.get("suite") == self.suite.name)


def stale(rows: Sequence[Row], made: Sequence[Row]) -> list[str]:
    """A sentence for people if rows of an earlier run were made in another way than today's."""
    if not made:
        return []
    now = [made[0].get(key) for key in ("code", "suite_hash", "limit")]
    fresh = {_key(row) for row in made}
    old = [row for row in rows if _key(row) not in fresh]
    other = [row for row in old if [row.get(key) for key in ("code", "suite_hash", "limit")] != now]
    if not other:
        return []
    names = ", ".join(dict.fromkeys(str(row["strategy"]) for row in other))
    return [
        f"{len(other)} rows are from an earlier run with other code, another suite file or another limit ({names}): "
        "run the suite without --strategy and --model to make them again, or --fresh to forget them."
    ]


def _key(row: Row) -> _Key:
    suite, model, task, label = (str(row.get(key, "")) for key in ("suite", "model", "task", "strategy"))
    return suite, model, task, label


def _index(values: list[str], value: str) -> int:
    return values.index(value) if value in values else len(values)
