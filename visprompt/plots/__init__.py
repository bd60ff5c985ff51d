"""Plots with matplotlib (extra `plots`)."""

from visprompt.plots.base import (
    MAP,
    PALETTE,
    bar_chart,
    before_after,
    draw_map,
    have_matplotlib,
    heatmap,
    image_pair,
    literal,
    new_figure,
    outline,
    share_in_box,
    show_image,
    to_png,
)
from visprompt.utils.renamed import renamed_names

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
    "image_pair",
    "share_in_box",
    "show_image",
    "to_png",
]

#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"picture_pair": "image_pair", "show_picture": "show_image"}, globals())
