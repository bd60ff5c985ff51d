"""Figures of a comparison of ways of tuning: what a row is, its own numbers say."""

from __future__ import annotations

from typing import Any

import pytest

from visprompt.plots.base import OTHER, PALETTE
from visprompt.plots.tuning import gates_figure, insertion_figure, insertion_points, methods_figure

pytest.importorskip("matplotlib")
GATES = [{"block": 0, "gate": 0.2, "selection": 0.1, "temperature": 0.9}]


def row(method: str, value: float | None, *, how: str = "prompt", **more: Any) -> dict[str, Any]:
    options = {"prompts": 10, **more.pop("options", {})}
    return {
        "task": "one", "title": "A set", "row": method, "n": 40, "how": how, "strategy": "any", "control": False,
        "table": True, "value": value, "values": [value], "sd": None, "low": None, "high": None, "metric": "accuracy",
        "options": options, "settings": {"epochs": 3}, "blocks": [], **more,
    }  # fmt: skip


def plain() -> list[dict[str, Any]]:
    return [row(f"block {block}", 0.5 + block / 10, options={"first_block": block}) for block in (0, 2, 1)]


def lines(figure: Any) -> dict[str, str]:
    """Labels and colours of the horizontal lines."""
    (axes,) = figure.axes
    return {one.get_label(): one.get_color() for one in axes.lines if one.get_linestyle() in (":", "--")}


def test_plain_prompts_by_block() -> None:
    others = [
        row("deep", 0.9, options={"deep": True}),
        row("gated", 0.9, blocks=GATES),
        row("head alone", 0.4, options={"prompts": 0}),
        row("whole model", 0.9, how="full"),
        row("not measured", None),
        row("a share of the depth", 0.9, options={"first_block": 0.5}),
        row("more tokens", 0.9, options={"prompts": 20}),
    ]
    points = insertion_points([*others, *plain()])
    assert {key: [(block, one["row"]) for block, one in found] for key, found in points.items()} == {
        "one": [(0, "block 0"), (1, "block 1"), (2, "block 2")]
    }
    assert insertion_points([*others, *plain()[:2]]) == {}
    assert insertion_figure(others) is None


def test_beside_them_stand_a_head_alone_and_what_learned_most_by_block() -> None:
    rows = [
        row("half gated", 0.7, blocks=[{"block": 0, "gate": 0.2}]),
        row("all gated", 0.8, blocks=GATES),
        row("all gated, longer", 0.9, blocks=GATES),
        row("a head", 0.4, options={"prompts": 0}),
        row("a head, longer", 0.5, options={"prompts": 0}),
        *plain(),
    ]
    assert lines(insertion_figure(rows)) == {"a head": OTHER, "all gated": PALETTE[2]}
    assert lines(insertion_figure(plain())) == {}


def test_colours_say_how_it_was_tuned() -> None:
    rows = [
        row("tokens", 0.5),
        row("gated", 0.6, blocks=GATES),
        row("whole model", 0.7, how="full"),
        row("control", 0.3, control=True, blocks=GATES),
    ]
    from matplotlib.colors import to_hex

    (axes,) = methods_figure(rows).axes
    colours = [to_hex(one.get_facecolor()).upper() for one in axes.patches]
    assert colours == [one.upper() for one in (PALETTE[0], PALETTE[2], PALETTE[4], OTHER)]


def test_gates_are_drawn_of_the_richest_method_alone() -> None:
    assert gates_figure(plain()) is None
    figure: Any = gates_figure([row("half", 0.7, blocks=[{"block": 0, "gate": 0.9}]), row("all", 0.8, blocks=GATES)])
    assert len(figure.axes) == 3
    assert [float(one.get_ydata()[0]) for one in figure.axes[0].lines if len(one.get_ydata()) == 1] == [0.2]
