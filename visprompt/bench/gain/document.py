"""The report on attention gain: gains in the last block, ratios, transfer between models, sweeps, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visprompt.bench.report import document as doc
from visprompt.bench.report import images, tables
from visprompt.bench.report.charts import bar_chart, value_bar
from visprompt.bench.report.document import Row
from visprompt.bench.report.provenance import model_fields, provenance_fields
from visprompt.bench.report.tables import ColumnOf, number_interval, pairs, span
from visprompt.plots import gain as plots_gain

if TYPE_CHECKING:
    from visprompt.bench.pipeline import SuiteResult

#: what holds of scenes; of somebody's own images only they know it
HELD_OUT = (
    "Scenes and places have seeds of their own; no patch was learned on them, and none of its settings was chosen on "
    "them: settings were chosen on validation scenes."
)
_MARKED = (
    "The first images of the set, each with every marker at its place, and below where the model looks in the last "
    "block. Framed: the marked square. Maps of one image are on one scale."
)
_SWEPT = (
    "Every patch was learned anew on {} ({}), with seeds {}, and measured on {} validation scenes, in squares of its "
    "own size. Sizes have other places, and other masses without a marker: compare within a size, or by the ratio to "
    "the circle."
)
_two = "{:.2f}".format


def document(result: SuiteResult) -> doc.Document:
    """The report on attention gain.

    Args:
        result: its rows; `examples` with "images" and "patches", each an image and its alternative text by name.
    """
    suite, rows, shown = result.suite, result.rows, result.examples or {}
    gains, swept, figures = of(rows, "gain"), of(rows, "sweep"), plotted_figures(rows, suite.compare_with)
    by_model = (doc.Fold(model, (block_table(own),)) for model, own in tables.grouped(gains, "model").items())
    learned = [doc.Prose(_swept(one)) for one in swept[:1]]
    patches = (doc.Figure(uri, alt, f"The patch of {name}") for name, (uri, alt) in shown.get("patches", {}).items())
    return doc.Document(
        suite.title,
        tuple(findings(rows)),
        chart(rows),
        (*patches, *images.looks(shown.get("images", {}), _MARKED)),
        (" ".join(suite.description.split()), held_out(suite)),
        doc.sections(
            {
                "Gain in the last block": [summary_table(rows), *ratio_tables(rows)] if gains else [],
                "From model to model": [*figures["gain-transfer"], transfer_table(rows)],
                "Learned anew: size, shape and λ": [*learned, *figures["gain-sweep"], sweep_table(rows)],
                "Block by block": [*figures["gain-blocks"], *by_model],
                "What the results depend on": [doc.Fields(tuple(dependencies(result)))],
            }
        ),
        tuple(result.problems),
        tuple(images.missing_plots()),
        "The rows are in results.jsonl, the masses of every image in runs-*.jsonl, beside this file.",
    )


def of(rows: Sequence[Row], task: str) -> list[Row]:
    """The rows of one task: "gain", "transfer" or "sweep"."""
    return [row for row in rows if row["task"] == task]


def findings(rows: Sequence[Row]) -> list[str]:
    """Up to three sentences: what gains most, how that compares, and how patches do on other models."""
    gains = of(rows, "gain")
    won, models = tables.wins(gains, "model"), tables.grouped(gains, "model")
    best = max(won, key=won.__getitem__, default=None)
    own = [row for row in gains if row["row"] == best]
    if best is None:
        return []
    where, sure = f" on {won[best]} of {tables.counted(len(models), 'model')}", ""
    if len(models) == 1:
        interval = number_interval(own[0]["low"], own[0]["high"], own[0]["n"])
        where, sure = "", f" ({f'95 % interval {interval}, ' if interval else ''}n = {own[0]['n']:,})"
    told = (
        f"Of the markers, {best} gains most{where}: in the last block it adds "
        f"{span((row['value'] for row in own), _two)} times the attention that the place has without a marker{sure}."
    )
    return [told, *_ratio_finding(own), *_transfer_finding(rows)]


def _ratio_finding(own: Sequence[Row]) -> Iterator[str]:
    compared = [row for row in own if row["compared_with"]]
    known = [row for row in compared if row["ratio"] is not None]
    without = [row["model"] for row in compared if row["ratio"] is None]
    other = compared[0]["compared_with"] if compared else None
    none = f"{other} gains nothing on {tables.listed(without)}" if without else ""
    if known:
        clear = sum(row["n"] > 1 and (row["ratio_ci95"][0] or 0) > 1 for row in known)
        yield (
            f"Its gain is {span((row['ratio'] for row in known), _two)} times that of {other}; the 95 % interval lies "
            f"above 1 on {clear} of {tables.counted(len(known), 'model')}{f'; {none}' if none else ''}."
        )
    elif none:
        yield f"{none}, so there is no ratio to it."


def _transfer_finding(rows: Sequence[Row]) -> Iterator[str]:
    own, other = ([row["value"] for row in of(rows, "transfer") if bool(row["own"]) is here] for here in (True, False))
    controls = [row["value"] for row in of(rows, "gain") if row["control"]]
    if own and other:
        here, there = span(own, _two), span(other, _two)
        yield f"Patches gain {here} on the model that they were learned on, and {there} on others."
    elif controls:
        yield f"The controls gain {span(controls, _two)}."


def chart(rows: Sequence[Row]) -> doc.Chart | None:
    """The gains in the last block as bars, a panel per model, controls last."""
    gains = of(rows, "gain")
    return bar_chart(
        "Attention gain in the last block",
        gains,
        plots_gain.markers_of(gains),
        "model",
        lambda row: f"{_short(row['model'])}, n = {row['n']:,}",
        caption="Dotted: no gain. In italics: controls. Every panel has a scale of its own, since gains of two models "
        "cannot be compared.",
        bar=lambda row, _: value_bar(row, scale=1.0, text=_two),
        intervals="95 % intervals over images",
        shares=False,
    )


def _short(model: Any) -> str:
    return str(model).removeprefix("bundled:")


def _by_model(head: str, rows: Sequence[Row], *cell_and_labels: Any, **rest: Any) -> doc.Table:
    """A table with a column per model."""

    def column(own: Sequence[Row]) -> doc.Column:
        block, tokens, n = own[0]["block"], own[0]["size_tokens"], own[0]["n"]
        return doc.Column(_short(own[0]["model"]), note=f"block {block}, {tokens:g} tokens, n {n:,}")

    return tables.grid(head, rows, ("model",), column, *cell_and_labels, where="everywhere", **rest)


def _gain(row: Row, **rest: Any) -> doc.Cell:
    return doc.Cell(_two(row["value"]), number_interval(row["low"], row["high"], row["n"]), **rest)


def summary_table(rows: Sequence[Row]) -> doc.Table:
    """Gains in the last block: markers down, controls last, models across; below, the mass without a marker."""
    gains = of(rows, "gain")
    sure = any(number_interval(row["low"], row["high"], row["n"]) for row in gains)
    n = span((row["n"] for row in gains), "{:,}".format) if gains else 0
    intervals = "; 95 % intervals, a bootstrap over images." if sure else "."
    return _by_model(
        "marker",
        gains,
        _summary_cell,
        plots_gain.markers_of(gains),
        below=("mass without a marker", lambda own: doc.Cell(f"{own[0]['blocks'][-1]['mass_without']:.3f}")),
        caption=f"Attention gain in the last block, n = {n} images{intervals} Emphasised: highest of a column. "
        "Controls come last. A gain of 0 is what no marker has; 1: twice the attention.",
    )


def _summary_cell(row: Row | None, column: Sequence[Row]) -> doc.Cell:
    if row is None:
        return doc.Cell(note="not measured, or the same as the model's own patch")
    last = row["blocks"][-1]
    note = f"mass {last['mass']:.3f}, without a marker {last['mass_without']:.3f}, n = {row['n']}"
    note += f"; minus {row['compared_with']}: {difference(row)}" if row["compared_with"] else ""
    return _gain(row, best=row["value"] == max(one["value"] for one in column) and not row["control"], note=note)


def difference(row: Row) -> str:
    """Gain minus the other marker's, with its interval."""
    low, high = row["difference_ci95"] or (None, None)
    sure = f" ({low:+.2f} to {high:+.2f})" if low is not None and high is not None and row["n"] > 1 else ""
    return f"{row['difference']:+.2f}{sure}"


def ratio_tables(rows: Sequence[Row]) -> list[doc.Table]:
    """Gains over the gain of the marker that the suite compares with; or nothing."""
    gains = of(rows, "gain")
    compared = [row for row in gains if row["compared_with"]]
    if not compared:
        return []
    other, labels = compared[0]["compared_with"], plots_gain.markers_of(compared)
    caption = f"At the same places. no ratio: {other} gains nothing there. Emphasised: the 95 % interval excludes 1."
    return [_by_model("marker", gains, _ratio_cell, labels, title=f"Gain ÷ gain of {other}", caption=caption)]


def _ratio_cell(row: Row | None, column: Sequence[Row]) -> doc.Cell:
    if row is None or not row["compared_with"]:
        return doc.Cell()
    if row["ratio"] is None:
        return doc.Cell("no ratio")
    low, high = row["ratio_ci95"] or (None, None)
    interval = number_interval(low, high, row["n"])
    clear = bool(interval) and ((low is not None and low > 1) or (high is not None and high < 1))
    return doc.Cell(f"{row['ratio']:.2f} ×", interval, best=clear, note=f"difference {difference(row)}")


def transfer_table(rows: Sequence[Row]) -> doc.Table:
    """Gains of patches on models: patches down, models across; what they are compared with comes last."""
    moved = of(rows, "transfer")
    models = {row["model"] for row in moved}
    other = next((row["compared_with"] for row in moved if row["compared_with"]), None)
    beside = [{**row, "own": False} for row in of(rows, "gain") if row["row"] == other and row["model"] in models]
    caption = "Gain in the last block of the model that a patch is used on; emphasised: on the model it was learned on."
    return _by_model(
        "learned on \\ used on",
        [*moved, *beside],
        lambda row, _: _gain(row, best=bool(row["own"])) if row else doc.Cell(),
        caption=caption,
    )


def sweep_table(rows: Sequence[Row]) -> doc.Table:
    """Per point of a sweep: shape and λ, size, mean gain, each seed's, the circle's of that size, and the ratio."""
    columns: list[ColumnOf] = [
        ("size", lambda row: f"{row['options']['size']:g}"),
        ("gain", lambda row: _two(row["value"])),
        ("each seed", lambda row: ", ".join(map(_two, row["values"]))),
        ("circle", lambda row: _two(row["circle"])),
        ("gain ÷ circle", lambda row: "–" if row["ratio"] is None else _two(row["ratio"])),
    ]
    lines = [{**row, "row": _patch(row)} for row in of(rows, "sweep")]
    return tables.listing("patch", lines, columns, where="everywhere")


def _patch(row: Row) -> str:
    """A point of a sweep in words, without its size."""
    options = row["options"]
    shape = options["shape"] if options["shape"] == "full" else f"{options['shape']}, λ {options['ratio']:g}"
    rest = pairs({key: value for key, value in row["point"].items() if key not in ("size", "shape", "ratio")})
    return f"{shape}, {rest}" if rest else shape


def _swept(first: Row) -> str:
    """How the points of a sweep were learned and measured, from its first row."""
    settings, seeds = pairs(first["settings"]) or "with the usual settings", ", ".join(map(str, first["seeds"]))
    return _SWEPT.format(first["model"], settings, seeds, first["n"])


def block_table(own: Sequence[Row]) -> doc.Table:
    """Gains of one model in every block: markers down, blocks across; below, the mass without a marker."""
    return tables.grid(
        "marker",
        [{**row, **one, "value": one["gain"]} for row in own for one in row["blocks"]],
        ("block",),
        lambda rows: doc.Column(f"block {rows[0]['block']}"),
        lambda row, _: _gain(row) if row else doc.Cell(),
        [row["row"] for row in own],
        ("mass without", lambda rows: doc.Cell(f"{rows[0]['mass_without']:.3f}")),
    )


def plotted_figures(rows: Sequence[Row], compare_with: str | None) -> dict[str, tuple[doc.Figure, ...]]:
    """The figures by name."""
    gains, moved = of(rows, "gain"), of(rows, "transfer")
    return images.plotted(
        {
            "gain-blocks": (
                lambda: plots_gain.gain_figure(gains) if gains else None,
                "Attention gain over the blocks, a panel per model.",
                "Bands: 95 % intervals over images. Every panel has a scale of its own. Controls are grey and dashed.",
            ),
            "gain-transfer": (
                lambda: plots_gain.transfer_figure(moved, compare_with, gains),
                "Heat map: patches down, models across, gain in the last block.",
                "A patch that was learned on one model, used on another. Framed: on the model that it was learned on.",
            ),
            "gain-sweep": (
                lambda: plots_gain.sweep_figure(of(rows, "sweep")),
                "Heat maps over size and shape: gain, and gain over the drawn circle's.",
                "",
            ),
        }
    )


def held_out(suite: Any) -> str:
    """What was measured on, and that nothing was learned there."""
    if suite.images["source"] == "scenes":
        return HELD_OUT
    return f"Measured on images of the folder {Path(suite.images['folder']).name}; patches must not have seen them."


def dependencies(result: SuiteResult) -> list[tuple[str, str]]:
    """What the results depend on, as name and value."""
    rows, suite = result.rows, result.suite
    seconds = sum(row.get("seconds", 0.0) for row in rows)
    seconds += sum(row["cpu_seconds"] * len(row["seeds"]) for row in of(rows, "sweep"))
    fields = [
        ("suite", f"{suite.name} (hash {suite.hash}), places with seed {suite.seed}"),
        *(("images", pairs(row["images"])) for row in rows[:1]),
        *model_fields(rows),
        *((f"{row['row']} on {row['model']}", _marker(row["identity"])) for row in of(rows, "gain")),
        *provenance_fields(rows),
        ("time", f"{seconds:.0f} s"),
    ]
    return fields if rows else []


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
