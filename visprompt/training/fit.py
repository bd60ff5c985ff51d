"""`prompter.fit(model, data, out=…)`: from data to a finished folder, by one run or a sweep; and evaluation on other
data.
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
    """Implements `Learned.fit`: trains a prompter with one set of settings or with a grid of them.

    Args:
        prompter: the learned strategy; gets the trained parameters and head.
        model: the frozen model.
        data: splits, labelled images (all for training), or a path to a data set.
        out: folder of the run, or None.
        sweep: values per setting or option to try, or None.
        final: train the best setting again on training and validation images.
        restart: overwrite a run in the folder.
        progress: True, False, or None: only on a terminal.
        settings: `FitSettings` by name; the strategy's YAML gives the others.

    Returns:
        The metrics of the run.

    Raises:
        InvalidInputError: for data, settings or a folder that cannot be used.
        UnknownNameError: for a setting that does not exist.
    """
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
    """Implements `Learned.evaluate`: metrics of a trained prompter on other data.

    Args:
        prompter: a trained strategy.
        model: the model it was trained on.
        data: labelled images with the classes of the training data.
        settings: `FitSettings` that differ from those of the training.

    Returns:
        Metrics by name.

    Raises:
        InvalidInputError: if the prompter is untrained, or if the data are for another task or have other classes.
    """
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
        chosen = dataclasses.replace(chosen, head=None)  # a trained head stores the text embeddings
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
