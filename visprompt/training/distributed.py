"""Several processes that share a training run, as `torchrun`, `accelerate launch` or MPI start them."""

from __future__ import annotations

import os
from typing import Any

import torch

from visprompt.errors import InvalidInputError

# Under these names launchers say how many processes there are.
_COUNTS = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def launched() -> int:
    """How many processes a launcher started; 1 without one. Costs nothing."""
    for name in _COUNTS:
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > 1:
            return int(value)
    return 1


def state() -> Any:
    """accelerate's view of the processes, or None if there is one only and nothing has to be set up."""
    if launched() == 1:
        return None
    from accelerate import PartialState

    # Asked without `cpu`, a machine without accelerators is taken for a single process.
    return PartialState() if torch.accelerator.is_available() else PartialState(cpu=True)


def device() -> torch.device | None:
    """This process's own device among several; None if there is one process only, which may choose."""
    found = state()
    return None if found is None else torch.device(found.device)


def count() -> int:
    """How many processes there are."""
    found = state()
    return 1 if found is None else int(found.num_processes)


def is_main() -> bool:
    """True for the process that writes and shows."""
    found = state()
    return True if found is None else bool(found.is_main_process)


def require_same(value: Any, folder: Any) -> None:
    """Makes sure that every process found the same in a folder; those that go on and those that begin would wait for
    each other for ever.

    Raises:
        InvalidInputError: in all of them, if they did not.
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
    """Until every process is here."""
    found = state()
    if found is not None:
        found.wait_for_everyone()
