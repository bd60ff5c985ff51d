"""What commands read from their words: options, grids, regions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import saved_image
from PIL import Image

from visprompt.cli.arguments import checked_fit, grid_of, numbers_of, options_of, regions_of, request_of
from visprompt.errors import InvalidInputError, UnknownNameError
from visprompt.regions import Box, Mask, Point


def test_options_are_read_as_yaml() -> None:
    found = options_of(["lr=1e-3", "heads=[0, 1]", "word=yes please", "nothing=null", "equals=a=b"])
    assert found == {"lr": 0.001, "heads": [0, 1], "word": "yes please", "nothing": None, "equals": "a=b"}
    assert options_of(None) == {}


@pytest.mark.parametrize(("pair", "message"), [("lr", "key=value"), ("=3", "key=value"), ("heads=[0", "readable YAML")])
def test_options_that_are_none(pair: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        options_of([pair])


def test_a_grid_has_lists() -> None:
    assert grid_of(["lr=0.1,1e-2", "deep=true"]) == {"lr": [0.1, 0.01], "deep": [True]}
    with pytest.raises(InvalidInputError, match="given twice"):
        grid_of(["lr=1", "lr=2"])
    with pytest.raises(InvalidInputError, match="name=value,value"):
        grid_of(["lr="])


@pytest.mark.parametrize("text", ["1,2,3,4", "1 2 3 4", "1, 2, 3, 4"])
def test_numbers(text: str) -> None:
    assert numbers_of(text, (4,), "--region") == [1, 2, 3, 4]


@pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", ""])
def test_numbers_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInputError, match="--region takes 4 numbers"):
        numbers_of(text, (4,), "--region")


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        ("xyxy", "20,10,60,30"),
        ("xywh", "20,10,40,20"),
        ("normalised", "0.25,0.25,0.75,0.75"),
        ("qwen", "250,250,750,750"),
    ],
)
def test_a_box_in_every_layout(tmp_path: Path, layout: str, text: str) -> None:
    image = saved_image(tmp_path / "a.png", (80, 40))
    (found,) = regions_of(image, [text], layout, None, None)
    assert found == Box(20, 10, 60, 30)


def test_points_and_masks_come_after_boxes(tmp_path: Path) -> None:
    image = saved_image(tmp_path / "a.png", (20, 10))
    inside = np.zeros((10, 20), dtype=np.uint8)
    inside[2:4, 5:9] = 255
    Image.fromarray(inside).save(tmp_path / "mask.png")
    box, near, point, mask = regions_of(image, ["0,0,4,4"], "xyxy", ["3,4", "5,6,2"], [tmp_path / "mask.png"])
    assert (box, near, point) == (Box(0, 0, 4, 4), Point(3, 4), Point(5, 6, 2))
    assert isinstance(mask, Mask)
    assert (mask.array == (inside > 127)).all()
    with pytest.raises(UnknownNameError, match="unknown format 'yxyx'"):
        regions_of(image, ["0,0,4,4"], "yxyx", None, None)


@pytest.mark.parametrize("together", [False, True])
def test_a_request_is_read_before_a_model_is_loaded(tmp_path: Path, together: bool) -> None:
    image = saved_image(tmp_path / "a.png", (20, 10))
    found: Any = request_of(image, [Box(0, 0, 4, 4)], "what?", together)
    assert (found.query, found.regions_as) == ("what?", "together" if together else "each")
    with pytest.raises(InvalidInputError, match=r"nowhere\.png"):
        request_of(tmp_path / "nowhere.png", [], None)


def test_ways_of_fitting() -> None:
    assert [checked_fit(name) for name in ("model", "pad", "squash")] == ["model", "pad", "squash"]
    with pytest.raises(UnknownNameError, match="did you mean 'squash'"):
        checked_fit("squish")
