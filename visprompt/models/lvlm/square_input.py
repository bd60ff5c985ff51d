"""Square inputs for towers whose processors cut images into tiles, or make a number of patches that depends on the
image.

For training on such a tower every image becomes one square, pixels `[n, 3, s, s]`, to which gradients flow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from visprompt.errors import UnsupportedError
from visprompt.geometry.analytic import mean_rgb
from visprompt.geometry.fit import MIN_SIDE_PX, check_processable, fit_image
from visprompt.geometry.geometry import Geometry, Tile
from visprompt.models.lvlm.layouts.tower_input import TowerInput
from visprompt.models.preprocessing import ImagePixels, ImageReader, pixels_of
from visprompt.utils.renamed import renamed_names, renamed_parameters
from visprompt.visual_prompt import Fit

if TYPE_CHECKING:
    from visprompt.models.lvlm.model import LVLM

Size = tuple[int, int]

#: preferred side of the square for a packed tower, pixels (32 × 32 patches of 14); its processor may limit it
USUAL_SIDE = 448


class SquareInput(ImageReader):
    """Reads every image as one square: squashed, or padded with `fit="pad"`.

    Args:
        processor: the model's own.
        read: a square image of the right size → its inputs.
        tower: size and patches of the square.
    """

    def __init__(self, processor: Any, read: Callable[[Image.Image], dict[str, Tensor]], tower: TowerInput) -> None:
        super().__init__(processor, read, pixels_of, (tower.patch, tower.patch))
        self.tower = tower

    def _find_geometry(self, image_wh: Size, fit: Fit) -> Geometry:
        check_processable(image_wh)
        _, scale, offset = self._fitted(Image.new("RGB", image_wh), fit)
        square = self.tower.whole(image_wh)
        return Geometry(image_wh, (Tile(scale, offset, square.input_hw, square.grid_hw, square.patch_hw),))

    @renamed_parameters(picture="image")
    def one(self, image: Image.Image, fit: Fit, cache: ImagePixels | None = None) -> dict[str, Tensor]:
        """Prepares the inputs of one image.

        Args:
            image: the image.
            fit: `"pad"`; anything else squashes it.
            cache: returns inputs that were prepared before, and stores new ones.

        Returns:
            `{"pixel_values": [3, s, s]}`.

        Raises:
            InvalidInputError: for an image that is too small or too long.
        """
        cached = cache.get(image, fit) if cache is not None else None
        if cached is not None:
            return cached
        check_processable(image.size)
        inputs = self._read(self._fitted(image, fit)[0])
        if cache is not None:
            cache.put(image, fit, inputs)
        return inputs

    @renamed_parameters(picture="image")
    def preprocess(self, image: Image.Image) -> Any:
        """Preprocesses one image.

        Args:
            image: the image.

        Returns:
            `[3, s, s]` float32 as the tower sees it.
        """
        return self.one(image, "model")["pixel_values"].float().numpy()

    def _fitted(self, image: Image.Image, fit: Fit) -> tuple[Image.Image, tuple[float, float], tuple[float, float]]:
        side = self.tower.side
        kind = "squash" if fit == "model" else fit
        chosen = getattr(self.processor, "resample", None)
        resample = Image.Resampling.BICUBIC if chosen is None else Image.Resampling(int(chosen))
        return fit_image(image.convert("RGB"), kind, (side, side), mean_rgb(self.processor), resample)


# -- tiles ------------------------------------------------------------------------------------------------------------


class WholeTile:
    """Reads a square image of the tower's own input size as one tile, with the LVLM's image processor.

    Args:
        processor: the image processor.
        side: side of the tower's input, pixels.
        options: options that keep the processor from tiling the image.
    """

    def __init__(self, processor: Any, side: int, options: dict[str, Any]) -> None:
        self.processor, self.side, self.options = processor, side, options

    def __call__(self, image: Image.Image) -> dict[str, Tensor]:
        """Reads one image.

        Args:
            image: the square image.

        Returns:
            `{"pixel_values": [3, s, s]}`.

        Raises:
            UnsupportedError: if the processor makes another input of it.
        """
        batch = self.processor(images=[image], return_tensors="pt", **self.options)
        tiles = torch.as_tensor(batch["pixel_values"])
        # If there are several tiles, the first one shows the whole image (LLaVA-NeXT, OneVision).
        pixels = tiles.reshape(-1, *tiles.shape[-3:])[0]
        if tuple(pixels.shape) != (3, self.side, self.side):
            raise UnsupportedError(
                f"{type(self.processor).__name__} makes inputs of {tuple(pixels.shape)} of an image of {self.side}×"
                f"{self.side} pixels, which the vision tower takes as it is."
            )
        return {"pixel_values": pixels}


#: model type → options that keep its image processor from tiling or resizing an image
WHOLE: dict[str, dict[str, Any]] = {
    "llava_next": {},
    "llava_onevision": {},
    "internvl": {"crop_to_patches": False},
    "idefics3": {"do_image_splitting": False, "do_resize": False},
    "smolvlm": {"do_image_splitting": False, "do_resize": False},
}


def tile_reader(model: LVLM) -> SquareInput:
    """Makes a reader for one tile of the tower's own input size that shows the whole image.

    Args:
        model: the LVLM.

    Returns:
        The reader.

    Raises:
        UnsupportedError: for a processor whose tiles are not squares of that size.
    """
    layout = model.layout((256, 256))
    if layout.vision is None:
        raise UnsupportedError(f"{model.name}: what its vision tower sees of an image is not known.")
    tile = layout.vision.tiles[0]
    tower = TowerInput(tile.input_hw[0], round(tile.patch_hw[0]))
    processor = model.reader.processor
    return SquareInput(processor, WholeTile(processor, tower.side, WHOLE[str(model.config.model_type)]), tower)


# -- patches in a row -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Padding:
    """The layout of SigLIP 2's NaFlex for a square image: a row of patches, none of which is padding.

    Args:
        side: side of the image, pixels.
        patch: side of a patch, pixels.
    """

    side: int
    patch: int

    def pack(self, pixels: Tensor) -> dict[str, Tensor]:
        """Converts images to the tower's inputs, with gradients.

        Args:
            pixels: `[n, 3, s, s]`.

        Returns:
            `pixel_values` `[n, P, 3 · patch · patch]`, `pixel_attention_mask` `[n, P]` and `spatial_shapes` `[n, 2]`.
        """
        n, grid = len(pixels), self.side // self.patch
        parts = pixels.reshape(n, 3, grid, self.patch, grid, self.patch).permute(0, 2, 4, 3, 5, 1)
        return {
            "pixel_values": parts.reshape(n, grid * grid, -1),
            "pixel_attention_mask": torch.ones(n, grid * grid, dtype=torch.int32, device=pixels.device),
            "spatial_shapes": torch.full((n, 2), grid, device=pixels.device),
        }


class PaddedSquare:
    """Reads a square image with a model's own reader and puts its patches back into an image.

    Args:
        reader: the model's reader.
    """

    def __init__(self, reader: ImageReader) -> None:
        self.reader = reader

    def __call__(self, image: Image.Image) -> dict[str, Tensor]:
        """Reads one image.

        Args:
            image: the square image.

        Returns:
            `{"pixel_values": [3, s, s]}`.
        """
        return {"pixel_values": torch.from_numpy(self.reader.preprocess(image))}


def padded_reader(reader: ImageReader, name: str) -> tuple[SquareInput, Padding]:
    """Makes a reader for squares that the processor leaves unchanged, with as many patches as it allows.

    Args:
        reader: the model's reader.
        name: the model's name for messages.

    Returns:
        The square reader, and the layout of its patches.

    Raises:
        UnsupportedError: if the processor leaves no square unchanged.
    """
    assert reader.patch_size is not None
    patch = reader.patch_size[0]
    found = reader.geometry((USUAL_SIDE, USUAL_SIDE), "model").tiles[0]
    side = found.input_hw[0]
    again = reader.geometry((side, side), "model").tiles[0]
    if found.input_hw != (side, side) or again != Tile((1.0, 1.0), (0.0, 0.0), (side, side), found.grid_hw):
        raise UnsupportedError(f"{name}: its processor leaves no square image as it is.")
    return SquareInput(reader.processor, PaddedSquare(reader), TowerInput(side, patch)), Padding(side, patch)


# -- packed -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Packing:
    """The layout of Qwen's image processor for a square image: a sequence of patches in which the patches of one token
    follow one another, and every patch repeats the image for the frames of a video that share it.

    Args:
        side: side of the image, pixels.
        patch: side of a patch, pixels.
        merge: patches along a side of a token.
        frames: number of frames that share a patch.
    """

    side: int
    patch: int
    merge: int
    frames: int

    @property
    def grid(self) -> int:
        """Number of patches along a side."""
        return self.side // self.patch

    def tile(self) -> Tile:
        """The geometry of an image of its own size.

        Returns:
            One tile.
        """
        return TowerInput(self.side, self.patch).whole((self.side, self.side))

    def pack(self, pixels: Tensor) -> Tensor:
        """Converts images to the tower's sequence, with gradients.

        Args:
            pixels: `[n, 3, s, s]`.

        Returns:
            `[n · patches, 3 · frames · patch · patch]`.
        """
        n, patch, merge, tokens = len(pixels), self.patch, self.merge, self.grid // self.merge
        parts = pixels.reshape(n, 3, tokens, merge, patch, tokens, merge, patch).permute(0, 2, 5, 3, 6, 1, 4, 7)
        frames = parts.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, self.frames, -1, -1)
        return frames.reshape(n * self.grid**2, -1)

    def unpack(self, patches: Tensor) -> Tensor:
        """The inverse of `pack` for one image.

        Args:
            patches: `[patches, 3 · frames · patch · patch]`.

        Returns:
            `[3, s, s]`.
        """
        patch, merge, tokens = self.patch, self.merge, self.grid // self.merge
        parts = patches.reshape(tokens, tokens, merge, merge, 3, self.frames, patch, patch)[:, :, :, :, :, 0]
        return parts.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, self.side, self.side)

    def grids(self, n: int, device: torch.device) -> Tensor:
        """The grid sizes that the tower takes with the sequence.

        Args:
            n: number of images.
            device: device of the tensor.

        Returns:
            `[n, 3]`: frames, rows and columns of every image.
        """
        return torch.tensor([[1, self.grid, self.grid]], device=device).expand(n, -1).contiguous()


class PackedSquare:
    """Reads a square image with Qwen's processor and puts its patches back into an image.

    Args:
        processor: the image processor.
        packing: the layout of its patches.
    """

    def __init__(self, processor: Any, packing: Packing) -> None:
        self.processor, self.packing = processor, packing

    def __call__(self, image: Image.Image) -> dict[str, Tensor]:
        """Reads one image.

        Args:
            image: the square image.

        Returns:
            `{"pixel_values": [3, s, s]}`.
        """
        patches = self.processor(images=[image], return_tensors="pt")["pixel_values"]
        return {"pixel_values": self.packing.unpack(torch.as_tensor(patches))}


def packed_reader(model: LVLM) -> tuple[SquareInput, Packing]:
    """Makes a reader for squares of whole tokens that the processor leaves unchanged, as near to `USUAL_SIDE` as it
    allows.

    Args:
        model: the LVLM.

    Returns:
        The reader, and the layout of its patches.

    Raises:
        UnsupportedError: if the processor leaves no such square unchanged.
    """
    vision, processor = model.config.vision_config, model.reader.processor
    patch, merge = int(vision.patch_size), int(vision.spatial_merge_size)
    token = patch * merge
    wanted = model.layout((USUAL_SIDE, USUAL_SIDE)).vision
    assert wanted is not None
    # The processor's result for a square of the usual size, if it is a square, is one that it leaves unchanged.
    rows, columns = wanted.tiles[0].grid_hw
    side = min(rows, columns) * patch // token * token
    packing = Packing(side, patch, merge, int(vision.temporal_patch_size))
    found = model.layout((side, side)).vision if side >= MIN_SIDE_PX else None
    if found is None or found.tiles[0].grid_hw != (packing.grid, packing.grid):
        raise UnsupportedError(
            f"{model.name}: no square of whole tokens of {token} pixels is left as it is by its image processor "
            f"(size {getattr(processor, 'size', None)})."
        )
    return SquareInput(processor, PackedSquare(processor, packing), TowerInput(side, patch)), packing


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"SquareReader": "SquareInput"}, globals())
