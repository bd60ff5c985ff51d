"""Loads images: files, arrays, PIL images and web addresses become one upright 8-bit RGB `PIL.Image`, or one clear
error.

The module handles files, arrays and colour modes; it imports no models, regions or strategies.
"""

from __future__ import annotations

import io
import os
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from visprompt.errors import InvalidInputError

ImageSource: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray"

URL_TIMEOUT_SECONDS = 20.0
URL_MAX_BYTES = 64 * 2**20
#: the colour behind transparent pixels
BACKGROUND_RGB = (255, 255, 255)

_HELP = "Give a path, a PIL image, an H×W×3 array, or (with allow_url=True) a web address."
# floats may leave [0, 1] by this much: resampling and colour conversions overshoot a little
_FLOAT_SLACK = 1e-3


def load_image(source: ImageSource, allow_url: bool = False) -> Image.Image:
    """Loads an image as upright 8-bit RGB.

    EXIF rotation is applied, so coordinates are those of the image as viewers show it. Transparent pixels are
    composited on white. 16-bit values are scaled by 1/257, floats from [0, 1] by 255; of an animation only the first
    frame is read. A PIL image that is RGB and upright already is returned as it is, not copied.

    >>> load_image(np.zeros((4, 6), dtype=np.uint16)).size
    (6, 4)

    Args:
        source: path, PIL image, array (`[H, W]`, `[H, W, 3]` or `[H, W, 4]`; uint8, uint16, bool, or float in [0, 1]),
            or a web address.
        allow_url: fetch `http(s)://` addresses; otherwise they are an error and nothing is sent.

    Returns:
        The image, mode RGB.

    Raises:
        InvalidInputError: if it is missing, damaged, empty, not an image, or its number range is ambiguous.
    """
    if isinstance(source, Image.Image):
        return _upright_rgb(source, "the PIL image")
    if isinstance(source, np.ndarray):
        return _upright_rgb(_from_array(source), "the array")
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        if not allow_url:
            raise InvalidInputError(f"{source!r} is a web address; set allow_url=True to let visprompt fetch it.")
        return _decode(io.BytesIO(_fetch(source)), repr(source))
    if isinstance(source, str | os.PathLike):
        return _open(Path(source))
    extra = (
        " Turn the tensor into an array: tensor.permute(1, 2, 0).cpu().numpy()." if hasattr(source, "detach") else ""
    )
    raise InvalidInputError(f"an image cannot be a {type(source).__name__}.{extra or ' ' + _HELP}")


def _open(path: Path) -> Image.Image:
    if str(path) in ("", "."):
        raise InvalidInputError(f"an empty path is not an image. {_HELP}")
    if path.is_dir():
        raise InvalidInputError(f"{str(path)!r} is a folder, not an image; give the path of one file in it.")
    if not path.exists():
        where = "" if path.is_absolute() else f" (looked in {Path.cwd()})"
        raise InvalidInputError(f"there is no file {str(path)!r}{where}; check the path.")
    return _decode(path, repr(str(path)))


def _decode(file: Path | io.BytesIO, name: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            image.load()
            return _upright_rgb(image, name)
    except InvalidInputError:
        raise
    except Image.DecompressionBombError:
        raise InvalidInputError(
            f"{name} has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, which looks like a decompression "
            "bomb; if you trust it, raise PIL.Image.MAX_IMAGE_PIXELS or make it smaller first."
        ) from None
    except UnidentifiedImageError:
        raise InvalidInputError(
            f"{name} is not an image in a format that Pillow reads, whatever its name ends with; open it and check."
        ) from None
    except PermissionError:
        raise InvalidInputError(f"{name} may not be read; check its permissions.") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, …
        raise InvalidInputError(f"{name} is damaged or incomplete ({error}); get or export it again.") from None


def _fetch(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"User-Agent": "visprompt"})
    try:
        with urllib.request.urlopen(request, timeout=URL_TIMEOUT_SECONDS) as answer:
            data: bytes = answer.read(URL_MAX_BYTES + 1)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise InvalidInputError(f"{url!r} could not be fetched ({error}); download it and give the path.") from None
    if len(data) > URL_MAX_BYTES:
        raise InvalidInputError(f"{url!r} is larger than {URL_MAX_BYTES // 2**20} MB; download it and give the path.")
    return data


def _from_array(array: np.ndarray) -> Image.Image:
    if array.size == 0:
        raise InvalidInputError(f"the array has shape {array.shape} and therefore no pixels; give at least 1×1.")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] > 4:
        raise InvalidInputError(
            f"the array has shape {array.shape}, channels first; channels go last: array.transpose(1, 2, 0)."
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise InvalidInputError(f"the array has shape {array.shape}; expected [H, W], [H, W, 3] or [H, W, 4].")
    return Image.fromarray(np.ascontiguousarray(_to_uint8(array)))


def _to_uint8(array: np.ndarray) -> np.ndarray:
    kind = array.dtype
    if kind == np.uint8:
        return array
    if kind == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if kind == np.uint16:
        return np.round(array / 257.0).astype(np.uint8)
    if not (np.issubdtype(kind, np.floating) or np.issubdtype(kind, np.integer)):
        raise InvalidInputError(f"the array has dtype {kind}; expected uint8, uint16, bool or float in [0, 1].")
    if not np.isfinite(array).all():
        raise InvalidInputError(
            f"the array has {int((~np.isfinite(array)).sum())} NaN or infinite values; fill them first."
        )
    low, high = float(array.min()), float(array.max())
    if np.issubdtype(kind, np.floating):
        if low < -_FLOAT_SLACK or high > 1 + _FLOAT_SLACK:
            raise InvalidInputError(
                f"the float array runs from {low:g} to {high:g}, and floats are expected in [0, 1]; "
                "divide by 255 first, or give uint8."
            )
        return np.round(np.clip(array, 0, 1) * 255).astype(np.uint8)
    if low < 0 or high > 255:
        raise InvalidInputError(
            f"the {kind} array runs from {low:g} to {high:g}; expected 0 to 255, or dtype uint16 for 16-bit images."
        )
    return array.astype(np.uint8)


def _upright_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.width == 0 or image.height == 0:
        raise InvalidInputError(f"{name} is {image.width}×{image.height} pixels; an image needs at least 1×1.")
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
    except Exception:  # a broken EXIF block says nothing reliable about rotation; the pixels are still good
        warnings.warn(f"{name} has EXIF data that cannot be read; its rotation is ignored.", UserWarning, stacklevel=3)
    if image.mode == "RGB" and "transparency" not in image.info:
        # a lazily opened file is tied to its handle; a plain image is passed on as it is
        return image if type(image) is Image.Image else image.copy()
    if image.mode.startswith("I"):
        values: np.ndarray[Any, Any] = np.asarray(image).astype(np.float64)
        if values.min() < 0 or values.max() > 65535:
            raise InvalidInputError(
                f"{name} has 32-bit values from {values.min():g} to {values.max():g}; "
                "scale them to 0…65535 or uint8 first."
            )
        return Image.fromarray(np.round(values / 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return Image.fromarray(_to_uint8(np.asarray(image))).convert("RGB")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        if image.mode in ("La", "RGBa"):  # premultiplied: Pillow converts these only to their plain siblings
            image = image.convert("LA" if image.mode == "La" else "RGBA")
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (*BACKGROUND_RGB, 255))
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")
