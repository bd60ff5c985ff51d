"""Images inside a page: data URIs, sizes of cards, frames around boxes."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from visprompt.bench.report.document import Block, Figure, Fold
from visprompt.plots import base as plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

_PNG = "data:image/png;base64,"
_SIDE_PX = 176
# Up to here an image goes into the page as it is, and the page enlarges it.
_SMALL_PX = 96
# No colour subsampling: thin coloured frames would bleed.
_JPEG = {"quality": 80, "subsampling": 0}


def data_uri(image: Image.Image | bytes) -> str:
    """An image inside a page: PNG for figures (given as bytes of a file) and small images, JPEG for photographs."""
    if isinstance(image, bytes):
        return _PNG + base64.b64encode(image).decode()
    buffer = io.BytesIO()
    small = max(image.size) <= _SMALL_PX
    image.save(buffer, format="PNG" if small else "JPEG", **({"optimize": True} if small else _JPEG))
    return f"data:image/{'png' if small else 'jpeg'};base64," + base64.b64encode(buffer.getvalue()).decode()


def png_of(figure: Figure) -> bytes:
    """The PNG file inside a figure's data URI."""
    return base64.b64decode(figure.uri.removeprefix(_PNG))


def missing_plots() -> list[str]:
    """What a report says where figures cannot be drawn."""
    return [] if plots.have_matplotlib() else ['Figures need matplotlib: pip install "visprompt-toolkit[plots]".']


def plotted(drawn: Mapping[str, tuple[Callable[[], Plot | None], str, str]]) -> dict[str, tuple[Figure, ...]]:
    """Figures of a report, each alone in a tuple, by the name of their files; no figure without matplotlib.

    Args:
        drawn: by name what makes a matplotlib figure (or None), what it shows in words, and its caption.
    """
    made: dict[str, tuple[Figure, ...]] = dict.fromkeys(drawn, ())
    for name, (draw, alt, caption) in drawn.items() if plots.have_matplotlib() else ():
        plot = draw()
        made[name] = (Figure(data_uri(plots.to_png(plot)), alt, caption=caption, name=name),) if plot else ()
    return made


def looks(shown: Mapping[str, tuple[str, str]], caption: str) -> list[Block]:
    """Where models look: the first model's figure, and those of the others in folds.

    Args:
        shown: by model a data URI and what it shows in words.
        caption: below every figure.
    """
    blocks: list[Block] = []
    for name, (uri, alt) in shown.items():
        title = f"Where {name} looks"
        blocks.append(Fold(title, (Figure(uri, alt, "", caption),)) if blocks else Figure(uri, alt, title, caption))
    return blocks


def shown_as_is(image: Image.Image) -> Image.Image:
    """An image as a model got it: small ones unchanged, which the page enlarges, others in a card's size."""
    image = image.convert("RGB")
    return image if max(image.size) <= _SMALL_PX else sized(image)


def sized(image: Image.Image) -> Image.Image:
    """An image in a card's size."""
    scale = _SIDE_PX / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    # Enlarged pixels stay square: smoothing would hide what a model with a small input gets.
    return image.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def boxed(image: Image.Image, marks: Sequence[tuple[Any, str, bool]]) -> Image.Image:
    """An image in a card's size with frames: box in pixels, colour, dashed."""
    drawn = sized(image)
    scale = drawn.width / image.width, drawn.height / image.height
    pen = ImageDraw.Draw(drawn)
    for box, colour, dashed in marks:
        x0, x1 = (float(np.clip(box[i] * scale[0], 1, drawn.width - 2)) for i in (0, 2))
        y0, y1 = (float(np.clip(box[i] * scale[1], 1, drawn.height - 2)) for i in (1, 3))
        box_px = (x0, y0, max(x1, x0), max(y1, y0))
        if colour == plots.OTHER:  # black and white: visible on every ground
            pen.rectangle(box_px, outline="black", width=3)
            pen.rectangle(box_px, outline="white", width=1)
            continue
        pen.rectangle(box_px, outline="white", width=5)
        if dashed:
            _dashes(pen, box_px, colour, 3)
        else:
            pen.rectangle(box_px, outline=colour, width=3)
    return drawn


def _dashes(pen: ImageDraw.ImageDraw, box: tuple[float, float, float, float], colour: str, width: int) -> None:
    x0, y0, x1, y1 = box
    for ax, ay, bx, by in ((x0, y0, x1, y0), (x1, y0, x1, y1), (x1, y1, x0, y1), (x0, y1, x0, y0)):
        length = max(abs(bx - ax) + abs(by - ay), 1.0)
        for start in np.arange(0, length, 10):
            end = min(start + 6, length)
            at = [(ax + (bx - ax) * t / length, ay + (by - ay) * t / length) for t in (start, end)]
            pen.line(at, fill=colour, width=width)
