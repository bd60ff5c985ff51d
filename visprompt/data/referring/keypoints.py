"""Images with named points, for the question which part or which object is at a point.

Coordinates are pixels of the original image. This module imports no models or strategies, and an image is opened only
when its size is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visprompt.data.referring.image import Boxes, Expression
from visprompt.errors import InvalidInputError
from visprompt.imaging.shared import shared_image
from visprompt.regions.shapes import Point
from visprompt.utils.renamed import renamed_names

if TYPE_CHECKING:
    from PIL.Image import Image

    from visprompt.regions.shapes import Size, Xyxy

Points = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PointedImage:
    """An image and the named points that a task asks about.

    A strategy gets a `visprompt.Point` without a radius. All strategies, whether they draw markers or edit attention,
    then work on the same disc: its radius is 5 % of the image's shorter side.

    Attributes:
        id: unique within the data set; confidence intervals treat each image as one independent draw.
        image: path, or the image itself (PIL, or RGB array `[h, w, 3]`).
        points_xy: `[k, 2]` points in pixels.
        names: name of the part or object at every point.
        ids: ids of the points, unique within the data set.
        kinds: category of every point, for grouping results; empty if there are no categories.
        choices: names that occur in the image; empty: the names of its points.
        extra: further annotations of the data set, by name.

    Raises:
        InvalidInputError: if the numbers of points, names and ids differ.
    """

    id: str
    image: Path | Image | NDArray[np.uint8]
    points_xy: Points
    names: tuple[str, ...]
    ids: tuple[str, ...]
    kinds: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.names)
        if self.points_xy.shape != (count, 2) or len(self.ids) != count or len(self.kinds) not in (0, count):
            raise InvalidInputError(
                f"image {self.id}: {count} names go with {count} points [k, 2] and {count} ids; got points of shape "
                f"{self.points_xy.shape} and {len(self.ids)} ids."
            )

    @property
    def image_name(self) -> str:
        """The image's file name, or `id` if the image is not a file."""
        return self.image.name if isinstance(self.image, Path) else self.id

    @cached_property
    def candidates_xyxy(self) -> Boxes:
        """`[k, 4]` bounding boxes xyxy of the points' discs, in pixels; they may extend beyond the image.

        The image is opened to get its size.

        Raises:
            InvalidInputError: if the image cannot be read.
            RegionNotVisibleError: for a point outside the image.
        """
        wh = self._size_wh()
        return np.array([Point(x, y).clip(wh).xyxy for x, y in self.points_xy]).reshape(-1, 4)

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """One referring expression per point, with the point's name as text and its disc's bounding box as gold box.

        The task `referring` uses them to ask, for example, where the beak is.
        """
        squares = self.candidates_xyxy
        return tuple(
            Expression(item, name, squares[[one == name for one in self.names]])
            for item, name in zip(self.ids, self.names, strict=True)
        )

    def region(self, xyxy: Xyxy) -> Point:
        """Returns the disc inscribed in a square `xyxy` as a point with a radius."""
        x0, y0, x1, y1 = xyxy
        return Point((x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2)

    def _size_wh(self) -> Size:
        try:
            width, height = shared_image(self.image).size
        except InvalidInputError as error:
            raise InvalidInputError(f"image {self.id}: {error}") from None
        return (width, height)


#: names of visprompt 0.4.0, which work with a DeprecationWarning
__getattr__ = renamed_names(__name__, {"PointedPicture": "PointedImage"}, globals())
