"""Images of a prompt during its training: small images of some steps, and one strip with all of them.

Does not import torch, a strategy or the loop.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from visprompt.errors import VispromptError
from visprompt.persistence.prompt_image import HasImage
from visprompt.utils.files import write_bytes
from visprompt.utils.renamed import renamed_names

if TYPE_CHECKING:
    from PIL.Image import Image

#: file of the prompt's current image; after the run, of the final one
IMAGE = "patch.png"
#: file of the strip, and the folder of its single images until the run ends
STRIP, FOLDER = "patch-progress.png", "patch-progress"
#: number of single images that are kept; the strip has half of them per row
MOST = 16
#: approximate side of an image in the strip, pixels
SIDE = 120
_GAP, _TEXT, _LIGHT, _DARK, _INK = 8, 16, 255, 225, (60, 60, 60)
_NAME = re.compile(r"step-(\d+)\.png")


class ProgressImages:
    """The progress images of one run; which steps are kept depends on the steps alone, so that a resumed run keeps the
    same.

    Args:
        folder: folder of the run; it exists.
        every: smallest number of steps between two images; doubled whenever there are too many images.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, max(every, 1)

    def keep(self, image: Image, step: int) -> None:
        """Adds the image of the latest step; removes images of later steps, which a killed run left.

        Args:
            image: the prompt's image, RGBA.
            step: optimiser steps done.
        """
        inner = self.folder / FOLDER
        inner.mkdir(exist_ok=True)
        write_bytes(inner / f"step-{step:06d}.png", png_of(image))
        interval = self.every
        while step / interval > MOST - 2:
            interval *= 2
        for path, number in self._all():
            if number > step or (number % interval and number != step):
                path.unlink(missing_ok=True)
        self._draw([])

    def finish(self, image: Image, words: str) -> None:
        """Draws the strip once more, with the final image at its end.

        Args:
            image: the final image, RGBA.
            words: its caption.
        """
        self._draw([(image, words)])

    def _draw(self, more: Sequence[tuple[Image, str]]) -> None:
        from PIL import Image as pil_image

        shown = []
        for path, number in self._all():
            with pil_image.open(path) as image:
                shown.append((image.convert("RGBA"), f"step {number}"))
        write_bytes(self.folder / STRIP, png_of(strip([*shown, *more])))

    def _all(self) -> list[tuple[Path, int]]:
        inner = self.folder / FOLDER
        found = [(path, int(name[1])) for path in inner.iterdir() if (name := _NAME.fullmatch(path.name))]
        return sorted(found, key=lambda one: one[1])


def sketch_of(prompter: object) -> Image | None:
    """The image of a prompter's prompt.

    Args:
        prompter: a learned strategy.

    Returns:
        The image, or None if the prompt is no image or is not built yet.
    """
    if not isinstance(prompter, HasImage):
        return None
    try:
        return prompter.image()
    except VispromptError:
        return None


def remove(folder: Path) -> None:
    """Removes the single images of a run folder; the strip stays."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def enlarged(image: Image, side: int = SIDE) -> Image:
    """Enlarges a small image by a whole factor, without smoothing, on a chequerboard where it is transparent.

    >>> from PIL import Image
    >>> enlarged(Image.new("RGBA", (24, 24)), 120).size
    (120, 120)

    Args:
        image: RGBA.
        side: approximate side of the result along the longer side, pixels.

    Returns:
        An RGB image.
    """
    import numpy as np
    from PIL import Image as pil_image

    factor = max(1, round(side / max(image.size)))
    width, height = image.width * factor, image.height * factor
    cell = max(4, min(width, height) // 12)
    rows, columns = np.arange(height)[:, None] // cell, np.arange(width)[None, :] // cell
    board = np.where((rows + columns) % 2, _DARK, _LIGHT).astype(np.uint8)
    made = pil_image.fromarray(np.repeat(board[:, :, None], 3, axis=2)).convert("RGBA")
    made.alpha_composite(image.convert("RGBA").resize((width, height), pil_image.Resampling.NEAREST))
    return made.convert("RGB")


def strip(shown: Sequence[tuple[Image, str]]) -> Image:
    """Draws enlarged images in a row, each with a caption below; two rows from nine images on.

    Args:
        shown: RGBA images with their captions; at least one.

    Returns:
        An RGB image.
    """
    from PIL import Image as pil_image
    from PIL import ImageDraw, ImageFont

    large = [enlarged(image) for image, _ in shown]
    rows = 1 if len(shown) <= MOST // 2 else 2
    columns = math.ceil(len(shown) / rows)
    width, height = max(one.width for one in large), max(one.height for one in large)
    wh = (columns * (width + _GAP) + _GAP, rows * (height + _TEXT + _GAP) + _GAP)
    made = pil_image.new("RGB", wh, "white")
    pen, font = ImageDraw.Draw(made), ImageFont.load_default()
    for index, (one_large, (_, words)) in enumerate(zip(large, shown, strict=True)):
        x = _GAP + index % columns * (width + _GAP)
        y = _GAP + index // columns * (height + _TEXT + _GAP)
        made.paste(one_large, (x, y))
        pen.text((x, y + height + 2), words, fill=_INK, font=font)
    return made


def png_of(image: Image) -> bytes:
    """An image as the bytes of a PNG file."""
    content = BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"Sketches": "ProgressImages"}, globals())
