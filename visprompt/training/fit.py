"""From `prompter.fit(model, data, out=…)` to a finished folder, by one run or a sweep of several; and measuring what
was learned on other data.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visprompt.data.labelled.dataset import KINDS, Labelled
from visprompt.errors import InvalidInputError
from visprompt.training.evaluation import evaluate
from visprompt.training.result import Fitted
from visprompt.training.run import objective_of, train
from visprompt.training.settings import FitSettings, settings_from
from visprompt.training.sweep import run_sweep

if TYPE_CHECKING:
    from visprompt.data.labelled.splits import Splits
    from visprompt.learned.strategy import Learned
    from visprompt.models.base import Model


def fit(
    prompter: Learned,
    model: Model,
    data: Splits | Labelled | str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None,
    sweep: Mapping[str, Sequence[Any]] | None,
    final: bool,
    restart: bool,
    progress: bool | None,
    settings: Mapping[str, Any],
) -> Fitted:
    """`Learned.fit`; see there."""
    from visprompt.registry import settings as own_settings

    splits = _splits(data)
    chosen = settings_from(dict(own_settings(type(prompter)).get("training") or {}), dict(settings))
    folder = None if out is None else Path(out).expanduser()
    if sweep or final:
        return run_sweep(
            prompter, model, splits, chosen, dict(sweep or {}), folder, final=final, restart=restart, progress=progress
        )
    return train(prompter, model, splits, chosen, folder, restart=restart, progress=progress)


def evaluate_on(prompter: Learned, model: Model, data: Labelled, settings: Mapping[str, Any]) -> dict[str, float]:
    """`Learned.evaluate`; see there."""
    if prompter.parameters is None:
        raise InvalidInputError(f"{prompter.name!r} has learned nothing yet, so there is nothing to measure.")
    prompter.check_backbone(model)
    classes, task = tuple(prompter.record.get("classes") or ()), prompter.record.get("task")
    if task in KINDS and task != data.kind:
        raise InvalidInputError(f"this prompt was taught {task}, and the data are for {data.kind}.")
    if classes and tuple(data.classes) != classes:
        raise InvalidInputError(
            f"this prompt knows {len(classes)} classes ({', '.join(classes[:4])}, …), and the data have "
            f"{len(data.classes)} ({', '.join(data.classes[:4])}, …), in this order: they must be the same."
        )
    known = {name: value for name, value in prompter.record.get("settings", {}).items() if value is not None}
    known["templates"] = tuple(known.get("templates", FitSettings.templates))
    chosen = settings_from(known, dict(settings))
    head = prompter.head
    if head is not None and chosen.head == "zero-shot":
        chosen = dataclasses.replace(chosen, head=None)  # a trained one has its texts' embeddings, and needs no tower
    objective = objective_of(prompter, model, {"train": data, "test": data}, chosen)
    if head is not None:
        objective.head = prompter.head = head
    return evaluate(objective, "test")


def _splits(data: Any) -> Splits:
    from visprompt.data.labelled.splits import Splits, load_splits

    if isinstance(data, Splits):
        return data
    if isinstance(data, Labelled):
        return Splits(data, None, None, "images from Python, all to train on; no validation and no test part.")
    if isinstance(data, str | os.PathLike):
        return load_splits(os.fspath(data))
    raise InvalidInputError(
        f"data is a folder, a file, visprompt.data.labelled.dataset.Splits or Labelled; got {type(data).__name__}."
    )
