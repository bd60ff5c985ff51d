"""`visprompt bench`: a suite from data to report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from visprompt.bench.kind import ProgressCallback


def bench(
    suite: Annotated[str, typer.Argument(help="A YAML file, or the name of a suite: see `visprompt list suites`.")],
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="Instead of the suite's models.")] = None,
    images: Annotated[Path | None, typer.Option("--images", help="Folder of the images.")] = None,
    annotations: Annotated[Path | None, typer.Option("--annotations", help="Folder of the annotation files.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where results go; default: runs/SUITE.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N images of every task.")] = None,
    strategy: Annotated[
        list[str] | None, typer.Option("--strategy", "-s", help="Only these rows of the suite.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Reuse the answers that are in the folder, or start over.")
    ] = True,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", min=1, help="Models (or tasks) at a time, a process each; default: by cores."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result rows as JSON lines.")] = False,
) -> None:
    """Run a suite: accuracies with intervals in the terminal, report.html, report.md and results.jsonl in a folder."""
    from visprompt.bench.suite import TOUR, stops

    asked: dict[str, Any] = {"models": model, "images": images, "annotations": annotations, "strategies": strategy}
    asked |= {"fresh": not resume, "jobs": jobs, "device": device}
    if suite != TOUR:
        _run(suite, out, limit, asked, as_json)
        return
    times = []
    for stop in stops():
        typer.echo(f"\n{stop.suite}, the first {limit or stop.limit} images of every task", err=True)
        seconds = _run(stop.suite, stop.folder(out), limit or stop.limit, asked, as_json)
        times.append(f"{stop.suite} {seconds:.0f} s")
    typer.echo(f"The tour took: {', '.join(times)}. Intervals are wide: these are few images.", err=True)


def _run(suite: str, out: Path | None, limit: int | None, asked: Mapping[str, Any], as_json: bool) -> float:
    """Runs one suite, shows its table and writes its reports; gives the seconds it took.

    Args:
        suite, out, limit: as of `run_suite`.
        asked: its other options.
        as_json: print the rows instead of the table.
    """
    from visprompt.bench.suite import kind_of, load_suite
    from visprompt.cli.arguments import quiet
    from visprompt.utils.files import require_folder

    started = time.monotonic()
    checked = load_suite(suite)  # a misspelt key is said before torch is imported
    kind = kind_of(checked)
    require_folder(out if out is not None else Path("runs") / checked.name)
    chosen = kind.chosen(checked, asked["strategies"])
    models = kind.models(chosen, asked["models"])
    quiet()
    from visprompt.bench.pipeline import run_suite
    from visprompt.bench.report import terminal, write_report
    from visprompt.bench.workers import automatic_jobs

    jobs = asked["jobs"] or automatic_jobs(models, asked["device"], kind.parallel(chosen))
    with progress_bar() as bar:
        progress = shown_in(bar, kind.line)
        options = {**asked, "models": models, "jobs": jobs, "out": out, "limit": limit}
        result = run_suite(checked, examples=True, progress=progress, **options)
    document = kind.document(result)
    written = [*write_report(document, result.out), result.out / "results.jsonl"]
    tell(result.rows, None if as_json else terminal(document), result.problems, written)
    return time.monotonic() - started


def progress_bar() -> Progress:
    """One bar for a run, on the error stream; on none if that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def tell(rows: Iterable[Mapping[str, Any]], table: Any, problems: Iterable[str], written: Iterable[Path]) -> None:
    """What a suite gave: its table, or its rows as JSON lines if there is none; then what went wrong, and the files."""
    from rich.console import Console

    from visprompt.utils.jsonl import json_line

    if table is None:
        for row in rows:
            typer.echo(json_line(dict(row)), nl=False)
    else:
        Console(emoji=False).print(table)
    for problem in problems:
        typer.secho(f"warning: {problem}", fg="yellow", err=True)
    typer.echo(f"wrote {', '.join(str(path) for path in written)}", err=True)


def shown_in(bar: Progress, line: Callable[[dict[str, Any]], str | None]) -> ProgressCallback:
    """Shows a run in a progress bar, and where there is no terminal as a line per unit.

    Args:
        bar: where it is shown.
        line: what came out of a unit as a line; None: no line.
    """
    from visprompt.bench.kind import ProgressCallback

    task = bar.add_task("reading data", total=None)

    class Shown(ProgressCallback):
        def planned(self, total: int) -> None:
            bar.reset(task, total=total)

        def starts(self, title: str) -> None:
            bar.update(task, description=title)

        def advanced(self, count: int) -> None:
            bar.advance(task, count)

        def finished(self, row: dict[str, Any]) -> None:
            told = line(row) if bar.disable else None
            if told is not None:
                typer.echo(told, err=True)

    return Shown()
