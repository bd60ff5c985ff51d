"""Images with named points: which part, or which object, is it at this place?

Coordinates are pixels of the original image. Nothing here knows about models or strategies, and no image is opened
before a task asks about it.
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
    """An image and the points in it that are asked about.

    A strategy is given a `visprompt.Point` without a radius of its own, so every strategy, markers and attention alike,
    works on the same disc: 5 % of the image's shorter side around the point.

    Attributes:
        id: unique within the data set; statistics treat one image as one draw.
        image: path, or the image itself (PIL, or RGB array).
        points_xy: `[k, 2]`, pixels.
        names: what is at every point.
        ids: of the points, unique within the data set.
        kinds: what sort of point each is; empty where there is nothing to say.
        choices: names that occur in the image; empty: those of its points.

    Raises:
        InvalidInputError: if these do not belong together.
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
        """The file name, or the id of an image that has none."""
        return self.image.name if isinstance(self.image, Path) else self.id

    @cached_property
    def candidates_xyxy(self) -> Boxes:
        """`[k, 4]` squares around the points' discs; they may reach beyond the image, which is opened for its size.

        Raises:
            InvalidInputError: if it cannot be read.
            RegionNotVisibleError: for a point outside the image.
        """
        wh = self._size_wh()
        return np.array([Point(x, y).clip(wh).xyxy for x, y in self.points_xy]).reshape(-1, 4)

    @property
    def expressions(self) -> tuple[Expression, ...]:
        """The points' names as expressions about the squares: with the task `referring`, "where is the beak?"."""
        squares = self.candidates_xyxy
        return tuple(
            Expression(item, name, squares[[one == name for one in self.names]])
            for item, name in zip(self.ids, self.names, strict=True)
        )

    def region(self, xyxy: Xyxy) -> Point:
        """The disc in a square."""
        x0, y0, x1, y1 = xyxy
        return Point((x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2)

    def _size_wh(self) -> Size:
        try:
            width, height = shared_image(self.image).size
        except InvalidInputError as error:
            raise InvalidInputError(f"image {self.id}: {error}") from None
        return (width, height)


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"PointedPicture": "PointedImage"}, globals())
