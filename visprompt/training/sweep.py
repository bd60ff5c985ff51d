"""A sweep over a grid of settings: every combination is trained, the best on validation is kept and tested once."""

from __future__ import annotations

import dataclasses
import itertools
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from visprompt.errors import InvalidInputError, unknown_name
from visprompt.registry import checked_options
from visprompt.training import distributed as processes
from visprompt.training import run_checkpoints as checkpoints
from visprompt.training.evaluation import evaluate
from visprompt.training.loop import DivergedError
from visprompt.training.metrics_log import FILE
from visprompt.training.progress_images import STRIP
from visprompt.training.result import Fitted
from visprompt.training.run import make_objective, train
from visprompt.training.run_folder import RUN, require_ours
from visprompt.training.settings import FitSettings

if TYPE_CHECKING:
    from torch import Tensor

    from visprompt.data.labelled.splits import Splits
    from visprompt.learned.strategy import Learned
    from visprompt.models.base import Model
    from visprompt.training.objectives.base import Objective

    #: one run: its values of the grid, the strategy's options, and the settings
    _Combination: TypeAlias = tuple[dict[str, Any], Any, FitSettings]
    #: result of one run: metrics, weights by name, and the record for the model card
    _Result: TypeAlias = tuple[Fitted, dict[str, Tensor], dict[str, Any]]

FOLDER = "sweep"


def run_sweep(
    prompter: Learned,
    model: Model,
    splits: Splits,
    settings: FitSettings,
    grid: Mapping[str, Sequence[Any]],
    folder: Path | None,
    *,
    final: bool,
    restart: bool,
    progress: bool | None,
) -> Fitted:
    """Trains every combination of a grid, then measures the best one on the test split.

    Args:
        prompter: the learned strategy; gets the options and the weights of the best run.
        model: the frozen model.
        splits: the data, with a validation split.
        settings: the settings that the grid does not vary.
        grid: values per setting or per option of the strategy.
        folder: for the runs (in `sweep/`) and the result, or None.
        final: train the best combination again on training and validation images; its last weights are kept.
        restart: overwrite the runs in the folder.
        progress: True, False, or None: only on a terminal.

    Returns:
        The metrics of the best run; `Fitted.sweep` has those of all runs.

    Raises:
        InvalidInputError: without a validation split, for a value that is not allowed, or if every run diverged.
        UnknownNameError: for a name that is neither a setting nor an option.
    """
    if splits.validation is None:
        raise InvalidInputError(
            "a sweep chooses on validation, and these data have no validation part: split one off "
            "(load_splits(…, validation=0.2), --validation 0.2)."
        )
    combinations = _combinations(prompter, settings, grid)
    if folder is not None:
        require_ours(folder)
        if not final:
            _require_no_run(folder, restart)
    if restart and folder is not None and processes.is_main():
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
    processes.wait()
    tried, results = _train_all(prompter, model, splits, combinations, folder, progress)
    ranked, winner = _ranked(prompter.objective(model, splits.train), tried)
    values, prompter.options, chosen = combinations[winner]
    if final:
        chosen = dataclasses.replace(chosen, keep="last", patience=None)
        how: dict[str, Any] = {"restart": restart, "progress": progress, "title": "all images"}
        fitted = train(prompter, model, splits.final(), chosen, folder, **how)
    else:
        fitted = _restored(prompter, model, splits, chosen, results[winner])
    prompter.record["sweep"] = ranked
    if folder is not None and processes.is_main():
        if not final:
            _copy_logs(folder / FOLDER / _slug(values), folder)
        prompter.save_pretrained(folder)
    return dataclasses.replace(fitted, sweep=ranked)


def _train_all(
    prompter: Learned,
    model: Model,
    splits: Splits,
    combinations: Sequence[_Combination],
    folder: Path | None,
    progress: bool | None,
) -> tuple[list[dict[str, Any]], dict[int, _Result]]:
    """Trains every combination.

    Returns:
        One dict per combination with its values and metrics; and the results of the runs that did not diverge, by the
            number of the combination.

    Raises:
        InvalidInputError: if every run diverged.
    """
    original = prompter.options
    tried: list[dict[str, Any]] = []
    results: dict[int, _Result] = {}
    for number, (values, options, chosen) in enumerate(combinations):
        prompter.options = options
        run_path = None if folder is None else folder / FOLDER / _slug(values)
        title = f"[{number + 1}/{len(combinations)}] {_named(values)}"
        try:
            found = train(prompter, model, splits, chosen, run_path, progress=progress, title=title, test=False)
        except DivergedError as error:
            tried.append({**values, "diverged": str(error)})
            continue
        except BaseException:
            _forget(prompter, original)
            raise
        tried.append({**values, **found.validation, "best_epoch": found.best_epoch})
        results[number] = (found, prompter.state(), prompter.record)
    if not results:
        _forget(prompter, original)
        raise InvalidInputError(f"every setting of the sweep diverged: {tried[0]['diverged']}")
    return tried, results


def _ranked(kind: type[Objective], tried: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """The dicts of `_train_all`, best first and diverged runs last; and the number of the best combination."""
    alive = [entry for entry in tried if "diverged" not in entry]
    ranked = sorted(alive, key=lambda entry: _cost(entry[kind.metric], kind.higher_is_better))
    winner = next(i for i, entry in enumerate(tried) if entry is ranked[0])
    return ranked + [entry for entry in tried if "diverged" in entry], winner


def _restored(prompter: Learned, model: Model, splits: Splits, settings: FitSettings, result: _Result) -> Fitted:
    """Loads the weights of one run of the sweep into the prompter and measures them on the test split."""
    fitted, state, record = result
    prompter.build(model, settings.seed)
    objective = make_objective(prompter, model, splits, settings)
    prompter.head, prompter.record = objective.head, record
    prompter.load_state(state)
    if "test" in objective.splits:
        fitted = dataclasses.replace(fitted, test=evaluate(objective, "test"))
        record["test"] = fitted.test
    return fitted


def _copy_logs(run: Path, folder: Path) -> None:
    """Copies metrics and progress images of the best run to the folder of the sweep."""
    for name in (FILE, STRIP):
        if (run / name).is_file():
            shutil.copyfile(run / name, folder / name)


def _forget(prompter: Learned, options: Any) -> None:
    """Restores the prompter's options and drops the parameters of another combination."""
    prompter.options, prompter.parameters, prompter.head, prompter.record = options, None, None, {}


def _combinations(prompter: Learned, settings: FitSettings, grid: Mapping[str, Sequence[Any]]) -> list[_Combination]:
    """(values, options, settings) of every run; all are checked before the first run starts."""
    known = {item.name for item in dataclasses.fields(FitSettings)}
    options = {item.name for item in dataclasses.fields(prompter.Options)}
    for name, values in grid.items():
        if name not in known | options:
            raise unknown_name("setting or option to sweep", name, known | options)
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise InvalidInputError(f"a sweep over {name} needs a list of values; got {values!r}.")
    made = []
    for values in itertools.product(*grid.values()):
        entry = dict(zip(grid, values, strict=True))
        own = {name: value for name, value in entry.items() if name in options}
        other = {name: value for name, value in entry.items() if name not in options}
        merged = checked_options(prompter.Options, prompter.name, {**_fields(prompter.options), **own})
        if "base_lr" in other and "lr" not in other:
            other["lr"] = None
        made.append((entry, merged, dataclasses.replace(settings, **other)))
    return made


def _fields(options: Any) -> dict[str, Any]:
    return {item.name: getattr(options, item.name) for item in dataclasses.fields(options)}


def _require_no_run(folder: Path, restart: bool) -> None:
    if not (folder / RUN).exists():
        return
    if not restart:
        raise InvalidInputError(
            f"{folder} holds a run without a sweep: give another folder, or restart=True (--restart) to write over it."
        )
    if processes.is_main():
        for name in (RUN, "metrics.jsonl"):
            (folder / name).unlink(missing_ok=True)
        checkpoints.remove(folder)


def _cost(value: float, higher: bool) -> float:
    """Sort key: smaller is better; NaN and infinity are worst."""
    return (-value if higher else value) if math.isfinite(value) else math.inf


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "as given"


def _slug(values: Mapping[str, Any]) -> str:
    """A folder name with the values of a combination."""
    text = ",".join(f"{name}={value}" for name, value in values.items()) or "as-given"
    return "".join(char if char.isalnum() or char in "=.,_-" else "_" for char in text)[:120]
