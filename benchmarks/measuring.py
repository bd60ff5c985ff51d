"""How the speed benchmarks measure: ways in turns in one process, peak memory in processes of their own."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def measure(calls: dict[str, Callable[[], Any]], repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """Fastest time of every call in seconds, measured in turns."""
    best = dict.fromkeys(calls, float("inf"))
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if turn:  # the first turn warms up
                best[name] = min(best[name], clock() - start)
    return best


def peak_bytes() -> int:
    """The high-water mark of this process's memory."""
    # Linux hands a parent's ru_maxrss on to its children, so the high-water mark is read where there is one.
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found is not None:
            return int(found[1]) * 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)
