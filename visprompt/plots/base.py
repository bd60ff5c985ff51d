"""Shared plotting functions, and figures of accuracies, of attention over an image, and of a prompt's effect.

matplotlib is an extra (`pip install "visprompt-toolkit[plots]"`) and is imported when a figure is made. Figures are
made without pyplot, so no window system is used and threads share no state. Colours are those of Okabe and Ito, which
people with a colour-vision deficiency can distinguish; maps use inferno, where brighter is more.
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

#: Okabe and Ito's colours without black, and without yellow, which is too faint on white
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
RIGHT, WRONG, OTHER = "#009E73", "#D55E00", "#7A7A7A"
MAP = "inferno"
#: colours of text and of grid lines
TEXT, GRID = "#222222", "#DDDDDD"
_Map = NDArray[Any]


def have_matplotlib() -> bool:
    """True if matplotlib can be imported."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return False
    return True


def literal(text: str) -> str:
    """Escapes dollar signs, between which matplotlib would read a formula.

    Args:
        text: any text, e.g. the name of a model or class.
    """
    return text.replace("$", r"\$")


def bar_chart(rows: Sequence[Mapping[str, Any]], columns: int = 3) -> Figure:
    """Accuracies with 95 % intervals: one panel per task, one bar group per strategy, one colour per model.

    Args:
        rows: rows of `results.jsonl`; those without a value are left out.
        columns: panels side by side.

    Raises:
        UnsupportedError: without matplotlib; the message names the package to install.
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
    for index, model in enumerate(models):
        chosen = {row["row"]: row for row in rows if row["model"] == model}
        where = [i for i, name in enumerate(strategies) if name in chosen]
        values = np.array([chosen[strategies[i]]["value"] for i in where]) * 100
        bounds = np.array([_ends(chosen[strategies[i]]) for i in where]).reshape(-1, 2) * 100
        errors = np.abs(bounds.T - values) if len(where) else None
        panel.barh(
            np.array(where) + (index - (len(models) - 1) / 2) * bar,
            values,
            height=bar * 0.92,
            color=PALETTE[index % len(PALETTE)],
            # Every second model is hatched, so that colour is not the only difference.
            hatch="////" if index % 2 else None,
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
    """Draws thin grid lines behind the data, small labels without ticks, and no frame at the top and right.

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
    """An attention map over an image, with a colour bar.

    Args:
        image: the image; it is shown in grey, so that all colour comes from the map.
        attention: `[H, W]` over the whole image, any resolution of the same aspect ratio.
        region_xyxy: outlined, pixels of the image.
        title: above the image.
        vmax: top of the colour scale; None: the map's maximum.
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
    """The effect of a strategy in four panels: image and region, prompted image, readout attention without and with the
    prompt.

    Args:
        image: the original.
        prompted: the image after the strategy's edit.
        before: `[h, w]` map over `image`, without the prompt.
        after: `[h, w]` map over `image`, or over `prompted` if that has another size (crop).
        region_xyxy: the region, pixels of `image`.
        prompted_region_xyxy: the region, pixels of `prompted`.
        label: the strategy's name.
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
    """Image with region beside the prompted image, for models whose attention cannot be read.

    Args:
        image: the original.
        prompted: the image after the strategy's edit.
        region_xyxy: the region, pixels of `image`.
        label: the strategy's name.
    """
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
    """Draws an attention map over the grey image.

    Args:
        axes: the panel.
        image: the image.
        attention: `[h, w]`, at any resolution.
        region_xyxy: outlined, pixels of the image.
        vmax: top of the colour scale; None: the map's maximum.
        extent_xyxy: the part of the image that the map covers, pixels; None: the whole image.

    Returns:
        The mappable for a colour bar.
    """
    extent = (0.0, float(image.width), float(image.height), 0.0)
    axes.imshow(image.convert("L"), cmap="gray", extent=extent, vmin=-40, vmax=235)
    top = float(vmax if vmax is not None else attention.max()) or 1.0
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm

    # Attention is peaked: on a linear scale all but the peak would be black. The colour bar has the same scale.
    norm = PowerNorm(0.6, 0.0, top)
    # One opacity for all values, so that the image stays visible and only brightness differs.
    x0, y0, x1, y1 = (0.0, 0.0, image.width, image.height) if extent_xyxy is None else extent_xyxy
    over = (x0, x1, y1, y0)
    axes.imshow(np.maximum(attention, 0), cmap=MAP, extent=over, norm=norm, alpha=0.62, interpolation="nearest")
    outline(axes, region_xyxy)
    axes.set_xlim(0, image.width)
    axes.set_ylim(image.height, 0)
    axes.set_xticks([])
    axes.set_yticks([])
    # The colour bar is opaque, since a transparent one would mix its colours with white instead of the image.
    return ScalarMappable(norm, MAP)


def share_in_box(attention: _Map, size_wh: tuple[int, int], region_xyxy: Sequence[float]) -> float:
    """The fraction of a map's mass in a box; pixels on the border count by their area.

    Args:
        attention: `[h, w]` over a whole image.
        size_wh: width and height of the image, pixels.
        region_xyxy: the box, pixels of the image.

    Returns:
        A fraction in [0, 1]; 0 for an empty map.
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
    """The figure as the bytes of a PNG file.

    Args:
        figure: the figure.
        dpi: dots per inch.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor="white")
    return buffer.getvalue()


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure.

    Args:
        size: width and height, inches.

    Raises:
        UnsupportedError: without matplotlib; the message names the package to install.
    """
    try:
        from matplotlib.figure import Figure as NewFigure
    except ImportError as error:
        raise UnsupportedError('figures need matplotlib: pip install "visprompt-toolkit[plots]".') from error
    return NewFigure(figsize=size, layout="constrained")


@renamed_parameters(picture="image")
def show_image(axes: Axes, image: Image, title: str) -> None:
    """Draws an image without ticks and without smoothing.

    Args:
        axes: the panel.
        image: the image.
        title: above the image.
    """
    axes.imshow(np.asarray(image), extent=(0, image.width, image.height, 0), interpolation="nearest")
    axes.set_title(literal(title), fontsize=9, color=TEXT)
    axes.set_xticks([])
    axes.set_yticks([])


def outline(axes: Axes, region_xyxy: Sequence[float] | None) -> None:
    """Draws the outline of a box.

    Args:
        axes: the panel.
        region_xyxy: the box in data coordinates; None: nothing is drawn.
    """
    if region_xyxy is None:
        return
    from matplotlib.patches import Rectangle

    x0, y0, x1, y1 = region_xyxy
    # White on wider black is visible on every image and at both ends of the colour map.
    for colour, width in (("black", 2.6), ("white", 1.3)):
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=width))


def _share(attention: _Map, image: Image, region_xyxy: Sequence[float] | None) -> str:
    if region_xyxy is None:
        return ""
    return f": {share_in_box(attention, image.size, region_xyxy):.0%} on the region"


def _ends(row: Mapping[str, Any]) -> tuple[float, float]:
    """The bounds of a row's interval; the value itself for one item or without an interval."""
    if row["low"] is None or row["high"] is None or row["n"] < 2:
        return row["value"], row["value"]
    return row["low"], row["high"]


def _ordered(rows: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    return list(dict.fromkeys(str(row[key]) for row in rows))


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"picture_pair": "image_pair", "show_picture": "show_image"}, globals())
