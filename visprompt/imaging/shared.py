"""Keeps one loaded image per file while it is in use."""

from __future__ import annotations

import collections
import os
import threading
import weakref
from pathlib import Path
from typing import Any

from PIL import Image

from visprompt.imaging.load import ImageSource, load_image

_images: weakref.WeakValueDictionary[tuple[Any, ...], Image.Image] = weakref.WeakValueDictionary()
_recent: collections.deque[Image.Image] = collections.deque(maxlen=4)
_lock = threading.Lock()


def shared_image(source: ImageSource, allow_url: bool = False) -> Image.Image:
    """Loads an image as `load_image` does, but reads a file again only when its image is no longer in use or the file
    has changed. The last four images are kept in any case.

    Args:
        source: as in `load_image`; only images from paths are kept.
        allow_url: as in `load_image`.

    Returns:
        The image, RGB; the same object for the same file.

    Raises:
        InvalidInputError: as in `load_image`.
    """
    if not isinstance(source, str | os.PathLike):
        return load_image(source, allow_url)
    try:
        stat = Path(source).stat()
        key: tuple[Any, ...] = (os.path.realpath(source), stat.st_mtime_ns, stat.st_size)
    except (OSError, ValueError):  # a web address, or no such file: load_image tells them apart
        key = (str(source), allow_url)
    with _lock:
        known = _images.get(key)
    image = known if known is not None else load_image(source, allow_url)
    with _lock:
        image = _images.setdefault(key, image)
        _recent.append(image)
    return image
