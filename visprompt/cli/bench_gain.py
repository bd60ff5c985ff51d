"""`visprompt bench` for suites that measure attention gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visprompt.bench.gain.spec import GainSuite


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

    from visprompt.bench.gain.document import document
    from visprompt.bench.gain.run import RESULTS, run_gain
    from visprompt.bench.report import terminal, write_report
    from visprompt.bench.report.earlier import upgraded
    from visprompt.bench.workers import automatic_jobs
    from visprompt.cli.bench import showing, tell

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
            listener=showing(bar, "reading pictures", _gain),
        )
    report = document(upgraded(result))
    paths = write_report(report, result.out)
    shown = None if as_json else terminal(report)
    tell(result.rows, shown, result.problems, [*paths, result.out / RESULTS])


def _gain(row: Mapping[str, Any]) -> str | None:
    if row.get("part") != "gain":
        return None
    low, high = row["ci95"]
    return f"{row['model']} · {row['marker']}: {row['value']:.2f} ({low:.2f} to {high:.2f})"
