"""Regions: boxes, points and masks, in the notations people have them in."""

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
