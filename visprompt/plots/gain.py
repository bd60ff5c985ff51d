"""Figures of attention gain: per block (arXiv 2406.03303, Fig. 4), transfer between models, and sweeps (Fig. 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from visprompt.imaging.paste import SHAPES
from visprompt.plots.base import GRID, OTHER, PALETTE, TEXT, literal, new_figure
from visprompt.utils.renamed import renamed_attributes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

_Row = Mapping[str, Any]
#: (colour, line, symbol): learned patches are blue, drawn markers warm, controls grey and dashed
_LEARNED = (("#0072B2", "-", "o"), ("#56B4E9", "--", "D"), ("#009E73", "--", "P"), ("#004D7A", ":", "X"))
_DRAWN = (("#D55E00", "-", "s"), ("#E69F00", "-.", "^"), ("#CC79A7", ":", "v"), (PALETTE[4], "--", "<"))
_CONTROLS = ((OTHER, (0, (4, 3)), "x"), ("#AAAAAA", (0, (1, 2)), "+"), ("#555555", (0, (6, 2, 1, 2)), "1"))


def gain_figure(rows: Sequence[_Row], columns: int = 2) -> Figure:
    """Gain per block: a panel per model, a line per marker; bands are 95 % intervals.

    Args:
        rows: rows of the task "gain" of `results.jsonl`.
        columns: panels side by side.
    """
    models = list(dict.fromkeys(row["model"] for row in rows))
    styles = _styles(rows)
    across = max(1, min(columns, len(models)))
    down = math.ceil(len(models) / across)
    figure = new_figure((0.4 + 4.7 * across, 0.75 + 3.0 * down))
    panels = figure.subplots(down, across, squeeze=False)
    shift = {label: (index - (len(styles) - 1) / 2) * 0.05 for index, label in enumerate(styles)}
    for number, axes in enumerate(panels.flat):
        if number >= len(models):
            axes.set_visible(False)
            continue
        own = [row for row in rows if row["model"] == models[number]]
        axes.axhline(0, color=TEXT, linewidth=0.9)
        for row in own:
            _curve(axes, row, styles[row["row"]], shift[row["row"]])
        blocks = [one["block"] for one in own[0]["blocks"]]
        shown = blocks[:: max(1, math.ceil(len(blocks) / 13))]
        axes.set_xticks(shown, [str(block) for block in shown])
        axes.set_title(literal(f"{models[number]}, n = {own[0]['n']:,}"), fontsize=10, color=TEXT)
        axes.set_xlabel("block", fontsize=9, color=TEXT)
        axes.set_ylabel("attention gain", fontsize=9, color=TEXT)
        axes.margins(x=0.06, y=0.08)
        _tidy(axes)
    handles: dict[str, Any] = {}
    for axes in panels.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    order = [label for label in map(literal, styles) if label in handles]
    figure.legend(
        [handles[label] for label in order], order, loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
    return figure


def markers_of(rows: Sequence[_Row]) -> list[str]:
    """Labels of the markers in the suite's order, controls last.

    Args:
        rows: rows of the task "gain"; a model may lack some markers, so the model with the most gives the order.

    Returns:
        Labels without repetition.
    """
    models: dict[str, list[_Row]] = {}
    for row in rows:
        models.setdefault(row["model"], []).append(row)
    found: dict[str, bool] = {}
    for own in sorted(models.values(), key=len, reverse=True):
        for row in own:
            found.setdefault(str(row["row"]), bool(row["control"]))
    return sorted(found, key=lambda label: found[label])


def _styles(rows: Sequence[_Row]) -> dict[str, tuple[str, Any, str]]:
    """Colour, line and symbol of every marker, in the order of the table."""
    found: dict[str, tuple[str, Any, str]] = {}
    counts = [0, 0, 0]
    for label in markers_of(rows):
        own = next(row for row in rows if row["row"] == label)
        kind = 2 if own["control"] else 1 if own["own"] is None else 0
        found[label] = (_LEARNED, _DRAWN, _CONTROLS)[kind][counts[kind] % (4 if kind < 2 else 3)]
        counts[kind] += 1
    return found


def _curve(axes: Axes, row: _Row, style: tuple[str, Any, str], shift: float) -> None:
    colour, line, symbol = style
    blocks = np.array([one["block"] for one in row["blocks"]], dtype=float)
    gains, low, high = (np.array([one[name] for one in row["blocks"]], dtype=float) for name in ("gain", "low", "high"))
    if row["n"] < 2:  # one image gives no interval
        low = high = gains
    own = bool(row["own"])
    look: dict[str, Any] = {"color": colour, "linestyle": line, "marker": symbol, "label": literal(row["row"])}
    look |= {"linewidth": 2.6 if own else 1.6, "markersize": 6 if own else 5, "zorder": 4 if own else 3}
    if len(blocks) == 1:  # one block only, so whiskers instead of a line with a band
        bounds = np.abs(np.stack((low, high)) - gains)
        axes.errorbar(blocks + shift * 8, gains, yerr=bounds, capsize=3, elinewidth=1.2, **look)
        axes.set_xlim(blocks[0] - 2, blocks[0] + 2)
        return
    axes.plot(blocks, gains, **look)
    axes.fill_between(blocks, low, high, color=colour, alpha=0.16, linewidth=0, zorder=2)


def transfer_figure(rows: Sequence[_Row], compare_with: str | None, beside: Sequence[_Row] = ()) -> Figure | None:
    """Heat map of transfer: patches (rows) on models (columns), gain in each model's last block; below, a marker to
    compare with.

    Colours are fractions of the highest gain in the column, since gains of two models cannot be compared.

    Args:
        rows: rows of the task "transfer" of `results.jsonl`.
        compare_with: label of the marker in the last line, or None.
        beside: rows of the task "gain", which have that marker.

    Returns:
        The figure; None without rows.
    """
    if not rows:
        return None
    models = list(dict.fromkeys(row["model"] for row in rows))
    patches = list(dict.fromkeys(row["row"] for row in rows))
    below = {row["model"]: row for row in beside if row["row"] == compare_with}
    lines = [f"patch of {one}" for one in patches] + ([str(compare_with)] if below else [])
    cells = {(row["row"], row["model"]): row for row in rows}
    figure = new_figure((2.5 + 1.9 * len(models), 1.1 + 0.62 * len(lines)))
    axes = figure.subplots()
    values = np.full((len(lines), len(models)), np.nan)
    for across, model in enumerate(models):
        top = max(
            [row["value"] for row in rows if row["model"] == model]
            + ([below[model]["value"]] if model in below else [])
        )
        for down in range(len(lines)):
            row = cells.get((patches[down], model)) if down < len(patches) else below.get(model)
            if row is None:
                continue
            values[down, across] = max(row["value"], 0.0) / top if top > 0 else 0.0
            _gain_cell(axes, across, down, row, "white" if values[down, across] < 0.55 else TEXT)
    axes.imshow(np.ma.masked_invalid(values), cmap="viridis", vmin=0, vmax=1, aspect="auto")
    if below:
        axes.axhline(len(patches) - 0.5, color="white", linewidth=5)
    axes.set_xticks(range(len(models)), [literal(one.removeprefix("bundled:")) for one in models])
    axes.set_yticks(range(len(lines)), [literal(one) for one in lines])
    axes.xaxis.tick_top()
    axes.tick_params(labelsize=9, length=0)
    axes.set_xlabel("gain in the last block of … (colour: fraction of the column's highest)", fontsize=9, color=TEXT)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _gain_cell(axes: Axes, across: int, down: int, row: _Row, colour: str) -> None:
    """Writes a gain and its interval into a cell of `transfer_figure`, framed for a patch on its own model."""
    axes.text(
        across, down - 0.13, _signed(row["value"]), ha="center", va="center", fontsize=11, color=colour,
        fontweight="bold" if row.get("own") else "normal",
    )  # fmt: skip
    if row["low"] is not None and row["n"] > 1:
        interval = f"{_signed(row['low'])} to {_signed(row['high'])}"
        axes.text(across, down + 0.24, interval, ha="center", va="center", fontsize=7.5, color=colour)
    if row.get("own"):
        from matplotlib.patches import Rectangle

        axes.add_patch(Rectangle((across - 0.47, down - 0.43), 0.94, 0.86, fill=False, edgecolor=TEXT, linewidth=2.4))


def sweep_figure(rows: Sequence[_Row]) -> Figure | None:
    """Two heat maps over size (rows) and shape with λ (columns): gain, and gain divided by that of a circle of the same
    size.

    Colours are on a logarithmic scale.

    Args:
        rows: rows of the task "sweep" of `results.jsonl`; means over seeds are shown.

    Returns:
        The figure; None without rows.
    """
    if not rows:
        return None
    sizes = sorted({row["options"]["size"] for row in rows})
    kinds = sorted({_kind(row) for row in rows}, key=lambda one: (SHAPES.index(one[0]), one[1]))
    by_cell = {(row["options"]["size"], _kind(row)): row for row in rows}
    circles = {row["options"]["size"]: row["circle"] for row in rows}
    wide = 1.5 + 0.66 * (len(kinds) + 1)
    figure = new_figure((2 * wide, 1.7 + 0.46 * len(sizes)))
    left, right = figure.subplots(1, 2)
    gains = np.array([[_of(by_cell, size, kind, "value") for kind in kinds] for size in sizes])
    ratios = np.array([[_of(by_cell, size, kind, "ratio") for kind in kinds] for size in sizes])
    names = [_kind_name(kind) for kind in kinds]
    drawn = np.array([[circles[size]] for size in sizes])
    _heat(left, np.hstack([gains, drawn]), sizes, [*names, "drawn\ncircle"], "Attention gain, last block")
    left.axvline(len(kinds) - 0.5, color="white", linewidth=5)
    _heat(right, ratios, sizes, names, "Gain ÷ the drawn circle's gain at that size")
    left.set_ylabel("size, tokens", fontsize=9, color=TEXT)
    return figure


def _kind(row: _Row) -> tuple[str, float]:
    shape = str(row["options"]["shape"])
    return shape, 0.0 if shape == "full" else float(row["options"]["ratio"])


def _kind_name(kind: tuple[str, float]) -> str:
    if kind[0] == "full" or kind == ("circle", 0.0):
        return "full" if kind[0] == "full" else "disc"
    return f"{'ring' if kind[0] == 'circle' else 'frame'}\nλ {kind[1]:g}"


def _of(rows: Mapping[Any, _Row], size: float, kind: tuple[str, float], name: str) -> float:
    row = rows.get((size, kind))
    return math.nan if row is None or row[name] is None else float(row[name])


def _heat(axes: Axes, values: np.ndarray, sizes: Sequence[float], names: Sequence[str], title: str) -> None:
    from matplotlib.colors import LogNorm, Normalize

    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    # Gains of small and large patches differ by factors: on a linear scale most cells would look alike.
    norm: Any = LogNorm(low, high) if low > 0 else Normalize(low, high)
    axes.imshow(np.ma.masked_invalid(values), cmap="viridis", norm=norm, aspect="auto")
    for (down, across), value in np.ndenumerate(values):
        if not math.isnan(value):
            dark = high > low and float(norm(value)) < 0.55
            axes.text(
                across, down, f"{value:.2f}", ha="center", va="center", fontsize=8.5, color="white" if dark else TEXT
            )
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(sizes)), [f"{size:g}" for size in sizes])
    axes.tick_params(labelsize=8.5, length=0)
    axes.set_title(title, fontsize=10, color=TEXT)
    for spine in axes.spines.values():
        spine.set_visible(False)


@renamed_attributes(picture="image")
@dataclass(frozen=True, eq=False)
class Marked:
    """One image with one marker, for the report.

    Args:
        label: name of the marker.
        image: the image with the marker.
        attention: `[h, w]` over the whole image, mean over heads of the last block.
        box_xyxy: the marked square, pixels.
        share: fraction of the attention on the square, 0 to 1.
    """

    label: str
    image: Image
    attention: np.ndarray
    box_xyxy: tuple[float, float, float, float]
    share: float


def marked_figure(lines: Sequence[Sequence[Marked]]) -> Figure:
    """Images with every marker, and below each the attention map; the maps of one image have one colour scale.

    Args:
        lines: per image, one entry per marker.
    """
    from visprompt.plots.base import draw_map

    columns = len(lines[0])
    figure = new_figure((0.35 + 1.32 * columns, 0.45 + 2.75 * len(lines)))
    panels = figure.subplots(2 * len(lines), columns, squeeze=False)
    for number, line in enumerate(lines):
        top = max(float(one.attention.max()) for one in line)
        for across, one in enumerate(line):
            above, below = panels[2 * number, across], panels[2 * number + 1, across]
            wide, high = one.image.size
            above.imshow(np.asarray(one.image.convert("RGB")), extent=(0, wide, high, 0), interpolation="nearest")
            above.set_xticks([])
            above.set_yticks([])
            draw_map(below, one.image, one.attention, one.box_xyxy, top)
            below.set_xlabel(f"{one.share:.0%} on it", fontsize=8.5, color=TEXT, labelpad=3)
            if number == 0:
                above.set_title(literal(_wrapped(one.label)), fontsize=9, color=TEXT)
            for axes in (above, below):
                for spine in axes.spines.values():
                    spine.set_visible(False)
    return figure


def patch_figure(patch: np.ndarray, random: np.ndarray | None = None) -> Figure:
    """A learned patch on a chequerboard, pixel by pixel, and its control with random colours.

    Args:
        patch: `[4, r, r]` in [0, 1].
        random: the control, `[4, r, r]` in [0, 1], or None.
    """
    shown = [("learned", patch)] + ([("random", random)] if random is not None else [])
    figure = new_figure((1.6 * len(shown), 1.85))
    for axes, (title, rgba) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        side = rgba.shape[-1]
        squares = np.indices((side, side)).sum(axis=0) // max(side // 8, 1) % 2
        ground = np.where(squares[..., None] == 0, 0.93, 0.8)
        alpha = rgba[3][..., None]
        axes.imshow(rgba[:3].transpose(1, 2, 0) * alpha + ground * (1 - alpha), interpolation="nearest")
        axes.set_title(title, fontsize=9, color=TEXT)
        axes.set_axis_off()
    return figure


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _wrapped(label: str) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(label, 14))


def _tidy(axes: Axes) -> None:
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, length=0, colors=TEXT)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
