"""Tables of a suite of tasks: accuracies, kinds of questions, differences, maps, published figures, settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from visprompt.bench.accuracy.published import load_published
from visprompt.bench.report import tables
from visprompt.bench.report.document import Block, Cell, Column, Fold, Prose, Row, Table, TableRow
from visprompt.bench.report.tables import ColumnOf, percent

_KINDS = "Percent right with 95 % intervals."
_KINDS_COMPARED = (
    " Below them: percentage points against “{}” on the same questions with theirs, emphasised where the interval "
    "excludes 0 (not corrected for the number of comparisons)."
)
_DIFFERENCES = (
    "Percentage points, with 95 % intervals, emphasised where the interval excludes 0; positive: better than the row "
    "it is compared with. p: exact McNemar test, not corrected for the number of comparisons."
)
_MAPS = (
    "Share of a map's mass in the box of the object that the question is about, percent, ± half the 95 % interval; "
    "questions about one object only. “decoder”: attention of the words that answer over the image tokens. Ψ_cls and "
    "1 − S: the encoder's maps, stretched to [0, 1]. Emphasised: the best block of a source. “uniform”: a map that "
    "knows nothing has the box's share of the image tokens."
)
_TASK: ColumnOf = (Column("task", text=True), lambda row: str(row["task"]))


def summary_table(rows: Sequence[Row]) -> Table:
    """Accuracies: strategies down, controls last, tasks across and grouped by model; below, the level of chance."""
    intervals = " with 95 % intervals" if any(map(tables.row_interval, tables.measured(rows))) else ""
    return tables.grid(
        "strategy",
        rows,
        ("model", "task"),
        lambda own: Column(str(own[0]["task"]), str(own[0]["model"])),
        _accuracy,
        below=("chance", tables.chance_cell),
        caption=f"Percent right{intervals}; {protocol(rows)}. Emphasised: best of a column. Controls come last.",
        where="everywhere",
    )


def protocol(rows: Sequence[Row]) -> str:
    """What a reader has to know beside a figure: candidates and number of items."""
    sizes = [row["n"] for row in rows if row["n"]]
    count = f"n = {tables.span(sizes, str)}" if sizes else "no items"
    return f"{' and '.join(dict.fromkeys(map(regions, rows)))}, {count}"


def regions(row: Row) -> str:
    """What was pointed at: whose boxes, or points."""
    return "marked points" if row["settings"].get("task") == "keypoints" else f"{row['boxes']} boxes"


def _accuracy(row: Row | None, column: Sequence[Row]) -> Cell:
    if row is None:
        return Cell(note="not part of this suite")
    if row["value"] is None:
        return Cell(note=row.get("unsupported") or row.get("error_example") or "no items")
    interval = tables.row_interval(row)
    note = f"{row['correct']} of {row['n']} right" + (f"; 95 % interval ({row['ci_method']})" if interval else "")
    note += f"; {row['errors']} items could not be asked" if row["errors"] else ""
    return Cell(percent(row["value"]), interval, best=tables.is_best(row, column), note=note)


def kind_blocks(rows: Sequence[Row], compare_with: Sequence[str]) -> Iterator[Block]:
    """For every model and task whose questions are of several kinds, a table for a page and one for a terminal."""
    first = True
    for (model, task), own in tables.grouped((row for row in rows if row.get("kinds")), "model", "task").items():
        compared = next((one for one in compare_with if any(one in row.get("comparisons", {}) for row in own)), "")
        if first:
            yield Prose(_KINDS + (_KINDS_COMPARED.format(compared) if compared else ""))
        yield Fold(f"{task}, {model}", (kind_table(own, compared),), opened=first)
        yield kind_terminal_table(own, compared, f"{task} · {model}, by kind of question")
        first = False


def kind_table(rows: Sequence[Row], compared: str) -> Table:
    """Strategies down, kinds of questions across, with differences below the values.

    Args:
        rows: of one model and task, with `kinds`.
        compared: label of the row that differences are to; empty without any.
    """

    def cell(one: Row | None, column: Sequence[Row]) -> Cell:
        if one is None:
            return Cell()
        more, clear = tables.difference_text(one["other"]), tables.is_clear(one["other"])
        return Cell(percent(one["value"]), tables.nested_interval(one), more, clear=clear)

    return tables.grid("strategy", _by_kind(rows, compared), ("kind",), _kind_column, cell)


def kind_terminal_table(rows: Sequence[Row], compared: str, title: str) -> Table:
    """The same for a terminal: the row compared with first, in percent, all others in points against it."""

    def cell(one: Row | None, column: Sequence[Row]) -> Cell:
        if one and one["other"]:
            return Cell(tables.points(one["other"]["difference"]), best=tables.is_clear(one["other"]))
        return Cell(percent(one["value"] if one else None))

    by_kind = _by_kind(sorted(tables.controls_last(rows), key=lambda row: bool(row["row"] != compared)), compared)
    bounds = [one["ci95"] for one in by_kind if tables.nested_interval(one)]
    widest = f", 95 % intervals within ± {max(50 * (high - low) for low, high in bounds):.1f}" if bounds else ""
    caption = f"Accuracy in %{widest}."
    if compared:
        caption = (
            f"{compared}: accuracy in %; others: points against it, bold if the 95 % interval excludes 0 (the "
            "intervals are in the report)."
        )
    labels = list(dict.fromkeys(one["row"] for one in by_kind))
    made = tables.grid("strategy", by_kind, ("kind",), _kind_column, cell, labels)
    return dataclasses.replace(made, title=title, caption=caption, where="terminal")


def _by_kind(rows: Sequence[Row], compared: str) -> list[Row]:
    """A row per strategy and kind of question; `other` is its difference to the row compared with, or None."""
    found: list[Row] = []
    for row in rows:
        others = row.get("comparisons", {}).get(compared, {}).get("kinds", {})
        head = {"row": row["row"], "control": row["control"]}
        found += [{**one, **head, "kind": kind, "other": others.get(kind)} for kind, one in row["kinds"].items()]
    return found


def _kind_column(rows: Sequence[Row]) -> Column:
    return Column(rows[0]["kind"], note=f"n {max(one['n'] for one in rows)}")


def difference_tables(rows: Sequence[Row], compare_with: Sequence[str]) -> list[Block]:
    """Paired differences to other rows on the same items, a table per model."""
    rows = [row for row in rows if row.get("comparisons")]
    others = [label for label in compare_with if any(label in row["comparisons"] for row in rows)]
    columns = [
        _TASK,
        *(column for other in others for column in _against(other)),
        ("n", lambda row: f"{row['n']:,}"),
        ("seconds", lambda row: str(row["seconds"])),
    ]
    folds = [
        Fold(model, (tables.listing("strategy", own, columns),)) for model, own in tables.grouped(rows, "model").items()
    ]
    return [Prose(_DIFFERENCES), *folds] if others else []


def _against(other: str) -> tuple[ColumnOf, ColumnOf]:
    """The difference to another row, and how likely one as large is by chance."""

    def difference(row: Row) -> Cell:
        one = row["comparisons"].get(other)
        if not one:
            return Cell("")
        return Cell(tables.points(one["difference"]), tables.difference_interval(one), best=tables.is_clear(one))

    def p_value(row: Row) -> str:
        p = row["comparisons"].get(other, {}).get("mcnemar_p")
        return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"

    return (f"against {other}", difference), ("p", p_value)


def map_blocks(records: Sequence[Row]) -> list[Block]:
    """Where maps lie, from `maps.jsonl`: a table per model."""
    folds = [Fold(model, (map_table(own),), opened=True) for model, own in tables.grouped(records, "model").items()]
    return [Prose(_MAPS), *folds] if folds else []


def map_table(records: Sequence[Row]) -> Table:
    """Sources and blocks of maps down, tasks across.

    Args:
        records: of one model, one per task.
    """
    lines = {(one["source"], one["block"]): one for record in records for one in record["maps"]}
    uniform = [Cell(""), *(Cell(percent(record["maps"][0]["uniform"])) for record in records)]
    columns: list[ColumnOf] = [("block", lambda line: str(line["block"])), *map(_shares, records)]
    below = [TableRow("uniform", tuple(uniform), True)]
    return tables.listing("map", lines.values(), columns, label="source", below=below)


def _shares(record: Row) -> ColumnOf:
    def cell(line: Row) -> Cell:
        own = {one["block"]: one for one in record["maps"] if one["source"] == line["source"]}
        one = own.get(line["block"])
        if one is None:
            return Cell()
        known = one["ci95"] is not None and tables.has_interval(one["n"])
        spread = f"± {50 * (one['ci95'][1] - one['ci95'][0]):.1f}" if known else ""
        return Cell(percent(one["share"]), spread, best=one["share"] == max(each["share"] for each in own.values()))

    return Column(record["task"], note=f"n {record['maps'][0]['n']}"), cell


def published_table(rows: Sequence[Row]) -> list[Block]:
    """Published figures for the rows whose task and strategy have one, with where they come from; or nothing."""
    lines = [
        {**row, "figure": figure}
        for figure in (load_published() if any(row.get("published") for row in rows) else ())
        for row in rows
        if row.get("published") in figure["values"] and row["row"] in figure["strategies"]
    ]
    columns: list[ColumnOf] = [
        _TASK,
        ("measured", lambda row: "–" if row["value"] is None else f"{percent(row['value'])} ({row['model']})"),
        ("published", lambda row: f"{row['figure']['values'][row['published']]:.1f}"),
        (Column("model, protocol, source", text=True), lambda row: _source(row["figure"])),
    ]
    caption = "Percent. A published figure is comparable only if model, weights and candidates are the same."
    return [tables.listing("strategy", lines, columns, caption=caption)] if lines else []


def _source(figure: Mapping[str, Any]) -> str:
    paper = f"{figure['source']['title'].partition(':')[0]}, {figure['source']['link']}"
    sure = "; taken from a secondary source: check before quoting" if figure["certainty"] == "secondary" else ""
    return f"{figure['model']}, {figure['protocol']}; {paper}{sure}"


def grid_fold(record: Row) -> Fold:
    """What was tried on validation for one strategy and model, and what was chosen; a record of `tuning.jsonl`."""
    lines = [{"row": tables.pairs(point["options"]), **point} for point in record["points"]]
    columns: list[ColumnOf] = [
        *((task, lambda point, task=task: percent(point["validation"][task])) for task in record["tasks"]),
        ("mean", lambda point: Cell(percent(point["mean"]), best=point["options"] == record["options"])),
    ]
    limit = f", first {record['limit']} images" if record["limit"] else ""
    data = f"{tables.pairs(record['data'])}{limit}"
    caption = f"Mean {record['metric']} over {', '.join(record['tasks'])}, percent; {data}."
    chosen = ", ".join(f"{key} = {value}" for key, value in record["options"].items())
    label = record["row"] if "row" in record else record["strategy"]
    title = f"{label} on {record['model']}, chosen on validation: {chosen}"
    return Fold(title, (tables.listing("options", lines, columns, caption=caption),))


def options_table(rows: Sequence[Row]) -> Table:
    """Label, model and options of every row; a row has the same options in all tasks of a suite."""
    columns: list[ColumnOf] = [
        (Column("model", text=True), lambda row: str(row["model"])),
        (Column("options", text=True), lambda row: _options(row["pointing"])),
    ]
    found = {(row["row"], row["model"]): {key: row[key] for key in ("row", "model", "pointing")} for row in rows}
    return tables.listing("strategy", found.values(), columns)


def _options(condition: Mapping[str, Any]) -> str:
    parts = [f"preset {condition['preset']}"] if condition.get("preset") else []
    for member in condition.get("members", ()):
        for one in (member or {}).get("parts", [member] if member else []):
            one = one.get("of", one)
            parts.append(f"{one['name']}: {tables.pairs(one.get('options', {})) or 'no options'}")
    if condition.get("fit", "model") != "model":
        parts.append(f"fit {condition['fit']}")
    if condition.get("region", "own") != "own":
        seed = f", seed {condition['seed']}" if "seed" in condition else ""
        parts.append(f"region: {condition['region']}{seed}")
    if "aggregate" in condition:
        parts.append(f"{condition['aggregate']} of the scores")
    return "; ".join(parts) or "no prompt"
