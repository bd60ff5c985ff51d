"""Set-of-Mark: outlines and labels on all regions, so that questions and answers can refer to them by number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from visprompt.strategies import _draw
from visprompt.strategies._labels import PlacedLabel, depth_inside, place_labels

from visprompt.errors import InvalidInputError
from visprompt.prompter import Options, Prompter
from visprompt.visual_prompt import VisualPrompt

if TYPE_CHECKING:
    from visprompt.strategies._draw import Rgb

    from visprompt.regions.shapes import Region

LABELS = ("numbers", "letters", "none")
#: distinct colours; a mark takes the one with the highest contrast to the image around its outline
PALETTE: tuple[Rgb, ...] = (
    (230, 25, 75),
    (60, 180, 75),
    (255, 225, 25),
    (0, 110, 220),
    (245, 130, 48),
    (145, 30, 180),
    (70, 240, 240),
    (240, 50, 230),
    (170, 110, 40),
    (250, 190, 212),
    (0, 128, 128),
    (210, 245, 60),
)
#: smallest text height of a label, pixels; smaller digits are illegible
MIN_TEXT_PX = 8


@dataclass(frozen=True)
class SomOptions(Options):
    """Options of `som`.

    Args:
        labels: `"numbers"` (1, 2, 3, …), `"letters"` (a, b, …, z, aa, …) or `"none"`; the first region is 1.
        alpha: opacity of the fill, 0 to 1 (authors' code: 0.1). 0: none.
        width: of the outlines, pixels of the image; None: 1/200 of its longer side, at least 1; 0: none.
        text_px: height of the labels' text, pixels of the image; None: 1/25 of its longer side, at least 10. Reduced
            down to 8 if the labels do not fit.
        colour: one colour for all marks: name, `#rrggbb` or RGB triple; None: a colour per mark with high contrast to
            the image.
    """

    labels: str = "numbers"
    alpha: float = 0.1
    width: int | None = None
    text_px: int | None = None
    colour: str | tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        _draw.check_choice("labels", self.labels, LABELS)
        _draw.check_number("alpha", self.alpha, 0, 1)
        if self.width is not None:
            _draw.check_number("width", self.width, 0, unit="pixels")
        if self.text_px is not None:
            _draw.check_number("text_px", self.text_px, MIN_TEXT_PX, unit="pixels")
        if self.colour is not None:
            _draw.frozen_colour(self, "colour")


class Som(Prompter):
    """Set-of-Mark (Yang et al., 2023, https://arxiv.org/abs/2310.11441): outlines and numbers the regions.

    Every region gets an outline and a light fill in its own colour, and its number as a label. Labels are placed as in
    the paper's algorithm 1: smallest region first, at the pixel deepest inside the part that smaller regions leave free
    (the maximum of the distance transform). In addition, labels never overlap or leave the image, and are put beside
    regions that are too small for them.

    >>> from PIL import Image
    >>> from visprompt import Box, VisualPrompt
    >>> boxes = (Box(10, 10, 90, 90), Box(110, 20, 180, 80))
    >>> prompt = VisualPrompt(Image.new("RGB", (200, 100), "white"), regions=boxes)
    >>> [mark.text for mark in Som().marks(prompt)]
    ['1', '2']
    >>> Som().edit(prompt, model=None).image.size
    (200, 100)

    `Request(…, regions_as="together")` marks all regions in one image; with `"each"` every image has one mark, 1.

    Units: pixels of the image that the request gives, before the model's resize.

    Raises:
        InvalidInputError: without a region, for an option out of range, or for more labels than the image has room
            for.
    """

    Options = SomOptions
    acts_on = frozenset({"pixels"})
    needs = frozenset({"region"})
    neutral: ClassVar[dict[str, Any]] = {"labels": "none", "alpha": 0.0, "width": 0}

    def edit(self, prompt: VisualPrompt, model: Any) -> VisualPrompt:
        """Draws fills, outlines, and labels on top of them."""
        options: SomOptions = self.options
        regions, image = _draw.placed(prompt), prompt.image
        width = _draw.stroke_width(image.size, options.width)
        if options.labels == "none" and options.alpha == 0 and width == 0:
            return prompt
        masks = [_pixels(region, image.size) for region in regions]
        colours = self._colours(image, masks)
        marked = image.copy()
        for index in np.argsort([-int(mask.sum()) for mask in masks], kind="stable"):  # small regions over large ones
            left, top, right, bottom = _window(masks[index])
            inside = masks[index][top:bottom, left:right]
            share = np.where(inside & (depth_inside(inside) <= width), 1.0, options.alpha * inside)
            part = marked.crop((left, top, right, bottom))
            marked.paste(_draw.lay_over(part, colours[index], share), (left, top))
        for label, colour in zip(self._labels(image.size, masks), colours, strict=False):
            _write(marked, label, colour)
        return prompt.with_(image=marked)

    def marks(self, prompt: VisualPrompt) -> list[PlacedLabel]:
        """The labels with their positions, in the order of the regions.

        Args:
            prompt: gives the image and the regions.
        """
        return self._labels(prompt.image.size, [_pixels(region, prompt.image.size) for region in _draw.placed(prompt)])

    def _labels(self, wh: tuple[int, int], masks: list[np.ndarray]) -> list[PlacedLabel]:
        options: SomOptions = self.options
        if options.labels == "none":
            return []
        texts = [
            str(number) if options.labels == "numbers" else _letters(number) for number in range(1, len(masks) + 1)
        ]
        wanted = max(10, round(max(wh) / 25)) if options.text_px is None else options.text_px
        sizes = [wanted]
        while sizes[-1] > MIN_TEXT_PX:
            sizes.append(max(MIN_TEXT_PX, int(sizes[-1] * 0.8)))
        for text_px in sizes:
            found = place_labels(masks, texts, [_plate(text, text_px) for text in texts], text_px)
            if found is not None:
                return found
        raise InvalidInputError(
            f"an image of {wh[0]}×{wh[1]} pixels has no room for {len(texts)} labels of {MIN_TEXT_PX} pixels that do "
            "not overlap: mark fewer regions, or enlarge the image."
        )

    def _colours(self, image: Image.Image, masks: list[np.ndarray]) -> list[Rgb]:
        if self.options.colour is not None:
            return [_draw.parse_colour(self.options.colour)] * len(masks)
        import cv2

        def lab(rgb: np.ndarray) -> np.ndarray:
            return cv2.cvtColor(rgb[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]

        pixels, palette = np.asarray(image), lab(np.array(PALETTE))
        used = np.zeros(len(PALETTE))
        found: list[Rgb] = []
        for mask in masks:
            left, top, right, bottom = _window(mask)
            inside = mask[top:bottom, left:right]
            edge = pixels[top:bottom, left:right][inside & (depth_inside(inside) <= 3)]
            under = lab(edge[:: 1 + len(edge) // 1000])
            # The 20th percentile of the distance, not the mean: most of the outline must be visible.
            apart = np.percentile(np.linalg.norm(under[:, None] - palette, axis=2), 20, axis=0)
            best = int(np.argmax(apart - 1000 * used))
            used[best] += 1
            found.append(PALETTE[best])
        return found


def _pixels(region: Region, wh: tuple[int, int]) -> np.ndarray:
    """The pixels with at least half their area inside, bool `[H, W]`; for very thin regions, those with the largest
    fraction.
    """
    share = region.rasterise(wh)
    return share >= min(0.5, float(share.max()))


def _window(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest box around a mask, whole pixels; outlines are computed only inside it."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def _letters(number: int) -> str:
    """1 → a, 26 → z, 27 → aa, as the columns of a spreadsheet."""
    text = ""
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(ord("a") + rest) + text
    return text


def _plate(text: str, text_px: int) -> tuple[int, int]:
    """Width and height of a label with its margin, pixels."""
    return (round(ImageFont.load_default(text_px).getlength(text)) + text_px // 2, round(text_px * 1.25))


def _ink(colour: Rgb) -> str:
    """Black or white, whichever has more contrast: a ratio of at least 4.5 on every colour (WCAG 2.1)."""
    linear = [
        level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4 for level in np.divide(colour, 255)
    ]
    luminance = float(np.dot((0.2126, 0.7152, 0.0722), linear))
    return "black" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "white"


def _write(image: Image.Image, label: PlacedLabel, colour: Rgb) -> None:
    """Draws a label: black or white text on a plate of the mark's colour."""
    draw = ImageDraw.Draw(image)
    x0, y0, x1, y1 = label.xyxy
    ink = _ink(colour)
    # Small plates have no room for a frame.
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), fill=colour, outline=ink if label.text_px > 10 else None)
    font = ImageFont.load_default(label.text_px)
    draw.text(((x0 + x1) / 2, (y0 + y1) / 2), label.text, fill=ink, font=font, anchor="mm")
