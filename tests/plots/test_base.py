"""Bar charts, maps and pairs of images: drawn from rows and arrays that are made up."""

import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from visprompt.errors import UnsupportedError
from visprompt.plots import base as plots


def row(label: str, value: float, model: str = "m", **changes: Any) -> dict[str, Any]:
    made = {"task": "boxes", "model": model, "row": label, "control": label in ("none", "random"), "value": value}
    return {**made, "low": value - 0.05, "high": value + 0.05, "n": 100, "chance": 0.25, **changes}


ROWS = [row("none", 0.25), row("circle", 0.5), row("falip", 0.9), row("random", 0.24)]


def test_share_in_box_counts_border_pixels_by_area() -> None:
    uniform = np.ones((8, 8))
    assert plots.share_in_box(uniform, (64, 64), (0, 0, 32, 64)) == pytest.approx(0.5)
    assert plots.share_in_box(uniform, (64, 64), (4, 0, 12, 64)) == pytest.approx(0.125)
    assert plots.share_in_box(np.zeros((8, 8)), (64, 64), (0, 0, 9, 9)) == 0


def test_bars_are_where_the_rows_say() -> None:
    figure = plots.bar_chart([*ROWS, row("falip", 0.4, model="n")])
    bars = [
        bar for container in figure.axes[0].containers if hasattr(container, "patches") for bar in container.patches
    ]
    assert sorted(round(bar.get_width()) for bar in bars) == [24, 25, 40, 50, 90]
    assert figure.axes[0].get_xlim() == (0, 100)


@pytest.mark.parametrize("size", [(64, 64), (90, 30), (30, 90)])
def test_panels(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "red")
    attention = np.random.default_rng(0).random((size[1], size[0]))
    figures = [
        plots.heatmap(image, attention, (2, 2, 20, 20), "a map"),
        plots.before_after(image, image, attention, attention * 2, (2, 2, 20, 20), (2, 2, 20, 20), "circle"),
        plots.image_pair(image, image.resize((10, 10)), (2, 2, 20, 20), "crop"),
    ]
    for figure in figures:
        assert plots.to_png(figure, dpi=40).startswith(b"\x89PNG")
    assert len(figures[0].axes) == 2  # the image and its colour bar


def test_dollars_are_no_formulas() -> None:
    figure = plots.bar_chart([row(r"a $\no{$ b", 0.5, model=r"$\x$", task_title=r"$\y{$")])
    assert plots.to_png(figure, dpi=40).startswith(b"\x89PNG")


def test_missing_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UnsupportedError, match=r"pip install"):
        plots.bar_chart(ROWS)


def test_one_item_has_no_interval() -> None:
    for one in (row("falip", 1.0, n=1, low=0.2, high=1.0), row("falip", 1.0, n=5, low=None, high=None)):
        (whiskers,) = plots.bar_chart([one]).axes[0].collections
        assert all(np.ptp(segment[:, 0]) == 0 for segment in whiskers.get_segments())
