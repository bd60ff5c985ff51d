"""The folder of a training run: locks it, checks which run it holds, and whether that run has finished."""

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

#: file with the fingerprint of a run and, at the end, its result
RUN = "run.json"
#: the other files that a run writes
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
    """Locks a run folder inside `with`; the operating system releases the lock when the process ends.

    Args:
        folder: folder of the run; None: no lock.

    Raises:
        InvalidInputError: if another process trains into the folder.
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
    ):  # `prepare` reports a folder that cannot be written to; some file systems have no locks
        pass
    try:
        yield
    finally:
        if lock.is_locked:
            (folder / ".lock").unlink(missing_ok=True)
            lock.release()


def prepare(folder: Path, what: dict[str, Any], restart: bool) -> Fitted | None:
    """Creates the folder of a run, or checks that it holds the same run.

    Args:
        folder: folder of the run.
        what: fingerprint of the run: what must be equal for it to be resumed.
        restart: remove the files of an earlier run.

    Returns:
        The result of the run if it has finished, otherwise None.

    Raises:
        InvalidInputError: if the folder holds another run, other files that the run would overwrite, or cannot be
            written to.
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
        # A kill in the middle of a restart leaves checkpoints without `run.json`.
        found = "a saved strategy" if (folder / "config.json").exists() else ""
        found = found or ("checkpoints of an unknown run" if checkpoints.there(folder) else "")
        if found and not restart:
            raise InvalidInputError(
                f"{folder} holds {found}, and no training run to go on with: give another folder, or restart=True "
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
    result = Fitted(**known["finished"])
    return dataclasses.replace(result, validation=_numbers(result.validation), test=_numbers(result.test))


def _numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    """Metrics read from JSON, with NaN in place of null."""
    return {name: math.nan if value is None else value for name, value in figures.items()}


def require_ours(folder: Path) -> None:
    """Refuses a folder with files that a run would overwrite and that no run wrote.

    Args:
        folder: folder of the run.

    Raises:
        InvalidInputError: with the names of these files.
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
    """True if the folder holds a run or a saved strategy, complete or not."""
    if (folder / RUN).exists() or any(folder.glob(f"sweep/*/{RUN}")):
        return True
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "visprompt_version" in content


def clear(folder: Path) -> None:
    """Removes the files that only an unfinished run needs: checkpoints and single progress images."""
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
    """True for fingerprints of the same weights: threads and GPUs differ in the order of summation."""
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
    """Replaces `run.json`.

    Args:
        folder: folder of the run.
        content: `{"run": fingerprint}`, with `"finished": result` once the run has ended.
    """
    write_text(folder / RUN, json.dumps(finite(content), indent=1, ensure_ascii=False) + "\n")
