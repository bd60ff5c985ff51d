"""`visprompt bench` for suites that compare ways of tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.progress import Progress


def bench_tuning(
    suite: str,
    *,
    model: str | None,
    out: Path | None,
    limit: int | None,
    methods: Sequence[str] | None,
    fresh: bool,
    jobs: int | None,
    device: str,
    as_json: bool,
    title: str,
    models: Sequence[str],
) -> None:
    """Runs a suite, shows its table and writes its reports; arguments are those of `visprompt bench`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    from visprompt.bench.report import terminal, write_report
    from visprompt.bench.report.earlier import upgraded
    from visprompt.bench.tuning.document import document
    from visprompt.bench.tuning.run import RESULTS, run_tuning
    from visprompt.bench.workers import automatic_jobs, cores
    from visprompt.cli.bench import tell

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    chosen = [model] if model else list(models)
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        result = run_tuning(
            suite,
            model=model,
            out=out,
            limit=limit,
            methods=methods,
            fresh=fresh,
            device=device,
            pictures=True,
            jobs=jobs or automatic_jobs(chosen, device, cores()),
            listener=_shown(bar),
        )
    report = document(upgraded(result))
    paths = write_report(report, result.out)
    shown = None if as_json else terminal(report)
    tell(result.rows, shown, result.problems, [*paths, result.out / RESULTS])


def _shown(bar: Progress) -> Any:
    from visprompt.bench.tuning.run import TuningListener

    class Shown(TuningListener):
        """Shows runs as a progress bar, and a line per run where there is no terminal."""

        def __init__(self) -> None:
            self.task = bar.add_task("reading data", total=None)

        def planned(self, runs: int) -> None:
            if runs:
                bar.reset(self.task, total=runs)

        def begins(self, text: str) -> None:
            bar.update(self.task, description=text)

        def done(self, row: Mapping[str, Any]) -> None:
            bar.advance(self.task)
            figures = row.get("test") or row.get("validation")
            if bar.disable:
                where = "test" if row.get("test") else "validation"
                point = ", ".join(f"{name} {value}" for name, value in row["point"].items())
                told = "diverged" if not figures else f"{100 * figures[row['metric']]:.1f} % {row['metric']} on {where}"
                name = f"{row['set']} · {row['method']}" + (f" · {point}" if point else "")
                typer.echo(f"{name} · seed {row['seed']}: {told} ({row['seconds']:.0f} s)", err=True)

    return Shown()
