"""How the speed benchmarks measure: ways in turns in one process, peak memory in processes of their own."""

from __future__ import annotations

import platform
import re
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch


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


def print_table(what: str, clock: str, head: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> None:
    """The figures with the circumstances that they depend on, for the terminal or for a page.

    Args:
        what: what was measured, on which model.
        clock: "wall" or "cpu".
        head: one heading per column.
        rows: figures, as text.
        markdown: as a Markdown table.
    """
    title = (
        f"{what}, {clock} time, {torch.get_num_threads()} thread(s), torch {torch.__version__}, {platform.machine()}"
    )
    if markdown:
        print(f"{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
        print("\n".join(f"| {' | '.join(row)} |" for row in rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*head, title=title)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
