"""Figures: accuracies with their intervals, attention over an image, a prompt before and after.

matplotlib is an extra (`pip install "visprompt-toolkit[plots]"`) and is imported when a figure is made, not before.
Figures are made without pyplot, so no window system is touched and threads do not share state. Colours are Okabe and
Ito's, which people with a colour-vision deficiency can tell apart; maps use inferno: the brighter, the more.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from visprompt.errors import UnsupportedError
from visprompt.utils.renamed import renamed_names, renamed_parameters

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

#: Okabe and Ito without black and yellow, which is too faint on white
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
RIGHT, WRONG, OTHER = "#009E73", "#D55E00", "#7A7A7A"
MAP = "inferno"
#: colours of words and of grid lines
TEXT, GRID = "#222222", "#DDDDDD"
_Map = NDArray[Any]


def have_matplotlib() -> bool:
    """True if figures can be made here: matplotlib is there, and not only as a name."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def literal(text: str) -> str:
    """Text from outside for matplotlib, which would take what stands between two dollars for a formula."""
    return text.replace("$", r"\$")


def bar_chart(rows: Sequence[Mapping[str, Any]], columns: int = 3) -> Figure:
    """Accuracies with 95 % intervals: one panel per task, one line per strategy, one colour per model.

    Args:
        rows: as in `results.jsonl`; rows without a value are left out.
        columns: panels side by side.

    Raises:
        UnsupportedError: without matplotlib, naming what to install.
    """
    rows = [row for row in rows if row.get("value") is not None]
    tasks = _ordered(rows, "task")
    models = _ordered(rows, "model")
    # Controls come last, as in the table.
    strategies = _ordered(sorted(rows, key=lambda row: bool(row.get("control"))), "row")
    across = max(1, min(columns, len(tasks)))
    down = math.ceil(len(tasks) / across)
    height = 1.1 + max(1.6, 0.17 * len(strategies) * (len(models) + 0.6))
    figure = new_figure((2.2 + 3.0 * across, down * height))
    axes = np.atleast_2d(figure.subplots(down, across, sharey=True, squeeze=False))
    for number, panel in enumerate(axes.flat):
        if number >= len(tasks):
            panel.set_visible(False)
            continue
        of_task = [row for row in rows if row["task"] == tasks[number]]
        _bars_of_task(panel, of_task, models, strategies)
    if len(tasks):
        axes[0, 0].invert_yaxis()
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False, fontsize=9)
    return figure


def _bars_of_task(
    panel: Axes, rows: Sequence[Mapping[str, Any]], models: Sequence[str], strategies: Sequence[str]
) -> None:
    """One panel of `bar_chart`: the rows of one task."""
    bar = 0.8 / max(len(models), 1)
    for place, model in enumerate(models):
        chosen = {row["row"]: row for row in rows if row["model"] == model}
        where = [i for i, name in enumerate(strategies) if name in chosen]
        values = np.array([chosen[strategies[i]]["value"] for i in where]) * 100
        bounds = np.array([_ends(chosen[strategies[i]]) for i in where]).reshape(-1, 2) * 100
        errors = np.abs(bounds.T - values) if len(where) else None
        panel.barh(
            np.array(where) + (place - (len(models) - 1) / 2) * bar,
            values,
            height=bar * 0.92,
            color=PALETTE[place % len(PALETTE)],
            # Colour is not the only difference: every second model is hatched.
            hatch="////" if place % 2 else None,
            edgecolor="white",
            linewidth=0.0,
            xerr=errors,
            error_kw={"ecolor": TEXT, "elinewidth": 1.0, "capsize": 2},
            label=literal(model),
        )
    chances = [row["chance"] for row in rows if row.get("chance") is not None]
    if chances:
        panel.axvline(float(np.mean(chances)) * 100, color=TEXT, linestyle=":", linewidth=1.2, label="chance")
    panel.set_title(literal(str(rows[0].get("task"))), fontsize=10, color=TEXT)
    panel.set_xlim(0, 100)
    panel.set_yticks(range(len(strategies)), [literal(one) for one in strategies])
    panel.set_xlabel("accuracy, % (bars: 95 % interval)", fontsize=8)
    tidy(panel, "x")
    panel.spines["left"].set_visible(False)


def tidy(axes: Axes, grid: Literal["x", "y"] = "y") -> None:
    """Thin grid lines behind what is drawn, small labels without ticks, no frame at the top and on the right.

    Args:
        axes: a panel.
        grid: the axis whose values have grid lines.
    """
    axes.grid(axis=grid, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, length=0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


@renamed_parameters(picture="image")
def heatmap(
    image: Image,
    attention: _Map,
    region_xyxy: Sequence[float] | None = None,
    title: str = "",
    vmax: float | None = None,
) -> Figure:
    """A map over an image, with a colour bar.

    Args:
        image: the image; it is shown in grey, so that all colour is the map's.
        attention: `[H, W]` over the whole image, any resolution of the same aspect.
        region_xyxy: outlined, pixels of the image.
        title: above the image.
        vmax: top of the colour scale; by default the map's maximum.
    """
    figure = new_figure((4.2, 3.6 * image.height / max(image.width, 1) + 0.6))
    axes = figure.subplots()
    drawn = draw_map(axes, image, attention, region_xyxy, vmax)
    axes.set_title(literal(title), fontsize=10, color=TEXT)
    figure.colorbar(drawn, ax=axes, shrink=0.85, label="readout attention")
    return figure


@renamed_parameters(picture="image")
def before_after(
    image: Image,
    prompted: Image,
    before: _Map,
    after: _Map,
    region_xyxy: Sequence[float] | None = None,
    prompted_region_xyxy: Sequence[float] | None = None,
    label: str = "prompted",
) -> Figure:
    """What a strategy did: image and region, image as the model gets it, readout attention without and with it.

    Args:
        image: the original.
        prompted: what the strategy made of it.
        before: `[h, w]` map over `image`, without the prompt.
        after: `[h, w]` map over `image`, or over `prompted` if that has another size (crop).
        region_xyxy: the region, pixels of `image`.
        prompted_region_xyxy: the region, pixels of `prompted`.
        label: the strategy.
    """
    aspect = max(image.height / max(image.width, 1), prompted.height / max(prompted.width, 1))
    figure = new_figure((12.0, 0.5 + 2.75 * min(aspect, 2.5)))
    panels = figure.subplots(1, 4)
    show_image(panels[0], image, "image and region")
    outline(panels[0], region_xyxy)
    show_image(panels[1], prompted, f"what the model gets: {label}")
    vmax = float(max(before.max(), after.max()))
    draw_map(panels[2], image, before, region_xyxy, vmax)
    panels[2].set_title(f"attention without{_share(before, image, region_xyxy)}", fontsize=9, color=TEXT)
    same = prompted.size == image.size
    below, box = (image, region_xyxy) if same else (prompted, prompted_region_xyxy)
    drawn = draw_map(panels[3], below, after, box, vmax)
    panels[3].set_title(f"attention with {literal(label)}{_share(after, below, box)}", fontsize=9, color=TEXT)
    figure.colorbar(drawn, ax=list(panels[2:]), shrink=0.85, label="readout attention")
    return figure


@renamed_parameters(picture="image")
def image_pair(
    image: Image, prompted: Image, region_xyxy: Sequence[float] | None = None, label: str = "prompted"
) -> Figure:
    """Image with region, and what a strategy made of it: for models whose attention cannot be read."""
    figure = new_figure((6.4, 3.4))
    panels = figure.subplots(1, 2)
    show_image(panels[0], image, "image and region")
    outline(panels[0], region_xyxy)
    show_image(panels[1], prompted, f"what the model gets: {label}")
    return figure


@renamed_parameters(picture="image")
def draw_map(
    axes: Axes,
    image: Image,
    attention: _Map,
    region_xyxy: Sequence[float] | None = None,
    vmax: float | None = None,
    extent_xyxy: Sequence[float] | None = None,
) -> Any:
    """Draws a map over the grey image, or over the part `extent_xyxy`; returns the mappable for a colour bar."""
    extent = (0.0, float(image.width), float(image.height), 0.0)
    axes.imshow(image.convert("L"), cmap="gray", extent=extent, vmin=-40, vmax=235)
    top = float(vmax if vmax is not None else attention.max()) or 1.0
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm

    # Attention is peaked: on a linear scale all but the peak would be black. The colour bar has the same scale.
    norm = PowerNorm(0.6, 0.0, top)
    # One opacity for all values: the image stays visible, and the eye compares brightness only.
    x0, y0, x1, y1 = (0.0, 0.0, image.width, image.height) if extent_xyxy is None else extent_xyxy
    over = (x0, x1, y1, y0)
    axes.imshow(np.maximum(attention, 0), cmap=MAP, extent=over, norm=norm, alpha=0.62, interpolation="nearest")
    outline(axes, region_xyxy)
    axes.set_xlim(0, image.width)
    axes.set_ylim(image.height, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    # The colour bar is opaque: see-through, its colours would be mixed with white and not with an image.
    return ScalarMappable(norm, MAP)


def share_in_box(attention: _Map, size_wh: tuple[int, int], region_xyxy: Sequence[float]) -> float:
    """Which share of a map lies in a box, in [0, 1]; pixels on the border count by their area.

    Args:
        attention: `[h, w]` over a whole image.
        size_wh: the image's size in pixels.
        region_xyxy: the box, in its pixels.
    """
    height, width = attention.shape
    x0, x1 = (region_xyxy[i] * width / size_wh[0] for i in (0, 2))
    y0, y1 = (region_xyxy[i] * height / size_wh[1] for i in (1, 3))
    columns = np.clip(np.minimum(np.arange(width) + 1, x1) - np.maximum(np.arange(width), x0), 0, 1)
    lines = np.clip(np.minimum(np.arange(height) + 1, y1) - np.maximum(np.arange(height), y0), 0, 1)
    clean = np.nan_to_num(attention)
    total = float(clean.sum())
    return float(lines @ clean @ columns) / total if total > 0 else 0.0


def to_png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure of that width and height in inches.

    Raises:
        UnsupportedError: without matplotlib, naming what to install.
    """
    try:
        from matplotlib.figure import Figure as NewFigure
    except ImportError as error:
        raise UnsupportedError('figures need matplotlib: pip install "visprompt-toolkit[plots]".') from error
    return NewFigure(figsize=size, layout="constrained")


@renamed_parameters(picture="image")
def show_image(axes: Axes, image: Image, title: str) -> None:
    """Draws an image without ticks; pixels stay pixels."""
    axes.imshow(np.asarray(image), extent=(0, image.width, image.height, 0), interpolation="nearest")
    axes.set_title(literal(title), fontsize=9, color=TEXT)
    axes.set_xticks([])
    axes.set_yticks([])


def outline(axes: Axes, region_xyxy: Sequence[float] | None) -> None:
    """Frames a box, if there is one."""
    if region_xyxy is None:
        return
    from matplotlib.patches import Rectangle

    x0, y0, x1, y1 = region_xyxy
    # Black below white: visible on every image and on both ends of the colour map.
    for colour, width in (("black", 2.6), ("white", 1.3)):
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=width))


def _share(attention: _Map, image: Image, region_xyxy: Sequence[float] | None) -> str:
    if region_xyxy is None:
        return ""
    return f": {share_in_box(attention, image.size, region_xyxy):.0%} on the region"


def _ends(row: Mapping[str, Any]) -> tuple[float, float]:
    """The ends of a row's interval; the value itself where there is none, as from one item."""
    if row["low"] is None or row["high"] is None or row["n"] < 2:
        return row["value"], row["value"]
    return row["low"], row["high"]


def _ordered(rows: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(str(row[key]) for row in rows))


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"picture_pair": "image_pair", "show_picture": "show_image"}, globals())
