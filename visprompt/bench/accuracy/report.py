"""Reports of a suite: `report.html` (one file, nothing to fetch), `report.md`, and the same table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visprompt.bench.accuracy.examples import data_uri
from visprompt.bench.accuracy.report_kinds import (
    difference_text,
    kind_tables,
    map_tables,
    markdown_kinds,
    markdown_maps,
    terminal_kinds,
)
from visprompt.bench.suite import load_published
from visprompt.plots import base as plots

if TYPE_CHECKING:
    from jinja2 import Environment
    from rich.console import RenderableType

    from visprompt.bench.accuracy.run import BenchResult

Row = Mapping[str, Any]
HTML, MARKDOWN = "report.html", "report.md"


@dataclass(frozen=True)
class Cell:
    """One figure of the table, as text.

    Attributes:
        value: accuracy in percent, "–" where there is none.
        interval: "91.4–94.5".
        best: the highest of its column, controls left out.
        title: the sentence behind it.
    """

    value: str = "–"
    interval: str = ""
    best: bool = False
    title: str = ""


@dataclass(frozen=True)
class Line:
    """One strategy with its cells, in the order of the columns."""

    label: str
    control: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """The summary: strategies down, models and tasks across.

    Attributes:
        models: with the number of their columns.
        columns: (model, task) of every column.
        chance: percent, one per column.
    """

    models: tuple[tuple[str, int], ...]
    columns: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]
    chance: tuple[str, ...]


def summary(rows: Sequence[Row]) -> Table:
    """The table of a suite's rows (`results.jsonl`)."""
    columns = tuple(dict.fromkeys((str(row["model"]), str(row["task"])) for row in rows))
    models = tuple(dict.fromkeys(model for model, _ in columns))
    labels = sorted(dict.fromkeys(str(row["strategy"]) for row in rows), key=lambda label: _is_control(rows, label))
    found = {(row["model"], row["task"], row["strategy"]): row for row in rows}
    best = {
        column: max(
            (row["value"] for row in rows if _of(row, column) and not row["control"] and row["value"] is not None),
            default=None,
        )
        for column in columns
    }
    lines = tuple(
        Line(
            label,
            _is_control(rows, label),
            tuple(_cell(found.get((*column, label)), best[column]) for column in columns),
        )
        for label in labels
    )
    chance = []
    for column in columns:
        known = [row["chance"] for row in rows if _of(row, column) and row.get("chance") is not None]
        chance.append(f"{100 * known[0]:.1f}" if known else "–")
    sizes = tuple((model, sum(one == model for one, _ in columns)) for model in models)
    return Table(sizes, columns, lines, tuple(chance))


def protocol(rows: Sequence[Row]) -> str:
    """What a reader has to know beside a figure: candidates and number of items."""
    boxes = " and ".join(dict.fromkeys(_regions(row) for row in rows))
    sizes = sorted({row["n"] for row in rows if row["n"]})
    count = f"n = {sizes[0]}" if len(sizes) == 1 else f"n = {sizes[0]} to {sizes[-1]}" if sizes else "no items"
    return f"{boxes}, {count}"


def _regions(row: Row) -> str:
    """What was pointed at: whose boxes, or points."""
    return "marked points" if row["settings"].get("task") == "keypoints" else f"{row['boxes']} boxes"


def sentence(title: str) -> str:
    """With a full stop, unless it ends as a sentence does.

    >>> sentence("Which box?"), sentence("Naming")
    ('Which box?', 'Naming.')
    """
    return title if title.endswith((".", "?", "!")) else f"{title}."


def terminal(rows: Sequence[Row], title: str) -> RenderableType:
    """The summary as rich tables, one per model."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table as RichTable

    table = summary(rows)
    shown: list[RenderableType] = []
    for model, _ in table.models:
        chosen = [number for number, (one, _) in enumerate(table.columns) if one == model]
        grid = RichTable(
            title=escape(f"{title} · {model}"), title_justify="left", title_style="bold", caption_justify="left"
        )
        grid.caption = f"accuracy in %, 95 % interval; {escape(protocol(rows))}; bold: best of a column"
        grid.add_column("strategy")
        for number in chosen:
            grid.add_column(escape(table.columns[number][1]), justify="right")
        for place, line in enumerate(table.lines):
            cells = [line.cells[number] for number in chosen]
            texts = [f"[bold]{c.value}[/bold]" if c.best else c.value for c in cells]
            between = "\n" if len(chosen) > 3 else " "  # four columns and their intervals are wider than a terminal
            texts = [
                f"{t}{between}[dim]{c.interval}[/dim]" if c.interval else t for t, c in zip(texts, cells, strict=True)
            ]
            label = escape(line.label)
            following = table.lines[place + 1 :]
            grid.add_row(
                f"[dim]{label}[/dim]" if line.control else label,
                *texts,
                end_section=not following or (following[0].control and not line.control),
            )
        grid.add_row("[dim]chance[/dim]", *(f"[dim]{table.chance[number]}[/dim]" for number in chosen))
        shown.append(grid)
    return Group(*shown, *terminal_kinds(kind_tables(rows)))


def markdown(result: BenchResult) -> str:
    """The report as Markdown: table, comparisons, settings."""
    table = summary(result.rows)
    lines = [f"# {result.suite.title}", "", " ".join(result.suite.description.split()), ""]
    shown = (
        f"Accuracy in %, with 95 % intervals; {protocol(result.rows)}. Best of a column in bold; controls in italics."
    )
    lines += [shown, ""]
    lines.append("| strategy | " + " | ".join(f"{model}: {task}" for model, task in table.columns) + " |")
    lines.append("|---|" + "---:|" * len(table.columns))
    for line in table.lines:
        cells = [f"**{c.value}**" if c.best else c.value for c in line.cells]
        cells = [f"{text} ({c.interval})" if c.interval else text for text, c in zip(cells, line.cells, strict=True)]
        label = _escaped(line.label)
        lines.append(f"| {f'*{label}*' if line.control else label} | " + " | ".join(cells) + " |")
    lines.append("| *chance* | " + " | ".join(table.chance) + " |")
    lines += ["", "## Tasks", ""]
    for task in result.suite.tasks:
        lines.append(f"- **{task.key}**: {sentence(task.title)}{' ' + task.note if task.note else ''}")
    differences = [row for row in result.rows if row.get("comparisons")]
    if differences:
        others = list(dict.fromkeys(key for row in differences for key in row["comparisons"]))
        lines += ["", "## Differences on the same items, percentage points", ""]
        lines.append("| model | task | strategy | " + " | ".join(f"against {other}" for other in others) + " |")
        lines.append("|---|---|---|" + "---:|" * len(others))
        for row in differences:
            cells = [difference_text(row["comparisons"].get(other)) for other in others]
            lines.append(
                f"| {row['model']} | {row['task']} | {_escaped(row['strategy'])} | " + " | ".join(cells) + " |"
            )
    lines += markdown_kinds(kind_tables(result.rows, result.suite.compare_with))
    lines += markdown_maps(map_tables(result.maps))
    published = matching_figures(result.rows)
    if published:
        lines += [
            "",
            "## Published beside measured, %",
            "",
            "| task | strategy | measured | published | model, protocol, source |",
        ]
        lines.append("|---|---|---|---:|---|")
        for one in published:
            label = _escaped(one["strategy"])
            lines.append(f"| {one['task']} | {label} | {one['measured']} | {one['value']} | {one['source']} |")
    for record in result.tuning:
        chosen = ", ".join(f"{key} = {value}" for key, value in record["options"].items())
        lines += ["", f"Chosen on validation for {record['strategy']} on {record['model']}: {chosen}."]
    if result.problems:
        lines += ["", "## Problems", "", *(f"- {problem}" for problem in result.problems)]
    lines += ["", "## What it depends on", ""]
    lines += [f"- {name}: {value}" for name, value in provenance_lines(result.rows)]
    return "\n".join(lines) + "\n"


def html(result: BenchResult) -> str:
    """The report as one page: inline style, pictures inside, no scripts."""
    exhibits = result.exhibits
    notes = list(exhibits.notes)
    chart = None
    if plots.have_matplotlib() and any(row.get("value") is not None for row in result.rows):
        chart = data_uri(plots.to_png(plots.bar_chart(result.rows)))
    elif not plots.have_matplotlib():
        notes.append('Figures need matplotlib: pip install "visprompt-toolkit[plots]".')
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            suite=result.suite,
            rows=result.rows,
            table=summary(result.rows),
            protocol=protocol(result.rows),
            chart=chart,
            tuning=result.tuning,
            problems=result.problems,
            published=matching_figures(result.rows),
            cards=exhibits.cards,
            kinds=kind_tables(result.rows, result.suite.compare_with),
            maps=map_tables(result.maps),
            asks=any(task.task.writes for task in result.suite.tasks),
            attention=exhibits.attention,
            notes=list(dict.fromkeys(notes)),
            compared=[
                label
                for label in result.suite.compare_with
                if any(label in row.get("comparisons", {}) for row in result.rows)
            ],
            sentence=sentence,
            titles={task.key: task.title for task in result.suite.tasks},
            options=option_lines(result.rows),
            provenance=provenance_lines(result.rows),
        )
    )


def environment() -> Environment:
    """Where reports' templates are: all values escaped, and none forgotten."""
    import jinja2

    def source(name: str) -> str:
        return resources.files("visprompt.bench.report").joinpath(f"templates/{name}").read_text(encoding="utf-8")

    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(source),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters["difference"] = difference_text
    return made


def write_report(result: BenchResult) -> list[Path]:
    """Writes `report.html` and `report.md` into the result's folder and returns their paths."""
    result.out.mkdir(parents=True, exist_ok=True)
    paths = [result.out / HTML, result.out / MARKDOWN]
    paths[0].write_text(html(result), encoding="utf-8")
    paths[1].write_text(markdown(result), encoding="utf-8")
    return paths


def matching_figures(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Published figures for the rows whose task and strategy have one, with where they come from."""
    found = []
    keys = {row["published"] for row in rows if row.get("published")}
    if not keys:
        return []
    for figure in load_published():
        for row in rows:
            if row.get("published") not in figure["values"] or row["strategy"] not in figure["strategies"]:
                continue
            sure = "; taken from a secondary source: check before quoting" if figure["certainty"] == "secondary" else ""
            paper = f"{figure['source']['title'].partition(':')[0]}, {figure['source']['link']}"
            measured = "–" if row["value"] is None else f"{100 * row['value']:.1f} ({row['model']})"
            found.append(
                {
                    "task": str(row["task"]),
                    "strategy": str(row["strategy"]),
                    "measured": measured,
                    "value": f"{figure['values'][row['published']]:.1f}",
                    "source": f"{figure['model']}, {figure['protocol']}; {paper}{sure}",
                }
            )
    return found


def option_lines(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """Model, label and options of every row, as text; a row has the same options in all tasks of a suite."""
    found = {(str(row["model"]), str(row["strategy"])): row["pointing"] for row in rows}
    return [(model, label, _options(pointing)) for (model, label), pointing in found.items()]


def _options(pointing: Mapping[str, Any]) -> str:
    parts = [f"preset {pointing['preset']}"] if pointing.get("preset") else []
    for member in pointing.get("members", ()):
        for one in (member or {}).get("parts", [member] if member else []):
            one = one.get("of", one)
            options = ", ".join(f"{key} {value}" for key, value in one.get("options", {}).items())
            parts.append(f"{one['name']}: {options or 'no options'}")
    if pointing.get("fit", "model") != "model":
        parts.append(f"fit {pointing['fit']}")
    if pointing.get("region", "own") != "own":
        seed = f", seed {pointing['seed']}" if "seed" in pointing else ""
        parts.append(f"region: {pointing['region']}{seed}")
    if "aggregate" in pointing:
        parts.append(f"{pointing['aggregate']} of the scores")
    return "; ".join(parts) or "no prompt"


def provenance_lines(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What the figures depend on, as name and value."""
    if not rows:
        return []
    first = rows[0]
    lines = [(name, version) for name, version in first["versions"].items()]
    lines = [("versions", ", ".join(f"{name} {version}" for name, version in lines))]
    lines.append(("git commit", str(first["git_commit"] or "none")))
    lines.append(("code hash", str(first["code"])))
    lines.append(("machine", str(first["machine"])))
    lines.append(("suite", f"{first['suite']} (hash {first['suite_hash']})"))
    for model in {row["model"]: row["model_identity"] for row in rows}.values():
        lines.append(
            ("model", ", ".join(f"{key} {value}" for key, value in model.items() if not isinstance(value, dict)))
        )
    for task, row in {row["task"]: row for row in rows}.items():
        lines.append((f"data of {task}", ", ".join(f"{key} {value}" for key, value in row["data"].items())))
        settings = {key: value for key, value in row["settings"].items() if key not in ("labels", "negatives", "task")}
        shown = ", ".join(f"{key} {value!r}" for key, value in settings.items())
        lines.append((f"settings of {task}", f"{shown}; n = {row['n']}, {_regions(row)}"))
    seconds = sum(row.get("seconds", 0) for row in rows)
    lines.append(("time", f"{seconds:.0f} s for the rows; written {max(row['date'] for row in rows)}"))
    return lines


def _cell(row: Row | None, best: float | None) -> Cell:
    if row is None:
        return Cell(title="not part of this suite")
    if row["value"] is None:
        return Cell(title=row.get("unsupported") or row.get("error_example") or "no items")
    low, high = row["ci95"]
    title = f"{row['correct']} of {row['n']} right; 95 % interval ({row['ci_method']})"
    title += f"; {row['errors']} items could not be asked" if row["errors"] else ""
    interval = f"{100 * low:.1f}–{100 * high:.1f}"
    return Cell(
        f"{100 * row['value']:.1f}", interval, best is not None and row["value"] == best and not row["control"], title
    )


def _of(row: Row, column: tuple[str, str]) -> bool:
    return (row["model"], row["task"]) == column


def _is_control(rows: Sequence[Row], label: str) -> bool:
    return any(row["strategy"] == label and row["control"] for row in rows)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
