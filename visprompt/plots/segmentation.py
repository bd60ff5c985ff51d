"""Segmentation masks as images: a PNG of class numbers with a palette, and a figure with a legend."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from visprompt.plots.base import PALETTE, TEXT, literal, new_figure, show_image
from visprompt.utils.renamed import renamed_parameters

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

#: colour of pixels that the model did not see
UNSEEN_RGB = (255, 255, 255)
_GROUND = ("background", "void", "unlabelled", "unlabeled", "other")
#: largest number of classes in the legend
NAMED = 12


def class_colours(classes: Sequence[str]) -> np.ndarray:
    """A colour per class.

    The first seven are Okabe and Ito's, with yellow; further ones go round the colour wheel by the golden angle, in
    three lightnesses. A background class is grey.

    Args:
        classes: names of the classes.

    Returns:
        `[C, 3]`, uint8.
    """
    count = len(classes)
    first = [*PALETTE, "#F0E442"]
    found = [tuple(int(code[i : i + 2], 16) for i in (1, 3, 5)) for code in first[:count]]
    for number in range(len(found), count):
        hue, light = (number * 0.618034) % 1.0, (0.42, 0.62, 0.8)[number % 3]
        found.append(tuple(round(255 * part) for part in colorsys.hls_to_rgb(hue, light, 0.6)))
    made = np.array(found, dtype=np.uint8).reshape(-1, 3)
    made[[name.lower() in _GROUND for name in classes]] = 170
    return made


def mask_png(mask: np.ndarray, classes: Sequence[str]) -> bytes:
    """A PNG of class numbers: with a palette up to 255 classes, in 16 bits above.

    Args:
        mask: `[h, w]`, uint8 or uint16; 255 in 8 bits: not seen by the model.
        classes: names of the classes.

    Returns:
        The bytes of the file.
    """
    from PIL import Image

    if mask.dtype == np.uint8:
        image = Image.fromarray(mask, mode="P")
        colours = np.full((256, 3), 255, dtype=np.uint8)
        colours[: len(classes)] = class_colours(classes)
        colours[255] = UNSEEN_RGB
        image.putpalette(colours.tobytes())
    else:
        image = Image.fromarray(mask.astype(np.uint16))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


@renamed_parameters(picture="image")
def mask_figure(image: Image, mask: np.ndarray, classes: Sequence[str], title: str = "") -> Figure:
    """The image, its classes laid over it, and a legend of the classes that occur with their fractions of the area.

    Args:
        image: the image.
        mask: `[h, w]`, class numbers; the dtype's largest value where the model did not see the image.
        classes: names of the classes.
        title: above the figure.
    """
    from matplotlib.patches import Patch

    aspect = min(image.height / max(image.width, 1), 2.0)
    figure = new_figure((9.6, 0.7 + 3.6 * aspect))
    panels = figure.subplots(1, 2)
    show_image(panels[0], image, "image")
    colours = class_colours(classes)
    seen = mask < len(classes)
    shown = np.asarray(image.convert("L").convert("RGB"), dtype=np.float32)
    # One opacity everywhere, so that a class has the same colour everywhere on a plain ground.
    shown[seen] = 0.3 * shown[seen] + 0.7 * colours[mask[seen]]
    from PIL import Image

    show_image(panels[1], Image.fromarray(shown.clip(0, 255).astype(np.uint8)), "classes")
    shares = np.bincount(mask[seen].ravel(), minlength=len(classes)) / max(int(seen.sum()), 1)
    order = [number for number in np.argsort(-shares, kind="stable") if shares[number] > 0]
    handles = [
        Patch(color=tuple(colours[number] / 255), label=f"{literal(classes[number])}, {shares[number]:.1%}")
        for number in order[:NAMED]
    ]
    if not seen.all():
        handles.append(
            Patch(facecolor="white", edgecolor=TEXT, label=f"not seen by the model, {1 - float(seen.mean()):.1%}")
        )
    more = f"classes, {len(order) - NAMED} small ones not listed" if len(order) > NAMED else "classes"
    panels[1].legend(
        handles=handles, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize=9, title=more
    )
    if title:
        figure.suptitle(literal(title), fontsize=11, color=TEXT)
    return figure
