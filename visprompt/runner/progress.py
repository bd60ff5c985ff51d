"""The progress bar of a run, shown only when the run takes long."""

from __future__ import annotations

import sys
import time
from typing import Any

#: delay of the progress bar, seconds
PATIENCE_SECONDS = 2.0


class RunProgress:
    """A progress bar over requests, on standard error.

    Args:
        total: number of requests, or None if unknown.
        wanted: True: shown at once; False: never; None: after `PATIENCE_SECONDS`, if standard error is a terminal.
    """

    def __init__(self, total: int | None, wanted: bool | None) -> None:
        self.total = total
        self.after = 0.0 if wanted else PATIENCE_SECONDS
        self.wanted = wanted if wanted is not None else sys.stderr.isatty()
        self.started = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> RunProgress:
        return self

    def update(self, done: int) -> None:
        """Sets the progress.

        Args:
            done: number of finished requests.
        """
        if not self.wanted or time.monotonic() - self.started < self.after:
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("requests", total=self.total)
        self._bar.update(self._task, completed=done)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
