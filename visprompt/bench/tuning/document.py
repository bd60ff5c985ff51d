"""The report of a comparison of ways of tuning: test figures, differences, what was learned, what was chosen."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from visprompt.bench.report.charts import bar_chart, share_bar
from visprompt.bench.report.document import (
    Bar,
    Block,
    Cell,
    Chart,
    Column,
    Document,
    Fields,
    Figure,
    Fold,
    Prose,
    Result,
    Row,
    Table,
    TableRow,
    sections,
)
from visprompt.bench.report.images import NO_PLOTS, plotted
from visprompt.bench.report.provenance import provenance_fields
from visprompt.bench.report.tables import (
    best_of,
    chance_cell,
    counted,
    difference_interval,
    difference_text,
    grid,
    is_clear,
    listed,
    pairs,
    percent,
    row_interval,
    span,
    text_table,
)
from visprompt.plots import base as plots
from visprompt.plots import tuning as plots_tuning

_IMAGES = (
    "Half of them are the first test images on which the methods disagree, half the first on which they agree. Maps: "
    "attention of the readout and of the prompt tokens in the last block, mean over heads."
)
_DIFFERENCES = (
    "Percentage points on the same test images with the same seeds. The 95 % interval is over images and does not "
    "cover other seeds, whose differences stand beside it."
)
_CAPTIONS = {
    "methods": "Whiskers: standard deviation over seeds (dots: single seeds), or with one seed the 95 % interval over "
    "images. Dotted: chance.",
    "insertion": "Plain tokens that go in before one block, and from there through all that follow, as in Fig. 1 of "
    "gated prompt tuning. Lines across: the head alone, and gated prompts.",
    "gates": "After every block but the last, a prompt is g parts the block's output for it and 1 − g parts what it "
    "was before. The share r is what is left of each block's output, and of the tokens as they were put in, in the "
    "last block's prompts.",
}


def document(result: Result) -> Document:
    """The report of a comparison of ways of tuning.

    Args:
        result: its rows; `examples` with an image and its alternative text by set; the file "runs".
    """
    suite, rows = result.suite, result.rows
    figures = plotted_figures(rows) if plots.have_matplotlib() else {}
    sets = Fields(tuple((one.key, one.title) for one in suite.sets))
    points, learned = insertion_texts(rows), learned_table(rows)
    differences = f"Differences to {suite.compare_with} on the same test images, percentage points"
    numbers = [Fold("The numbers", (learned,))] if learned.rows else []
    parts: list[tuple[str, Sequence[Block]]] = [
        ("Test results", [summary_table(rows), sets, *figures.get("methods", ())]),
        (differences, [difference_table(rows)]),
        ("Plain tokens, put in at another block", [*figures.get("insertion", ()), Fields(points)] if points else []),
        ("What was learned, block by block", [*figures.get("gates", ()), *numbers]),
        ("Chosen on validation", [choice_table(rows)]),
        ("What the results depend on", [Fields(tuple(dependencies(result)))]),
    ]
    examples: list[Block] = [Figure(uri, alt, key) for key, (uri, alt) in (result.examples or {}).items()]
    return Document(
        suite.title,
        tuple(findings(rows, suite.compare_with)),
        chart(rows),
        (*examples, Prose(_IMAGES)) if examples else (),
        (" ".join(suite.description.split()),),
        sections(*parts),
        tuple(result.problems),
        () if plots.have_matplotlib() else (NO_PLOTS,),
        "The table is in results.jsonl, every run in runs.jsonl, the prompts in prompts/, beside this file.",
    )


def findings(rows: Sequence[Row], compare_with: str | None) -> list[str]:
    """Up to three sentences: the best method of every set, what it adds, and how much it trains."""
    rows = _of_table(rows)
    sets = list(dict.fromkeys(row["task"] for row in rows))
    best = [_best([row for row in rows if row["task"] == key]) for key in sets]
    known = [row for row in best if row is not None]
    if not known:
        return []
    told = [f"{row['row']} on {row['task']} ({percent(row['value'])} %{_sure(row)})" for row in known]
    sentences = [f"The best methods on test images: {listed(told, 6)}."]
    if len(known) == 1:
        sentences = [f"The best method on test images is {told[0]}."]
    compared = [row for row in known if row.get("comparison")]
    if compared:
        shown = [f"{difference_text(row['comparison'])} on {row['task']}" for row in compared]
        sentences.append(f"Their differences to {compare_with}, in percentage points: {listed(shown, 6)}.")
    trained = {row["row"]: trained_numbers([one for one in rows if one["row"] == row["row"]]) for row in known}
    shown = [f"{label} {numbers}" for label, numbers in trained.items() if numbers != "–"]
    if shown:
        sentences.append(f"Numbers that they train, in the prompt or model + in the head: {listed(shown, 6)}.")
    return sentences


def _sure(row: Row) -> str:
    if row["sd"] is not None:
        return f" ± {percent(row['sd'])}, {counted(len(row['seeds']), 'seed')}"
    interval = row_interval(row)
    return f", 95 % interval {interval}" if interval else ""


def _best(rows: Sequence[Row]) -> Row | None:
    known = [row for row in rows if row["value"] is not None and not row["control"]]
    return max(known, key=lambda row: float(row["value"]), default=None)


def _of_table(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["table"]]


def chart(rows: Sequence[Row]) -> Chart | None:
    """The test figures as bars, a panel per set, controls last."""
    rows = _of_table(rows)
    several = any(row["sd"] is not None for row in rows)
    return bar_chart(
        "Test results, percent",
        rows,
        list(dict.fromkeys(row["row"] for row in sorted(rows, key=lambda row: bool(row["control"])))),
        "task",
        lambda row: f"{row['task']}: {metric_name(row['metric'])}, n = {row['n']:,}",
        _bar,
        caption="Dotted: chance. In italics: controls.",
        intervals="standard deviation over seeds" if several else "95 % interval over images",
    )


def _bar(row: Row, series: int) -> Bar:
    if row["sd"] is None:
        return share_bar(row, series)
    value, sd = 100 * row["value"], 100 * row["sd"]
    return Bar(value, value - sd, value + sd, percent(row["value"]), series)


def summary_table(rows: Sequence[Row]) -> Table:
    """Methods down, controls last, sets across; below, the level of chance."""
    rows = _of_table(rows)
    models = [f"{model}. " for model in dict.fromkeys(row.get("model") for row in rows) if model]
    caption = (
        f"{''.join(models)}Percent; {protocol(rows)}. Emphasised: best of a column. Controls come last. "
        "trained: how many numbers, in the prompt (or model) + in the head."
    )
    made = grid(
        "method", rows, ("task",), _column, _cell, below=("chance", chance_cell), caption=caption, where="everywhere"
    )
    lines = []
    for line in made.rows:
        trained = trained_numbers([row for row in rows if row["row"] == line.label])
        trained = "" if line.label == "chance" else trained
        lines.append(dataclasses.replace(line, cells=(Cell(trained), *line.cells)))
    return dataclasses.replace(made, columns=(Column("trained"), *made.columns), rows=tuple(lines))


def _column(rows: Sequence[Row]) -> Column:
    known = next((row for row in rows if row["value"] is not None), None)
    note = f"{metric_name(known['metric'])}, n {known['n']:,}" if known else ""
    return Column(str(rows[0]["task"]), note=note)


def _cell(row: Row | None, column: Sequence[Row]) -> Cell:
    if row is None or row["value"] is None:
        return Cell(note="not part of this suite" if row is None else "not run")
    interval = row_interval(row)
    words = [f"seeds {', '.join(map(str, row['seeds']))}: {', '.join(map(percent, row['values']))}"]
    if interval:
        words.append(f"95 % interval over {row['n']} images {interval} ({row['ci_method']})")
    if row["diverged"]:
        words.append(f"{row['diverged']} runs diverged")
    spread = f"± {percent(row['sd'])}" if row["sd"] is not None else interval
    best = row["value"] == best_of(column) and not row["control"]
    return Cell(percent(row["value"]), spread, best=best, note="; ".join(words))


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
    """What stands behind a figure: seeds, images, spread."""
    known = [row for row in rows if row["value"] is not None]
    if not known:
        return "nothing was run"
    seeds = [len(row["seeds"]) for row in known]
    n = span((row["n"] for row in known), lambda value: f"{value:,}")
    if set(seeds) == {1}:
        return f"n = {n} test images, one seed" + (
            "; 95 % intervals over images" if any(map(row_interval, known)) else ""
        )
    return f"n = {n} test images, mean of {span(seeds, str)} seeds ± standard deviation"


def difference_table(rows: Sequence[Row]) -> Table:
    """Differences to the method that the suite compares with, with the single seeds' differences."""
    lines = []
    for row in _of_table(rows):
        one = row.get("comparison")
        if one:
            sized = {"n": row["n"], **one}
            each = ", ".join(f"{100 * value:+.1f}" for value in one["each"])
            points = Cell(f"{100 * one['difference']:+.1f}", best=is_clear(sized))
            cells = (Cell(str(row["task"])), points, Cell(difference_interval(sized)), Cell(each))
            lines.append(TableRow(row["row"], cells, bool(row["control"])))
    lines.sort(key=lambda line: line.control)
    heads = Column("set", text=True), Column("difference"), Column("95 % interval"), Column("each seed")
    return Table("method", heads, tuple(lines), caption=_DIFFERENCES, where="everywhere")


def learned_table(rows: Sequence[Row]) -> Table:
    """Gates and temperatures from block 0 on; means over seeds."""
    lines = []
    for row in rows:
        texts = []
        for name, digits in (("gate", 3), ("temperature", 2)):
            values = [one[name] for one in row.get("blocks") or () if one.get(name) is not None]
            texts.append(" ".join(f"{value:.{digits}f}" for value in values))
        if any(texts):
            lines.append((str(row["row"]), str(row["task"]), *texts))
    return text_table(("method", "set", "gates, block 0 first", "temperatures"), lines, where="everywhere")


def choice_table(rows: Sequence[Row]) -> Table:
    """What was chosen on validation, and the validation figures of all that was tried."""
    lines = []
    for row in _of_table(rows):
        if row["grid"]:
            tried = "; ".join(
                f"{pairs(one['point'])}: " + ("diverged" if one["validation"] is None else percent(one["validation"]))
                for one in row["grid"]
            )
            lines.append((str(row["row"]), str(row["task"]), pairs(row.get("point") or {}), tried))
    return text_table(("method", "set", "chosen", "validation figures of what was tried, %"), lines)


def insertion_texts(rows: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    """Per set, the figures of plain tokens over the block that they go into."""
    found = []
    for key, points in plots_tuning.insertion_points(rows).items():
        spreads = ["" if row["sd"] is None else f" ± {percent(row['sd'])}" for _, row in points]
        texts = [
            f"block {place}: {percent(row['value'])}{sd}" for (place, row), sd in zip(points, spreads, strict=True)
        ]
        found.append((key, ", ".join(texts)))
    return tuple(found)


def plotted_figures(rows: Sequence[Row]) -> dict[str, tuple[Figure, ...]]:
    """The figures by name."""
    if not any(row["value"] is not None for row in rows):
        return {}
    alts = {
        "methods": "Bars: the figures of the table, a panel per set.",
        "insertion": "Accuracy over the block that plain tokens go into.",
        "gates": "Gates, selection ratios and temperatures over the blocks, a line per set.",
    }
    drawn = {
        "methods": plots_tuning.methods_figure(rows),
        "insertion": plots_tuning.insertion_figure(rows),
        "gates": plots_tuning.gates_figure(rows),
    }
    return plotted({name: (plot, alts[name], _CAPTIONS[name]) for name, plot in drawn.items()})


def dependencies(result: Result) -> list[tuple[str, str]]:
    """What the results depend on, as name and value."""
    runs = [run for run in result.files.get("runs", ()) if "test" in run]
    fields = [("suite", f"{result.suite.name} (hash {result.suite.hash})")]
    fields += [("model", text) for text in dict.fromkeys(pairs(run["model"]) for run in runs if "model" in run)]
    for row in result.rows:
        if row["value"] is not None:
            sizes = "/".join(str(row["sizes"][part]) for part in ("train", "validation", "test"))
            fields.append(
                (
                    f"{row['task']}, {row['row']}",
                    f"{row['how']} {row['strategy']} ({pairs(row['options']) or 'no options'}); "
                    f"{pairs(row['settings'])}; images {sizes}; best epochs {', '.join(map(str, row['best_epochs']))}; "
                    f"{row['cpu_seconds']:.0f} s of processor time",
                )
            )
    made = [{"provenance": {"date": run.get("date"), **run["provenance"]}} for run in runs]
    fields += provenance_fields(made)
    seconds = sum(run["cpu_seconds"] for run in result.files.get("runs", ()))
    fields.append(("time", f"{seconds / 60:.1f} minutes of processor time"))
    return fields


def metric_name(metric: str) -> str:
    """A metric as people write it."""
    return {"miou": "mean IoU"}.get(metric, metric)
