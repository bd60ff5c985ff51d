"""`visprompt bench` for suites that measure attention gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from visprompt.suites_gain import GainSuite


def bench_gain(
    suite: str,
    checked: GainSuite,
    *,
    models: Sequence[str] | None,
    images: Path | None,
    out: Path | None,
    limit: int | None,
    markers: Sequence[str] | None,
    fresh: bool,
    jobs: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Runs a suite, shows its tables and writes its reports; arguments are those of `visprompt bench`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    from visprompt.bench_gain import RESULTS, run_gain
    from visprompt.bench_workers import automatic_jobs
    from visprompt.cli_bench import tell
    from visprompt.report_gain import terminal, write_report

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    swept = [checked.sweep.model] * 2 if checked.sweep is not None and not markers else []
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        result = run_gain(
            suite,
            models=models,
            images=images,
            out=out,
            limit=limit,
            markers=markers,
            fresh=fresh,
            device=device,
            pictures=True,
            jobs=jobs or automatic_jobs([*(models or checked.models), *swept], device),
            listener=_shown(bar),
        )
    paths = write_report(result)
    shown = None if as_json else terminal(result.rows, result.suite.title)
    tell(result.rows, shown, result.problems, [*paths, result.out / RESULTS])


def _shown(bar: Progress) -> Any:
    from visprompt.bench import Listener

    class Shown(Listener):
        """Shows a run as one progress bar, and a line per marker where there is no terminal."""

        def __init__(self) -> None:
            self.task = bar.add_task("reading pictures", total=None)

        def planned(self, pictures: int) -> None:
            bar.reset(self.task, total=pictures)

        def row(self, text: str) -> None:
            bar.update(self.task, description=text)

        def done(self, pictures: int) -> None:
            bar.advance(self.task, pictures)

        def result(self, row: Mapping[str, Any]) -> None:
            if bar.disable and row.get("part") == "gain":
                low, high = row["ci95"]
                typer.echo(f"{row['model']} · {row['marker']}: {row['value']:.2f} ({low:.2f} to {high:.2f})", err=True)

    return Shown()
