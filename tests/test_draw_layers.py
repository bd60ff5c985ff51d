"""The image of the layers is drawn from the code: its boxes, its arrows, and no circle."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DRAW = runpy.run_path(str(ROOT / "docs" / "draw_layers.py"))


def test_arrows_lead_down_only_and_are_those_of_the_code() -> None:
    graph = DRAW["edges"](DRAW["boxes"]())
    assert {"cli", "bench", "models", "attention", "strategies", "errors"} <= set(graph)
    assert "errors" in graph["models"]
    assert graph["errors"] == set()
    assert not any("strategies" in to for to in graph.values()), (
        "the package imports no strategy: entry points find them"
    )
    arrows = DRAW["reduced"](graph)
    assert DRAW["below"](arrows) == DRAW["below"](graph), "what is left out can be reached over other arrows"
    found, _ = DRAW["rows"](arrows)
    height = {name: number for number, row in enumerate(found) for name in row}
    assert all(height[name] > height[other] for name, to in graph.items() for other in to)


def test_a_circle_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="a → b → c → a"):
        DRAW["below"]({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def test_imports_for_type_checkers_do_not_count() -> None:
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import visprompt.models
def later():
    from visprompt import errors
"""
    assert list(DRAW["imports"](ast.parse(source))) == ["typing.TYPE_CHECKING", "visprompt.errors"]


def test_the_image_is_written(tmp_path: Path) -> None:
    path = tmp_path / "layers.png"
    DRAW["draw"](DRAW["boxes"]()).savefig(path, dpi=40)
    assert path.stat().st_size > 5_000
    assert (ROOT / "docs" / "images" / "layers.png").is_file()
