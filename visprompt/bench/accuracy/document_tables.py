"""Tables of a suite of tasks: accuracies, kinds of questions, differences, maps, published figures, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from visprompt.bench.accuracy.spec import load_published
from visprompt.bench.report.document import Block, Cell, Column, Fold, Prose, Row, Table, TableRow
from visprompt.bench.report.tables import (
    best_of,
    chance_cell,
    difference_interval,
    difference_text,
    grid,
    has_interval,
    is_clear,
    nested_interval,
    pairs,
    percent,
    row_interval,
    text_table,
)


def summary_table(rows: Sequence[Row]) -> Table:
    """Accuracies: strategies down, controls last, tasks across and grouped by model; below, the level of chance."""
    intervals = " with 95 % intervals" if any(row["value"] is not None and row_interval(row) for row in rows) else ""
    return grid(
        "strategy",
        rows,
        ("model", "task"),
        lambda own: Column(str(own[0]["task"]), str(own[0]["model"])),
        _cell,
        below=("chance", chance_cell),
        caption=f"Percent right{intervals}; {protocol(rows)}. Emphasised: best of a column. Controls come last.",
        where="everywhere",
    )


def protocol(rows: Sequence[Row]) -> str:
    """What a reader has to know beside a figure: candidates and number of items."""
    sizes = sorted({row["n"] for row in rows if row["n"]})
    count = f"n = {sizes[0]}" if len(sizes) == 1 else f"n = {sizes[0]} to {sizes[-1]}" if sizes else "no items"
    return f"{' and '.join(dict.fromkeys(regions(row) for row in rows))}, {count}"


def regions(row: Row) -> str:
    """What was pointed at: whose boxes, or points."""
    return "marked points" if row["settings"].get("task") == "keypoints" else f"{row['boxes']} boxes"


def _cell(row: Row | None, column: Sequence[Row]) -> Cell:
    if row is None:
        return Cell(note="not part of this suite")
    if row["value"] is None:
        return Cell(note=row.get("unsupported") or row.get("error_example") or "no items")
    interval = row_interval(row)
    note = f"{row['correct']} of {row['n']} right" + (f"; 95 % interval ({row['ci_method']})" if interval else "")
    note += f"; {row['errors']} items could not be asked" if row["errors"] else ""
    best = row["value"] == best_of(column) and not row["control"]
    return Cell(percent(row["value"]), interval, best=best, note=note)


def kind_blocks(rows: Sequence[Row], compare_with: Sequence[str]) -> list[Block]:
    """Figures per kind of question, for every model and task whose questions are of several kinds.

    Returns:
        For a page a table with values, intervals and differences, for a terminal one with differences only.
    """
    blocks: list[Block] = []
    for model, task in dict.fromkeys((row["model"], row["task"]) for row in rows if row.get("kinds")):
        own = [row for row in rows if (row["model"], row["task"]) == (model, task) and row.get("kinds")]
        compared = next((one for one in compare_with if any(one in row.get("comparisons", {}) for row in own)), "")
        if not blocks:
            blocks.append(Prose(_KINDS + (_KINDS_COMPARED.format(compared) if compared else "")))
        blocks.append(Fold(f"{task}, {model}", (kind_table(own, compared),), opened=len(blocks) == 1))
        blocks.append(kind_terminal_table(own, compared, f"{task} · {model}, by kind of question"))
    return blocks


_KINDS = "Percent right with 95 % intervals."
_KINDS_COMPARED = (
    " Below them: percentage points against “{}” on the same questions with theirs, emphasised where the interval "
    "excludes 0 (not corrected for the number of comparisons)."
)


def kind_table(rows: Sequence[Row], compared: str) -> Table:
    """Strategies down, kinds of questions across.

    Args:
        rows: of one model and task, with `kinds`.
        compared: label of the row that differences are to; empty without any.
    """
    columns = _kind_columns(rows)
    lines = []
    for row in sorted(rows, key=lambda row: bool(row["control"])):
        cells = []
        for column in columns:
            one, other = row["kinds"].get(column.label), _kind_difference(row, column.label, compared)
            interval = nested_interval(one) if one else ""
            cells.append(
                Cell(percent(one["value"]), interval, difference_text(other), clear=is_clear(other)) if one else Cell()
            )
        lines.append(TableRow(row["row"], tuple(cells), bool(row["control"])))
    return Table("strategy", columns, tuple(lines))


def kind_terminal_table(rows: Sequence[Row], compared: str, title: str) -> Table:
    """The same for a terminal: the row compared with first, in percent, all others in points against it."""
    columns = _kind_columns(rows)
    lines = []
    for row in sorted(rows, key=lambda row: (row["row"] != compared, bool(row["control"]))):
        cells = []
        for column in columns:
            one, other = row["kinds"].get(column.label), _kind_difference(row, column.label, compared)
            text = "–" if one is None else percent(one["value"])
            cells.append(Cell(f"{100 * other['difference']:+.1f}", best=is_clear(other)) if other else Cell(text))
        lines.append(TableRow(row["row"], tuple(cells), bool(row["control"])))
    bounds = [one["ci95"] for row in rows for one in row["kinds"].values() if nested_interval(one)]
    caption = "Accuracy in %" + (
        f", 95 % intervals within ± {max(50 * (high - low) for low, high in bounds):.1f}." if bounds else "."
    )
    if compared:
        caption = (
            f"{compared}: accuracy in %; others: points against it, bold if the 95 % interval excludes 0 (the "
            "intervals are in the report)."
        )
    return Table("strategy", columns, tuple(lines), title, caption, "terminal")


def _kind_columns(rows: Sequence[Row]) -> tuple[Column, ...]:
    sizes: dict[str, int] = {}
    for row in rows:
        for kind, one in row["kinds"].items():
            sizes[kind] = max(sizes.get(kind, 0), one["n"])
    return tuple(Column(kind, note=f"n {count}") for kind, count in sizes.items())


def _kind_difference(row: Row, kind: str, compared: str) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = row.get("comparisons", {}).get(compared, {}).get("kinds", {}).get(kind)
    return found


def difference_tables(rows: Sequence[Row], compare_with: Sequence[str]) -> list[Block]:
    """Paired differences to other rows on the same items, a table per model."""
    own = [row for row in rows if row.get("comparisons")]
    others = [label for label in compare_with if any(label in row["comparisons"] for row in own)]
    if not others:
        return []
    heads = [Column("task", text=True)]
    for other in others:
        heads += [Column(f"against {other}"), Column("p")]
    columns = (*heads, Column("n"), Column("seconds"))
    blocks: list[Block] = [Prose(_DIFFERENCES)]
    for model in dict.fromkeys(row["model"] for row in own):
        lines = []
        for row in (row for row in own if row["model"] == model):
            cells = [Cell(str(row["task"]))]
            for other in others:
                one = row["comparisons"].get(other)
                text = f"{100 * one['difference']:+.1f}" if one else ""
                cells += [Cell(text, difference_interval(one) if one else "", best=is_clear(one)), Cell(_p_value(one))]
            cells += [Cell(f"{row['n']:,}"), Cell(f"{row['seconds']}")]
            lines.append(TableRow(row["row"], tuple(cells), bool(row["control"])))
        blocks.append(Fold(model, (Table("strategy", columns, tuple(lines)),)))
    return blocks


_DIFFERENCES = (
    "Percentage points, with 95 % intervals, emphasised where the interval excludes 0; positive: better than the row "
    "it is compared with. p: exact McNemar test, not corrected for the number of comparisons."
)


def _p_value(comparison: Mapping[str, Any] | None) -> str:
    p = comparison.get("mcnemar_p") if comparison else None
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def map_blocks(records: Sequence[Row]) -> list[Block]:
    """Where maps lie, from `maps.jsonl`: a table per model."""
    tables: list[Block] = [
        Fold(model, (map_table([one for one in records if one["model"] == model]),), opened=True)
        for model in dict.fromkeys(str(record["model"]) for record in records)
    ]
    return [Prose(_MAPS), *tables] if tables else []


_MAPS = (
    "Share of a map's mass in the box of the object that the question is about, percent, ± half the 95 % interval; "
    "questions about one object only. “decoder”: attention of the words that answer over the image tokens. Ψ_cls and "
    "1 − S: the encoder's maps, stretched to [0, 1]. Emphasised: the best block of a source. “uniform”: a map that "
    "knows nothing has the box's share of the image tokens."
)


def map_table(records: Sequence[Row]) -> Table:
    """Sources and blocks of maps down, tasks across.

    Args:
        records: of one model, one per task.
    """
    found = {(record["task"], one["source"], one["block"]): one for record in records for one in record["maps"]}
    lines = []
    for source, block in dict.fromkeys((one["source"], one["block"]) for record in records for one in record["maps"]):
        cells = [Cell(str(block))]
        for record in records:
            one = found.get((record["task"], source, block))
            top = max((each["share"] for each in record["maps"] if each["source"] == source), default=None)
            cells.append(_share(one, top) if one else Cell())
        lines.append(TableRow(source, tuple(cells)))
    uniform = tuple(Cell(percent(record["maps"][0]["uniform"])) for record in records)
    heads = tuple(Column(record["task"], note=f"n {record['maps'][0]['n']}") for record in records)
    return Table("map", (Column("block"), *heads), (*lines, TableRow("uniform", (Cell(""), *uniform), True)))


def _share(one: Row, top: float | None) -> Cell:
    spread = ""
    if one["ci95"] is not None and has_interval(one["n"]):
        spread = f"± {50 * (one['ci95'][1] - one['ci95'][0]):.1f}"
    return Cell(percent(one["share"]), spread, best=one["share"] == top)


def published_table(rows: Sequence[Row]) -> list[Block]:
    """Published figures for the rows whose task and strategy have one, with where they come from; or nothing."""
    lines = []
    for figure in load_published() if any(row.get("published") for row in rows) else ():
        for row in rows:
            if row.get("published") not in figure["values"] or row["row"] not in figure["strategies"]:
                continue
            sure = "; taken from a secondary source: check before quoting" if figure["certainty"] == "secondary" else ""
            paper = f"{figure['source']['title'].partition(':')[0]}, {figure['source']['link']}"
            measured = "–" if row["value"] is None else f"{percent(row['value'])} ({row['model']})"
            value = f"{figure['values'][row['published']]:.1f}"
            source = f"{figure['model']}, {figure['protocol']}; {paper}{sure}"
            lines.append((str(row["row"]), str(row["task"]), measured, value, source))
    head = ("strategy", "task", "measured", "published", "model, protocol, source")
    caption = "Percent. A published figure is comparable only if model, weights and candidates are the same."
    return [text_table(head, lines, numbers=(2, 3), caption=caption)] if lines else []


def grid_fold(record: Row) -> Fold:
    """What was tried on validation for one strategy and model, and what was chosen; a record of `tuning.jsonl`."""
    tasks = record["tasks"]
    lines = tuple(
        TableRow(
            pairs(point["options"]),
            (
                *(Cell(percent(point["validation"][task])) for task in tasks),
                Cell(percent(point["mean"]), best=point["options"] == record["options"]),
            ),
        )
        for point in record["points"]
    )
    limit = f", first {record['limit']} images" if record["limit"] else ""
    caption = f"Mean {record['metric']} over {', '.join(tasks)}, percent; {pairs(record['data'])}{limit}."
    chosen = ", ".join(f"{key} = {value}" for key, value in record["options"].items())
    label = record["row"] if "row" in record else record["strategy"]
    columns = tuple(Column(name) for name in (*tasks, "mean"))
    return Fold(
        f"{label} on {record['model']}, chosen on validation: {chosen}",
        (Table("options", columns, lines, caption=caption),),
    )


def options_table(rows: Sequence[Row]) -> Table:
    """Label, model and options of every row; a row has the same options in all tasks of a suite."""
    found = {(str(row["row"]), str(row["model"])): row["pointing"] for row in rows}
    lines = [(label, model, _options(condition)) for (label, model), condition in found.items()]
    return text_table(("strategy", "model", "options"), lines)


def _options(condition: Mapping[str, Any]) -> str:
    parts = [f"preset {condition['preset']}"] if condition.get("preset") else []
    for member in condition.get("members", ()):
        for one in (member or {}).get("parts", [member] if member else []):
            one = one.get("of", one)
            parts.append(f"{one['name']}: {pairs(one.get('options', {})) or 'no options'}")
    if condition.get("fit", "model") != "model":
        parts.append(f"fit {condition['fit']}")
    if condition.get("region", "own") != "own":
        seed = f", seed {condition['seed']}" if "seed" in condition else ""
        parts.append(f"region: {condition['region']}{seed}")
    if "aggregate" in condition:
        parts.append(f"{condition['aggregate']} of the scores")
    return "; ".join(parts) or "no prompt"
