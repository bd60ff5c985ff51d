"""Progress of a training run: a bar on a terminal, lines in a log, or nothing. Does not import torch."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import Any

from visprompt.utils.number_text import duration, shown
from visprompt.utils.renamed import renamed_names

#: seconds after which a log gets a line even without an evaluation
LOG_SECONDS = 60.0


class FitProgress:
    """Shows epoch, loss, learning rate, the best metric so far and the remaining time, on standard error.

    >>> with FitProgress(False, metric="accuracy") as progress:
    ...     progress.epoch(1, 2)
    ...     progress.step(1, 20, loss=0.7, lr=0.1)
    ...     progress.evaluated({"accuracy": 0.5, "loss": 0.6}, best=True)

    Args:
        wanted: True: a bar on a terminal, otherwise a line per evaluation; False: nothing; None: a bar if standard
            error is a terminal, otherwise nothing.
        metric: name of the metric to show; fractions (`is_share`) are shown as per cent.
        title: shown first, e.g. the setting of a sweep.
    """

    def __init__(self, wanted: bool | None = None, metric: str = "accuracy", title: str = "") -> None:
        on_terminal = sys.stderr.isatty()
        self.wanted = on_terminal if wanted is None else wanted
        self.metric, self.title = metric, title
        self._as_bar = self.wanted and on_terminal
        self._bar: Any = None
        self._task: Any = None
        self._epoch = self._of = self._done = self._total = 0
        self._loss = self._lr = math.nan
        self._watched: Mapping[str, float] = {}
        self._now: float | None = None
        self._best: tuple[float, int] | None = None
        self._first: tuple[float, int] | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> FitProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def epoch(self, number: int, of: int) -> None:
        """Reports that an epoch begins.

        Args:
            number: of the epoch, from 1.
            of: epochs of the run.
        """
        self._epoch, self._of = number, of
        self._draw()

    def step(self, done: int, of: int, loss: float, lr: float, watched: Mapping[str, float] | None = None) -> None:
        """Reports finished optimiser steps.

        Args:
            done: optimiser steps done, over all epochs, including those before a resume.
            of: optimiser steps of the whole run.
            loss: mean over the step's images.
            lr: the step's learning rate.
            watched: more metrics of the step, by name.
        """
        self._done, self._total, self._loss, self._lr = done, of, loss, lr
        self._watched = dict(watched or {})
        if self._first is None:
            # Steps of an earlier process do not count for the pace of this one.
            self._first = (time.monotonic(), done)
        self._draw()
        if self.wanted and not self._as_bar and time.monotonic() - self._last_line > LOG_SECONDS:
            self._line()

    def evaluated(self, figures: Mapping[str, float], best: bool) -> None:
        """Reports an evaluation on the validation split.

        Args:
            figures: metrics by name; `metric` is shown, or the first one if it is missing.
            best: whether they are the best so far.
        """
        if not figures:
            return
        name = self.metric if self.metric in figures else next(iter(figures))
        self.metric, self._now = name, float(figures[name])
        if best:
            self._best = (self._now, self._epoch)
        self._draw()
        if self.wanted and not self._as_bar:
            self._line()

    def close(self) -> None:
        """Removes the bar; may be called again."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    # -- output -------------------------------------------------------------------------------------------------------

    def _draw(self) -> None:
        if not self._as_bar:
            return
        from rich.markup import escape

        words = {"where": escape(self._where()), "figures": escape(self._figures())}
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.fields[where]}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(compact=True),
                console=Console(stderr=True, emoji=False),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=None, completed=self._done, **words)
        self._bar.update(self._task, completed=self._done, total=self._total or None, **words)

    def _line(self) -> None:
        """Prints one line for logs, without control characters."""
        self._last_line = time.monotonic()
        parts = [self._where(), self._figures(), *([f"{duration(self._left())} left"] if self._left() else [])]
        print("  ".join(part for part in parts if part), file=sys.stderr, flush=True)

    def _where(self) -> str:
        epoch = f"epoch {self._epoch}/{self._of}" if self._of else ""
        return " ".join(part for part in (self.title, epoch) if part)

    def _figures(self) -> str:
        parts = []
        if not math.isnan(self._lr):
            parts.append(f"loss {self._loss:.4f}  lr {self._lr:.3g}")
        parts += [f"{name} {shown(name, value)}" for name, value in self._watched.items()]
        if self._now is not None:
            parts.append(f"validation {self.metric} {shown(self.metric, self._now)}")
        if self._best is not None:
            value, epoch = self._best
            parts.append(f"(best {shown(self.metric, value)}, epoch {epoch})")
        return "  ".join(parts)

    def _left(self) -> float:
        """Remaining seconds at the pace of this process; 0 if they are unknown."""
        if self._first is None or self._done <= self._first[1] or self._done >= self._total:
            return 0.0
        started, before = self._first
        return (time.monotonic() - started) / (self._done - before) * (self._total - self._done)


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"is_share": "utils.number_text.is_share"}, globals())
