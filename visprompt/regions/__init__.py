"""Regions of an image (boxes, points and masks), and conversion from common notations."""

from visprompt.regions.shapes import (
    POINT_RADIUS_SHARE,
    Box,
    Mask,
    Pair,
    Point,
    Region,
    Size,
    Xyxy,
    plain_array,
)

__all__ = ["Box", "Mask", "POINT_RADIUS_SHARE", "Pair", "Point", "Region", "Size", "Xyxy", "plain_array"]
