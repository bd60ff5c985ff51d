"""How large a square of tokens is in an image."""

from __future__ import annotations

from typing import Any

import pytest

import visprompt as vp
from visprompt.geometry.geometry import Geometry, Tile
from visprompt.learned.token_sizes import input_tile, square_at, vision_geometry
from visprompt.testing import conformance

#: the whole image of 128 × 128 pixels at half size, and its left top quarter at full size, 8 × 8 tokens each
WHOLE = Tile((0.5, 0.5), (0.0, 0.0), (64, 64), (8, 8))
QUARTER = Tile((1.0, 1.0), (0.0, 0.0), (64, 64), (8, 8))


@pytest.mark.parametrize(
    ("tiles", "spot", "wanted"),
    [
        ((QUARTER,), (10.0, 10.0), 16.0),
        ((WHOLE,), (10.0, 10.0), 32.0),
        ((QUARTER, WHOLE), (10.0, 10.0), 32.0),  # the coarsest of those that show the place
        ((QUARTER, WHOLE), (100.0, 100.0), 32.0),
        ((QUARTER,), (100.0, 100.0), 16.0),  # no tile shows it: any
    ],
)
def test_a_square_of_two_tokens(tiles: tuple[Tile, ...], spot: tuple[float, float], wanted: float) -> None:
    assert square_at(Geometry((128, 128), tiles), spot, 2.0) == (wanted, wanted)


def test_a_squashed_image_has_oblong_squares() -> None:
    assert square_at(Geometry((128, 64), (Tile((0.5, 1.0), (0.0, 0.0), (64, 64), (8, 8)),)), (1.0, 1.0), 1.0) == (16, 8)


def test_it_is_a_pixel_at_least_and_unknown_without_tokens() -> None:
    assert square_at(Geometry((64, 64), (QUARTER,)), (1.0, 1.0), 0.01) == (1.0, 1.0)
    assert square_at(Geometry((64, 64), (Tile((1.0, 1.0), (0.0, 0.0), (64, 64), (1, 1)),)), (1.0, 1.0), 2.0) is None


def test_the_input_of_encoders_alone() -> None:
    model = conformance.wrapped("timm-vit")[1]
    tile = input_tile(model)
    assert tile is not None
    assert tile == model.geometry((256, 256)).tiles[0]
    assert input_tile(vp.load_model("remote:some", base_url="http://127.0.0.1:9/v1")) is None
    assert input_tile(conformance.wrapped("open-clip-resnet")[1]) is None


def test_geometry_is_the_towers_or_what_there_is() -> None:
    (prompt,) = vp.Request(conformance.image((96, 64)), region=vp.Box(1, 1, 9, 9)).units()

    class Layout:
        """A model whose tower's layout is not known for any image."""

        def has_tower(self, name: str) -> bool:
            return True

        def geometry_of(self, prompt: vp.VisualPrompt, tower: str | None = None) -> Geometry:
            if tower is not None:
                raise vp.UnsupportedError("unknown layout")
            return Geometry((96, 64), (WHOLE,))

    unknown: Any = Layout()
    assert vision_geometry(prompt, unknown).tiles == (WHOLE,)
    model = conformance.wrapped("timm-vit")[1]
    assert vision_geometry(prompt, model).tiles == model.geometry_of(prompt, tower="vision").tiles
