"""Figures of a learned prompt: its parameters in every block, and its effect on attention.

A strategy provides its values through `blocks_table()` (`HasBlocks`); this module knows no strategy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from visprompt.plots.base import MAP, PALETTE, TEXT, literal, new_figure, outline, tidy
from visprompt.plots.training_curve import Curve as Curve
from visprompt.plots.training_curve import curve_figure as curve_figure
from visprompt.plots.training_curve import curve_of as curve_of
from visprompt.utils.renamed import renamed_parameters

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

_Row = Mapping[str, Any]


@runtime_checkable
class HasBlocks(Protocol):
    """A strategy with parameters per block."""

    def blocks_table(self) -> list[dict[str, Any]]:
        """The prompt's values per block.

        Returns:
            One dict per block: `block`, and `gate`, `temperature`, `selection` and `tokens`, each None where the block
                has none; block −1 stands for the initial tokens and has their `selection`.
        """
        ...


@dataclass(frozen=True)
class _Column:
    """How one value of the table is drawn."""

    key: str
    title: str
    axis: str
    colour: str
    #: the neutral value, at which bars begin
    base: float = 0.0
    logarithmic: bool = False


COLUMNS = (
    _Column("selection", "Selection ratio: what the last block's prompts are made of", "share r", PALETTE[0]),
    _Column("gate", "Gates: how much of a block's output its prompts take in", "gate g", PALETTE[2]),
    _Column(
        "temperature",
        "Temperatures: below 1 attention is sharper than the model's own, above 1 flatter",
        "temperature τ",
        PALETTE[4],
        1.0,
        True,
    ),
    _Column("tokens", "Tokens: mean norm of those that go in at a block", "norm", PALETTE[3]),
)


def blocks_figure(rows: Sequence[_Row], title: str = "") -> Figure | None:
    """Selection ratios, gates, temperatures and norms of the tokens per block, a panel each.

    Args:
        rows: as `blocks_table()` returns them.
        title: above all panels.

    Returns:
        The figure; None if no value is given for more than one block (VPT-shallow has tokens in one block only).
    """
    shown = [column for column in COLUMNS if sum(row.get(column.key) is not None for row in rows) > 1]
    if not shown:
        return None
    figure = new_figure((9.2, 0.7 + 1.9 * len(shown)))
    panels = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, column in zip(panels, shown, strict=True):
        _bars(axes, rows, column)
    blocks = [int(row["block"]) for row in rows]
    # With more blocks the numbers would touch.
    step = 1 if len(blocks) <= 26 else 2
    labelled = [block for block in blocks if block < 0 or block % step == 0]
    panels[-1].set_xticks(labelled, ["tokens" if block < 0 else str(block) for block in labelled])
    panels[-1].set_xlabel("block", fontsize=9, color=TEXT)
    panels[-1].set_xlim(min(blocks) - 0.7, max(blocks) + 0.7)
    if title:
        figure.suptitle(literal(title), fontsize=12, color=TEXT)
    return figure


def _bars(axes: Axes, rows: Sequence[_Row], column: _Column) -> None:
    found = [(int(row["block"]), float(row[column.key])) for row in rows if row.get(column.key) is not None]
    blocks, values = np.array([block for block, _ in found]), np.array([value for _, value in found])
    axes.bar(blocks, values - column.base, bottom=column.base, width=0.72, color=column.colour, linewidth=0)
    axes.set_title(column.title, fontsize=10, color=TEXT, loc="left")
    axes.set_ylabel(column.axis, fontsize=9, color=TEXT)
    if column.logarithmic:
        axes.set_yscale("log")
        reach = max(float(np.abs(np.log(np.maximum(values, 1e-6))).max()) * 1.45, np.log(1.1))
        axes.set_ylim(float(np.exp(-reach)), float(np.exp(reach)))
        _plain_ticks(axes, reach)
        axes.axhline(column.base, color=TEXT, linewidth=1.0, linestyle=":")
    else:
        axes.set_ylim(0.0, (float(values.max()) or 1.0) * 1.22)
    if len(values) <= 26:
        for block, value in found:
            above = value >= column.base
            axes.annotate(
                short(value),
                (block, value),
                xytext=(0, 2 if above else -2),
                textcoords="offset points",
                ha="center",
                va="bottom" if above else "top",
                fontsize=8 if len(values) <= 14 else 6.5,
                color=TEXT,
            )
    tidy(axes)


def _plain_ticks(axes: Axes, reach: float) -> None:
    """Ticks at round numbers, written as 1.5 instead of 1.5 × 10⁰."""
    known = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.75, 0.9, 1.0, 1.1, 1.33, 2.0, 5.0, 10.0)
    ticks = [tick for tick in known if abs(np.log(tick)) <= reach]
    if len(ticks) > 5:
        ticks = [tick for tick in ticks if tick not in (0.75, 0.9, 1.1, 1.33)]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def tokens_figure(norms: np.ndarray, first_block: int = 0, title: str = "") -> Figure:
    """The norm of every prompt token; tokens with a norm near 0 have little effect.

    Args:
        norms: `[depth, m]`: one line per block with its own tokens.
        first_block: the block of the first line.
        title: above the figure.
    """
    depth, count = norms.shape
    figure = new_figure((9.2, 3.0 if depth == 1 else 1.5 + min(0.24 * depth, 4.5)))
    axes = figure.subplots()
    if depth == 1:
        axes.bar(np.arange(count), np.sort(norms[0])[::-1], width=0.85, color=PALETTE[3], linewidth=0)
        axes.set_xlabel("prompt token, largest first", fontsize=9, color=TEXT)
        axes.set_ylabel("norm", fontsize=9, color=TEXT)
        axes.set_xlim(-0.7, count - 0.3)
        axes.axhline(float(norms.mean()), color=TEXT, linewidth=1.0, linestyle=":", label=f"mean {norms.mean():.3g}")
        axes.legend(frameon=False, fontsize=9, loc="upper right")
        axes.set_ylim(0, float(norms.max()) * 1.18 or 1.0)
        tidy(axes)
    else:
        extent = (-0.5, count - 0.5, first_block + depth - 0.5, first_block - 0.5)
        sorted_ = -np.sort(-norms, axis=1)
        drawn = axes.imshow(sorted_, cmap="viridis", aspect="auto", extent=extent, vmin=0.0, interpolation="nearest")
        axes.set_xlabel("prompt token of the block, largest first", fontsize=9, color=TEXT)
        axes.set_ylabel("block", fontsize=9, color=TEXT)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.tick_params(labelsize=9)
        figure.colorbar(drawn, ax=axes, label="norm")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title(literal(title or "Norms of the prompt tokens"), fontsize=11, color=TEXT)
    return figure


@dataclass(frozen=True, eq=False)
class Look:
    """An attention map of some attention rows.

    Args:
        values: `[h, w]` over the whole image, at any resolution: multiples of the attention that a patch would get if
            all patches got the same; NaN where the model did not see the image.
        on_patches: fraction of the attention on patches, 0 to 1.
    """

    values: np.ndarray
    on_patches: float


@dataclass(frozen=True, eq=False)
class BlockLooks:
    """The attention maps of one image in one block.

    Args:
        block: number of the block.
        before: the readout's attention without the prompt.
        after: the readout's attention with the prompt.
        tokens: mean attention of the prompt tokens; None if the block has no prompt tokens.
        on_tokens: fraction of the readout's attention on the prompt tokens; None if there are none.
    """

    block: int
    before: Look
    after: Look
    tokens: Look | None = None
    on_tokens: float | None = None


@renamed_parameters(picture="image")
def attention_figure(
    image: Image,
    looks: Sequence[BlockLooks],
    name: str,
    title: str = "",
    region_xyxy: Sequence[float] | None = None,
    prompted: Image | None = None,
) -> Figure:
    """The readout's attention without and with the prompt, and that of the prompt tokens, per block, on one colour
    scale.

    Args:
        image: the image.
        looks: one per block.
        name: of the strategy.
        title: above all panels.
        region_xyxy: outlined, pixels of the image; panel titles give the fraction of attention in it.
        prompted: the image after the strategy's edit, below the maps with the prompt; None: unchanged.
    """
    below = [image, *[prompted or image] * 2]
    with_tokens = any(one.tokens is not None for one in looks)
    lines, columns = 3 if with_tokens else 2, len(looks) + 1
    aspect = min(image.height / max(image.width, 1), 2.0)
    side = (9.6 - 1.35) / columns
    figure = new_figure((9.6, 0.75 + lines * (side * aspect + 0.4)))
    panels = figure.subplots(lines, columns, squeeze=False)
    names = ("readout,\nwithout", f"readout,\nwith {name}", "prompt tokens,\ntheir mean")
    for line in range(lines):
        axes, shown_below = panels[line, 0], below[line]
        axes.imshow(
            np.asarray(shown_below), extent=(0, shown_below.width, shown_below.height, 0), interpolation="nearest"
        )
        _bare(axes)
        outline(axes, region_xyxy if shown_below.size == image.size else None)
        axes.set_title(literal(names[line]), fontsize=9.5, color=TEXT, fontweight="bold")
    shown = [look for one in looks for look in (one.before, one.after, one.tokens) if look is not None]
    top = max(float(np.nanmax(look.values)) for look in shown)
    drawn: Any = None
    for column, one in enumerate(looks, 1):
        for line, look in enumerate((one.before, one.after, one.tokens)[:lines]):
            axes = panels[line, column]
            if look is None:
                axes.set_visible(False)
                continue
            drawn = _map(axes, below[line], look.values, top)
            outline(axes, region_xyxy if below[line].size == image.size else None)
            words = f"block {one.block}"
            if line == 1 and one.on_tokens is not None:
                words = f"{one.on_tokens:.0%} on tokens"
            share = f"{look.on_patches:.0%} on patches"
            if region_xyxy is not None and below[line].size == image.size:
                share = f"{_inside(look.values, region_xyxy, image.size):.0%} in the box"
            axes.set_title(f"{words}\n{share}", fontsize=8.5, color=TEXT)
    bar = figure.colorbar(drawn, ax=panels, shrink=0.6, aspect=30)
    bar.set_label("attention on a patch, × uniform attention", fontsize=9, color=TEXT)
    bar.ax.tick_params(labelsize=8)
    if title:
        figure.suptitle(literal(title), fontsize=12, color=TEXT)
    return figure


def _inside(values: np.ndarray, xyxy: Sequence[float], wh: tuple[int, int]) -> float:
    """The fraction of a map's mass in a box.

    >>> _inside(np.array([[1.0, 1.0], [1.0, np.nan]]), (0, 0, 4, 2), (4, 4))
    0.6666666666666666
    """
    rows, columns = values.shape
    parts = []
    for count, size, low, high in ((rows, wh[1], xyxy[1], xyxy[3]), (columns, wh[0], xyxy[0], xyxy[2])):
        edges = np.arange(count + 1) * size / count
        parts.append(np.clip(np.minimum(edges[1:], high) - np.maximum(edges[:-1], low), 0, None) * count / size)
    known = np.nan_to_num(values)
    return float(parts[0] @ known @ parts[1] / max(known.sum(), 1e-12))


def _map(axes: Axes, image: Image, values: np.ndarray, top: float) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm

    # Attention is peaked: on a linear scale all but the peak would be black. The colour bar has the same scale.
    norm = PowerNorm(0.5, 0.0, top or 1.0)
    extent = (0.0, float(image.width), float(image.height), 0.0)
    axes.imshow(image.convert("L"), cmap="gray", extent=extent, vmin=-40, vmax=235)
    axes.imshow(values, cmap=MAP, extent=extent, norm=norm, alpha=0.68, interpolation="nearest")
    _bare(axes)
    return ScalarMappable(norm, MAP)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def short(value: float) -> str:
    """A number with three digits and no exponent, for labels on bars and cells of tables.

    >>> short(0.96698), short(0.0000123), short(12.345), short(0.0067)
    ('0.967', '0.000', '12.3', '0.007')

    Args:
        value: the number.
    """
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
