"""Figures of an LVLM's attention: a heatmap of a question, and the attention during an answer, tile by tile."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from visprompt.plots.base import draw_map, literal, new_figure, outline, show_image
from visprompt.utils.renamed import renamed_attributes, renamed_parameters

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure
    from PIL.Image import Image

    from visprompt.regions.shapes import Xyxy

#: width of a panel and of a tile, inches, and tiles per row
PANEL = 3.1
TILE = 1.9
TILES_IN_A_ROW = 6


@dataclass(frozen=True, eq=False)
class Panel:
    """One attention map over the whole image.

    Args:
        title: above the map.
        values: `[H, W]`, attention per image token at every pixel.
    """

    title: str
    values: np.ndarray


@dataclass(frozen=True, eq=False)
class TileMap:
    """The attention map of one tile.

    Args:
        values: `[h, w]`, attention per image token.
        seen_xyxy: the part of the image that the tile shows, pixels; it may extend beyond the image.
    """

    values: np.ndarray
    seen_xyxy: Xyxy


@renamed_attributes(picture="image")
@dataclass(frozen=True, eq=False)
class Look:
    """One answer, and the model's attention while it generated it.

    Args:
        label: name of this run.
        image: the prompted image, below the maps.
        shown: the same with attention edits tinted.
        answer: the generated text.
        panels: maps over the whole image.
        tiles: maps of single tiles, if there are several.
        regions_xyxy: outlined, pixels of the image.
        tiles_title: the block of the tiles' maps.
    """

    label: str
    image: Image
    shown: Image
    answer: str
    panels: tuple[Panel, ...]
    tiles: tuple[TileMap, ...] = ()
    regions_xyxy: tuple[Xyxy, ...] = ()
    tiles_title: str = ""


def answer_figure(question: str, looks: Sequence[Look]) -> Figure:
    """The question; per run a row of maps over the image with colour bars, its tiles, and the answer.

    All runs share one colour scale per panel, so that they can be compared.

    Args:
        question: the title.
        looks: one per run, with as many panels each.

    Raises:
        UnsupportedError: without matplotlib; the message names the package to install.
    """
    columns = 1 + max(len(look.panels) for look in looks)
    width = max(PANEL * columns, *(TILE * _tile_grid(len(look.tiles))[1] for look in looks))
    letters = int(width * 11)
    title = _wrapped(question, int(width * 9))
    heights = []
    for look in looks:
        answer_lines = _wrapped(_answer_text(look), letters).count("\n") + 1
        heights.append(0.75 + 0.2 * answer_lines + _height(look.image, PANEL))
        if look.tiles:
            heights.append(0.35 + _tile_grid(len(look.tiles))[0] * (TILE * _tile_aspect(look) + 0.25))
    figure = new_figure((width, sum(heights) + 0.3 + 0.22 * (title.count("\n") + 1)))
    figure.suptitle(literal(title), fontsize=12, fontweight="bold")
    rows = list(np.atleast_1d(figure.subfigures(len(heights), 1, height_ratios=heights)))
    tops = [max(float(look.panels[i].values.max()) for look in looks) for i in range(columns - 1)]
    for look in looks:
        _draw_look(rows.pop(0), look, tops, letters, named=len(looks) > 1)
        if look.tiles:
            _draw_tiles(rows.pop(0), look)
    return figure


@renamed_parameters(picture="image")
def question_figure(
    question: str,
    image: Image,
    dimmed: Image,
    values: np.ndarray,
    regions_xyxy: Sequence[Xyxy] = (),
    shares: Sequence[tuple[float, float]] = (),
) -> Figure:
    """A question's heatmap over the image, and the image dimmed by it.

    Args:
        question: the title.
        image: the image.
        dimmed: the image after the strategy's edit.
        values: `[H, W]` in [0, 1] over its pixels.
        regions_xyxy: outlined, pixels of the image.
        shares: per region: the fraction of the map's mass in it, and its fraction of the image's area.

    Raises:
        UnsupportedError: without matplotlib; the message names the package to install.
    """
    title = _wrapped(question, 85)
    figure = new_figure((3 * PANEL + 0.4, 0.95 + _height(image, PANEL) + 0.22 * title.count("\n")))
    figure.suptitle(literal(title), fontsize=12, fontweight="bold")
    panels = figure.subplots(1, 3)
    show_image(panels[0], image, "image")
    drawn = draw_map(panels[1], image, values, None, 1.0)
    lines = ["where the model looks for it"]
    lines += [f"{inside:.0%} of it in the region (even: {area:.0%})" for inside, area in shares[:3]]
    panels[1].set_title("\n".join(lines), fontsize=9)
    show_image(panels[2], dimmed, "the image dimmed elsewhere")
    for panel in panels[:2]:
        for box in regions_xyxy:
            outline(panel, box)
    figure.colorbar(drawn, ax=panels[1], shrink=0.85, label="heatmap, 0 to 1")
    return figure


def _draw_look(figure: SubFigure, look: Look, tops: Sequence[float], letters: int, named: bool) -> None:
    panels = figure.subplots(1, 1 + len(look.panels))
    show_image(panels[0], look.shown, look.label if named else "what the model gets")
    for box in look.regions_xyxy:
        outline(panels[0], box)
    for axes, panel, top in zip(panels[1:], look.panels, tops, strict=True):
        drawn = draw_map(axes, look.image, panel.values, None, top)
        for box in look.regions_xyxy:
            outline(axes, box)
        axes.set_title(panel.title, fontsize=9)
        _bar(figure, drawn, axes)
    figure.supxlabel(literal(_wrapped(_answer_text(look), letters)), fontsize=11)


def _draw_tiles(figure: SubFigure, look: Look) -> None:
    down, across = _tile_grid(len(look.tiles))
    top = max(float(tile.values.max()) for tile in look.tiles) or 1.0
    figure.suptitle(f"the same tile by tile, {look.tiles_title}", fontsize=10)
    axes = np.atleast_1d(figure.subplots(down, across)).reshape(-1)
    drawn: Any = None
    for number, panel in enumerate(axes):
        if number >= len(look.tiles):
            panel.set_visible(False)
            continue
        tile = look.tiles[number]
        x0, y0, x1, y1 = tile.seen_xyxy
        drawn = draw_map(panel, look.image, tile.values, None, top, extent_xyxy=tile.seen_xyxy)
        panel.set_xlim(x0, x1)
        panel.set_ylim(y1, y0)
        panel.set_title(f"tile {number}: x {x0:.0f}–{x1:.0f}, y {y0:.0f}–{y1:.0f}", fontsize=7)
    _bar(figure, drawn, list(axes))


def _bar(figure: SubFigure, drawn: Any, axes: Any) -> None:
    bar = figure.colorbar(drawn, ax=axes, shrink=0.85, label="attention per image token")
    bar.ax.tick_params(labelsize=7)
    bar.set_label("attention per image token", fontsize=7)


def _tile_grid(count: int) -> tuple[int, int]:
    """Rows and columns for a number of tiles, in rows of about the same length."""
    down = math.ceil(count / TILES_IN_A_ROW)
    return down, math.ceil(count / max(down, 1))


def _answer_text(look: Look) -> str:
    return f"answer: {look.answer or '(nothing)'}"


def _height(image: Image, width: float) -> float:
    """Height of a panel, inches; very tall images are drawn smaller."""
    return width * 0.68 * min(image.height / max(image.width, 1), 2.5)


def _tile_aspect(look: Look) -> float:
    return max((box[3] - box[1]) / (box[2] - box[0]) for box in (tile.seen_xyxy for tile in look.tiles))


def _wrapped(text: str, letters: int) -> str:
    return "\n".join(line for part in text.splitlines() or [""] for line in textwrap.wrap(part, letters) or [""])
