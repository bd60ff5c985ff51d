"""Labels per pixel: they land where the pixels land, and come back to where they were."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers import quarter_mask

from visprompt.errors import InvalidInputError
from visprompt.geometry.geometry import Geometry, Tile
from visprompt.models.preprocessing import ImageReader
from visprompt.training.dataset import (
    labels_to_input,
    labels_to_original,
)


class TestLabelsThereAndBack:
    GEOMETRIES = {
        "shrunk": Geometry((40, 20), (Tile((0.5, 0.5), (0.0, 5.0), (20, 20), (5, 5)),)),
        "cropped": Geometry((40, 20), (Tile((1.0, 1.0), (-10.0, 0.0), (20, 20), (5, 5)),)),
        "odd": Geometry((37, 23), (Tile((0.53, 0.61), (0.3, 2.7), (20, 20), (5, 5)),)),
        "grown": Geometry((10, 10), (Tile((2.0, 2.0), (0.0, 0.0), (20, 20), (5, 5)),)),
    }

    @pytest.mark.parametrize("name", GEOMETRIES)
    def test_to_input_is_the_pixel_under_the_centre(self, name: str) -> None:
        geometry = self.GEOMETRIES[name]
        wh = geometry.image_wh
        label = np.arange(wh[0] * wh[1]).reshape(wh[1], wh[0])
        found = labels_to_input(label, geometry, -100)
        for row in range(20):
            for column in range(20):
                x, y = np.floor(geometry.to_image((column + 0.5, row + 0.5)) + 1e-9).astype(int)
                inside = 0 <= x < wh[0] and 0 <= y < wh[1]
                assert found[row, column] == (label[y, x] if inside else -100)

    @pytest.mark.parametrize("name", GEOMETRIES)
    def test_to_original_is_the_input_under_the_centre(self, name: str) -> None:
        geometry = self.GEOMETRIES[name]
        wh = geometry.image_wh
        classes = np.arange(400).reshape(20, 20)
        found = labels_to_original(classes, geometry, wh)
        assert found.shape == (wh[1], wh[0])
        for row in range(wh[1]):
            for column in range(wh[0]):
                x, y = np.floor(geometry.to_input((column + 0.5, row + 0.5)) + 1e-9).astype(int)
                inside = 0 <= x < 20 and 0 <= y < 20
                assert found[row, column] == (classes[y, x] if inside else -1)

    def test_logits_are_interpolated_as_torch_does(self) -> None:
        geometry = Geometry((50, 30), (Tile((0.4, 20 / 30), (0.0, 0.0), (20, 20), (5, 5)),))
        for cells in (20, 5):
            logits = torch.randn(6, cells, cells, generator=torch.Generator().manual_seed(cells))
            by_torch = torch.nn.functional.interpolate(logits[None], (30, 50), mode="bilinear")[0].argmax(0)
            found = labels_to_original(logits, geometry, (50, 30))
            assert found.dtype == np.int64
            assert (found == by_torch.numpy()).mean() > 0.998  # ties of rounding

    def test_a_perfect_model_is_perfect(self, reader: ImageReader) -> None:
        wh = (200, 120)
        geometry = reader.geometry(wh, "squash")
        label = labels_to_input(quarter_mask(wh), geometry)
        logits = torch.nn.functional.one_hot(torch.from_numpy(label), 4).permute(2, 0, 1).float()
        assert (labels_to_original(logits, geometry, wh) == quarter_mask(wh)).mean() > 0.96
        assert (labels_to_original(label, geometry, wh) == quarter_mask(wh)).mean() > 0.96

    def test_what_was_never_seen(self) -> None:
        found = labels_to_original(np.zeros((20, 20), int), self.GEOMETRIES["cropped"], (40, 20), outside=9)
        assert (found[:, :10] == 9).all()
        assert (found[:, 10:30] == 0).all()
        assert (found[:, 30:] == 9).all()

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"values": np.zeros((7, 7))}, r"h and w \(20, 20\) \(the input\) or \(5, 5\)"),
            ({"original_wh": (41, 20)}, "not of"),
            ({"geometry": Geometry((40, 20), (GEOMETRIES["odd"].tiles[0],) * 2)}, "one tile; this one cuts 2"),
        ],
    )
    def test_wrong_sizes(self, change: dict[str, Any], said: str) -> None:
        right: dict[str, Any] = {
            "values": np.zeros((20, 20)),
            "geometry": self.GEOMETRIES["shrunk"],
            "original_wh": (40, 20),
        }
        with pytest.raises(InvalidInputError, match=said):
            labels_to_original(**(right | change))
        with pytest.raises(InvalidInputError, match="the labels are"):
            labels_to_input(np.zeros((3, 3), int), right["geometry"])
