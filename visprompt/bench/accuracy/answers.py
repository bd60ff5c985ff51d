"""The data of accuracy suites, and the answers that are kept about them, item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from visprompt.bench.kind import RunContext, slug
from visprompt.bench.rows import Row
from visprompt.tasks.data_sources import Data, load_data
from visprompt.utils.hashing import digest


def load(context: RunContext, spec: Mapping[str, Any]) -> Data:
    """The data of a description, read once."""

    def read() -> Data:
        found = load_data(dict(spec), context.settings.images, context.settings.annotations)
        for text in found.problems:
            context.problem(text)
        return found

    return context.cached(("data", digest(spec)), read)


def images(context: RunContext, spec: Mapping[str, Any]) -> Sequence[Any]:
    """The images of a description that the run looks at: all of them, or the first ones."""
    return load(context, spec).images[: context.settings.limit]


def answers_file(task: str, tuning: bool, model: str) -> str:
    """Stem of the file with a model's answers to a task, or to its tuning data."""
    return f"items-{'tuning-' if tuning else ''}{task}-{slug(model)}"


def answers(context: RunContext, row: Row) -> list[Row]:
    """The answers behind a row, in the order of the data; none if they were about other data."""
    task = context.suite.task(row["task"])
    data = load(context, task.data)
    if not row.get("run") or digest(row.get("data")) != digest(data.identity):
        return []
    asked = [item for image in data.images[: row.get("limit")] for item in task.task.questions(image)]
    items = context.store.log(answers_file(row["task"], False, row["model"])).rows(row["run"])
    by_id = {item["id"]: item for item in items if "error" not in item}
    return [by_id[item] for item in asked if item in by_id]
