"""Checkpoints of a run: safetensors and JSON, replaced atomically, so that a kill at any moment loses little.

A checkpoint is a folder `checkpoint-<step>`. It is written under a temporary name and renamed when it is complete; only
then is the previous one removed. A run resumes from the newest complete one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from visprompt.errors import InvalidInputError
from visprompt.utils.files import sync, write_text
from visprompt.utils.renamed import renamed_attributes

_NAME = re.compile(r"checkpoint-(\d+)")
_BESIDE = re.compile(r"\.(checkpoint|old)-\d+")  # temporary names: being written, being replaced
_TENSORS, _NUMBERS = "state.safetensors", "state.json"


@renamed_attributes(pictures="images")
@dataclass
class Progress:
    """The counters of an unfinished run.

    Args:
        step: optimiser steps done, over all epochs.
        loss: sum of the training loss over the images of the epoch so far.
        images: number of these images.
        best: metrics of the best evaluation so far, or None.
        best_epoch: its epoch, from 1.
        waiting: evaluations since the best one.
        lines: rows of metrics.jsonl up to this state.
        scaler: state of the loss scaler (fp16), or None.
        stopped_early: whether `patience` ended the run.
    """

    step: int = 0
    loss: float = 0.0
    images: int = 0
    best: dict[str, float] | None = None
    best_epoch: int = 0
    waiting: int = 0
    lines: int = 0
    scaler: dict[str, Any] | None = None
    stopped_early: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to resume exactly.

    Args:
        progress: the counters.
        weights: the trained tensors by name.
        best: the trained tensors at the best evaluation, by name; empty before the first evaluation.
        optimizer: `state_dict()` of the optimiser.
    """

    progress: Progress
    weights: dict[str, Tensor]
    best: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint and removes older ones.

    Args:
        folder: folder of the run.
        checkpoint: the state to write.
    """
    from safetensors.torch import save_file

    numbers, tensors = _split(checkpoint.optimizer)
    tensors |= {f"weights.{name}": item for name, item in checkpoint.weights.items()}
    tensors |= {f"best.{name}": item for name, item in checkpoint.best.items()}
    part = folder / f".checkpoint-{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    # Cloned, since safetensors refuses tensors that share memory.
    save_file({name: item.detach().cpu().contiguous().clone() for name, item in tensors.items()}, part / _TENSORS)
    content = {"progress": asdict(checkpoint.progress), "optimizer": numbers}
    write_text(part / _NUMBERS, json.dumps(content))
    sync(part / _TENSORS)
    target = folder / f"checkpoint-{checkpoint.progress.step}"
    if target.exists():  # the step was saved before: `checkpoint_every` and the end of an epoch coincide
        old = folder / f".old-{os.getpid()}"
        os.replace(target, old)
        os.replace(part, target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(part, target)
    remove(folder, target)


def load(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint.

    Args:
        folder: folder of the run.

    Returns:
        The checkpoint, or None if there is none.

    Raises:
        InvalidInputError: if there are checkpoints and none can be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    problem: Exception | None = None
    for path in sorted(_all(folder), key=_step, reverse=True):
        try:
            content = json.loads((path / _NUMBERS).read_text(encoding="utf-8"))
            tensors = load_file(path / _TENSORS)
            return Checkpoint(
                Progress(**content["progress"]),
                _under("weights.", tensors),
                _under("best.", tensors),
                _joined(content["optimizer"], _under("optimizer.", tensors)),
            )
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            problem = error
    if problem is not None:
        raise InvalidInputError(
            f"the checkpoint in {folder} cannot be read ({type(problem).__name__}: {problem}): start anew with "
            "restart=True (--restart)."
        )
    return None


def remove(folder: Path, but: Path | None = None) -> None:
    """Removes all checkpoints of a folder except one, incomplete ones too.

    Args:
        folder: folder of the run.
        but: the checkpoint to keep; None: none.
    """
    for path in _ours(folder):
        if path != but:
            shutil.rmtree(path, ignore_errors=True)


def there(folder: Path) -> bool:
    """True if the folder holds checkpoints."""
    return bool(_all(folder))


def _all(folder: Path) -> list[Path]:
    # A kill between the two renames of `save` leaves the old checkpoint under its temporary name.
    return [path for path in _ours(folder) if not path.name.startswith(".checkpoint-")]


def foreign(folder: Path) -> Path | None:
    """Finds a checkpoint of another program with a name that `save` would overwrite.

    Args:
        folder: folder of the run.

    Returns:
        Its path, or None.
    """
    return next((path for path in _named(folder, _NAME) if not _is_ours(path)), None)


def _ours(folder: Path) -> list[Path]:
    return [path for path in _named(folder, _NAME) if _is_ours(path)] + _named(folder, _BESIDE)


def _named(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    return [path for path in folder.iterdir() if pattern.fullmatch(path.name)] if folder.is_dir() else []


def _is_ours(path: Path) -> bool:
    return path.is_dir() and {item.name for item in path.iterdir()} <= {_TENSORS, _NUMBERS}


def _step(path: Path) -> int:
    found = _NAME.fullmatch(path.name)
    return int(found[1]) if found else -1


def _under(start: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(start): item for name, item in tensors.items() if name.startswith(start)}


def _split(state: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Splits an optimiser's state into JSON values and tensors."""
    numbers: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for index, entry in state.get("state", {}).items():
        for name, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{name}"] = value
            else:
                numbers.setdefault(str(index), {})[name] = value
    return {"state": numbers}, tensors


def _joined(numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(index): dict(entry) for index, entry in numbers.get("state", {}).items()}
    for key, item in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = item
    return {"state": state}


def clone(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors on the CPU, by name."""
    return {name: item.detach().to("cpu", copy=True) for name, item in weights.items()}
