"""The report on attention gain: gains in the last block, ratios, transfer between models, sweeps, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visprompt.bench.report.charts import bar_chart, number_bar
from visprompt.bench.report.document import (
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
from visprompt.bench.report.images import NO_PLOTS, looks, plotted
from visprompt.bench.report.provenance import identity, provenance_fields
from visprompt.bench.report.tables import counted, grid, listed, number_interval, pairs, span, text_table
from visprompt.plots import base as plots
from visprompt.plots import gain as plots_gain

#: what holds of scenes; of somebody's own images only they know it
HELD_OUT = (
    "Scenes and places have seeds of their own; no patch was learned on them, and none of its settings was chosen on "
    "them: settings were chosen on validation scenes."
)
_MARKED = (
    "The first images of the set, each with every marker at its place, and below where the model looks in the last "
    "block. Framed: the marked square. Maps of one image are on one scale."
)
_BLOCKS = "Bands: 95 % intervals over images. Every panel has a scale of its own. Controls are grey and dashed."
_TRANSFER = "Gain in the last block of the model that a patch is used on; emphasised: on the model it was learned on."


def document(result: Result) -> Document:
    """The report on attention gain.

    Args:
        result: its rows; `examples` with "images" and "patches", each an image and its alternative text by name.
    """
    suite, rows = result.suite, result.rows
    gains = of(rows, "gain")
    figures = plotted_figures(rows, suite.compare_with) if plots.have_matplotlib() else {}
    models = dict.fromkeys(row["model"] for row in gains)
    swept = of(rows, "sweep")
    parts: list[tuple[str, Sequence[Block]]] = [
        ("Gain in the last block", [summary_table(rows), *ratio_tables(rows)] if gains else []),
        ("From model to model", [*figures.get("gain-transfer", ()), transfer_table(rows)]),
        (
            "Learned anew: size, shape and λ",
            [Prose(sweep_caption(rows)), *figures.get("gain-sweep", ()), sweep_table(rows)] if swept else [],
        ),
        (
            "Block by block",
            [*figures.get("gain-blocks", ()), *(Fold(model, (block_table(gains, model),)) for model in models)],
        ),
        ("What the results depend on", [Fields(tuple(dependencies(result)))]),
    ]
    shown = result.examples or {}
    patches = [Figure(uri, alt, f"The patch of {name}") for name, (uri, alt) in shown.get("patches", {}).items()]
    return Document(
        suite.title,
        tuple(findings(rows)),
        chart(rows),
        (*patches, *looks(shown.get("images", {}), _MARKED)),
        (" ".join(suite.description.split()), held_out(suite)),
        sections(*parts),
        tuple(result.problems),
        () if plots.have_matplotlib() else (NO_PLOTS,),
        "The rows are in results.jsonl, the masses of every image in runs-*.jsonl, beside this file.",
    )


def of(rows: Sequence[Row], task: str) -> list[Row]:
    """The rows of one task: "gain", "transfer" or "sweep"."""
    return [row for row in rows if row["task"] == task]


def findings(rows: Sequence[Row]) -> list[str]:
    """Up to three sentences: what gains most, how that compares, and how patches do on other models."""
    gains = of(rows, "gain")
    models = list(dict.fromkeys(row["model"] for row in gains))
    top = {model: max((row["value"] for row in gains if row["model"] == model), default=0.0) for model in models}
    wins: dict[str, int] = {}
    for row in gains:
        if not row["control"]:
            wins[row["row"]] = wins.get(row["row"], 0) + (row["value"] == top[row["model"]])
    if not wins:
        return []
    best = max(wins, key=lambda label: wins[label])
    own = [row for row in gains if row["row"] == best]
    told = (
        f"in the last block it adds {span((row['value'] for row in own), _two)} times the attention that the place has"
    )
    told += " without a marker"
    sentences = [f"Of the markers, {best} gains most on {wins[best]} of {counted(len(models), 'model')}: {told}."]
    if len(models) == 1:
        sure = number_interval(own[0]["low"], own[0]["high"], own[0]["n"])
        sure = f" (95 % interval {sure}, n = {own[0]['n']:,})" if sure else f" (n = {own[0]['n']:,})"
        sentences = [f"Of the markers, {best} gains most: {told}{sure}."]
    return [*sentences, *_ratio_finding(own), *_transfer_finding(rows)]


def _ratio_finding(own: Sequence[Row]) -> list[str]:
    compared = [row for row in own if row["compared_with"]]
    known = [row for row in compared if row["ratio"] is not None]
    if not compared:
        return []
    other = compared[0]["compared_with"]
    without = [row["model"] for row in compared if row["ratio"] is None]
    none = f"{other} gains nothing on {listed(without)}" if without else ""
    if not known:
        return [f"{none}, so there is no ratio to it."]
    clear = [row for row in known if row["n"] > 1 and (row["ratio_ci95"][0] or 0) > 1]
    ratio = f"Its gain is {span((row['ratio'] for row in known), _two)} times that of {other}"
    ratio += f"; the 95 % interval lies above 1 on {len(clear)} of {counted(len(known), 'model')}"
    return [f"{ratio}; {none}." if none else f"{ratio}."]


def _transfer_finding(rows: Sequence[Row]) -> list[str]:
    moved = of(rows, "transfer")
    own, other = ([row["value"] for row in moved if bool(row["own"]) is here] for here in (True, False))
    if own and other:
        return [
            f"Patches gain {span(own, _two)} on the model that they were learned on, and {span(other, _two)} on others."
        ]
    controls = [row["value"] for row in of(rows, "gain") if row["control"]]
    return [f"The controls gain {span(controls, _two)}."] if controls else []


def _two(value: float) -> str:
    return f"{value:.2f}"


def chart(rows: Sequence[Row]) -> Chart | None:
    """The gains in the last block as bars, a panel per model, controls last."""
    gains = of(rows, "gain")
    return bar_chart(
        "Attention gain in the last block",
        gains,
        plots_gain.markers_of(gains),
        "model",
        lambda row: f"{_short(row['model'])}, n = {row['n']:,}",
        number_bar,
        caption="Dotted: no gain. In italics: controls. Every panel has a scale of its own, since gains of two models "
        "cannot be compared.",
        intervals="95 % intervals over images",
        shares=False,
    )


def _short(model: Any) -> str:
    return str(model).removeprefix("bundled:")


def _column(rows: Sequence[Row]) -> Column:
    row = rows[0]
    return Column(_short(row["model"]), note=f"block {row['block']}, {row['size_tokens']:g} tokens, n {row['n']:,}")


def summary_table(rows: Sequence[Row]) -> Table:
    """Gains in the last block: markers down, controls last, models across; below, the mass without a marker."""
    gains = of(rows, "gain")
    caption = (
        f"{caption_of(rows)} Emphasised: highest of a column. Controls come last. A gain of 0 is what no marker has; "
        "1: twice the attention."
    )
    return grid(
        "marker",
        gains,
        ("model",),
        _column,
        _cell,
        plots_gain.markers_of(gains),
        ("mass without a marker", lambda own: Cell(f"{own[0]['blocks'][-1]['mass_without']:.3f}")),
        caption=caption,
        where="everywhere",
    )


def caption_of(rows: Sequence[Row]) -> str:
    """What stands behind the table's figures."""
    known = of(rows, "gain")
    if not known:
        return "Nothing was measured."
    n = span((row["n"] for row in known), lambda value: f"{value:,}")
    sure = any(number_interval(row["low"], row["high"], row["n"]) for row in known)
    return f"Attention gain in the last block, n = {n} images" + (
        "; 95 % intervals, a bootstrap over images." if sure else "."
    )


def _cell(row: Row | None, column: Sequence[Row]) -> Cell:
    if row is None:
        return Cell(note="not measured, or the same as the model's own patch")
    last = row["blocks"][-1]
    note = f"mass {last['mass']:.3f}, without a marker {last['mass_without']:.3f}, n = {row['n']}"
    if row["compared_with"]:
        note += f"; minus {row['compared_with']}: {difference(row)}"
    best = row["value"] == max(one["value"] for one in column) and not row["control"]
    return Cell(_two(row["value"]), number_interval(row["low"], row["high"], row["n"]), best=best, note=note)


def difference(row: Row) -> str:
    """Gain minus the other marker's, with its interval."""
    low, high = row["difference_ci95"] or (None, None)
    sure = f" ({low:+.2f} to {high:+.2f})" if low is not None and high is not None and row["n"] > 1 else ""
    return f"{row['difference']:+.2f}{sure}"


def ratio_tables(rows: Sequence[Row]) -> list[Table]:
    """Gains over the gain of the marker that the suite compares with; or nothing."""
    gains = of(rows, "gain")
    compared = [row for row in gains if row["compared_with"]]
    if not compared:
        return []
    other = compared[0]["compared_with"]
    caption = f"At the same places. no ratio: {other} gains nothing there. Emphasised: the 95 % interval excludes 1."
    labels = plots_gain.markers_of(compared)
    title = f"Gain ÷ gain of {other}"
    return [
        grid("marker", gains, ("model",), _column, ratio_cell, labels, title=title, caption=caption, where="everywhere")
    ]


def ratio_cell(row: Row | None, column: Sequence[Row] = ()) -> Cell:
    """Gain over the other marker's, with its interval; a dash if nothing is compared."""
    if row is None or not row["compared_with"]:
        return Cell()
    if row["ratio"] is None:
        return Cell("no ratio")
    low, high = row["ratio_ci95"] or (None, None)
    interval = number_interval(low, high, row["n"])
    clear = bool(interval) and ((low is not None and low > 1) or (high is not None and high < 1))
    return Cell(f"{row['ratio']:.2f} ×", interval, best=clear, note=f"difference {difference(row)}")


def transfer_table(rows: Sequence[Row]) -> Table:
    """Gains of patches on models: patches down, models across; what they are compared with comes last."""
    moved = of(rows, "transfer")
    models = {row["model"] for row in moved}
    other = next((row["compared_with"] for row in moved if row["compared_with"]), None)
    beside = [{**row, "own": False} for row in of(rows, "gain") if row["row"] == other and row["model"] in models]
    return grid(
        "learned on \\ used on",
        [*moved, *beside],
        ("model",),
        _column,
        _moved_cell,
        caption=_TRANSFER,
        where="everywhere",
    )


def _moved_cell(row: Row | None, column: Sequence[Row]) -> Cell:
    if row is None:
        return Cell()
    return Cell(_two(row["value"]), number_interval(row["low"], row["high"], row["n"]), best=bool(row["own"]))


def sweep_table(rows: Sequence[Row]) -> Table:
    """Per point of a sweep: shape and λ, size, mean gain, each seed's, the circle's of that size, and the ratio."""
    lines = []
    for row in of(rows, "sweep"):
        options = row["options"]
        shape = options["shape"] if options["shape"] == "full" else f"{options['shape']}, λ {options['ratio']:g}"
        rest = pairs({key: value for key, value in row["point"].items() if key not in ("size", "shape", "ratio")})
        ratio = "–" if row["ratio"] is None else _two(row["ratio"])
        each = ", ".join(map(_two, row["values"]))
        label = f"{shape}, {rest}" if rest else shape
        lines.append((label, f"{options['size']:g}", _two(row["value"]), each, _two(row["circle"]), ratio))
    head = ("patch", "size", "gain", "each seed", "circle", "gain ÷ circle")
    return text_table(head, lines, numbers=range(1, 6), where="everywhere")


def sweep_caption(rows: Sequence[Row]) -> str:
    """How the points of a sweep were learned and measured."""
    first = of(rows, "sweep")[0]
    return (
        f"Every patch was learned anew on {first['model']} ({pairs(first['settings']) or 'with the usual settings'}), "
        f"with seeds {', '.join(map(str, first['seeds']))}, and measured on {first['n']} validation scenes, in squares "
        "of its own size. Sizes have other places, and other masses without a marker: compare within a size, or by the "
        "ratio to the circle."
    )


def block_table(gains: Sequence[Row], model: str) -> Table:
    """Gains of a model in every block: markers down, blocks across; below, the mass without a marker."""
    own = [row for row in gains if row["model"] == model]
    lines = []
    for row in own:
        cells = [Cell(_two(one["gain"]), number_interval(one["low"], one["high"], row["n"])) for one in row["blocks"]]
        lines.append(TableRow(row["row"], tuple(cells), bool(row["control"])))
    masses = tuple(Cell(f"{one['mass_without']:.3f}") for one in own[0]["blocks"])
    columns = tuple(Column(f"block {one['block']}") for one in own[0]["blocks"])
    return Table("marker", columns, (*lines, TableRow("mass without", masses, True)))


def plotted_figures(rows: Sequence[Row], compare_with: str | None) -> dict[str, tuple[Figure, ...]]:
    """The figures by name."""
    gains, moved = of(rows, "gain"), of(rows, "transfer")
    return plotted(
        {
            "gain-blocks": (
                plots_gain.gain_figure(gains) if gains else None,
                "Attention gain over the blocks, a panel per model.",
                _BLOCKS,
            ),
            "gain-transfer": (
                plots_gain.transfer_figure(moved, compare_with, gains),
                "Heat map: patches down, models across, gain in the last block.",
                "A patch that was learned on one model, used on another. Framed: on the model that it was learned on.",
            ),
            "gain-sweep": (
                plots_gain.sweep_figure(of(rows, "sweep")),
                "Heat maps over size and shape: gain, and gain over the drawn circle's.",
                "",
            ),
        }
    )


def held_out(suite: Any) -> str:
    """What was measured on, and that nothing was learned there."""
    images = suite.images
    if images["source"] == "scenes":
        return HELD_OUT
    return f"Measured on images of the folder {Path(images['folder']).name}; patches must not have seen them."


def dependencies(result: Result) -> list[tuple[str, str]]:
    """What the results depend on, as name and value."""
    rows, suite = result.rows, result.suite
    if not rows:
        return []
    fields = [("suite", f"{suite.name} (hash {suite.hash}), places with seed {suite.seed}")]
    fields.append(("images", pairs(rows[0]["images"])))
    fields += [("model", identity(one)) for one in {str(row["model"]): row["model_identity"] for row in rows}.values()]
    fields += [(f"{row['row']} on {row['model']}", _marker(row["identity"])) for row in of(rows, "gain")]
    fields += provenance_fields(rows)
    seconds = sum(row.get("seconds", 0.0) for row in rows)
    seconds += sum(row["cpu_seconds"] * len(row["seeds"]) for row in of(rows, "sweep"))
    return [*fields, ("time", f"{seconds:.0f} s")]


def _marker(content: Any) -> str:
    """A marker's identity in words."""
    if isinstance(content, dict) and "random" in content:
        return f"random colours, {content['draws']} draws, in place of: {_marker([content['random']])}"
    first = content[-1] if isinstance(content, list) else content
    texts = []
    for part in first.get("parts", [first]):
        learned = f"; learned {part['learned']}" if "learned" in part else ""
        texts.append(f"{part['name']}: {pairs(part.get('options', {})) or 'no options'}{learned}")
    return " + ".join(texts)
