"""Plots, with matplotlib (extra `plots`)."""

from visprompt.plots.base import (
    MAP,
    PALETTE,
    bar_chart,
    before_after,
    draw_map,
    have_matplotlib,
    heatmap,
    literal,
    new_figure,
    outline,
    picture_pair,
    share_in_box,
    show_picture,
    to_png,
)

__all__ = [
    "MAP",
    "PALETTE",
    "bar_chart",
    "before_after",
    "draw_map",
    "have_matplotlib",
    "heatmap",
    "literal",
    "new_figure",
    "outline",
    "picture_pair",
    "share_in_box",
    "show_picture",
    "to_png",
]
