"""Measurement for the speed benchmarks: alternating calls in one process, peak memory in separate processes."""

from __future__ import annotations

import platform
import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn


def measure(calls: dict[str, Callable[[], Any]], repeats: int, clock: Callable[[], float]) -> dict[str, float]:
    """The shortest time of every call, measured in alternation.

    Args:
        calls: functions by name.
        repeats: measured calls of each, after one to warm up.
        clock: gives seconds.

    Returns:
        Seconds by name.
    """
    best = dict.fromkeys(calls, float("inf"))
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if turn:  # the first round warms up
                best[name] = min(best[name], clock() - start)
    return best


def peak_bytes() -> int:
    """The peak resident memory of this process, bytes."""
    # On Linux a child inherits its parent's ru_maxrss, so VmHWM is read where it exists.
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
        if found is not None:
            return int(found[1]) * 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)


Times = list[tuple[float, float]]


def rounds_of(calls: dict[Any, Callable[[], Any]], rounds: int) -> dict[Any, Times]:
    """Wall and processor time of every round, measured in alternation; the order is reversed every round.

    Args:
        calls: functions by name.
        rounds: measured rounds, after one to warm up.

    Returns:
        (wall, processor) seconds per round, by name.
    """
    times: dict[Any, Times] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        order = list(calls) if turn % 2 else list(reversed(calls))
        for name in order:
            wall, processor = time.perf_counter(), time.process_time()
            calls[name]()
            if turn:  # the first round warms up
                times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return times


def ratio(times: Times, to: Times) -> list[str]:
    """Medians of `times ÷ to`, round by round.

    Args:
        times: (wall, processor) seconds per round.
        to: the reference.

    Returns:
        The ratios of wall and of processor time, as text.
    """
    return [f"{median(a[clock] / b[clock] for a, b in zip(times, to, strict=True)):.3f}" for clock in (0, 1)]


def saved_bytes(step: Callable[[], Any], module: nn.Module) -> int:
    """The memory that autograd saves for one backward pass, every storage counted once.

    Args:
        step: forward and backward.
        module: its weights and buffers are not counted.

    Returns:
        Bytes.
    """
    weights = {item.untyped_storage().data_ptr() for item in module.state_dict().values()}
    seen: dict[int, int] = {}

    def pack(item: Tensor) -> Tensor:
        storage = item.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return item

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda item: item):
        step()
    return sum(seen.values())


def peak_above(step: Callable[[], Any], first: Callable[[], Any]) -> int:
    """The peak memory of this process during two steps, above its memory before.

    Args:
        step: is measured.
        first: called before, so that one-time allocations do not count.

    Returns:
        Bytes.
    """
    first()
    status = Path("/proc/self/status").read_text()
    before = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) * 2**10
    step()
    step()
    return peak_bytes() - before


def print_table(what: str, clock: str, head: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> None:
    """Prints figures with the circumstances they depend on.

    Args:
        what: what was measured, and on which model.
        clock: "wall" or "cpu"; "" if no time was measured.
        head: one heading per column.
        rows: figures, as text.
        markdown: print a Markdown table.
    """
    clock = f"{clock} time, {torch.get_num_threads()} thread(s), " if clock else ""
    title = f"{what}, {clock}torch {torch.__version__}, {platform.machine()}"
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
