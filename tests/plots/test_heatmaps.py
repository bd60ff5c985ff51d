"""Figures of where a model looks while it answers: the numbers, the scale, the words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from visprompt.plots.heatmaps import Look, Panel, TileMap, answer_figure, question_figure

pytest.importorskip("matplotlib")
WH = (40, 30)


def look(label: str, top: float, tiles: int = 0, **more: Any) -> Look:
    values = np.zeros((WH[1], WH[0]))
    values[10, 20] = top
    image = Image.new("RGB", WH, (90, 120, 60))
    maps = tuple(TileMap(np.full((4, 4), number + 1.0), (0.0, 0.0, 20.0, 15.0)) for number in range(tiles))
    return Look(label, image, image, "It is a $5 note.", (Panel("block 1", values),), maps, **more)


def words(figure: Any) -> str:
    import matplotlib.text

    return "\n".join(one.get_text() for one in figure.findobj(matplotlib.text.Text))


def drawn_maps(figure: Any) -> list[np.ndarray]:
    """The maps as they are drawn, without the images below them."""
    arrays = [np.asarray(one.get_array()) for axes in figure.findobj(_is_axes) for one in axes.get_images()]
    return [one for one in arrays if one.ndim == 2 and np.isfinite(one).any() and one.max() <= 50]


def _is_axes(one: Any) -> bool:
    from matplotlib.axes import Axes

    return isinstance(one, Axes)


def test_an_answer_has_its_question_label_and_text() -> None:
    figure = answer_figure("What is it?", [look("plain", 2.0), look("prompted", 4.0)])
    found = words(figure)
    for wanted in ("What is it?", "plain", "prompted", r"a \$5 note", "block 1"):
        assert wanted in found


def test_maps_of_one_panel_are_on_one_scale() -> None:
    figure = answer_figure("What is it?", [look("plain", 2.0), look("prompted", 4.0)])
    tops = {
        one.norm.vmax
        for axes in figure.findobj(_is_axes)
        for one in axes.get_images()
        if np.asarray(one.get_array()).shape == (WH[1], WH[0]) and one.get_cmap().name != "gray"
    }
    assert tops == {4.0}
    assert sorted(float(one.max()) for one in drawn_maps(figure) if one.shape == (WH[1], WH[0])) == [2.0, 4.0]


@pytest.mark.parametrize("tiles", [1, 3, 8])
def test_every_tile_is_drawn(tiles: int) -> None:
    figure = answer_figure("What is it?", [look("plain", 2.0, tiles, tiles_title="block 3, tile by tile")])
    assert "block 3, tile by tile" in words(figure)
    found = [one for one in drawn_maps(figure) if one.shape == (4, 4)]
    assert sorted(float(one.max()) for one in found) == [float(number + 1) for number in range(tiles)]


def test_a_question_has_its_map_and_the_shares_of_its_regions() -> None:
    values = np.linspace(0, 1, WH[0] * WH[1]).reshape(WH[1], WH[0])
    image = Image.new("RGB", WH, (200, 100, 50))
    figure = question_figure("Where is it?", image, image, values, [(2, 2, 20, 20)], [(0.42, 0.27)])
    found = words(figure)
    assert "Where is it?" in found
    assert "42" in found
    assert "27" in found
    assert any(np.allclose(one, values) for one in drawn_maps(figure))
