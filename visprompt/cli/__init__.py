"""The command line."""

from __future__ import annotations


def main() -> None:
    """Runs the command line: `visprompt …` and `python -m visprompt`."""
    from visprompt.cli.app import main as run

    run()
