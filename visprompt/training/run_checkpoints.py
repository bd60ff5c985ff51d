"""Where a run stands, on the disk: safetensors and JSON, replaced in one go, so that a kill at any moment loses little.

A checkpoint is a folder `checkpoint-<step>`; it is written beside, renamed when it is whole, and only then is the one
before it removed. The newest whole one is where a run goes on.
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
_BESIDE = re.compile(r"\.(checkpoint|old)-\d+")  # on the way in, on the way out
_TENSORS, _NUMBERS = "state.safetensors", "state.json"


@renamed_attributes(pictures="images")
@dataclass
class Progress:
    """Numbers of a run that is under way.

    Args:
        step: optimiser steps done, over all epochs.
        loss: sum of the training loss over the images of the epoch so far.
        images: how many these are.
        best: figures of the best evaluation so far, or None.
        best_epoch: its epoch, from 1.
        waiting: evaluations since then.
        lines: rows of metrics.jsonl that belong to this state.
        scaler: state of the loss scaler (fp16), or None.
        stopped_early: patience ran out.
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
    """All that a run needs to go on as if it had not been interrupted.

    Args:
        progress: the numbers.
        weights: the trained tensors by name.
        best: those of the best evaluation by name; empty before the first one.
        optimizer: `state_dict()` of the optimiser.
    """

    progress: Progress
    weights: dict[str, Tensor]
    best: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint into `folder` and removes older ones."""
    from safetensors.torch import save_file

    numbers, tensors = _split(checkpoint.optimizer)
    tensors |= {f"weights.{name}": item for name, item in checkpoint.weights.items()}
    tensors |= {f"best.{name}": item for name, item in checkpoint.best.items()}
    part = folder / f".checkpoint-{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    # Clones: safetensors refuses tensors that share memory, and training goes on in these.
    save_file({name: item.detach().cpu().contiguous().clone() for name, item in tensors.items()}, part / _TENSORS)
    content = {"progress": asdict(checkpoint.progress), "optimizer": numbers}
    write_text(part / _NUMBERS, json.dumps(content))
    sync(part / _TENSORS)
    target = folder / f"checkpoint-{checkpoint.progress.step}"
    if target.exists():  # the same step again (an evaluation at the end of an epoch came to it)
        old = folder / f".old-{os.getpid()}"
        os.replace(target, old)
        os.replace(part, target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.replace(part, target)
    remove(folder, target)


def load(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint in `folder`, or None.

    Raises:
        InvalidInputError: if the only ones there are cannot be read.
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
    """Removes all checkpoints but one, those half written among them; by default all, when a run has ended."""
    for path in _ours(folder):
        if path != but:
            shutil.rmtree(path, ignore_errors=True)


def there(folder: Path) -> bool:
    """True if checkpoints lie in a folder."""
    return bool(_all(folder))


def _all(folder: Path) -> list[Path]:
    # A kill between the two renames of `save` leaves the old one under another name.
    return [path for path in _ours(folder) if not path.name.startswith(".checkpoint-")]


def foreign(folder: Path) -> Path | None:
    """Another program's checkpoint in a folder: they are called the same, and `save` would write over it."""
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
    """An optimiser's state as JSON and as tensors."""
    numbers: dict[str, dict[str, Any]] = {}
    tensors: dict[str, Tensor] = {}
    for place, entry in state.get("state", {}).items():
        for name, value in entry.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{place}.{name}"] = value
            else:
                numbers.setdefault(str(place), {})[name] = value
    return {"state": numbers}, tensors


def _joined(numbers: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(place): dict(entry) for place, entry in numbers.get("state", {}).items()}
    for key, item in tensors.items():
        place, _, name = key.partition(".")
        state.setdefault(int(place), {})[name] = item
    return {"state": state}


def clone(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, untouched by further training."""
    return {name: item.detach().to("cpu", copy=True) for name, item in weights.items()}
