"""Training in several processes, as `torchrun`, `accelerate launch` or MPI start them."""

from __future__ import annotations

import os
from typing import Any

import torch

from visprompt.errors import InvalidInputError

# Environment variables in which launchers give the number of processes.
_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def launched() -> int:
    """The number of processes that a launcher started, from the environment; 1 without a launcher."""
    for name in _COUNTS:
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > 1:
            return int(value)
    return 1


def state() -> Any:
    """accelerate's `PartialState`, or None with a single process, where nothing has to be set up."""
    if launched() == 1:
        return None
    from accelerate import PartialState

    # Without `cpu=True`, accelerate assumes a single process on a machine without accelerators.
    return PartialState() if torch.accelerator.is_available() else PartialState(cpu=True)


def device() -> torch.device | None:
    """The device of this process among several; None with a single process, which may choose its device."""
    found = state()
    return None if found is None else torch.device(found.device)


def count() -> int:
    """The number of processes."""
    found = state()
    return 1 if found is None else int(found.num_processes)


def is_main() -> bool:
    """True for the process that writes files and shows progress."""
    found = state()
    return True if found is None else bool(found.is_main_process)


def require_same(value: Any, folder: Any) -> None:
    """Checks that every process found the same value in a folder.

    Without this check, processes that resume and processes that start from scratch would wait for each other forever.

    Args:
        value: what this process found; None, or something that pickles.
        folder: named in the error.

    Raises:
        InvalidInputError: in all processes, if the values differ.
    """
    if count() == 1:
        return
    from accelerate.utils import gather_object

    seen = gather_object([value])
    if any(item != seen[0] for item in seen):
        raise InvalidInputError(
            f"not every process sees the same run in {folder}: with several machines it must lie on a disk that all of "
            "them share. Start anew there."
        )


def wait() -> None:
    """Barrier: returns once every process has called it."""
    found = state()
    if found is not None:
        found.wait_for_everyone()
