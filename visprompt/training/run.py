"""From `prompter.fit(model, data, out=…)` to a finished folder: what is trained, whether it was trained already, and
what is known about it afterwards.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from visprompt.data.labelled.dataset import KINDS, Labelled
from visprompt.errors import InvalidInputError
from visprompt.prompter import Prompter
from visprompt.training import distributed as processes
from visprompt.training import progress_images as sketches
from visprompt.training import run_checkpoints as checkpoints
from visprompt.training.loop import Loop, evaluate
from visprompt.training.metrics_log import finite
from visprompt.training.result import Fitted
from visprompt.training.settings import FitSettings, settings_from

if TYPE_CHECKING:
    from torch import nn

    from visprompt.data.labelled.splits import Splits
    from visprompt.learned.strategy import Learned
    from visprompt.models.base import Model
    from visprompt.training.objectives.base import Objective, Split

#: what a run is, and in the end what it gave
RUN = "run.json"
#: what a run leaves beside it
_WRITTEN = ("config.json", "prompt.safetensors", "README.md", "metrics.jsonl", sketches.IMAGE, sketches.STRIP)
#: settings that change how fast a run is, and not what comes out
_WITHOUT_EFFECT = frozenset({"workers", "checkpoint_every", "tensorboard"})


def run(
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
        from visprompt.training.sweep import run_sweep

        return run_sweep(prompter, model, splits, chosen, dict(sweep or {}), folder, final, restart, progress)
    return train(prompter, model, splits, chosen, folder, restart=restart, progress=progress)


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
    with _alone(folder):
        return _train(prompter, model, splits, settings, folder, restart, progress, title, test, also)


@contextlib.contextmanager
def _alone(folder: Path | None) -> Iterator[None]:
    """Nobody else trains into the folder meanwhile; the lock goes with the process, however that ends.

    Raises:
        InvalidInputError: if somebody does.
    """
    if folder is None or not processes.is_main():
        yield
        return
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock", blocking=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InvalidInputError(
            f"another process is training into {folder} right now: wait for it, or give another folder."
        ) from None
    except (
        OSError,
        NotImplementedError,
    ):  # a folder that cannot be written to is named later; some disks have no locks
        pass
    try:
        yield
    finally:
        if lock.is_locked:
            (folder / ".lock").unlink(missing_ok=True)
            lock.release()


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
        done = _prepare(folder, what, restart)
        if done is not None:
            _take(prompter, folder)
            if processes.is_main():
                _clear(folder)  # a kill between the result and this one leaves them
            return done
    loop = Loop(prompter, model, objective, settings, folder=folder, progress=progress, title=title, also=also)
    fitted = loop.run()
    prompter.record = _record(what["data"], model, objective, splits, settings, fitted)
    if folder is not None and processes.is_main():
        prompter.save_pretrained(folder)
        _write(folder, {"run": what, "finished": dataclasses.asdict(fitted)})
        _clear(folder)
    processes.wait()
    return fitted


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
    objective = _objective(prompter, model, {"train": data, "test": data}, chosen)
    if head is not None:
        objective.head = prompter.head = head
    return evaluate(objective, "test")


def _splits(data: Any) -> Splits:
    from visprompt.data.labelled.splits import Splits, load_splits

    if isinstance(data, Splits):
        return data
    if isinstance(data, Labelled):
        return Splits(data, None, None, "pictures from Python, all to train on; no validation and no test part.")
    if isinstance(data, str | os.PathLike):
        return load_splits(os.fspath(data))
    raise InvalidInputError(
        f"data is a folder, a file, visprompt.data.labelled.dataset.Splits or Labelled; got {type(data).__name__}."
    )


def make_objective(
    prompter: Learned, model: Model, splits: Splits, settings: FitSettings, test: bool = True
) -> Objective:
    """What a strategy is taught with these data, its head drawn by the settings' seed."""
    parts: dict[Split, Labelled] = {"train": splits.train}
    if splits.validation is not None:
        parts["validation"] = splits.validation
    if splits.test is not None and test:
        parts["test"] = splits.test
    return _objective(prompter, model, parts, settings)


def _objective(prompter: Learned, model: Model, parts: dict[Split, Labelled], settings: FitSettings) -> Objective:
    kind = prompter.objective(model, parts["train"])
    # A head is drawn from torch's global generator: from a state of its own, and the user's stays as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return kind(model, prompter, parts, settings)


# -- the folder -------------------------------------------------------------------------------------------------------


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


def _prepare(folder: Path, what: dict[str, Any], restart: bool) -> Fitted | None:
    """Makes the folder; gives the result of a run that has ended there.

    Raises:
        InvalidInputError: if it holds another run, or something that is none.
    """
    if folder.exists() and not folder.is_dir():
        raise InvalidInputError(f"{folder} is a file; a run needs a folder.")
    require_ours(folder)
    known = None if restart else _read(folder / RUN)
    if restart and processes.is_main():
        for name in (RUN, *_WRITTEN):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        _clear(folder)
    processes.wait()
    processes.require_same(known, folder)
    if known is None:
        # Checkpoints without the run that they are of may be what a kill in the middle of a restart left.
        there = "a saved strategy" if (folder / "config.json").exists() else ""
        there = there or ("checkpoints of an unknown run" if checkpoints.there(folder) else "")
        if there and not restart:
            raise InvalidInputError(
                f"{folder} holds {there}, and no training run to go on with: give another folder, or restart=True "
                "(--restart) to write over it."
            )
        if processes.is_main():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                _write(folder, {"run": what})
            except OSError as error:
                raise InvalidInputError(f"{folder} cannot be written to: {error.strerror}.") from None
        processes.wait()
        return None
    other = _differences(known.get("run", {}), what)
    if other:
        raise InvalidInputError(
            f"{folder} holds another run: {'; '.join(other[:6])}. Give another folder, or restart=True (--restart) to "
            "write over it."
        )
    if "finished" not in known:
        return None
    found = Fitted(**known["finished"])
    return dataclasses.replace(found, validation=_numbers(found.validation), test=_numbers(found.test))


def _numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    """Figures as they were: JSON has None for what is no number."""
    return {name: math.nan if value is None else value for name, value in figures.items()}


def require_ours(folder: Path) -> None:
    """Refuses a folder with files that a run would write over, and that none wrote.

    Raises:
        InvalidInputError: naming them.
    """
    checkpoint = checkpoints.foreign(folder)
    if checkpoint is not None:
        raise InvalidInputError(f"{checkpoint} is another program's checkpoint: give another folder.")
    theirs = [name for name in _WRITTEN if (folder / name).exists()]
    if theirs and not _has_run(folder):
        raise InvalidInputError(
            f"{folder} holds {', '.join(theirs)}, and no run of visprompt: give a folder of the run's own."
        )


def _has_run(folder: Path) -> bool:
    """True if a run or a saved strategy lies there, also one that was cut off or is broken."""
    if (folder / RUN).exists() or any(folder.glob(f"sweep/*/{RUN}")):
        return True
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "visprompt_version" in content


def _clear(folder: Path) -> None:
    """Removes what only a run needs that has not ended."""
    checkpoints.remove(folder)
    sketches.remove(folder)


def _take(prompter: Learned, folder: Path) -> None:
    """What a run that has ended left, into a prompter and the head that it has."""
    saved: Any = Prompter.from_pretrained(folder)
    prompter.parameters, prompter.record, prompter.backbone = saved.parameters, saved.record, saved.backbone
    prompter.head = saved.head


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> list[str]:
    found = []
    for name in sorted({*old, *new}):
        a, b = old.get(name), new.get(name)
        where = f"{path}{name}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += _differences(a, b, f"{where}.")
        elif a != b and not (name == "marks" and _are_near(a, b)):
            found.append(f"{where} was {_short(a)} and is {_short(b)}")
    return found


def _are_near(old: Any, new: Any) -> bool:
    """True for the marks of the same weights: another number of threads, or another GPU, adds them up differently."""
    from visprompt.models.identity import far_apart

    return isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and not far_apart(old, new)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "…"


def _read(file: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"{file} cannot be read ({type(error).__name__}): start anew with restart=True (--restart)."
        ) from None
    return content if isinstance(content, dict) else {}


def _write(folder: Path, content: dict[str, Any]) -> None:
    from visprompt.persistence.prompt_files import write_whole

    write_whole(folder / RUN, (json.dumps(finite(content), indent=1, ensure_ascii=False) + "\n").encode())


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
