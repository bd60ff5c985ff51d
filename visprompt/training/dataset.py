"""From labelled images to a model's inputs: the dataset that the training loop's `DataLoader` reads.

Random augmentation depends on (seed, epoch, index) alone, so that a run is the same with any number of processes and
after resuming. This module imports no strategy, loss or loop.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from visprompt.data.labelled.items import size_mismatch
from visprompt.errors import InvalidInputError, VispromptError, unknown_name
from visprompt.geometry.geometry import Geometry
from visprompt.training.pixel_labels import Size, labels_to_input, labels_to_original, only_tile
from visprompt.utils.renamed import renamed_names
from visprompt.visual_prompt import FITS, Fit

if TYPE_CHECKING:
    from visprompt.data.labelled.dataset import Labelled
    from visprompt.models.preprocessing import ImageReader

__all__ = ["AUGMENTS", "Augment", "ImageDataset", "UnreadableItem", "collate", "labels_to_input", "labels_to_original"]

Augment: TypeAlias = Literal["none", "flip", "shift", "crop"]
AUGMENTS: tuple[str, ...] = ("none", "flip", "shift", "crop")

#: random resized crop: fraction of the image's area, and aspect ratio (width / height)
CROP_SCALE = (0.2, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
#: side of the shifted window as a fraction of the image's shorter side: 224 of 256
SHIFT_SHARE = 0.875
#: key of an item: the box of the input that shows the image, without padding
SEEN = "seen_xyxy"
_SALT = 419871  # part of every random seed: changing it changes every augmented image


class UnreadableItem(InvalidInputError):
    """An image or label that could not be opened in training; the message names the item."""

    def __init__(self, message: str) -> None:
        # A DataLoader passes a worker process's error on as the text of its traceback; the last line has our message.
        super().__init__(message.rpartition("UnreadableItem: ")[2].strip())


class ImageDataset(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Labelled images as a model's inputs, one at a time; the key of an item is (index, epoch).

    An item is a dict: `"pixel_values"` float32 `[3, h, w]` (or the tensors of the model's own reader), `"index"`, and
    `"label"`: the number of a class; with `dense` a LongTensor `[h, w]` in pixels of the input; or (question, answer).
    Where the input shows padding, dense labels are the data's `ignore_index`.

    The dataset can be sent to other processes, forked or spawned; the cache is not sent.

    Args:
        data: the images.
        reader: the model's image reader (`model.reader`).
        fit: how an image is brought to the input's size: `"model"`, `"pad"` or `"squash"`, as in `VisualPrompt`.
        augment: `"none"`; `"flip"`: mirrored with probability ½; `"shift"`: also a window of 7/8 of the image's shorter
            side at a random position, which is a random crop of 224 out of 256; `"crop"`: also a random resized crop,
            0.2 to 1 of the area, aspect ratio 3:4 to 4:3. Windows fill the input, whatever `fit` is. Mirroring is wrong
            where left and right have a meaning.
        seed: of the random augmentation, 0 or more.
        cache_mb: without augmentation, inputs are kept in memory up to this many megabytes (2²⁰ bytes), divided between
            the worker processes.
        dense: whether labels are masks.
        where: whether items also have `"seen_xyxy"`, float32 `[4]`: left, top, right and bottom of the part of the
            input that shows the image, in pixels of the input; the rest is padding.

    Raises:
        InvalidInputError: for options that do not go together.
        UnreadableItem: when an item cannot be opened, unless the data has `on_bad="skip"`: then the item is None, and
            the file is named once in a warning.
    """

    def __init__(
        self,
        data: Labelled,
        reader: ImageReader,
        *,
        fit: Fit = "model",
        augment: Augment = "none",
        seed: int = 0,
        cache_mb: float = 1024,
        dense: bool = False,
        where: bool = False,
    ) -> None:
        if augment not in AUGMENTS:
            raise unknown_name("augmentation", augment, AUGMENTS)
        if fit not in FITS:
            raise unknown_name("fit", fit, FITS)
        if seed < 0:
            raise InvalidInputError(f"a seed is 0 or more; got {seed}.")
        if dense != (data.kind == "segmentation"):
            wanted = "masks: dense=True" if data.kind == "segmentation" else f"labels of {data.kind}: dense=False"
            raise InvalidInputError(f"{data.name or 'the data set'} has {wanted}.")
        self.data, self.reader, self.fit, self.augment = data, reader, fit, augment
        self.seed, self.dense, self.where = seed, dense, where
        self.cache_bytes = int(cache_mb * 2**20)
        self._cache: dict[int, dict[str, Any]] = {}
        self._cached_bytes = 0
        self._named: set[str] = set()

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, Any] | None:
        index, epoch = key if isinstance(key, tuple) else (key, 0)
        if index in self._cache:
            return dict(self._cache[index])
        try:
            sample = self._read(index, epoch)
        except VispromptError as error:
            self._failed(index, error)
            return None
        if self.augment == "none":
            self._keep(index, sample)
        return sample

    def __getstate__(self) -> dict[str, Any]:
        try:
            pickle.dumps(self.reader)
        except Exception as error:
            raise InvalidInputError(
                f"this model's image reader cannot be sent to a spawned process ({error}): load images with "
                'num_workers=0, or with the start method "fork".'
            ) from None
        return {**self.__dict__, "_cache": {}, "_cached_bytes": 0}

    # -- one item ---------------------------------------------------------------------------------------------------

    def _read(self, index: int, epoch: int) -> dict[str, Any]:
        image = self.data.image(index)
        label = self.data.label(index)
        if self.dense:
            assert isinstance(label, np.ndarray)
            if label.shape[::-1] != image.size:
                name = f"the mask of {self.data.item_name(index)}"
                raise InvalidInputError(size_mismatch(label.shape, image, None, name))
        inputs, geometry, label = self._inputs(image, label, (index, epoch))
        sample: dict[str, Any] = {
            name: item.float() if item.is_floating_point() else item for name, item in inputs.items()
        }
        if self.dense:
            ignore = -100 if self.data.ignore_index is None else self.data.ignore_index
            label = torch.from_numpy(labels_to_input(label, geometry, ignore))
        if self.where:
            sample[SEEN] = torch.tensor(shown(geometry), dtype=torch.float32)
        return {**sample, "label": label, "index": index}

    def _inputs(self, image: Image.Image, label: Any, key: Size) -> tuple[dict[str, Tensor], Geometry, Any]:
        """The model's inputs, the geometry from the labelled image to the input, and the label of the same window."""
        if self.augment == "none":
            return self.reader.one(image, self.fit), self.reader.geometry(image.size, self.fit), label
        draws = np.random.Generator(np.random.PCG64(np.random.SeedSequence([_SALT, self.seed, key[1], key[0]])))
        if draws.random() < 0.5:
            image = ImageOps.mirror(image)
            label = np.ascontiguousarray(label[:, ::-1]) if self.dense else label
        if self.augment == "flip":
            return self.reader.one(image, self.fit), self.reader.geometry(image.size, self.fit), label
        input_hw = self.reader.geometry(image.size, "model").tiles[0].input_hw
        whole = image.size
        left, top, right, bottom = (
            shift_window(whole, input_hw, draws) if self.augment == "shift" else crop_window(whole, draws)
        )
        # Resized here and not by the processor: all windows then have one size, so the geometry is computed only once.
        wh = (input_hw[1], input_hw[0])
        ready = image.resize(wh, Image.Resampling.BICUBIC, box=(left, top, right, bottom))
        if self.dense:
            label = label[top:bottom, left:right]
        geometry = _before(self.reader.geometry(wh, "squash"), (right - left, bottom - top))
        return self.reader.one(ready, "squash"), geometry, label

    # -- cache and failures -----------------------------------------------------------------------------------------

    def _keep(self, index: int, sample: dict[str, Any]) -> None:
        worker = torch.utils.data.get_worker_info()
        budget = self.cache_bytes // (worker.num_workers if worker is not None else 1)
        size = sum(item.numel() * item.element_size() for item in sample.values() if isinstance(item, Tensor))
        if self._cached_bytes + size <= budget:
            self._cache[index] = dict(sample)
            self._cached_bytes += size

    def _failed(self, index: int, error: Exception) -> None:
        name = self.data.item_name(index)
        message = str(error) if name in str(error) else f"{name}: {error}"
        if self.data.on_bad == "refuse":
            raise UnreadableItem(message) from None
        if name not in self._named:
            self._named.add(name)
            warnings.warn(f"left out of training: {message}", UserWarning, stacklevel=3)


def collate(samples: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """Joins items into a batch; items that are None are left out.

    >>> items = [{"pixel_values": torch.zeros(3, 2, 2), "label": 4, "index": 0}, None]
    >>> batch = collate(items)
    >>> batch["pixel_values"].shape, batch["label"], batch["index"]
    (torch.Size([1, 3, 2, 2]), tensor([4]), tensor([0]))

    Args:
        samples: items of one dataset.

    Returns:
        Tensors with a batch axis; `"label"` a LongTensor `[n]` or `[n, h, w]`, or a list of (question, answer);
            `"index"` a LongTensor `[n]`. If every item is None, the batch has an empty `"index"` and no other key.

    Raises:
        InvalidInputError: if the inputs have different sizes.
    """
    readable = [sample for sample in samples if sample is not None]
    batch: dict[str, Any] = {"index": torch.tensor([sample["index"] for sample in readable], dtype=torch.long)}
    for name in readable[0] if readable else ():
        values = [sample[name] for sample in readable]
        if name == "index":
            continue
        if isinstance(values[0], Tensor):
            batch[name] = _stacked(name, values)
        elif isinstance(values[0], int):
            batch[name] = torch.tensor(values, dtype=torch.long)
        else:
            batch[name] = values
    return batch


def _stacked(name: str, values: list[Tensor]) -> Tensor:
    shapes = sorted({tuple(value.shape) for value in values})
    if len(shapes) > 1:
        raise InvalidInputError(
            f"{name} of a batch have different sizes, {shapes[0]} and {shapes[-1]}: this model's input follows the "
            'image. Use fit="pad" or fit="squash" if it takes them, or batches of one image.'
        )
    return torch.stack(values)


# -- windows --------------------------------------------------------------------------------------------------------


def crop_window(wh: Size, draws: np.random.Generator) -> tuple[int, int, int, int]:
    """Draws the window of a random resized crop.

    Area and aspect ratio are drawn up to ten times; if no window fits into the image, the largest centred window within
    the aspect ratios is taken.

    Args:
        wh: width and height of the image, pixels.
        draws: random generator.

    Returns:
        Left, top, right and bottom, whole pixels of the image.
    """
    width, height = wh
    low, high = math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])
    for area, ratio, x, y in draws.random((10, 4)).tolist():
        size = width * height * (CROP_SCALE[0] + area * (CROP_SCALE[1] - CROP_SCALE[0]))
        aspect = math.exp(low + ratio * (high - low))
        w, h = round(math.sqrt(size * aspect)), round(math.sqrt(size / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return left, top, left + w, top + h
    w = max(min(width, round(height * CROP_RATIO[1])), 1)
    h = max(min(height, round(width / CROP_RATIO[0])), 1)
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def shift_window(wh: Size, input_hw: Size, draws: np.random.Generator) -> tuple[int, int, int, int]:
    """Draws a window with the input's aspect ratio, 7/8 as large as the largest one, at a random position.

    Args:
        wh: width and height of the image, pixels.
        input_hw: height and width of the model's input, pixels.
        draws: random generator.

    Returns:
        Left, top, right and bottom, whole pixels of the image.
    """
    x, y = draws.random(2).tolist()
    factor = SHIFT_SHARE * min(wh[0] / input_hw[1], wh[1] / input_hw[0])
    w, h = (max(round(side * factor), 1) for side in (input_hw[1], input_hw[0]))
    left, top = int(x * (wh[0] - w + 1)), int(y * (wh[1] - h + 1))
    return left, top, left + w, top + h


def _before(geometry: Geometry, wh: Size) -> Geometry:
    """The geometry from an image of size `wh` that is first resized to the geometry's own image size."""
    fx, fy = geometry.image_wh[0] / wh[0], geometry.image_wh[1] / wh[1]
    tiles = tuple(
        dataclasses.replace(tile, scale_xy=(tile.scale_xy[0] * fx, tile.scale_xy[1] * fy)) for tile in geometry.tiles
    )
    return dataclasses.replace(geometry, image_wh=wh, tiles=tiles)


def shown(geometry: Geometry) -> tuple[float, float, float, float]:
    """The part of a model's input that shows the image, without padding.

    >>> from visprompt.geometry.geometry import Tile
    >>> padded = Geometry((4, 2), (Tile((0.5, 0.5), (0.0, 0.5), (2, 2), (2, 2)),))
    >>> shown(padded)
    (0.0, 0.5, 2.0, 1.5)

    Args:
        geometry: of an image in one tile.

    Returns:
        Left, top, right and bottom, pixels of the input.

    Raises:
        InvalidInputError: for an image in several tiles.
    """
    tile = only_tile(geometry)
    borders = []
    for axis in (0, 1):
        scale, offset, end = tile.scale_xy[axis], tile.offset_xy[axis], tile.grid_hw[1 - axis] * tile.patch_hw[1 - axis]
        low, high = max(offset, 0.0), min(offset + scale * geometry.image_wh[axis], end)
        # A thousandth of a pixel from the border is a rounding error.
        borders.append((0.0 if low < 1e-3 else low, float(end) if high > end - 1e-3 else high))
    (x0, x1), (y0, y1) = borders
    return (x0, y0, x1, y1)


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"Pictures": "ImageDataset"}, globals())
