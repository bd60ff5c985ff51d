"""`visprompt bench`: a suite from data to report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from visprompt.bench.progress import ProgressCallback


def bench(
    suite: Annotated[str, typer.Argument(help="A YAML file, or the name of a suite: see `visprompt list suites`.")],
    model: Annotated[list[str] | None, typer.Option("--model", "-m", help="Instead of the suite's models.")] = None,
    images: Annotated[Path | None, typer.Option("--images", help="Folder of the pictures.")] = None,
    annotations: Annotated[Path | None, typer.Option("--annotations", help="Folder of the annotation files.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where results go; default: runs/SUITE.")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first N pictures of every task.")
    ] = None,
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
    from visprompt.bench.suite import kind_of, load_suite
    from visprompt.cli.arguments import quiet
    from visprompt.utils.files import require_folder

    checked = load_suite(suite)  # a misspelt key is said before torch is imported
    kind = kind_of(checked)
    require_folder(out if out is not None else Path("runs") / checked.name)
    chosen = kind.chosen(checked, strategy)
    quiet()
    from visprompt.bench.pipeline import run_suite
    from visprompt.bench.report import terminal, write_report
    from visprompt.bench.workers import automatic_jobs

    with progress_bar() as bar:
        result = run_suite(
            checked,
            models=model,
            images=images,
            annotations=annotations,
            out=out,
            limit=limit,
            strategies=strategy,
            fresh=not resume,
            device=device,
            examples=True,
            jobs=jobs or automatic_jobs(kind.models(chosen, model), device, kind.parallel(chosen)),
            progress=shown_in(bar, kind.line),
        )
    document = kind.document(result)
    written = [*write_report(document, result.out), result.out / "results.jsonl"]
    tell(result.rows, None if as_json else terminal(document), result.problems, written)


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
    from visprompt.bench.progress import ProgressCallback

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
