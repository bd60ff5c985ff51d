"""The report of a comparison of ways of tuning: test figures, differences, what was learned, what was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from visprompt.bench.report import document as doc
from visprompt.bench.report import images, tables
from visprompt.bench.report.charts import bar_chart, value_bar
from visprompt.bench.report.document import Row
from visprompt.bench.report.provenance import provenance_fields
from visprompt.bench.report.tables import ColumnOf, listed, pairs, percent, span
from visprompt.plots import tuning as plots_tuning

if TYPE_CHECKING:
    from visprompt.bench.pipeline import SuiteResult

_IMAGES = (
    "Half of them are the first test images on which the methods disagree, half the first on which they agree. Maps: "
    "attention of the readout and of the prompt tokens in the last block, mean over heads."
)
_DIFFERENCES = (
    "Percentage points on the same test images with the same seeds. The 95 % interval is over images and does not "
    "cover other seeds, whose differences stand beside it."
)
_SET: ColumnOf = (doc.Column("set", text=True), lambda row: str(row["task"]))


def document(result: SuiteResult) -> doc.Document:
    """The report of a comparison of ways of tuning.

    Args:
        result: its rows; `examples` with an image and its alternative text by set; the file "runs".
    """
    suite, rows = result.suite, result.rows
    figures = plotted_figures(rows)
    sets = doc.Fields(tuple((one.key, one.title) for one in suite.sets))
    differences = f"Differences to {suite.compare_with} on the same test images, percentage points"
    examples: list[doc.Block] = [doc.Figure(uri, alt, key) for key, (uri, alt) in (result.examples or {}).items()]
    return doc.Document(
        suite.title,
        tuple(findings(rows, suite.compare_with)),
        chart(rows),
        (*examples, doc.Prose(_IMAGES)) if examples else (),
        (" ".join(suite.description.split()),),
        doc.sections(
            {
                "Test results": [summary_table(rows), sets, *figures["methods"]],
                differences: [difference_table(rows)],
                "Plain tokens, put in at another block": [*figures["insertion"], doc.Fields(insertion_texts(rows))],
                "What was learned, block by block": [
                    *figures["gates"],
                    doc.Fold("The numbers", (learned_table(rows),)),
                ],
                "Chosen on validation": [choice_table(rows)],
                "What the results depend on": [doc.Fields(tuple(dependencies(result)))],
            }
        ),
        tuple(result.problems),
        tuple(images.missing_plots()),
        "The table is in results.jsonl, every run in runs.jsonl, the prompts in prompts/, beside this file.",
    )


def findings(rows: Sequence[Row], compare_with: str | None) -> list[str]:
    """Up to three sentences: the best method of every set, what it adds, and how much it trains."""
    rows = tables.measured(_of_table(rows))
    ways = tables.grouped((row for row in rows if not row["control"]), "task").values()
    best = [max(own, key=lambda row: float(row["value"])) for own in ways]
    told = [f"{row['row']} on {row['task']} ({percent(row['value'])} %{_sure(row)})" for row in best]
    compared = [
        f"{tables.difference_text(row['comparison'])} on {row['task']}" for row in best if row.get("comparison")
    ]
    by_label = tables.grouped(rows, "row")
    numbers = {row["row"]: trained_numbers(by_label[row["row"]]) for row in best}
    trained = [f"{label} {text}" for label, text in numbers.items() if text != "–"]
    sentences = []
    if told:
        first = "The best methods on test images:" if len(told) > 1 else "The best method on test images is"
        sentences.append(f"{first} {listed(told, 6)}.")
    if compared:
        sentences.append(f"Their differences to {compare_with}, in percentage points: {listed(compared, 6)}.")
    if trained:
        sentences.append(f"Numbers that they train, in the prompt or model + in the head: {listed(trained, 6)}.")
    return sentences


def _sure(row: Row) -> str:
    if row["sd"] is not None:
        return f" ± {percent(row['sd'])}, {tables.counted(len(row['seeds']), 'seed')}"
    interval = tables.row_interval(row)
    return f", 95 % interval {interval}" if interval else ""


def _of_table(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["table"]]


def chart(rows: Sequence[Row]) -> doc.Chart | None:
    """The test figures as bars, a panel per set, controls last."""
    rows = _of_table(rows)
    several = any(row["sd"] is not None for row in rows)
    return bar_chart(
        "Test results, percent",
        rows,
        list(dict.fromkeys(row["row"] for row in tables.controls_last(rows))),
        "task",
        lambda row: f"{row['task']}: {metric_name(row['metric'])}, n = {row['n']:,}",
        caption="Dotted: chance. In italics: controls.",
        bar=_bar,
        intervals="standard deviation over seeds" if several else "95 % interval over images",
    )


def _bar(row: Row, series: int) -> doc.Bar:
    """A bar with the spread over seeds, or the interval of a single seed."""
    if row["sd"] is None:
        return value_bar(row)
    return value_bar({**row, "low": row["value"] - row["sd"], "high": row["value"] + row["sd"], "n": None})


def summary_table(rows: Sequence[Row]) -> doc.Table:
    """Methods down, controls last, sets across; below, the level of chance."""
    rows = _of_table(rows)
    models = [f"{model}. " for model in dict.fromkeys(row.get("model") for row in rows) if model]
    return tables.grid(
        "method",
        rows,
        ("task",),
        _column,
        _cell,
        below=("chance", tables.chance_cell),
        before=[("trained", trained_numbers)],
        caption=f"{''.join(models)}Percent; {protocol(rows)}. Emphasised: best of a column. Controls come last. "
        "trained: how many numbers, in the prompt (or model) + in the head.",
        where="everywhere",
    )


def _column(rows: Sequence[Row]) -> doc.Column:
    notes = (f"{metric_name(row['metric'])}, n {row['n']:,}" for row in rows if row["value"] is not None)
    return doc.Column(str(rows[0]["task"]), note=next(notes, ""))


def _cell(row: Row | None, column: Sequence[Row]) -> doc.Cell:
    if row is None or row["value"] is None:
        return doc.Cell(note="not part of this suite" if row is None else "not run")
    interval = tables.row_interval(row)
    words = [f"seeds {', '.join(map(str, row['seeds']))}: {', '.join(map(percent, row['values']))}"]
    if interval:
        words.append(f"95 % interval over {row['n']} images {interval} ({row['ci_method']})")
    if row["diverged"]:
        words.append(f"{row['diverged']} runs diverged")
    spread = f"± {percent(row['sd'])}" if row["sd"] is not None else interval
    return doc.Cell(percent(row["value"]), spread, best=tables.is_best(row, column), note="; ".join(words))


def trained_numbers(rows: Sequence[Row]) -> str:
    """How many numbers a method trains, in prompt or model and in the head; heads differ from set to set.

    >>> trained_numbers([{"parameters": {"prompt": 1291, "head": 774}}, {"parameters": {"prompt": 1291, "head": 1032}}])
    '1,291 + 774–1,032'
    """
    known = [row["parameters"] for row in rows if row.get("parameters")]
    if not known:
        return "–"
    head = span((one.get("head", 0) for one in known), "{:,}".format).replace(" to ", "–")
    below = known[0].get("prompt", 0) + known[0].get("model", 0)
    return f"{below:,} + {head}" if below else head


def protocol(rows: Sequence[Row]) -> str:
    """What stands behind a figure: seeds, images, spread."""
    known = tables.measured(rows)
    if not known:
        return "nothing was run"
    seeds = [len(row["seeds"]) for row in known]
    n = span((row["n"] for row in known), "{:,}".format)
    if set(seeds) != {1}:
        return f"n = {n} test images, mean of {span(seeds, str)} seeds ± standard deviation"
    return f"n = {n} test images, one seed" + (
        "; 95 % intervals over images" if any(map(tables.row_interval, known)) else ""
    )


def difference_table(rows: Sequence[Row]) -> doc.Table:
    """Differences to the method that the suite compares with, with the single seeds' differences."""
    compared = [{**row, **row["comparison"]} for row in _of_table(rows) if row.get("comparison")]
    columns: list[ColumnOf] = [
        _SET,
        ("difference", lambda row: doc.Cell(tables.points(row["difference"]), best=tables.is_clear(row))),
        ("95 % interval", tables.difference_interval),
        ("each seed", lambda row: ", ".join(map(tables.points, row["each"]))),
    ]
    ordered = tables.controls_last(compared)
    return tables.listing("method", ordered, columns, caption=_DIFFERENCES, where="everywhere")


def learned_table(rows: Sequence[Row]) -> doc.Table:
    """Gates and temperatures from block 0 on; means over seeds."""

    def values(name: str, digits: int, row: Row) -> str:
        known = [one[name] for one in row.get("blocks") or () if one.get(name) is not None]
        return " ".join(f"{value:.{digits}f}" for value in known)

    gates, temperatures = partial(values, "gate", 3), partial(values, "temperature", 2)
    columns: list[ColumnOf] = [
        _SET,
        (doc.Column("gates, block 0 first", text=True), gates),
        (doc.Column("temperatures", text=True), temperatures),
    ]
    shown = [row for row in rows if gates(row) or temperatures(row)]
    return tables.listing("method", shown, columns, where="everywhere")


def choice_table(rows: Sequence[Row]) -> doc.Table:
    """What was chosen on validation, and the validation figures of all that was tried."""

    def tried(row: Row) -> str:
        values = ["diverged" if one["validation"] is None else percent(one["validation"]) for one in row["grid"]]
        return "; ".join(f"{pairs(one['point'])}: {value}" for one, value in zip(row["grid"], values, strict=True))

    columns: list[ColumnOf] = [
        _SET,
        (doc.Column("chosen", text=True), lambda row: pairs(row.get("point") or {})),
        (doc.Column("validation figures of what was tried, %", text=True), tried),
    ]
    return tables.listing("method", [row for row in _of_table(rows) if row["grid"]], columns)


def insertion_texts(rows: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    """Per set, the figures of plain tokens over the block that they go into."""

    def figure(place: object, row: Row) -> str:
        return f"block {place}: {percent(row['value'])}" + ("" if row["sd"] is None else f" ± {percent(row['sd'])}")

    found = plots_tuning.insertion_points(rows)
    return tuple((key, ", ".join(figure(*point) for point in points)) for key, points in found.items())


def plotted_figures(rows: Sequence[Row]) -> dict[str, tuple[doc.Figure, ...]]:
    """The figures by name."""
    measured = any(row["value"] is not None for row in rows)
    return images.plotted(
        {
            "methods": (
                lambda: plots_tuning.methods_figure(rows) if measured else None,
                "Bars: the figures of the table, a panel per set.",
                "Whiskers: standard deviation over seeds (dots: single seeds), or with one seed the 95 % interval over "
                "images. Dotted: chance.",
            ),
            "insertion": (
                lambda: plots_tuning.insertion_figure(rows) if measured else None,
                "Accuracy over the block that plain tokens go into.",
                "Plain tokens that go in before one block, and from there through all that follow, as in Fig. 1 of "
                "gated prompt tuning. Lines across: the head alone, and gated prompts.",
            ),
            "gates": (
                lambda: plots_tuning.gates_figure(rows) if measured else None,
                "Gates, selection ratios and temperatures over the blocks, a line per set.",
                "After every block but the last, a prompt is g parts the block's output for it and 1 − g parts what it "
                "was before. The share r is what is left of each block's output, and of the tokens as they were put "
                "in, in the last block's prompts.",
            ),
        }
    )


def dependencies(result: SuiteResult) -> list[tuple[str, str]]:
    """What the results depend on, as name and value."""
    runs = result.files.get("runs", [])
    tested = [run for run in runs if "test" in run]
    models = dict.fromkeys(pairs(run["model"]) for run in tested if "model" in run)
    return [
        ("suite", f"{result.suite.name} (hash {result.suite.hash})"),
        *(("model", text) for text in models),
        *((f"{row['task']}, {row['row']}", _made(row)) for row in result.rows if row["value"] is not None),
        *provenance_fields({"provenance": {"date": run.get("date"), **run["provenance"]}} for run in tested),
        ("time", f"{sum(run['cpu_seconds'] for run in runs) / 60:.1f} minutes of processor time"),
    ]


def _made(row: Row) -> str:
    """How a row was trained."""
    sizes = "/".join(str(row["sizes"][part]) for part in ("train", "validation", "test"))
    return (
        f"{row['how']} {row['strategy']} ({pairs(row['options']) or 'no options'}); {pairs(row['settings'])}; images "
        f"{sizes}; best epochs {', '.join(map(str, row['best_epochs']))}; {row['cpu_seconds']:.0f} s of processor time"
    )


def metric_name(metric: str) -> str:
    """A metric as people write it."""
    return {"miou": "mean IoU"}.get(metric, metric)
