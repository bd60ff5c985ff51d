"""Figures per kind of question, and where maps lie: what a report says besides its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

Row = Mapping[str, Any]


@dataclass(frozen=True)
class KindCell:
    """One row's figures on one kind of question, as text.

    Attributes:
        value: percent right.
        interval: "91.4–94.5".
        difference: to the row compared with, "+3.0 (+0.5 to +5.5)"; empty if there is none.
        short: the difference without its interval.
        clear: the difference's interval leaves zero out.
    """

    value: str
    interval: str
    difference: str = ""
    short: str = ""
    clear: bool = False


@dataclass(frozen=True)
class KindTable:
    """Strategies down, kinds of questions across.

    Attributes:
        model, task, title: whose figures.
        compared: the label of the row that differences are to; empty without any.
        kinds: with the number of their questions.
        lines: label, whether it is a control, and a cell per kind (None: not asked).
        widest: largest half-width of a 95 % interval of a value, percentage points.
    """

    model: str
    task: str
    title: str
    compared: str
    kinds: tuple[tuple[str, int], ...]
    lines: tuple[tuple[str, bool, tuple[KindCell | None, ...]], ...]
    widest: float


def kind_tables(rows: Sequence[Row], compare_with: Sequence[str] = ("none",)) -> list[KindTable]:
    """A table for every model and task whose questions are of several kinds."""
    columns = dict.fromkeys((row["model"], row["task"]) for row in rows if row.get("kinds"))
    tables = []
    for model, task in columns:
        own = [row for row in rows if (row["model"], row["task"]) == (model, task) and row.get("kinds")]
        own.sort(key=lambda row: bool(row["control"]))
        sizes: dict[str, int] = {}
        for row in own:
            for kind, figures in row["kinds"].items():
                sizes[kind] = max(sizes.get(kind, 0), figures["n"])
        compared = next((one for one in compare_with if any(one in row.get("comparisons", {}) for row in own)), "")
        lines = tuple(
            (row["strategy"], bool(row["control"]), tuple(_cell(row, kind, compared) for kind in sizes)) for row in own
        )
        bounds = [figures["ci95"] for row in own for figures in row["kinds"].values()]
        widest = max(50 * (high - low) for low, high in bounds)
        title = str(own[0].get("task_title", task))
        tables.append(KindTable(model, task, title, compared, tuple(sizes.items()), lines, widest))
    return tables


def terminal_kinds(tables: Sequence[KindTable]) -> list[RenderableType]:
    """The tables for a terminal: the row compared with in percent, all others in points against it."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    shown: list[RenderableType] = []
    for table in tables:
        grid = Table(title=escape(f"{table.task} · {table.model}, by kind of question"), title_justify="left")
        grid.title_style, grid.caption_justify, grid.box = "bold", "left", box.SIMPLE_HEAD
        grid.padding, grid.pad_edge = (0, 0, 0, 0), False
        grid.caption = f"accuracy in %, 95 % intervals within ± {table.widest:.1f}"
        if table.compared:
            grid.caption = f"{escape(table.compared)}: accuracy in %; others: points against it, bold if their 95 % "
            grid.caption += "interval leaves 0 out (the intervals are in the report)"
        grid.add_column("", overflow="fold", min_width=16)
        for kind, count in table.kinds:
            grid.add_column(f"{escape(kind)}\n[dim]n {count}[/dim]", justify="right", no_wrap=True, min_width=5)
        lines = sorted(table.lines, key=lambda line: line[0] != table.compared)
        for place, (label, control, cells) in enumerate(lines):
            name = escape(label)
            following = lines[place + 1 :]
            ends = place == 0 and label == table.compared
            grid.add_row(
                f"[dim]{name}[/dim]" if control else name,
                *(_terminal_cell(cell) for cell in cells),
                end_section=ends or bool(following and following[0][1] and not control),
            )
        shown.append(grid)
    return shown


def markdown_kinds(tables: Sequence[KindTable]) -> list[str]:
    """The tables as lines of Markdown."""
    lines = []
    for table in tables:
        lines += ["", f"## {table.title} ({table.task}), {table.model}: by kind of question", ""]
        note = f" In brackets: percentage points against {table.compared}." if table.compared else ""
        lines += [f"Accuracy in %, 95 % intervals within ± {table.widest:.1f}.{note}", ""]
        lines.append("| strategy | " + " | ".join(f"{kind} (n {count})" for kind, count in table.kinds) + " |")
        lines.append("|---|" + "---:|" * len(table.kinds))
        for label, control, cells in table.lines:
            texts = [
                "–" if cell is None else cell.value + (f" [{cell.difference}]" if cell.difference else "")
                for cell in cells
            ]
            name = label.replace("|", "\\|")
            lines.append(f"| {f'*{name}*' if control else name} | " + " | ".join(texts) + " |")
    return lines


@dataclass(frozen=True)
class MapLine:
    """Where one source's map of one block lies: share of its mass, per task, and what a blind map would have."""

    source: str
    block: int
    shares: tuple[str, ...]
    best: tuple[bool, ...]


@dataclass(frozen=True)
class MapTable:
    """Maps of one model: sources and blocks down, tasks across.

    Attributes:
        tasks: with the number of questions.
        uniform: per task, the box's share of the image tokens, percent.
    """

    model: str
    tasks: tuple[tuple[str, int], ...]
    uniform: tuple[str, ...]
    lines: tuple[MapLine, ...]


def map_tables(records: Sequence[Row]) -> list[MapTable]:
    """The tables of `maps.jsonl`, one per model."""
    tables = []
    for model in dict.fromkeys(record["model"] for record in records):
        own = [record for record in records if record["model"] == model]
        keys = list(dict.fromkeys((row["source"], row["block"]) for record in own for row in record["maps"]))
        found = {(record["task"], row["source"], row["block"]): row for record in own for row in record["maps"]}
        best = {
            (record["task"], source): max(row["share"] for row in record["maps"] if row["source"] == source)
            for record in own
            for source in {row["source"] for row in record["maps"]}
        }
        lines = []
        for source, block in keys:
            cells = [found.get((record["task"], source, block)) for record in own]
            shares = tuple("–" if cell is None else _share(cell) for cell in cells)
            tops = tuple(
                cell is not None and cell["share"] == best[record["task"], source]
                for cell, record in zip(cells, own, strict=True)
            )
            lines.append(MapLine(source, block, shares, tops))
        sizes = tuple((record["task"], record["maps"][0]["n"]) for record in own)
        uniform = tuple(f"{100 * record['maps'][0]['uniform']:.1f}" for record in own)
        tables.append(MapTable(model, sizes, uniform, tuple(lines)))
    return tables


def markdown_maps(tables: Sequence[MapTable]) -> list[str]:
    """The tables as lines of Markdown."""
    lines = []
    for table in tables:
        lines += ["", f"## Do maps lie where the question points? {table.model}", ""]
        lines += [
            "Share of a map's mass in the box of the object asked about, % (± 95 %); bold: a source's best block.",
            "",
        ]
        lines.append("| map | block | " + " | ".join(f"{task} (n {count})" for task, count in table.tasks) + " |")
        lines.append("|---|---:|" + "---:|" * len(table.tasks))
        for line in table.lines:
            texts = [f"**{share}**" if best else share for share, best in zip(line.shares, line.best, strict=True)]
            lines.append(f"| {line.source} | {line.block} | " + " | ".join(texts) + " |")
        lines.append("| *uniform (the box's share of the image tokens)* | | " + " | ".join(table.uniform) + " |")
    return lines


def difference_text(comparison: Row | None) -> str:
    """A paired difference in percentage points: "+3.0 (+0.5 to +5.5)"; empty without one.

    >>> difference_text({"difference": 0.03, "ci95": [0.005, 0.055]})
    '+3.0 (+0.5 to +5.5)'
    """
    if not comparison:
        return ""
    low, high = comparison["ci95"]
    return f"{100 * comparison['difference']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _cell(row: Row, kind: str, compared: str) -> KindCell | None:
    figures = row["kinds"].get(kind)
    if figures is None:
        return None
    low, high = figures["ci95"]
    own = row.get("comparisons", {}).get(compared, {}).get("kinds", {}).get(kind)
    clear = own is not None and (own["ci95"][0] > 0 or own["ci95"][1] < 0)
    short = f"{100 * own['difference']:+.1f}" if own is not None else ""
    interval = f"{100 * low:.1f}–{100 * high:.1f}"
    return KindCell(f"{100 * figures['value']:.1f}", interval, difference_text(own), short, clear)


def _terminal_cell(cell: KindCell | None) -> str:
    if cell is None:
        return "–"
    if not cell.short:
        return cell.value
    return f"[bold]{cell.short}[/bold]" if cell.clear else f"[dim]{cell.short}[/dim]"


def _share(row: Row) -> str:
    text = f"{100 * row['share']:.1f}"
    return text if row["ci95"] is None else f"{text} ± {50 * (row['ci95'][1] - row['ci95'][0]):.1f}"
