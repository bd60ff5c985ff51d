"""Opens single items of a labelled data set: images and masks as paths, PIL images, arrays or functions.

This module needs numpy and Pillow only; it imports no file formats, models or training code.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from visprompt.errors import InvalidInputError, VispromptError
from visprompt.utils.renamed import renamed_names, renamed_parameters

if TYPE_CHECKING:
    from PIL import Image

#: endings of files that a folder is searched for; letters of any case
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}
)
#: files that file managers create, besides hidden files; lower case
IGNORED_FILES = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"})
#: modes in which an image holds one whole number per pixel
_INDEX_MODES = ("L", "P", "1", "I")


def open_image(source: Any, name: str) -> Image.Image:
    """Opens an image and returns it as upright RGB.

    Args:
        source: path, PIL image, array, or a function that returns one of these.
        name: name of the image for messages, if it is not a file.

    Raises:
        InvalidInputError: if the image cannot be read; the message names the file, or `name`.
    """
    from visprompt.imaging.load import load_image

    if isinstance(source, str | os.PathLike):
        return load_image(source)
    try:
        return load_image(_called(source))
    except VispromptError as error:
        raise InvalidInputError(f"{name}: {error}") from None


def open_mask(source: Any, name: str) -> np.ndarray:
    """Opens a label map as it is stored: one integer per pixel, `[h, w]` uint8, uint16 or int32.

    For a palette image the indices are returned: in the masks of most data sets they are the class numbers.

    Args:
        source: path of a PNG (or another lossless format), PIL image, `[h, w]` array, or a function that returns one.
        name: name of the mask for messages, if it is not a file.

    Raises:
        InvalidInputError: if the mask is missing, damaged, in colour, or a JPEG, whose compression changes class
            numbers.
    """
    from PIL import Image

    path = str(source) if isinstance(source, str | os.PathLike) else None
    name = repr(path) if path is not None else name
    if path is None:
        try:
            source = _called(source)
        except VispromptError as error:
            known = path_of(source)
            raise InvalidInputError(str(error) if known and known in str(error) else f"{name}: {error}") from None
        path = str(source) if isinstance(source, str | os.PathLike) else None
    if isinstance(source, Image.Image):
        return _indices(source, name)
    if isinstance(source, np.ndarray):
        return _checked_array(source, name)
    if path is None:
        raise InvalidInputError(f"{name}: a mask is a PNG file, a PIL image or an [h, w] array, no {_kind(source)}.")
    if not os.path.isfile(path):
        raise InvalidInputError(f"there is no mask {path!r}; check the path.")
    try:
        with Image.open(path) as image:
            if image.format == "JPEG":
                raise InvalidInputError(
                    f"the mask {path!r} is a JPEG, whose compression changes class numbers: masks are PNG files."
                )
            image.load()
            return _indices(image, f"the mask {path!r}")
    except VispromptError:
        raise
    except PermissionError:
        raise InvalidInputError(f"the mask {path!r} may not be read; check its permissions.") from None
    except Exception as error:  # Pillow's decoders raise errors of many types
        raise InvalidInputError(
            f"the mask {path!r} cannot be read as an image ({error}); get or export it again."
        ) from None


@dataclass(frozen=True)
class ShiftedMask:
    """A mask in which 0 means "no class", converted to class numbers from 0 on when the object is called.

    >>> ShiftedMask(np.array([[0, 1, 2]], dtype=np.uint8))().tolist()
    [[255, 0, 1]]

    Args:
        source: a mask as `open_mask` takes it.
        ignore_index: value of the pixels without a class in the converted mask.
        name: name for messages, if the source is not a file.
    """

    source: Any
    ignore_index: int = 255
    name: str = "a mask"

    @property
    def path(self) -> str | None:
        """The mask's path, or None if it is not a file."""
        return path_of(self.source)

    @property
    def identity(self) -> Any:
        """The value that identifies the mask in hashes."""
        return self.source

    def __call__(self) -> np.ndarray:
        """Returns the converted mask, `[h, w]` int32."""
        mask = open_mask(self.source, self.name)
        return np.where(mask == 0, self.ignore_index, mask.astype(np.int32) - 1).astype(np.int32)


def require_classes(mask: np.ndarray, count: int, ignore_index: int | None, name: str) -> np.ndarray:
    """Returns the mask unchanged if its values are class numbers or `ignore_index`.

    Args:
        mask: `[h, w]` integers.
        count: number of classes; valid class numbers are 0 to `count` − 1.
        ignore_index: a further valid value, or None.
        name: name of the mask, for the message.

    Raises:
        InvalidInputError: if there are other values; the message names the mask and the values.
    """
    bad = mask >= count
    if ignore_index is not None:
        bad &= mask != ignore_index
    if mask.dtype.kind == "i":
        bad |= (mask < 0) & (mask != (ignore_index if ignore_index is not None else 0))
    if bad.any():
        numbers = np.unique(mask[bad]).tolist()
        shown = ", ".join(map(str, numbers[:5])) + (", …" if len(numbers) > 5 else "")
        ignored = f", and {ignore_index} for pixels that do not count" if ignore_index is not None else ""
        raise InvalidInputError(
            f"{name} has the class numbers {shown}; there are {count} classes, 0 to {count - 1}{ignored}."
        )
    return mask


@renamed_parameters(picture="image")
def size_mismatch(mask_hw: tuple[int, int], image: Image.Image, source: Any, name: str) -> str:
    """Returns the message for a mask whose size differs from its image's."""
    wh = (mask_hw[1], mask_hw[0])
    turned = wh != image.size and wh == image.size[::-1]
    hint = (
        " It may have been drawn on the image before its EXIF rotation was applied: rotate the one or the other."
        if turned
        else " A mask has one number for every pixel of its image."
    )
    return f"{name} is {wh[0]}×{wh[1]} pixels, and its image is {image.width}×{image.height}.{hint}"


def path_of(source: Any) -> str | None:
    """Returns the path of an image or label, or None if it is not a file.

    Paths are strings, path objects, and the attribute `path` of other objects.
    """
    if isinstance(source, str | os.PathLike):
        return os.fspath(source) if isinstance(source, os.PathLike) else source
    inner = getattr(source, "path", None)
    return str(inner) if isinstance(inner, str | os.PathLike) else None


def common_folder(sources: Iterable[Any]) -> str:
    """Returns the deepest folder that contains all files, or "" if there is none.

    Hashes are made of paths below this folder, so that they do not depend on the machine.
    """
    named = {os.path.dirname(path) for one in sources if (path := path_of(one)) is not None}
    folders = {os.path.abspath(folder) for folder in named}
    try:
        return os.path.commonpath(folders) if folders else ""
    except ValueError:  # two drives
        return ""


def identity(source: Any, folder: str) -> Any:
    """Returns a JSON-serialisable value that identifies an item and is the same on every machine.

    Files are identified by their path below `folder`, images and arrays in memory by their content, functions by their
    name and arguments, other objects by their attribute `identity`.

    Args:
        source: an image or a label.
        folder: from `common_folder`.
    """
    path = path_of(source)
    if path is not None:
        whole = os.path.abspath(path)
        inside = bool(folder) and whole.startswith(folder)  # always true for a folder from `common_folder`
        below = whole[len(folder) :].lstrip(os.sep) if inside else os.path.basename(path)
        extra = "" if isinstance(source, str | os.PathLike) else type(source).__name__
        # file names that are not UTF-8 can be hashed as well
        return [os.fsencode(below.replace(os.sep, "/")).decode("utf-8", "backslashreplace"), extra]
    if isinstance(source, np.generic):
        return source.item()
    if source is None or isinstance(source, str | int | float | bool):
        return source
    if isinstance(source, tuple | list):
        return [identity(one, folder) for one in source]
    if isinstance(source, Mapping):
        return {str(key): identity(value, folder) for key, value in source.items()}
    if hasattr(source, "identity"):
        own = source.identity
        return identity(own() if callable(own) else own, folder)
    if isinstance(source, functools.partial):
        return [identity(source.func, folder), identity(source.args, folder), identity(source.keywords, folder)]
    if hasattr(source, "tobytes"):  # PIL image or array
        from visprompt.utils.hashing import digest

        return digest([getattr(source, "size", 0), source.tobytes().hex()])
    return getattr(source, "__qualname__", type(source).__qualname__)


def real_path(path: str, folders: dict[str, str]) -> str:
    """Returns a path with symbolic links resolved; `folders` caches the resolved folders."""
    folder, name = os.path.split(path)
    if os.path.islink(path):
        return os.path.realpath(path)
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    return os.path.join(folders[folder], name)


def _called(source: Any) -> Any:
    if not callable(source):
        return source
    made: Callable[[], Any] = source
    try:
        return made()
    except VispromptError:
        raise
    except Exception as error:  # a function of the user; the message names the item
        raise InvalidInputError(f"its function failed ({type(error).__name__}: {error}).") from error


def _indices(image: Image.Image, name: str) -> np.ndarray:
    if not (image.mode in _INDEX_MODES or image.mode.startswith("I;16")):
        raise InvalidInputError(
            f"{name} is in colours (mode {image.mode}), and a mask has one class number per pixel: save it as a "
            "greyscale (L) or palette (P) PNG whose values are the classes."
        )
    return _checked_array(np.asarray(image), name)


def _checked_array(array: np.ndarray, name: str) -> np.ndarray:
    if array.ndim != 2 or array.size == 0:
        raise InvalidInputError(f"{name} has shape {array.shape}; a mask is [h, w] with at least one pixel.")
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype.kind not in "ui":
        raise InvalidInputError(f"{name} has dtype {array.dtype}; a mask holds whole numbers, uint8 or uint16.")
    if array.dtype.itemsize <= 2 and array.dtype.kind == "u":
        return array
    return array.astype(np.int32)


def _kind(value: Any) -> str:
    return type(value).__name__


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"open_picture": "open_image", "PICTURE_SUFFIXES": "IMAGE_SUFFIXES"}, globals())
