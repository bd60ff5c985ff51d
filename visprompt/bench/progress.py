"""What a run of a suite reports while it is at work."""

from __future__ import annotations

from typing import Any


class ProgressCallback:
    """Is told how a run goes; sub-classes show it. Every method does nothing here."""

    def planned(self, total: int) -> None:
        """How much there is to do: images to look at, and runs of training, all units together."""

    def starts(self, title: str) -> None:
        """Which unit is at work now."""

    def advanced(self, count: int) -> None:
        """How much was done since the last call; negative if a process died and its work is done again."""

    def finished(self, row: dict[str, Any]) -> None:
        """A unit that was made in this run is finished; `row` is what came out of it."""
