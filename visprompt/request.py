"""Requests: an image, a region and a query. The module imports no models and no strategies."""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import Image

from visprompt.errors import InvalidInputError
from visprompt.imaging.load import ImageSource
from visprompt.imaging.shared import shared_image
from visprompt.regions.coco import short
from visprompt.regions.shapes import POINT_RADIUS_SHARE, Box, Mask, Point, Region, plain_array
from visprompt.utils.renamed import renamed_attributes
from visprompt.visual_prompt import VisualPrompt

__all__ = ["POINT_RADIUS_SHARE", "Box", "Mask", "Point", "Region", "Request", "as_regions"]


def as_regions(value: Any) -> tuple[Region, ...]:
    """Converts common notations to regions.

    >>> as_regions([(0, 0, 4, 4), (2, 2)])
    (Box(x0=0.0, y0=0.0, x1=4.0, y1=4.0), Point(x=2.0, y=2.0, radius=None))

    Args:
        value: see the table.

    Returns:
        One or more regions.

    Raises:
        InvalidInputError: if it is none of these, or holds no region.
    """
    regions = tuple(_regions(value))
    if not regions:
        raise InvalidInputError(
            "there is no region in it (an empty list or empty detections); give region=None for none."
        )
    return regions


def _regions(value: Any) -> list[Region]:
    if isinstance(value, Box | Point | Mask):
        return [value]
    if isinstance(value, dict):
        return [Mask.from_rle(value)]
    if type(value).__name__ == "Detections" and hasattr(value, "xyxy"):
        masks = getattr(value, "mask", None)
        return _regions(np.asarray(value.xyxy if masks is None else masks)) if len(value.xyxy) else []
    if isinstance(value, list | tuple) and not all(_is_number(item) for item in value):
        return [region for item in value for region in _regions(item)]
    array = None if isinstance(value, str | bytes | Image.Image) else plain_array(value)
    if array is not None and array.size == 0 and array.dtype.kind in "fiub":
        return []
    if array is not None and array.dtype.kind == "b" and array.ndim in (2, 3):
        return [Mask(array)] if array.ndim == 2 else [Mask(item) for item in array]
    if array is not None and array.dtype.kind in "fiu":
        if array.shape == (4,):
            return [Box(*array.tolist())]
        if array.shape == (2,):
            return [Point(*array.tolist())]
        if array.ndim == 2 and array.shape[1] == 4:
            return [Box(*row) for row in array.tolist()]
        if array.ndim == 2:
            raise InvalidInputError(
                f"an array of shape {array.shape} and dtype {array.dtype} is no region; "
                "masks must be boolean (array > 0)."
            )
    raise InvalidInputError(
        f"{short(value)} is no region; give vp.Box(x0, y0, x1, y1), vp.Point(x, y, radius), vp.Mask(array), four xyxy "
        "numbers, a boolean array, supervision Detections, or a list of these."
    )


RegionsAs: TypeAlias = Literal["each", "together"]


@renamed_attributes(picture="pil_image", pictures="pil_images")
@dataclass(frozen=True, eq=False, repr=False)
class Request:
    """An image, the regions to look at, and a question or expression about them.

    >>> Request(Image.new("RGB", (64, 48)), region=Box(4, 4, 20, 20), query="the dog")
    Request(<64×48 image>, Box(x0=4.0, y0=4.0, x1=20.0, y1=20.0), query='the dog')

    Args:
        image: path, PIL image, array, or web address; see `visprompt.imaging.load.load_image`. A list of them: several
            images of one question, or the frames of a video.
        region: one or several regions, in any form that `as_regions` takes; None: no region, the whole image. With
            several images: a list with one entry per image, each a region, several, or None; they belong to one result.
        query: the question or referring expression.
        regions_as: for several regions: `"each"` gives one result per region, `"together"` one with all of them.
        id: your name for the request, used in messages and reports.
        allow_url: fetch a web address.
        video: the images are the frames of a video, in order.

    Raises:
        InvalidInputError: for a malformed region at once; for an image that cannot be read, and regions outside it,
            when they are first needed.
    """

    image: ImageSource | Sequence[ImageSource]
    region: Any = None
    query: str | None = None
    regions_as: RegionsAs = "each"
    id: str | None = None
    allow_url: bool = False
    video: bool = False
    _given: tuple[tuple[Region, ...], ...] = field(init=False, default=())
    _lock: threading.RLock = field(init=False, default_factory=threading.RLock)
    _cache: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.regions_as not in ("each", "together"):
            raise InvalidInputError(f'regions_as is "each" or "together"; got {self.regions_as!r}.')
        if self.query is not None and not isinstance(self.query, str):
            raise InvalidInputError(f"a query is a text; got {short(self.query)}. Make one request per query.")
        if isinstance(self.image, list | tuple) and not self.image:
            raise InvalidInputError("the list of images is empty.")
        if self.video and not isinstance(self.image, list | tuple):
            raise InvalidInputError("a video is a list of frames, in order: vp.Request([frame, …], video=True).")
        count = len(self._images)
        given: list[tuple[Region, ...]] = [()] * count
        if self.region is not None:
            with _naming(self):
                if not isinstance(self.image, list | tuple):
                    given = [as_regions(self.region)]
                elif isinstance(self.region, list | tuple) and len(self.region) == count:
                    given = [() if item is None else as_regions(item) for item in self.region]
                else:
                    raise InvalidInputError(
                        f"{count} images take a list of {count} regions, one entry per image, None for none; got "
                        f"{short(self.region)}."
                    )
        object.__setattr__(self, "_given", tuple(given))

    @property
    def _images(self) -> tuple[ImageSource, ...]:
        return tuple(self.image) if isinstance(self.image, list | tuple) else (self.image,)  # type: ignore

    @property
    def pil_images(self) -> tuple[Image.Image, ...]:
        """All its images, upright RGB; most requests have one."""
        return tuple(self._load(number) for number in range(len(self._images)))

    @property
    def pil_image(self) -> Image.Image:
        """The image, upright RGB; the first of several.

        Images read from files are kept only while they are in use (and the last few of them), so that many thousand
        requests do not fill the memory; requests on one file share one image.
        """
        return self._load(0)

    def _load(self, number: int) -> Image.Image:
        with self._lock:
            held = self._cache.get(f"image {number}")
            image = held() if held is not None else None
            if image is None:
                source = self._images[number]
                with _naming(self):
                    image = shared_image(source, self.allow_url)
                from_file = isinstance(source, str | os.PathLike)
                self._cache[f"image {number}"] = weakref.ref(image) if from_file else _always(image)
            return image

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions of the first image, clipped to it (with a warning if that changed one); empty without a region.

        Raises:
            InvalidInputError: naming the request, if a region lies outside the image or a mask has another size.
        """
        return self.regions_of(0)

    def regions_of(self, number: int) -> tuple[Region, ...]:
        """The regions on one of several images, as `regions`.

        Args:
            number: index of the image.

        Returns:
            The clipped regions of that image.

        Raises:
            InvalidInputError: as in `regions`.
        """
        given = self._given[number]
        if not given:
            return ()
        with self._lock:
            if f"regions {number}" not in self._cache:
                wh = self._load(number).size
                with _naming(self):
                    clipped = tuple(region.clip(wh) for region in given)
                for before, after in zip(given, clipped, strict=True):
                    if isinstance(before, Box) and max(before.xyxy) <= 1:
                        message = f"{self!r}: {before!r} is smaller than a pixel; for fractions of the image use "
                        warnings.warn(message + "Box.from_normalised(x0, y0, x1, y1, wh).", UserWarning, stacklevel=2)
                    outside = isinstance(before, Point) and not (0 <= before.x <= wh[0] and 0 <= before.y <= wh[1])
                    if outside or (isinstance(before, Box) and before != after):
                        message = f"{self!r}: {before!r} reaches beyond the image ({wh[0]}×{wh[1]} pixels), clipped."
                        warnings.warn(message, UserWarning, stacklevel=2)
                self._cache[f"regions {number}"] = clipped
            result: tuple[Region, ...] = self._cache[f"regions {number}"]
            return result

    def units(self) -> list[VisualPrompt]:
        """Splits the request into plain prompts, which strategies then edit.

        Returns:
            One prompt per region, or one with all or none of them (`regions_as`); with several images one per image.
        """
        count = len(self._images)
        if count > 1 or isinstance(self.image, list | tuple):
            return [
                VisualPrompt(
                    self._load(number),
                    regions=self.regions_of(number),
                    query=self.query,
                    request=self,
                    place=(number, count),
                )
                for number in range(count)
            ]
        image, regions = self.pil_image, self.regions
        groups = [(region,) for region in regions] if regions and self.regions_as == "each" else [regions]
        return [VisualPrompt(image, regions=group, query=self.query, request=self) for group in groups]

    def __repr__(self) -> str:
        parts = [repr(self.id)] if self.id is not None else []
        images = self._images
        kind = "frames" if self.video else "images"
        parts.append(_image_name(images[0]) if len(images) == 1 else f"{len(images)} {kind}")
        given = [region for group in self._given for region in group]
        if given:
            together = "together" if len(images) > 1 else self.regions_as
            parts.append(repr(given[0]) if len(given) == 1 else f"{len(given)} regions {together}")
        if self.query is not None:
            parts.append(f"query={self.query if len(self.query) <= 60 else self.query[:57] + '…'!r}")
        return f"Request({', '.join(parts)})"

    def __reduce__(self) -> tuple[Any, ...]:
        # locks and caches are not sent to worker processes
        return (Request, (self.image, self.region, self.query, self.regions_as, self.id, self.allow_url, self.video))


# -- helpers ----------------------------------------------------------------------------------------------------


def _always(image: Image.Image) -> Callable[[], Image.Image]:
    return lambda: image


class _naming:
    """Puts the request's name in front of an `InvalidInputError` that is raised in the block."""

    def __init__(self, request: Request) -> None:
        self.request = request

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if isinstance(error, InvalidInputError):
            raise type(error)(f"{self.request!r}: {error}") from None


def _image_name(image: Any) -> str:
    if isinstance(image, str | os.PathLike):
        return repr(str(image))
    if isinstance(image, Image.Image):
        return f"<{image.width}×{image.height} image>"
    shape = getattr(image, "shape", None)
    return f"<{type(image).__name__}{'' if shape is None else ' ' + str(tuple(shape))}>"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
