"""Images that are read from one file once while somebody uses them."""

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
    """`load_image`, which reads a file again only when nothing uses its image any more, or when the file has changed.

    The four images that were asked for last are kept as well.

    Args:
        source: as in `load_image`; what is no path is not kept.
        allow_url: as in `load_image`.

    Raises:
        InvalidInputError: as `load_image`.
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
