"""Reports on attention gain: tables for the terminal, `report.md`, and `report.html` with figures and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visprompt.bench.accuracy.examples import data_uri
from visprompt.plots import base as plots
from visprompt.plots import gain as plots_gain

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import RenderableType
    from rich.table import Table as RichTable

    from visprompt.bench.gain.run import GainBenchResult

Row = Mapping[str, Any]
HTML, MARKDOWN = "report.html", "report.md"
#: what holds of scenes; of somebody's own pictures only they know it
HELD_OUT = (
    "Scenes and places have seeds of their own; no patch was learned on them, and none of its settings was chosen on "
    "them: settings were chosen on validation scenes."
)


@dataclass(frozen=True)
class Cell:
    """One figure of the table, as text."""

    value: str = "–"
    interval: str = ""
    ratio: tuple[str, str] = ("", "")
    best: bool = False
    title: str = ""


@dataclass(frozen=True)
class Line:
    """One marker, and a cell per model."""

    label: str
    control: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """Markers down, models across.

    Attributes:
        models: name, number of the last block, number of pictures, side of the square in tokens, mass without a marker.
    """

    models: tuple[tuple[str, int, int, float, float], ...]
    lines: tuple[Line, ...]


def of(rows: Sequence[Row], part: str) -> list[Row]:
    """The rows of one part."""
    return [row for row in rows if row["part"] == part]


def table(rows: Sequence[Row]) -> Table:
    """The table of gains in the last block."""
    rows = of(rows, "gain")
    models = list(dict.fromkeys(row["model"] for row in rows))
    labels = plots_gain.markers_of(rows)
    by_place = {(row["marker"], row["model"]): row for row in rows}
    heads, best = [], {}
    for model in models:
        own = [row for row in rows if row["model"] == model]
        first = own[0]
        without = float(first["blocks"][-1]["mass_without"])
        heads.append((str(model), int(first["block"]), int(first["n"]), float(first["size_tokens"]), without))
        best[model] = max(row["value"] for row in own)
    lines = []
    for label in labels:
        there = [by_place[label, model] for model in models if (label, model) in by_place]
        cells = tuple(_cell(by_place.get((label, model)), best[model]) for model in models)
        lines.append(Line(str(label), bool(there[0]["control"]), cells))
    return Table(tuple(heads), tuple(lines))


def _cell(row: Row | None, best: float) -> Cell:
    if row is None:
        return Cell(title="not measured, or the same as the model's own patch")
    last = row["blocks"][-1]
    title = f"mass {last['mass']:.3f}, without a marker {last['mass_without']:.3f}, n = {row['n']}"
    if row["compared_with"]:
        title += f"; minus {row['compared_with']}: {difference_text(row)}"
    is_best = row["value"] == best and not row["control"]
    return Cell(f"{row['value']:.2f}", interval_text(row["ci95"]), ratio_text(row), is_best, title)


def interval_text(ends: Sequence[float | None]) -> str:
    """ "0.62 to 0.85"; an end that is not bounded is said in words."""
    low, high = ends
    if low is None:
        return "unbounded" if high is None else f"below {high:.2f}"
    return f"above {low:.2f}" if high is None else f"{low:.2f} to {high:.2f}"


def ratio_text(row: Row) -> tuple[str, str]:
    """Gain over the other marker's, and its interval; empty if nothing is compared.

    >>> ratio_text({"compared_with": "circle", "ratio": 2.8, "ratio_ci95": [2.5, 3.1]})
    ('2.80 ×', '2.50 to 3.10')
    >>> ratio_text({"compared_with": "circle", "ratio": None, "ratio_ci95": [None, None]})
    ('no ratio', '')
    """
    if not row["compared_with"]:
        return "", ""
    if row["ratio"] is None:
        return "no ratio", ""
    return f"{row['ratio']:.2f} ×", interval_text(row["ratio_ci95"])


def difference_text(row: Row) -> str:
    """Gain minus the other marker's, with its interval."""
    low, high = row["difference_ci95"]
    return f"{row['difference']:+.2f} ({low:+.2f} to {high:+.2f})"


def caption(rows: Sequence[Row]) -> str:
    """What stands behind the table's figures."""
    known = of(rows, "gain")
    if not known:
        return "nothing was measured"
    counts = sorted({row["n"] for row in known})
    n = f"{counts[0]:,}" + (f" to {counts[-1]:,}" if len(counts) > 1 else "")
    other = next((row["compared_with"] for row in known if row["compared_with"]), None)
    text = f"Attention gain in the last block, n = {n} pictures; 95 % intervals, a bootstrap over pictures."
    if other:
        text += f" ×: gain over that of {other} at the same places."
    return text


def terminal(rows: Sequence[Row], title: str) -> RenderableType:
    """The tables, for a terminal."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table as RichTable

    found = table(rows)
    shown: list[RenderableType] = []
    if found.models:
        shown.append(_grid(found, title, lambda cell: (cell.value, cell.interval)))
        shown[-1].caption = escape(caption(rows).partition(" ×")[0])  # type: ignore[union-attr]
    other = next((row["compared_with"] for row in of(rows, "gain") if row["compared_with"]), None)
    if other:
        ratios = _grid(found, f"Gain ÷ gain of {other}, at the same places", lambda cell: cell.ratio)
        ratios.caption = f"no ratio: {escape(str(other))} gains nothing there"
        shown.append(ratios)
    models, lines = transfer_lines(rows)
    if lines:
        moved = RichTable(title="From model to model: gain in the last block", title_justify="left", title_style="bold")
        moved.add_column("learned on \\ used on", overflow="fold")
        for model in models:
            moved.add_column(escape(_short(model)), justify="right", overflow="fold")
        for label, texts, own in lines:
            cells = [text.split(" ", 1)[0] for text in texts]
            moved.add_row(
                escape(label),
                *(f"[bold]{text}[/bold]" if mine else text for text, mine in zip(cells, own, strict=True)),
            )
        moved.caption = "Bold: the model that it was learned on. Intervals are in the report."
        shown.append(moved)
    if of(rows, "sweep"):
        swept = RichTable(title="Learned anew, on validation scenes", title_justify="left", title_style="bold")
        for place, name in enumerate(SWEEP_HEAD):
            swept.add_column(name, justify="left" if place == 0 else "right")
        for words in sweep_lines(rows):
            swept.add_row(*map(escape, words))
        shown.append(swept)
    return Group(*shown)


def _grid(found: Table, title: str, text_of: Callable[[Cell], tuple[str, str]]) -> RichTable:
    """Markers down, models across, a figure and its interval in two lines; markers without any figure are left out."""
    from rich.markup import escape
    from rich.table import Table as NewTable

    grid = NewTable(title=escape(title), title_justify="left", title_style="bold", caption_justify="left")
    grid.add_column("marker", overflow="fold")
    for name, block, *_ in found.models:
        head = f"{escape(_short(name))}\n[dim]block {block}[/dim]"
        grid.add_column(head, justify="right", overflow="fold")
    lines = [line for line in found.lines if any(text_of(cell)[0] not in ("", "–") for cell in line.cells)]
    for place, line in enumerate(lines):
        cells = []
        for cell in line.cells:
            value, interval = map(escape, text_of(cell))
            cells.append(
                (f"[bold]{value}[/bold]" if cell.best else value) + (f"\n[dim]{interval}[/dim]" if interval else "")
            )
        following = lines[place + 1 :]
        name = f"[dim]{escape(line.label)}[/dim]" if line.control else escape(line.label)
        grid.add_row(name, *cells, end_section=bool(following) and following[0].control and not line.control)
    return grid


def _short(model: str) -> str:
    return model.removeprefix("bundled:")


def transfer_lines(rows: Sequence[Row]) -> tuple[list[str], list[tuple[str, list[str], list[bool]]]]:
    """Models; and per patch its label, gains with intervals, and on which model it was learned. What it is compared
    with comes last.
    """
    moved = of(rows, "transfer")
    models = list(dict.fromkeys(row["model"] for row in moved))
    by_place = {(row["marker"], row["model"]): row for row in moved}
    found = []
    for label in dict.fromkeys(row["marker"] for row in moved):
        line = [by_place.get((label, model)) for model in models]
        found.append((str(label), [_gain_text(row) for row in line], [bool(row and row["own"]) for row in line]))
    other = next((row["compared_with"] for row in moved if row["compared_with"]), None)
    beside = {row["model"]: row for row in of(rows, "gain") if row["marker"] == other}
    if beside:
        found.append((str(other), [_gain_text(beside.get(model)) for model in models], [False] * len(models)))
    return models, found


def _gain_text(row: Row | None) -> str:
    return "–" if row is None else f"{row['value']:.2f} ({interval_text(row['ci95'])})"


SWEEP_HEAD = ("patch", "size", "gain", "each seed", "circle", "gain ÷ circle")


def sweep_lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Per point of a sweep: shape and λ, size, mean gain, each seed's, the circle's of that size, and the ratio."""
    found: list[tuple[str, ...]] = []
    for row in of(rows, "sweep"):
        options = row["options"]
        shape = options["shape"] if options["shape"] == "full" else f"{options['shape']}, λ {options['ratio']:g}"
        rest = ", ".join(f"{k} {v}" for k, v in row["point"].items() if k not in ("size", "shape", "ratio"))
        each = ", ".join(f"{value:.2f}" for value in row["values"])
        ratio = "–" if row["ratio"] is None else f"{row['ratio']:.2f}"
        found.append(
            (f"{shape}{f', {rest}' if rest else ''}", f"{options['size']:g}", f"{row['value']:.2f}", each,
             f"{row['circle']:.2f}", ratio)
        )  # fmt: skip
    return found


def sweep_caption(rows: Sequence[Row]) -> str:
    """How the points of a sweep were learned and measured."""
    swept = of(rows, "sweep")
    if not swept:
        return ""
    first = swept[0]
    settings = ", ".join(f"{name} {value}" for name, value in first["settings"].items()) or "the strategy's settings"
    seeds = ", ".join(str(seed) for seed in first["seeds"])
    return (
        f"Every patch was learned anew on {first['model']} ({settings}), with seeds {seeds}, and measured on "
        f"{first['n']} validation scenes, in squares of its own size. Sizes have other places, and other masses "
        "without a marker: compare within a size, or by the ratio to the circle."
    )


def block_lines(rows: Sequence[Row], model: str) -> tuple[list[int], list[tuple[str, list[str]]]]:
    """Blocks of a model; and per marker its gain with interval in each."""
    own = [row for row in of(rows, "gain") if row["model"] == model]
    blocks = [one["block"] for one in own[0]["blocks"]]
    lines = [
        (str(row["marker"]), [f"{one['gain']:.2f} ({one['low']:.2f} to {one['high']:.2f})" for one in row["blocks"]])
        for row in own
    ]
    return blocks, [*lines, ("mass without", [f"{one['mass_without']:.3f}" for one in own[0]["blocks"]])]


def figures(result: GainBenchResult) -> dict[str, tuple[Figure, str]]:
    """The figures by name, each with its alternative text."""
    found: dict[str, tuple[Figure, str]] = {}
    gains = of(result.rows, "gain")
    if gains:
        found["gain-blocks"] = plots_gain.gain_figure(gains), "Attention gain over the blocks, a panel per model."
    moved = plots_gain.transfer_figure(of(result.rows, "transfer"), result.suite.compare_with, gains)
    if moved is not None:
        found["gain-transfer"] = moved, "Heat map: patches down, models across, gain in the last block."
    swept = plots_gain.sweep_figure(of(result.rows, "sweep"))
    if swept is not None:
        found["gain-sweep"] = swept, "Heat maps over size and shape: gain, and gain over the drawn circle's."
    return found


def held_out(result: GainBenchResult) -> str:
    """What was measured on, and that nothing was learned there."""
    pictures = result.suite.pictures
    if pictures["source"] == "scenes":
        return HELD_OUT
    return f"Measured on pictures of the folder {Path(pictures['folder']).name}; patches must not have seen them."


def markdown(result: GainBenchResult) -> str:
    """The report as Markdown."""
    suite, rows = result.suite, result.rows
    lines = [
        f"# {suite.title}",
        "",
        " ".join(suite.description.split()),
        "",
        held_out(result),
        "",
        *markdown_table(rows),
    ]
    models, moved = transfer_lines(rows)
    if moved:
        lines += ["", "## From model to model", "", "Gain in the last block of the model that a patch is used on;"]
        lines += ["in bold on the model it was learned on.", "", f"| learned on | {' | '.join(models)} |"]
        lines.append("|---|" + "---:|" * len(models))
        for label, texts, own in moved:
            cells = [f"**{text}**" if mine else text for text, mine in zip(texts, own, strict=True)]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    if of(rows, "sweep"):
        lines += ["", "## Learned anew", "", sweep_caption(rows), "", f"| {' | '.join(SWEEP_HEAD)} |"]
        lines.append("|---|" + "---:|" * (len(SWEEP_HEAD) - 1))
        lines += [f"| {' | '.join(words)} |" for words in sweep_lines(rows)]
    if of(rows, "gain"):
        lines += ["", "## Block by block"]
    for model in dict.fromkeys(row["model"] for row in of(rows, "gain")):
        blocks, found = block_lines(rows, model)
        lines += ["", f"### {model}", "", f"| marker | {' | '.join(f'block {block}' for block in blocks)} |"]
        lines += ["|---|" + "---:|" * len(blocks), *(f"| {label} | {' | '.join(cells)} |" for label, cells in found)]
    if result.problems:
        lines += ["", "## Problems", "", *(f"- {problem}" for problem in result.problems)]
    lines += ["", "## What it depends on", "", *(f"- {name}: {value}" for name, value in provenance_lines(result))]
    return "\n".join(lines) + "\n"


def markdown_table(rows: Sequence[Row]) -> list[str]:
    """The table as lines of Markdown."""
    found = table(rows)
    if not found.models:
        return []
    lines = [f"{caption(rows)} Highest of a column in bold; controls in italics.", ""]
    lines.append("| marker | " + " | ".join(f"{name}, block {block}" for name, block, *_ in found.models) + " |")
    lines.append("|---|" + "---:|" * len(found.models))
    for line in found.lines:
        cells = []
        for cell in line.cells:
            text = f"**{cell.value}**" if cell.best else cell.value
            text += f" ({cell.interval})" if cell.interval else ""
            ratio, interval = cell.ratio
            text += f"; {ratio}" if ratio else ""
            cells.append(text + (f" ({interval})" if interval else ""))
        lines.append(f"| {f'*{line.label}*' if line.control else line.label} | {' | '.join(cells)} |")
    without = " | ".join(f"{mass:.3f}" for *_, mass in found.models)
    return [*lines, f"| *mass without a marker* | {without} |"]


def html(result: GainBenchResult) -> str:
    """The report as one page: inline style, pictures inside, no scripts."""
    from visprompt.bench.accuracy.report import environment

    notes, drawn = [], {}
    if plots.have_matplotlib():
        drawn = {name: (data_uri(plots.to_png(one)), alt) for name, (one, alt) in figures(result).items()}
    else:
        notes.append('Figures need matplotlib: pip install "visprompt-toolkit[plots]".')
    rows = result.rows
    models = list(dict.fromkeys(row["model"] for row in of(rows, "gain")))
    return environment().get_template("report_gain.html.j2").render(
        suite=result.suite, held_out=held_out(result), table=table(rows), caption=caption(rows), figures=drawn,
        pictures=result.pictures, patches=result.patches, transfer=transfer_lines(rows), sweep=sweep_lines(rows),
        sweep_head=SWEEP_HEAD, sweep_caption=sweep_caption(rows),
        blocks={model: block_lines(rows, model) for model in models}, problems=result.problems,
        provenance=provenance_lines(result), notes=notes,
    )  # fmt: skip


def write_report(result: GainBenchResult) -> list[Path]:
    """Writes `report.html`, `report.md` and the figures as PNG into the result's folder and returns their paths."""
    paths = [result.out / HTML, result.out / MARKDOWN]
    paths[0].write_text(html(result), encoding="utf-8")
    paths[1].write_text(markdown(result), encoding="utf-8")
    if plots.have_matplotlib():
        for name, (figure, _) in figures(result).items():
            paths.append(result.out / f"{name}.png")
            paths[-1].write_bytes(plots.to_png(figure))
    return paths


def provenance_lines(result: GainBenchResult) -> list[tuple[str, str]]:
    """What the figures depend on, as name and value."""
    if not result.rows:
        return []
    first, suite = result.rows[0], result.suite
    lines = [("suite", f"{suite.name} (hash {suite.hash}), places with seed {suite.seed}")]
    lines.append(("pictures", _said(first["pictures"])))
    identities = {str(row["model"]): row["model_identity"] for row in result.rows}
    lines += [("model", _said(identity)) for identity in identities.values()]
    for row in of(result.rows, "gain"):
        lines.append((f"{row['marker']} on {row['model']}", _identity(row["identity"])))
    lines.append(("versions", _said(first["versions"])))
    lines.append(("git commit", str(first["git_commit"] or "none")))
    lines.append(("code hash", ", ".join(dict.fromkeys(str(row["code"]) for row in result.rows))))
    lines.append(("machine", str(first["machine"])))
    seconds = sum(row.get("seconds", 0.0) for row in result.rows)
    seconds += sum(row["cpu_seconds"] * len(row["seeds"]) for row in of(result.rows, "sweep"))
    lines.append(("time", f"{seconds:.0f} s; last written {max(row['date'] for row in result.rows)}"))
    return lines


def _said(content: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in content.items())


def _identity(content: Any) -> str:
    if isinstance(content, Mapping) and "random" in content:
        return f"random colours, {content['draws']} draws, in place of: {_identity([content['random']])}"
    first = content[-1] if isinstance(content, list) else content
    parts = first.get("parts", [first])
    told = []
    for part in parts:
        options = ", ".join(f"{key} {value}" for key, value in part.get("options", {}).items())
        learned = f"; learned {part['learned']}" if "learned" in part else ""
        told.append(f"{part['name']}: {options or 'no options'}{learned}")
    return " + ".join(told)
