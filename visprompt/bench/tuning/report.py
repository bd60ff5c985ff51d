"""Reports of a comparison of ways of tuning: a table for the terminal, `report.md`, and `report.html` with figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visprompt.bench.accuracy.examples import data_uri
from visprompt.plots import base as plots
from visprompt.plots import tuning as plots_tuning

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from visprompt.bench.tuning.run import TuningResult

Row = Mapping[str, Any]
_TRAINED = "trained: how many numbers, in the prompt (or model) + in the head"
HTML, MARKDOWN = "report.html", "report.md"


@dataclass(frozen=True)
class Cell:
    """One figure of the table, as text: percent, and how sure it is."""

    value: str = "–"
    spread: str = ""
    best: bool = False
    title: str = ""


@dataclass(frozen=True)
class Line:
    """One method: numbers that it trains, and a cell per set."""

    label: str
    control: bool
    trained: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """Methods down, sets across.

    Attributes:
        sets: key, title, metric and number of test pictures.
        chance: percent, one per set.
    """

    sets: tuple[tuple[str, str, str, int], ...]
    lines: tuple[Line, ...]
    chance: tuple[str, ...]


def table(rows: Sequence[Row]) -> Table:
    """The table of a suite's rows (`results.jsonl`)."""
    rows = [row for row in rows if row["table"]]
    keys = list(dict.fromkeys(row["set"] for row in rows))
    labels = list(dict.fromkeys(row["method"] for row in sorted(rows, key=lambda row: bool(row["control"]))))
    by_place = {(row["set"], row["method"]): row for row in rows}
    best, sets, chances = {}, [], []
    for key in keys:
        known = [row for row in rows if row["set"] == key and row["value"] is not None]
        best[key] = max((row["value"] for row in known if not row["control"]), default=None)
        title = next(row["title"] for row in rows if row["set"] == key)
        sets.append((key, str(title), str(known[0]["metric"]) if known else "", int(known[0]["n"]) if known else 0))
        chance = next((row["chance"] for row in known if row.get("chance") is not None), None)
        chances.append("–" if chance is None else f"{100 * chance:.1f}")
    lines = []
    for label in labels:
        own = [by_place.get((key, label)) for key in keys]
        first = next(row for row in own if row is not None)
        cells = tuple(_cell(row, best[key]) for key, row in zip(keys, own, strict=True))
        lines.append(Line(label, bool(first["control"]), trained_numbers([row for row in own if row]), cells))
    return Table(tuple(sets), tuple(lines), tuple(chances))


def _cell(row: Row | None, best: float | None) -> Cell:
    if row is None or row["value"] is None:
        return Cell(title="not part of this suite" if row is None else "not run")
    words = [f"seeds {', '.join(map(str, row['seeds']))}: {', '.join(f'{100 * one:.1f}' for one in row['values'])}"]
    if row["ci95"]:
        words.append(f"95 % interval over {row['n']} pictures {interval_text(row)} ({row['ci_method']})")
    if row["diverged"]:
        words.append(f"{row['diverged']} runs diverged")
    spread = f"± {100 * row['sd']:.1f}" if row["sd"] is not None else interval_text(row)
    is_best = best is not None and row["value"] == best and not row["control"]
    return Cell(f"{100 * row['value']:.1f}", spread, is_best, "; ".join(words))


def interval_text(row: Row) -> str:
    """ "71.2–76.5"; empty without an interval."""
    return "" if not row["ci95"] else f"{100 * row['ci95'][0]:.1f}–{100 * row['ci95'][1]:.1f}"


def trained_numbers(rows: Sequence[Row]) -> str:
    """How many numbers a method trains, in prompt or model and in the head; heads differ from set to set.

    >>> trained_numbers([{"parameters": {"prompt": 1291, "head": 774}}, {"parameters": {"prompt": 1291, "head": 1032}}])
    '1,291 + 774–1,032'
    """
    known = [row["parameters"] for row in rows if row.get("parameters")]
    if not known:
        return "–"
    heads = sorted({one.get("head", 0) for one in known})
    head = f"{heads[0]:,}" + (f"–{heads[-1]:,}" if len(heads) > 1 else "")
    below = known[0].get("prompt", 0) + known[0].get("model", 0)
    return f"{below:,} + {head}" if below else head


def protocol(rows: Sequence[Row]) -> str:
    """What stands behind a figure: seeds, pictures, spread."""
    known = [row for row in rows if row["value"] is not None]
    if not known:
        return "nothing was run"
    seeds = sorted({len(row["seeds"]) for row in known})
    pictures = sorted({row["n"] for row in known})
    shown = f"n = {pictures[0]:,}" + (f" to {pictures[-1]:,}" if len(pictures) > 1 else "") + " test pictures"
    if seeds == [1]:
        return f"{shown}, one seed; 95 % intervals over pictures"
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return f"{shown}, mean of {count} seeds ± standard deviation"


def terminal(rows: Sequence[Row], title: str) -> RenderableType:
    """The table, the differences and what was learned, for a terminal."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table as RichTable

    found = table(rows)
    grid = RichTable(title=escape(title), title_justify="left", title_style="bold", caption_justify="left")
    grid.caption = f"%, {escape(protocol(rows))}; bold: best of a column. {_TRAINED}"
    grid.add_column("method")
    grid.add_column("trained", justify="right", style="dim")
    for key, _, metric, n in found.sets:
        grid.add_column(f"{escape(key)}\n[dim]{_named(metric)}, n {n}[/dim]", justify="right")
    for place, line in enumerate(found.lines):
        cells = [f"[bold]{c.value}[/bold]" if c.best else c.value for c in line.cells]
        cells = [
            f"{text} [dim]{c.spread}[/dim]" if c.spread else text for text, c in zip(cells, line.cells, strict=True)
        ]
        following = found.lines[place + 1 :]
        name = f"[dim]{escape(line.label)}[/dim]" if line.control else escape(line.label)
        ends = not following or (following[0].control and not line.control)
        grid.add_row(name, line.trained, *cells, end_section=ends)
    grid.add_row("[dim]chance[/dim]", "", *(f"[dim]{one}[/dim]" for one in found.chance))
    shown: list[RenderableType] = [grid]
    differences = difference_lines(rows)
    if differences:
        other = RichTable(
            title="Differences on the same test pictures, points", title_justify="left", title_style="bold"
        )
        for name in ("method", "set", "difference", "95 % interval", "each seed"):
            other.add_column(name, justify="left" if name in ("method", "set") else "right")
        for texts in differences:
            other.add_row(*map(escape, texts))
        shown.append(other)
    learned = learned_lines(rows)
    if learned:
        blocks = RichTable(title="What was learned, block by block", title_justify="left", title_style="bold")
        for name in ("set", "method", "gates", "temperatures"):
            blocks.add_column(name, overflow="fold")
        for words in learned:
            blocks.add_row(*map(escape, words))
        shown.append(blocks)
    return Group(*shown)


def difference_lines(rows: Sequence[Row]) -> list[tuple[str, str, str, str, str]]:
    """Method, set, difference, interval and the single seeds' differences, as text."""
    found = []
    for row in rows:
        one = row.get("comparison")
        if not one or not row["table"]:
            continue
        low_high = one["ci95"]
        interval = "" if low_high is None else f"{100 * low_high[0]:+.1f} to {100 * low_high[1]:+.1f}"
        each = ", ".join(f"{100 * value:+.1f}" for value in one["each"])
        found.append((str(row["method"]), str(row["set"]), f"{100 * one['difference']:+.1f}", interval, each))
    return found


def learned_lines(rows: Sequence[Row]) -> list[tuple[str, str, str, str]]:
    """Set, method, gates and temperatures from block 0 on, as text; means over seeds."""
    found = []
    for row in rows:
        texts = []
        for name in ("gate", "temperature"):
            values = [one[name] for one in row.get("blocks") or () if one.get(name) is not None]
            texts.append(" ".join(f"{value:.3f}" if name == "gate" else f"{value:.2f}" for value in values))
        if any(texts):
            found.append((str(row["set"]), str(row["method"]), *texts))
    return found  # type: ignore[return-value]


def choice_lines(rows: Sequence[Row]) -> list[tuple[str, str, str, str]]:
    """Set, method, what was chosen, and validation figures of all that was tried."""
    found = []
    for row in rows:
        if not row["grid"] or not row["table"]:
            continue
        tried = "; ".join(
            f"{_point(one['point'])}: "
            + ("diverged" if one["validation"] is None else f"{100 * one['validation']:.1f}")
            for one in row["grid"]
        )
        found.append((str(row["set"]), str(row["method"]), _point(row.get("point") or {}), tried))
    return found


def _point(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in point.items())


def figures(rows: Sequence[Row]) -> dict[str, tuple[Figure, str]]:
    """The figures by name, each with its alternative text."""
    if not any(row["value"] is not None for row in rows):
        return {}
    found = {"methods": (plots_tuning.methods_figure(rows), "Bars: the figures of the table, a panel per set.")}
    insertion = plots_tuning.insertion_figure(rows)
    if insertion is not None:
        found["insertion"] = insertion, "Accuracy over the block that plain tokens go into."
    gates = plots_tuning.gates_figure(rows)
    if gates is not None:
        found["gates"] = gates, "Gates, selection ratios and temperatures over the blocks, a line per set."
    return found


def markdown(result: TuningResult) -> str:
    """The report as Markdown."""
    suite, rows = result.suite, result.rows
    lines = [f"# {suite.title}", "", " ".join(suite.description.split()), "", *markdown_table(rows)]
    lines += ["", "## Sets", "", *(f"- **{one.key}**: {one.title}" for one in suite.sets)]
    parts: list[tuple[str, Sequence[tuple[str, ...]], tuple[str, ...]]] = [
        (f"Differences to {suite.compare_with} on the same test pictures, percentage points", difference_lines(rows),
         ("method", "set", "difference", "95 % interval", "each seed")),
        ("What was learned, block by block", learned_lines(rows), ("set", "method", "gates", "temperatures")),
        ("Chosen on validation", choice_lines(rows), ("set", "method", "chosen", "validation, %")),
    ]  # fmt: skip
    for title, found, head in parts:
        if found:
            lines += ["", f"## {title}", "", f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
            lines += [f"| {' | '.join(line)} |" for line in found]
    points = plots_tuning.insertion_points(rows)
    if points:
        lines += ["", "## Plain tokens, put in at another block", ""]
    for key, found_points in points.items():
        told = ", ".join(f"block {block}: {100 * row['value']:.1f}{_sd(row)}" for block, row in found_points)
        lines.append(f"- {key}: {told}")
    if result.problems:
        lines += ["", "## Problems", "", *(f"- {problem}" for problem in result.problems)]
    lines += ["", "## What it depends on", "", *(f"- {name}: {value}" for name, value in provenance_lines(result))]
    return "\n".join(lines) + "\n"


def markdown_table(rows: Sequence[Row]) -> list[str]:
    """The summary as lines of Markdown."""
    found = table(rows)
    lines = [f"In %, {protocol(rows)}. Best of a column in bold; controls in italics. {_TRAINED}.", ""]
    lines.append(
        "| method | trained | " + " | ".join(f"{key} ({_named(metric)})" for key, _, metric, _ in found.sets) + " |"
    )
    lines.append("|---|---:|" + "---:|" * len(found.sets))
    for line in found.lines:
        cells = [f"**{c.value}**" if c.best else c.value for c in line.cells]
        cells = [
            f"{text} {_bracket(c.spread)}" if c.spread else text for text, c in zip(cells, line.cells, strict=True)
        ]
        lines.append(f"| {f'*{line.label}*' if line.control else line.label} | {line.trained} | {' | '.join(cells)} |")
    return [*lines, f"| *chance* | | {' | '.join(found.chance)} |"]


def _bracket(spread: str) -> str:
    return spread if spread.startswith("±") else f"({spread})"


def _sd(row: Row) -> str:
    return "" if row["sd"] is None else f" ± {100 * row['sd']:.1f}"


def html(result: TuningResult) -> str:
    """The report as one page: inline style, pictures inside, no scripts."""
    from visprompt.bench.accuracy.report import environment

    notes, drawn = [], {}
    if plots.have_matplotlib():
        drawn = {name: (data_uri(plots.to_png(one)), alt) for name, (one, alt) in figures(result.rows).items()}
    else:
        notes.append('Figures need matplotlib: pip install "visprompt-toolkit[plots]".')
    return environment().get_template("report_tuning.html.j2").render(
        suite=result.suite, table=table(result.rows), protocol=protocol(result.rows), figures=drawn,
        pictures=result.pictures, differences=difference_lines(result.rows), learned=learned_lines(result.rows),
        choices=choice_lines(result.rows), problems=result.problems, provenance=provenance_lines(result), notes=notes,
    )  # fmt: skip


def write_report(result: TuningResult) -> list[Path]:
    """Writes `report.html`, `report.md` and the figures as PNG into the result's folder and returns their paths."""
    paths = [result.out / HTML, result.out / MARKDOWN]
    paths[0].write_text(html(result), encoding="utf-8")
    paths[1].write_text(markdown(result), encoding="utf-8")
    if plots.have_matplotlib():
        for name, (figure, _) in figures(result.rows).items():
            paths.append(result.out / f"{name}.png")
            paths[-1].write_bytes(plots.to_png(figure))
    return paths


def provenance_lines(result: TuningResult) -> list[tuple[str, str]]:
    """What the figures depend on, as name and value."""
    runs = [run for run in result.runs if "test" in run]
    if not runs:
        return []
    first = runs[0]
    told = first["provenance"]
    lines = [("suite", f"{result.suite.name} (hash {result.suite.hash})")]
    lines.append(("model", ", ".join(f"{key} {value}" for key, value in first["model"].items())))
    for row in result.rows:
        if row["value"] is not None:
            settings = ", ".join(f"{key} {value}" for key, value in row["settings"].items())
            options = ", ".join(f"{key} {value}" for key, value in row["options"].items())
            best = ", ".join(map(str, row["best_epochs"]))
            sizes = "/".join(str(row["sizes"][part]) for part in ("train", "validation", "test"))
            text = f"{row['how']} {row['strategy']} ({options or 'no options'}); {settings}; pictures {sizes}"
            text += f"; best epochs {best}"
            lines.append((f"{row['set']}, {row['method']}", f"{text}; {row['cpu_seconds']:.0f} s of processor time"))
    lines.append(("versions", ", ".join(f"{name} {version}" for name, version in told["versions"].items())))
    lines.append(("git commit", str(told["git_commit"] or "none")))
    lines.append(("code hash", str(told["code"])))
    lines.append(("machine", str(told["machine"])))
    seconds = sum(run["cpu_seconds"] for run in result.runs)
    lines.append(
        ("time", f"{seconds / 60:.0f} minutes of processor time; {first['date']} to {max(r['date'] for r in runs)}")
    )
    return lines


def _named(metric: str) -> str:
    return {"miou": "mean IoU"}.get(metric, metric)
