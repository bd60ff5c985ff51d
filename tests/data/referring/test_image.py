"""Boxes of referring data."""

import numpy as np
import pytest

from visprompt.data.referring.image import iou, xyxy_from_xywh
from visprompt.errors import InvalidInputError


def test_boxes() -> None:
    boxes = xyxy_from_xywh([[0, 0, 2, 2], [1, 0, 2, 2]], "test")
    np.testing.assert_allclose(iou(boxes, boxes), [[1, 1 / 3], [1 / 3, 1]])
    with pytest.raises(InvalidInputError, match="not finite"):
        xyxy_from_xywh([[0, 0, float("nan"), 2]], "test")
