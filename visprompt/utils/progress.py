"""A progress bar on standard error for work whose size is known; nothing where standard error is no terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(title: str, total: int, hidden: bool = False) -> Iterator[Callable[[int], None]]:
    """Shows how much is done and the time left; the bar is gone afterwards.

    >>> with progress_bar("reading", 3) as advance:
    ...     advance(2)

    Args:
        title: what is done, in front of the bar.
        total: units of work.
        hidden: True: nothing is shown, also on a terminal.

    Yields:
        A function that takes the number of units done since its last call.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=hidden or not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)
