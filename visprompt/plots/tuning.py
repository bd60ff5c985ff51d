"""Figures of a comparison of tuning methods: accuracies, insertion blocks, gates, temperatures, example images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from visprompt.plots.base import MAP, OTHER, PALETTE, RIGHT, TEXT, WRONG, literal, new_figure, tidy
from visprompt.utils.renamed import renamed_attributes, renamed_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

_MARKERS = ("o", "s", "^", "D", "v", "P")
_Row = Mapping[str, Any]


def methods_figure(rows: Sequence[_Row]) -> Figure:
    """One panel per data set, one bar per method: means over seeds, with the single seeds as dots.

    Whiskers are standard deviations over seeds; with one seed, 95 % intervals over images.

    Args:
        rows: rows of `results.jsonl`; those without a value, or with `table` false, are left out.
    """
    rows = [row for row in rows if row["value"] is not None and row["table"]]
    sets = list(dict.fromkeys(row["task"] for row in rows))
    labels = list(dict.fromkeys(row["row"] for row in sorted(rows, key=lambda row: bool(row["control"]))))
    figure = new_figure((1.9 + 2.9 * len(sets), 1.0 + 0.36 * len(labels)))
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for axes, key in zip(panels, sets, strict=True):
        of_set = {row["row"]: row for row in rows if row["task"] == key}
        for index, label in enumerate(labels):
            if label in of_set:
                _bar(axes, index, of_set[label])
        first = next(iter(of_set.values()))
        chance = next((row["chance"] for row in of_set.values() if row.get("chance") is not None), None)
        if chance is not None:
            axes.axvline(100 * chance, color=TEXT, linestyle=":", linewidth=1.2)
        axes.set_title(literal(f"{key}: {first['title']}" if len(sets) < 3 else key), fontsize=10, color=TEXT)
        axes.set_xlabel(f"{_named(first['metric'])}, %", fontsize=9, color=TEXT)
        top = max(100 * value for row in of_set.values() for value in row["values"])
        axes.set_xlim(0, min(100.0, top * 1.3 + 4))
        axes.set_yticks(range(len(labels)), [literal(label) for label in labels])
        tidy(axes, "x")
        axes.spines["left"].set_visible(False)
    panels[0].invert_yaxis()
    return figure


def _bar(axes: Axes, index: int, row: _Row) -> None:
    value = 100 * row["value"]
    colour = OTHER if row["control"] else PALETTE[{"full": 4}.get(row["how"], 2 if _richness(row) else 0)]
    several = len(row["values"]) > 1
    bounds = None
    if several:
        bounds = np.array([[100 * row["sd"]], [100 * row["sd"]]])
    elif row["low"] is not None and row["n"] > 1:
        bounds = np.abs(np.array([[100 * row["low"]], [100 * row["high"]]]) - value)
    axes.barh(
        index, value, height=0.7, color=colour, alpha=0.9, linewidth=0, xerr=bounds,
        error_kw={"ecolor": TEXT, "elinewidth": 1.2, "capsize": 3},
    )  # fmt: skip
    if several:
        dots = [100 * one for one in row["values"]]
        axes.plot(dots, [index + 0.22] * len(dots), "o", markersize=3, color=TEXT, markeredgewidth=0)
    end = value + (float(bounds[1, 0]) if bounds is not None else 0.0)
    end = max(end, 100 * max(row["values"]))
    axes.annotate(
        f"{value:.1f}", (end, index), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5, color=TEXT
    )


def insertion_points(rows: Sequence[_Row]) -> dict[str, list[tuple[int, _Row]]]:
    """Rows of plain prompts that are inserted at one block only, per data set.

    Rows that are compared differ in the block alone: same number of tokens, same number of epochs.

    Args:
        rows: rows of `results.jsonl`.

    Returns:
        (block, row) by data set; data sets with fewer than three blocks are left out.
    """
    found: dict[tuple[str, int, int], list[tuple[int, _Row]]] = {}
    for row in rows:
        options = row.get("options") or {}
        plain = row["how"] == "prompt" and not options.get("deep") and not _richness(row)
        block = options.get("first_block", 0)
        if row["value"] is None or not plain or not options.get("prompts") or not isinstance(block, int):
            continue
        alike = row["task"], int(options["prompts"]), int(row["settings"].get("epochs", 0))
        found.setdefault(alike, []).append((block, row))
    return {alike[0]: sorted(points, key=lambda one: one[0]) for alike, points in found.items() if len(points) > 2}


def insertion_figure(rows: Sequence[_Row]) -> Figure | None:
    """Accuracy over the block into which the tokens are inserted (Fig. 1 of arXiv 2306.05067).

    Args:
        rows: rows of `results.jsonl`.

    Returns:
        The figure; None if this was not measured.
    """
    points = insertion_points(rows)
    if not points:
        return None
    figure = new_figure((1.0 + 4.6 * len(points), 3.6))
    panels = figure.subplots(1, len(points), squeeze=False)[0]
    for axes, (key, found) in zip(panels, points.items(), strict=True):
        blocks = [block for block, _ in found]
        values = np.array([100 * row["value"] for _, row in found])
        spread = np.array([100 * (row["sd"] or 0.0) for _, row in found])
        axes.errorbar(
            blocks, values, yerr=spread if spread.any() else None, color=PALETTE[0], marker="o", linewidth=1.8,
            capsize=3, label="plain tokens from this block on",
        )  # fmt: skip
        for row, colour, style in ((_head_alone(rows, key), OTHER, ":"), (_richest(rows, key), PALETTE[2], "--")):
            if row is not None:
                label = literal(row["row"])
                axes.axhline(100 * row["value"], color=colour, linestyle=style, linewidth=1.6, label=label)
        axes.set_xticks(blocks)
        axes.set_xlabel("block that the tokens go into", fontsize=9, color=TEXT)
        axes.set_ylabel(f"{_named(found[0][1]['metric'])}, %", fontsize=9, color=TEXT)
        axes.set_title(literal(f"{key}: {found[0][1]['title']}"), fontsize=10, color=TEXT)
        axes.margins(y=0.18)
        tidy(axes, "y")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=8.5)
    return figure


def gates_figure(rows: Sequence[_Row]) -> Figure | None:
    """Learned values of gated prompts per block, a line per data set: gates, selection ratio, temperatures.

    Whiskers are standard deviations over seeds. Of several methods with gates, the first one is drawn.

    Args:
        rows: rows of `results.jsonl`.

    Returns:
        The figure; None if no method learned values per block.
    """
    names = (
        ("gate", "Gates: fraction of a block's output\nin its prompts", "gate g"),
        ("selection", "Selection ratio: what the last\nblock's prompts are made of", "share r"),
        ("temperature", "Temperatures: below 1, attention\nis sharper than the model's", "temperature τ"),
    )
    drawn: dict[str, _Row] = {}
    for row in rows:
        rich = _richness(row)
        before = drawn.get(row["task"])
        if rich and row["table"] and (before is None or rich > _richness(before)):
            drawn[row["task"]] = row
    shown = [one for one in names if any(b.get(one[0]) is not None for row in drawn.values() for b in row["blocks"])]
    if not shown:
        return None
    figure = new_figure((0.6 + 3.5 * len(shown), 3.3))
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (name, title, label) in zip(panels, shown, strict=True):
        for number, (key, row) in enumerate(drawn.items()):
            found = [(one["block"], one[name], one.get(f"{name}_sd")) for one in row["blocks"] if one[name] is not None]
            if not found:
                continue
            blocks, values, spread = (np.array(part, dtype=float) for part in zip(*found, strict=True))
            shift = (number - (len(drawn) - 1) / 2) * 0.09
            axes.errorbar(
                blocks + shift, values, yerr=None if np.isnan(spread).all() else np.nan_to_num(spread), capsize=2,
                color=PALETTE[number % len(PALETTE)], marker=_MARKERS[number % len(_MARKERS)], markersize=5,
                linewidth=1.5, label=literal(key),
            )  # fmt: skip
        every = sorted({int(one["block"]) for row in drawn.values() for one in row["blocks"] if one[name] is not None})
        axes.set_xticks(every, ["tokens" if block < 0 else str(block) for block in every])
        axes.set_xlabel("block", fontsize=9, color=TEXT)
        axes.set_ylabel(label, fontsize=9, color=TEXT)
        axes.set_title(title, fontsize=9.5, color=TEXT)
        if name == "temperature":
            axes.set_yscale("log")
            ticks = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
            axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            axes.axhline(1.0, color=TEXT, linewidth=1.0, linestyle=":")
        axes.margins(y=0.15)
        axes.autoscale(axis="y")
        if name != "temperature":
            axes.set_ylim(bottom=0)
        tidy(axes, "y")
    if len(drawn) > 1:
        figure.legend(
            *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False, fontsize=9
        )
    return figure


def _richness(row: _Row) -> int:
    """The number of kinds of values per block: gates, selection ratios, temperatures."""
    names = ("gate", "selection", "temperature")
    return sum(any(one.get(name) is not None for one in row.get("blocks") or ()) for name in names)


def _head_alone(rows: Sequence[_Row], key: str) -> _Row | None:
    """The first method of a data set that trains a head without prompt tokens."""
    own = (row for row in _measured(rows, key) if row["how"] == "prompt")
    return next((row for row in own if (row.get("options") or {}).get("prompts") == 0), None)


def _richest(rows: Sequence[_Row], key: str) -> _Row | None:
    """The first of the methods with the most kinds of values per block; None if none has any."""
    found = max(_measured(rows, key), key=_richness, default=None)
    return found if found is not None and _richness(found) else None


def _measured(rows: Sequence[_Row], key: str) -> list[_Row]:
    return [row for row in rows if row["task"] == key and row["value"] is not None]


@renamed_attributes(picture="image")
@dataclass(frozen=True, eq=False)
class Shown:
    """One test image, for the report.

    Args:
        image: the original image.
        truth: name of its class.
        guesses: per method, the predicted class and whether it is right.
        before: `[h, w]`, the readout's attention without the prompt, sum 1.
        after: `[h, w]`, the readout's attention with the prompt, sum 1.
        tokens: `[h, w]`, mean attention of the prompt tokens; None without tokens.
    """

    image: Image
    truth: str
    guesses: dict[str, tuple[str, bool]]
    before: np.ndarray
    after: np.ndarray
    tokens: np.ndarray | None = None


def images_figure(shown: Sequence[Shown], name: str) -> Figure:
    """Test images with each method's prediction, and the attention before and after.

    Maps are multiples of uniform attention, all on one colour scale.

    Args:
        shown: the images.
        name: name of the method whose attention is shown.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm

    titles = ("test image", "readout looks,\nwithout prompt", f"readout looks,\nwith {name}", "prompt tokens\nlook")
    columns = 4 if any(one.tokens is not None for one in shown) else 3
    width, margin = 2.5 + 1.75 * columns, 1.45
    figure = new_figure((width, 0.7 + 1.75 * len(shown)))
    engine: Any = figure.get_layout_engine()
    engine.set(rect=(margin / width, 0, 1 - margin / width, 1))  # the layout engine ignores the text left of the images
    panels = figure.subplots(len(shown), columns, squeeze=False)
    maps = [[_evenly(one.before), _evenly(one.after), _evenly(one.tokens)][: columns - 1] for one in shown]
    top = max(float(item.max()) for line in maps for item in line if item is not None)
    norm = PowerNorm(0.5, 0.0, top)
    for line, one in enumerate(shown):
        extent = (0.0, float(one.image.width), float(one.image.height), 0.0)
        panels[line, 0].imshow(np.asarray(one.image.convert("RGB")), extent=extent, interpolation="nearest")
        _guesses(panels[line, 0], one)
        for column, values in enumerate(maps[line], 1):
            axes = panels[line, column]
            if values is None:
                axes.set_visible(False)
                continue
            axes.imshow(one.image.convert("L"), cmap="gray", extent=extent, vmin=-40, vmax=235)
            axes.imshow(values, cmap=MAP, extent=extent, norm=norm, alpha=0.68, interpolation="nearest")
        for axes in panels[line]:
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)
    for axes, title in zip(panels[0], titles, strict=False):
        axes.set_title(literal(title), fontsize=9, color=TEXT)
    bar = figure.colorbar(ScalarMappable(norm, MAP), ax=panels, shrink=0.7, aspect=30)
    bar.set_label("attention on a patch, × uniform attention", fontsize=8.5, color=TEXT)
    bar.ax.tick_params(labelsize=8)
    return figure


def _guesses(axes: Axes, one: Shown) -> None:
    """Writes the right class and every method's prediction left of the image."""
    lines = [(f"right: {one.truth}", TEXT)]
    lines += [
        (f"{label}{f': {guess}' if guess else ''} {'✓' if right else '✗'}", RIGHT if right else WRONG)
        for label, (guess, right) in one.guesses.items()
    ]
    for number, (text, colour) in enumerate(lines):
        drawn = axes.annotate(
            literal(text), (0, 1), xycoords="axes fraction", xytext=(-8, -9 - 13 * number), textcoords="offset points",
            ha="right", va="center", fontsize=8.5, color=colour, fontweight="bold" if not number else "normal",
        )  # fmt: skip
        drawn.set_in_layout(False)


def _evenly(values: np.ndarray | None) -> np.ndarray | None:
    if values is None:
        return None
    total = float(values.sum())
    return values * (values.size / total) if total > 0 else values


def _named(metric: str) -> str:
    return {"miou": "mean IoU"}.get(metric, metric)


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"pictures_figure": "images_figure"}, globals())
