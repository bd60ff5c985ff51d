"""The `Mask` region: any shape, as a boolean array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from visprompt.errors import InvalidInputError
from visprompt.regions.checks import Pair, Size, Xyxy, checked_size, plain_array
from visprompt.regions.coco import decode_rle, fill_polygons


@dataclass(frozen=True, eq=False)
class Mask:
    """Any shape: a boolean array `[H, W]` as large as the original image.

    Integers are inside where they are not 0; floats must be 0 or 1, so that a soft map is not thresholded by accident.

    >>> Mask(np.eye(4, dtype=bool)).xyxy
    (0.0, 0.0, 4.0, 4.0)

    Raises:
        InvalidInputError: for another number of axes, NaN, soft values, or nothing inside.
    """

    array: np.ndarray

    def __post_init__(self) -> None:
        array = plain_array(self.array)
        if array.ndim == 3 and array.shape[0] == 1:
            array = array[0]
        if array.ndim != 2:
            raise InvalidInputError(f"a mask is an array [H, W] as large as the image; got shape {array.shape}.")
        if np.issubdtype(array.dtype, np.floating):
            if not np.isfinite(array).all():
                raise InvalidInputError("the mask contains NaN or infinity; a mask is True inside and False outside.")
            if not np.isin(array, (0.0, 1.0)).all():
                raise InvalidInputError(
                    "the mask has values between 0 and 1; threshold it first, e.g. Mask(array > 0.5)."
                )
        elif array.dtype.kind not in "biu":
            raise InvalidInputError(f"a mask is a boolean array; got dtype {array.dtype}.")
        array = array.astype(bool)  # copies: later changes to the caller's array do not reach us
        if not array.any():
            raise InvalidInputError(f"the mask of shape {array.shape} is empty: no pixel is inside.")
        array.setflags(write=False)
        object.__setattr__(self, "array", array)

    @classmethod
    def from_rle(cls, rle: dict[str, Any]) -> Mask:
        """Decodes COCO's run-length encoding, plain or compressed.

        >>> Mask.from_rle({"size": [2, 3], "counts": [2, 2, 2]}).array.astype(int).tolist()
        [[0, 1, 0], [0, 1, 0]]

        Args:
            rle: `{"size": [h, w], "counts": …}`.

        Returns:
            The mask.

        Raises:
            InvalidInputError: if it is malformed, or compressed and pycocotools is not installed.
        """
        return cls(decode_rle(rle))

    @classmethod
    def from_polygon(cls, polygons: Sequence[Any], wh: Size) -> Mask:
        """Fills COCO's polygons. A pixel is inside if its centre is; several polygons are joined, each filled by the
        even-odd rule.

        Args:
            polygons: `[[x0, y0, x1, y1, …], …]` in pixels.
            wh: width and height of the image, pixels.

        Returns:
            The mask.

        Raises:
            InvalidInputError: for a malformed polygon, or no pixel inside.
        """
        return cls(fill_polygons(polygons, checked_size(wh)))

    @cached_property
    def xyxy(self) -> Xyxy:
        """The smallest box around the inside, pixels."""
        columns, rows = np.flatnonzero(self.array.any(axis=0)), np.flatnonzero(self.array.any(axis=1))
        return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))

    def rasterise(self, wh: Size) -> np.ndarray:
        """The mask as numbers: 1 inside, 0 outside.

        Args:
            wh: width and height of the image, pixels.

        Returns:
            `[H, W]` float32.
        """
        return self.clip(wh).array.astype(np.float32)

    def clip(self, wh: Size) -> Mask:
        """Checks that the mask is as large as the image.

        Args:
            wh: width and height of the image, pixels.

        Returns:
            The mask itself.

        Raises:
            InvalidInputError: if the sizes differ.
        """
        width, height = checked_size(wh)
        if self.array.shape != (height, width):
            have = f"{self.array.shape[1]}×{self.array.shape[0]}"
            raise InvalidInputError(
                f"the mask is {have} pixels and the image {width}×{height}; "
                "a mask must be as large as the original image."
            )
        return self

    def transform(self, scale_xy: Pair, offset_xy: Pair, wh: Size) -> Mask:
        """Maps the mask to another image, as `Box.transform`, with nearest-neighbour sampling.

        Args:
            scale_xy: scale of x and of y.
            offset_xy: pixels of the other image.
            wh: width and height of the other image, pixels.

        Returns:
            A mask as large as the other image.

        Raises:
            InvalidInputError: if nothing of it lies in the other image.
        """
        (sx, sy), (ox, oy) = scale_xy, offset_xy
        matrix = (1 / sx, 0.0, -ox / sx, 0.0, 1 / sy, -oy / sy)
        image = Image.fromarray(self.array.astype(np.uint8) * np.uint8(255))
        moved = image.transform(checked_size(wh), Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=0)
        return Mask(np.asarray(moved) > 0)

    def __repr__(self) -> str:
        height, width = self.array.shape
        return f"Mask({width}×{height}, {int(self.array.sum())} px inside)"
