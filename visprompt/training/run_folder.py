"""The folder of a training run: whether it is free, whose it is, and whether the run in it has ended."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from visprompt.errors import InvalidInputError
from visprompt.training import distributed as processes
from visprompt.training import progress_images as progress_images
from visprompt.training import run_checkpoints as checkpoints
from visprompt.training.metrics_log import finite
from visprompt.training.result import Fitted
from visprompt.utils.files import write_text

#: what a run is, and in the end what it gave
RUN = "run.json"
#: what a run leaves beside it
_WRITTEN = (
    "config.json",
    "prompt.safetensors",
    "README.md",
    "metrics.jsonl",
    progress_images.IMAGE,
    progress_images.STRIP,
)


@contextlib.contextmanager
def alone(folder: Path | None) -> Iterator[None]:
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


def prepare(folder: Path, what: dict[str, Any], restart: bool) -> Fitted | None:
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
        clear(folder)
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
                write(folder, {"run": what})
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


def clear(folder: Path) -> None:
    """Removes what only a run needs that has not ended."""
    checkpoints.remove(folder)
    progress_images.remove(folder)


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


def write(folder: Path, content: dict[str, Any]) -> None:
    """Replaces `run.json`: what the run is, and what it gave once it has ended."""
    write_text(folder / RUN, json.dumps(finite(content), indent=1, ensure_ascii=False) + "\n")
