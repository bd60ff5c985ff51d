"""One training run with one set of settings: builds the objective, resumes or loads a run in the folder, records the
result.
"""

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

#: settings that do not change a run's result
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
        prompter: the learned strategy; its parameters are initialised again.
        model: the frozen model.
        splits: the data.
        settings: the hyperparameters.
        folder: for checkpoints, metrics and the saved prompt, or None. A run with the same settings is resumed, or
            loaded if it has finished.
        restart: overwrite a run in the folder.
        progress: True, False, or None: only on a terminal.
        title: shown before the progress bar.
        test: measure the test split at the end.
        also: a part of the model that is trained too, for full fine-tuning as a baseline (`Loop`).

    Returns:
        The metrics of the run.

    Raises:
        InvalidInputError: if the folder holds another run.
        DivergedError: if the loss becomes NaN or infinite.
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
    fingerprint = _fingerprint(prompter, model, splits, settings, test)
    if folder is not None:
        done = run_folder.prepare(folder, fingerprint, restart)
        if done is not None:
            _take(prompter, folder)
            if processes.is_main():
                run_folder.clear(folder)  # checkpoints are left if the run was killed before it removed them
            return done
    loop = Loop(prompter, model, objective, settings, folder=folder, progress=progress, title=title, also=also)
    fitted = loop.run()
    prompter.record = _record(fingerprint["data"], model, objective, splits, settings, fitted)
    if folder is not None and processes.is_main():
        prompter.save_pretrained(folder)
        run_folder.write(folder, {"run": fingerprint, "finished": dataclasses.asdict(fitted)})
        run_folder.clear(folder)
    processes.wait()
    return fitted


def make_objective(
    prompter: Learned, model: Model, splits: Splits, settings: FitSettings, test: bool = True
) -> Objective:
    """The objective of a strategy on these splits; its head is initialised from `settings.seed`.

    Args:
        prompter: the learned strategy, with its parameters built.
        model: the frozen model.
        splits: the data.
        settings: the hyperparameters.
        test: whether the objective gets the test split.
    """
    parts: dict[Split, Labelled] = {"train": splits.train}
    if splits.validation is not None:
        parts["validation"] = splits.validation
    if splits.test is not None and test:
        parts["test"] = splits.test
    return objective_of(prompter, model, parts, settings)


def objective_of(prompter: Learned, model: Model, parts: dict[Split, Labelled], settings: FitSettings) -> Objective:
    """The objective of a strategy on the given parts of the data; its head is initialised from `settings.seed`.

    Args:
        prompter: the learned strategy, with its parameters built.
        model: the frozen model.
        parts: labelled images by split, "train" among them.
        settings: the hyperparameters.
    """
    kind = prompter.objective(model, parts["train"])
    # A head is initialised from torch's global generator; `fork_rng` leaves the caller's state unchanged.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return kind(model, prompter, parts, settings)


def _fingerprint(prompter: Learned, model: Model, splits: Splits, settings: FitSettings, test: bool) -> dict[str, Any]:
    """What must be equal for a run to be resumed, ready for JSON."""
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
    """Loads a finished run's weights, head and record into `prompter`."""
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
    """The record of a training for `config.json` and the model card.

    Args:
        described: `splits.describe()`, which hashes all item names and is computed only once.
        model: the frozen model.
        objective: loss, metrics and head.
        splits: the data.
        settings: the hyperparameters.
        fitted: the metrics of the run.

    Returns:
        Values ready for JSON.
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
