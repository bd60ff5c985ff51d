"""Converts images to a model's inputs, with their geometry."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from cachetools import FIFOCache, LRUCache
from PIL import Image
from torch import Tensor

from visprompt.geometry.geometry import Geometry
from visprompt.geometry.resolve import fitted, resolve
from visprompt.utils.renamed import renamed_names, renamed_parameters
from visprompt.visual_prompt import Fit

if TYPE_CHECKING:
    from visprompt.models.base import Model

Size = tuple[int, int]


#: number of image sizes whose geometry a reader caches
_MAX_SIZES = 4096


def _geometries() -> LRUCache[tuple[Size, Fit], Geometry]:
    return LRUCache(maxsize=_MAX_SIZES)


class ImageReader:
    """Runs a model's own processor and gives the geometry of its inputs.

    Args:
        processor: transformers image processor or torchvision transform.
        read: one image → its model inputs (a dict of tensors without a batch axis, `pixel_values` among them).
        as_image: those inputs → `[3, h, w]` as the tower sees them, for the geometry probe.
        patch_size: (height, width) of a patch in input pixels; None for models without patches.
        batch: joins the inputs of several images; None: they are stacked.
    """

    def __init__(
        self,
        processor: Any,
        read: Callable[[Image.Image], dict[str, Tensor]],
        as_image: Callable[[dict[str, Tensor]], Tensor],
        patch_size: Size | None,
        batch: Callable[[list[dict[str, Tensor]]], dict[str, Tensor]] | None = None,
    ) -> None:
        self.processor, self._read, self._as_image, self.patch_size = processor, read, as_image, patch_size
        self._batch = batch or _stack
        self._geometries = _geometries()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        # For worker processes that load images: they fill their own cache.
        return {**self.__dict__, "_geometries": _geometries(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @renamed_parameters(picture="image")
    def preprocess(self, image: Image.Image) -> np.ndarray:
        """Preprocesses one image.

        Args:
            image: the image.

        Returns:
            `[3, h, w]` float32 as the tower sees it.
        """
        return self._as_image(self._read(image)).float().numpy()

    def geometry(self, image_wh: Size, fit: Fit) -> Geometry:
        """The geometry of an image size, cached.

        Args:
            image_wh: width and height of the image, pixels.
            fit: how the image is fitted into the input.

        Returns:
            The geometry.
        """
        key = ((int(image_wh[0]), int(image_wh[1])), fit)
        with self._lock:
            found = self._geometries.get(key)
        if found is None:
            found = self._find_geometry(*key)
            with self._lock:
                self._geometries[key] = found
        return found

    def _find_geometry(self, image_wh: Size, fit: Fit) -> Geometry:
        # A model without patches gets one "patch", the whole input.
        options: dict[str, Any] = {"patch_size": self.patch_size} if self.patch_size else {"grid_hw": (1, 1)}
        if fit == "model":
            return resolve(self.processor, self.preprocess, image_wh, **options)
        return fitted(Image.new("RGB", image_wh), fit, self.processor, self.preprocess, **options)[1]

    @renamed_parameters(picture="image")
    def one(self, image: Image.Image, fit: Fit, cache: ImagePixels | None = None) -> dict[str, Tensor]:
        """Prepares the inputs of one image.

        Args:
            image: the image.
            fit: how it is fitted into the input.
            cache: returns inputs that were prepared before, and stores new ones.

        Returns:
            Tensors without a batch axis, by name.

        Raises:
            InvalidInputError: for an image that is too small or too long.
        """
        cached = cache.get(image, fit) if cache is not None else None
        if cached is not None:
            return cached
        self.geometry(image.size, fit)  # refuses images that are too small or too long
        ready = (
            image
            if fit == "model"
            else fitted(image, fit, self.processor, self.preprocess, patch_size=self.patch_size or 1)[0]
        )
        inputs = self._read(ready)
        if cache is not None:
            cache.put(image, fit, inputs)
        return inputs

    @renamed_parameters(pictures="images")
    def inputs(
        self, images: Sequence[tuple[Image.Image, Fit]], model: Model, cache: ImagePixels | None = None
    ) -> dict[str, Tensor]:
        """Prepares the inputs of several images, on the model's device and in its dtype.

        Args:
            images: (image, fit) of each.
            model: the model.
            cache: as in `one`.

        Returns:
            Tensors with the images on the first axis, by name.
        """
        batch = self._batch([self.one(image, fit, cache) for image, fit in images])
        return {
            name: item.to(model.device, model.dtype) if item.is_floating_point() else item.to(model.device)
            for name, item in batch.items()
        }

    @renamed_parameters(pictures="images")
    def same_shape(self, images: Sequence[tuple[Image.Image, Fit]], cache: ImagePixels | None) -> list[list[int]]:
        """Groups images whose inputs have the same size, which can run in one batch.

        Args:
            images: (image, fit) of each.
            cache: as in `one`.

        Returns:
            Lists of indices into `images`.
        """
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, (image, fit) in enumerate(images):
            shape = tuple(self.one(image, fit, cache)["pixel_values"].shape)
            groups.setdefault(shape, []).append(number)
        return list(groups.values())


class Transformed:
    """Reads an image with a torchvision transform. It is a class and not a closure, so that it can be pickled.

    Args:
        transform: image → `[3, h, w]`.
    """

    def __init__(self, transform: Callable[[Image.Image], Tensor]) -> None:
        self.transform = transform

    def __call__(self, image: Image.Image) -> dict[str, Tensor]:
        """Transforms one image.

        Args:
            image: the image.

        Returns:
            `{"pixel_values": [3, h, w]}`.
        """
        return {"pixel_values": self.transform(image)}


class Processed:
    """Reads an image with a transformers image processor.

    Args:
        processor: the processor.
        names: names of the tensors that are used.
    """

    def __init__(self, processor: Any, names: tuple[str, ...] = ("pixel_values",)) -> None:
        self.processor, self.names = processor, names

    def __call__(self, image: Image.Image) -> dict[str, Tensor]:
        """Processes one image.

        Args:
            image: the image.

        Returns:
            Tensors without a batch axis, by name.
        """
        batch = self.processor(images=[image], return_tensors="pt")
        return {name: torch.as_tensor(batch[name])[0] for name in self.names}


def pixels_of(inputs: dict[str, Tensor]) -> Tensor:
    """The pixels as the tower sees them, where `pixel_values` holds an image.

    Args:
        inputs: the inputs of one image.

    Returns:
        `[3, h, w]`.
    """
    return inputs["pixel_values"]


def _stack(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


class ImagePixels:
    """Caches model inputs of image objects while these are alive, so that a run prepares each image once. Thread-safe.

    Args:
        most: the largest number of images.
    """

    def __init__(self, most: int = 256) -> None:
        self._items: FIFOCache[tuple[int, Fit], tuple[weakref.ref[Image.Image], dict[str, Tensor]]] = FIFOCache(most)
        self._lock = threading.Lock()

    @renamed_parameters(picture="image")
    def get(self, image: Image.Image, fit: Fit) -> dict[str, Tensor] | None:
        """Looks up the inputs of an image object.

        Args:
            image: the object.
            fit: how it was fitted.

        Returns:
            Its inputs, or None.
        """
        with self._lock:
            held = self._items.get((id(image), fit))
            return held[1] if held is not None and held[0]() is image else None

    @renamed_parameters(picture="image")
    def put(self, image: Image.Image, fit: Fit, inputs: dict[str, Tensor]) -> None:
        """Stores inputs; the oldest entry is dropped if there are too many.

        Args:
            image: the image object.
            fit: how it was fitted.
            inputs: its model inputs.
        """
        with self._lock:
            self._items[(id(image), fit)] = (weakref.ref(image), inputs)


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"PictureReader": "ImageReader", "PicturePixels": "ImagePixels"}, globals())
