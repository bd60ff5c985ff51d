"""`visprompt bench`: a suite from data to report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visprompt.errors import InvalidInputError

if TYPE_CHECKING:
    from rich.progress import Progress


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
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from visprompt.bench.accuracy.spec import load_suite
    from visprompt.bench.gain.spec import GainSuite
    from visprompt.bench.tuning.spec import TuningSuite
    from visprompt.cli.arguments import quiet
    from visprompt.utils.files import require_folder

    checked = load_suite(suite)  # a misspelt key is said before torch is imported
    require_folder(out if out is not None else Path("runs") / checked.name)
    quiet()
    if isinstance(checked, TuningSuite):
        from visprompt.cli.bench_tuning import bench_tuning

        if model and len(model) > 1:
            raise InvalidInputError(f"suite {checked.name} tunes one model: give --model once.")
        bench_tuning(
            suite,
            model=model[0] if model else None,
            out=out,
            limit=limit,
            methods=strategy,
            fresh=not resume,
            jobs=jobs,
            device=device,
            as_json=as_json,
            title=checked.title,
            models=checked.models,
        )
        return

    if isinstance(checked, GainSuite):
        from visprompt.cli.bench_gain import bench_gain

        bench_gain(
            suite,
            checked,
            models=model,
            images=images,
            out=out,
            limit=limit,
            markers=strategy,
            fresh=not resume,
            jobs=jobs,
            device=device,
            as_json=as_json,
        )
        return

    from visprompt.bench.accuracy.document import document
    from visprompt.bench.accuracy.run import run_suite
    from visprompt.bench.report import terminal, write_report
    from visprompt.bench.report.earlier import upgraded
    from visprompt.bench.workers import automatic_jobs

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        result = run_suite(
            suite,
            models=model,
            images=images,
            annotations=annotations,
            out=out,
            limit=limit,
            strategies=strategy,
            fresh=not resume,
            device=device,
            pictures=True,
            jobs=jobs or automatic_jobs(model or checked.models, device, len(checked.tasks)),
            listener=showing(bar, "reading data", _accuracy),
        )
    report = document(upgraded(result))
    paths = write_report(report, result.out)
    shown = None if as_json else terminal(report)
    tell(result.rows, shown, result.problems, [*paths, result.out / "results.jsonl"])


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


def _accuracy(row: Mapping[str, Any]) -> str | None:
    if row["value"] is None:
        return None
    figure = f"{100 * row['value']:.1f} % of {row['n']} ({row['seconds']:.0f} s)"
    return f"{row['model']} · {row['task']} · {row['strategy']}: {figure}"


def showing(bar: Progress, first: str, line: Callable[[Mapping[str, Any]], str | None]) -> Any:
    """A listener that shows a run as one progress bar, and where there is no terminal as a line per row.

    Args:
        bar: where it is shown.
        first: what is done until the pictures are counted.
        line: a row as a line; None: none.
    """
    from visprompt.bench.accuracy.run import Listener

    class Shown(Listener):
        def __init__(self) -> None:
            self.task = bar.add_task(first, total=None)

        def planned(self, pictures: int) -> None:
            bar.reset(self.task, total=pictures)

        def row(self, text: str) -> None:
            bar.update(self.task, description=text)

        def done(self, pictures: int) -> None:
            bar.advance(self.task, pictures)

        def result(self, row: Mapping[str, Any]) -> None:
            told = line(row) if bar.disable else None
            if told is not None:
                typer.echo(told, err=True)

    return Shown()
