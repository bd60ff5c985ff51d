"""A progress bar on standard error for work of known size; nothing is shown if standard error is not a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(title: str, total: int, hidden: bool = False) -> Iterator[Callable[[int], None]]:
    """Shows progress and remaining time; the bar disappears at the end.

    >>> with progress_bar("reading", 3) as advance:
    ...     advance(2)

    Args:
        title: text in front of the bar.
        total: number of units of work.
        hidden: True: no bar, also on a terminal.

    Yields:
        A function that takes the number of units finished since its last call.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)
