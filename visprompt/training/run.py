"""One training run with one set of settings: what is taught, whether it was trained already, and what is recorded."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from visprompt.prompter import Prompter
from visprompt.training import distributed as processes
from visprompt.training import run_folder
from visprompt.training.loop import Loop
from visprompt.training.metrics_log import finite
from visprompt.training.result import Fitted
from visprompt.training.settings import FitSettings
from visprompt.utils.renamed import renamed_names

if TYPE_CHECKING:
    from torch import nn

    from visprompt.data.labelled.dataset import Labelled
    from visprompt.data.labelled.splits import Splits
    from visprompt.learned.strategy import Learned
    from visprompt.models.base import Model
    from visprompt.training.objectives.base import Objective, Split

#: settings that change how fast a run is, and not what comes out
_WITHOUT_EFFECT = frozenset({"workers", "checkpoint_every", "tensorboard"})


def train(
    prompter: Learned,
    model: Model,
    splits: Splits,
    settings: FitSettings,
    folder: Path | None = None,
    *,
    restart: bool = False,
    progress: bool | None = None,
    title: str = "",
    test: bool = True,
    also: nn.Module | None = None,
) -> Fitted:
    """One training run with one set of settings.

    Args:
        prompter: its parameters are made anew.
        model: the model.
        splits: the data.
        settings: how.
        folder: for checkpoints, metrics and the result, or None.
        restart: forget what lies there.
        progress: True, False or None: if someone is watching.
        title: in front of the progress bar.
        test: measure the test split at the end.
        also: part of the model to train too, for full fine-tuning as a baseline (`Loop`).

    Raises:
        InvalidInputError: if another run's traces lie in the folder.
        DivergedError: if the loss stops being a number.
    """
    with run_folder.alone(folder):
        return _train(prompter, model, splits, settings, folder, restart, progress, title, test, also)


def _train(
    prompter: Learned,
    model: Model,
    splits: Splits,
    settings: FitSettings,
    folder: Path | None,
    restart: bool,
    progress: bool | None,
    title: str,
    test: bool,
    also: nn.Module | None,
) -> Fitted:
    prompter.build(model, settings.seed)
    objective = make_objective(prompter, model, splits, settings, test)
    prompter.head = objective.head
    what = _fingerprint(prompter, model, splits, settings, test)
    if folder is not None:
        done = run_folder.prepare(folder, what, restart)
        if done is not None:
            _take(prompter, folder)
            if processes.is_main():
                run_folder.clear(folder)  # a kill between the result and this one leaves them
            return done
    loop = Loop(prompter, model, objective, settings, folder=folder, progress=progress, title=title, also=also)
    fitted = loop.run()
    prompter.record = _record(what["data"], model, objective, splits, settings, fitted)
    if folder is not None and processes.is_main():
        prompter.save_pretrained(folder)
        run_folder.write(folder, {"run": what, "finished": dataclasses.asdict(fitted)})
        run_folder.clear(folder)
    processes.wait()
    return fitted


def make_objective(
    prompter: Learned, model: Model, splits: Splits, settings: FitSettings, test: bool = True
) -> Objective:
    """What a strategy is taught with these data, its head drawn by the settings' seed."""
    parts: dict[Split, Labelled] = {"train": splits.train}
    if splits.validation is not None:
        parts["validation"] = splits.validation
    if splits.test is not None and test:
        parts["test"] = splits.test
    return objective_of(prompter, model, parts, settings)


def objective_of(prompter: Learned, model: Model, parts: dict[Split, Labelled], settings: FitSettings) -> Objective:
    """What a strategy is taught with these parts of the data."""
    kind = prompter.objective(model, parts["train"])
    # A head is drawn from torch's global generator: from a state of its own, and the user's stays as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return kind(model, prompter, parts, settings)


def _fingerprint(prompter: Learned, model: Model, splits: Splits, settings: FitSettings, test: bool) -> dict[str, Any]:
    """What must be the same for a run to go on, as JSON has it."""
    backbone = dict(prompter.backbone or {})
    content = {
        "strategy": prompter.name,
        "options": dataclasses.asdict(prompter.options),
        "settings": {name: value for name, value in settings.describe().items() if name not in _WITHOUT_EFFECT},
        "data": splits.describe(),
        "model": {name: backbone.get(name) for name in ("class", "blocks", "width", "prefix", "marks")},
        "processes": processes.count(),
        "tests": test,
    }
    return json.loads(json.dumps(content))  # type: ignore[no-any-return]


def _take(prompter: Learned, folder: Path) -> None:
    """What a run that has ended left, into a prompter and the head that it has."""
    saved: Any = Prompter.from_pretrained(folder)
    prompter.parameters, prompter.record, prompter.backbone = saved.parameters, saved.record, saved.backbone
    prompter.head = saved.head


def _record(
    described: Mapping[str, Any],
    model: Model,
    objective: Objective,
    splits: Splits,
    settings: FitSettings,
    fitted: Fitted,
) -> dict[str, Any]:
    """What is known about a training, for `config.json` and the card; `described` is `splits.describe()`, which hashes
    every item's name and is not made twice.
    """
    from visprompt import __version__

    backbone = sum(item.numel() for item in model.module.parameters())
    content = {
        "data": {name: described[name] for name in ("train", "validation", "test")},
        "protocol": described["protocol"],
        "settings": settings.describe(),
        "metric": fitted.metric,
        "validation": fitted.validation,
        "test": fitted.test,
        "classes": list(splits.train.classes),
        **objective.describe(),
        "parameters": fitted.parameters,
        "backbone_parameters": backbone,
        "epochs": fitted.epochs,
        "best_epoch": fitted.best_epoch,
        "stopped_early": fitted.stopped_early,
        "visprompt_version": __version__,
    }
    return json.loads(json.dumps(finite(content)))  # type: ignore[no-any-return]


#: names of 0.4.0
__getattr__ = renamed_names(
    __name__,
    {
        "RUN": "training.run_folder.RUN",
        "evaluate_on": "training.fit.evaluate_on",
        "require_ours": "training.run_folder.require_ours",
        "run": "training.fit.fit",
    },
    globals(),
)
