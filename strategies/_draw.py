"""Shared parts of the drawn markers: colours, checks of options, fractional masks of shapes, and compositing.

Imports no model and no registry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageColor, ImageFilter

from visprompt.errors import InvalidInputError
from visprompt.regions.shapes import Box
from visprompt.utils.renamed import renamed_parameters

if TYPE_CHECKING:
    from visprompt.regions.shapes import Region, Xyxy
    from visprompt.visual_prompt import VisualPrompt

Rgb = tuple[int, int, int]
SHAPES = ("mask", "box")


def parse_colour(value: Any, known: dict[str, Rgb] | None = None) -> Rgb:
    """Converts a colour name, `#rrggbb`, grey level or RGB triple to RGB.

    >>> parse_colour("red"), parse_colour((0, 10, 255)), parse_colour(128)
    ((255, 0, 0), (0, 10, 255), (128, 128, 128))

    Args:
        value: the colour.
        known: more colour names.

    Returns:
        Red, green and blue, 0 to 255.

    Raises:
        InvalidInputError: for anything else.
    """
    if isinstance(value, str):
        if known is not None and value.lower() in known:
            return known[value.lower()]
        try:
            red, green, blue = ImageColor.getrgb(value)[:3]
        except ValueError:
            names = f" ({', '.join(known)}, …)" if known else ""
            raise InvalidInputError(
                f"{value!r} is no colour; give a name{names}, '#rrggbb', or a tuple (red, green, blue) of 0 to 255."
            ) from None
        return (red, green, blue)
    levels = (value,) * 3 if isinstance(value, int | np.integer) and not isinstance(value, bool) else value
    if isinstance(levels, Sequence) and len(levels) == 3 and all(_is_level(level) for level in levels):
        return (int(levels[0]), int(levels[1]), int(levels[2]))
    raise InvalidInputError(f"a colour is a name, '#rrggbb', or (red, green, blue) of 0 to 255; got {value!r}.")


def _is_level(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= int(value) <= 255


def frozen_colour(options: Any, name: str, known: dict[str, Rgb] | None = None) -> None:
    """Checks a colour option; lists, as YAML and JSON give them, become tuples.

    Args:
        options: the options object.
        name: name of the option.
        known: more colour names.

    Raises:
        InvalidInputError: if the value is no colour.
    """
    value = getattr(options, name)
    parse_colour(value, known)
    if isinstance(value, list):
        object.__setattr__(options, name, tuple(value))


def check_number(name: str, value: Any, low: float, high: float | None = None, unit: str = "") -> None:
    """Checks that an option is a finite number within a range.

    Args:
        name: name of the option.
        value: its value.
        low: smallest value.
        high: largest value; None: no limit.
        unit: named in the error.

    Raises:
        InvalidInputError: if it is not.
    """
    fine = isinstance(value, int | float | np.number) and not isinstance(value, bool) and np.isfinite(float(value))
    if not fine or value < low or (high is not None and value > high):
        span = f"{low:g} or more" if high is None else f"between {low:g} and {high:g}"
        raise InvalidInputError(f"{name} is a number{unit and ' of ' + unit}, {span}; got {value!r}.")


def check_choice(name: str, value: Any, allowed: Sequence[str]) -> None:
    """Checks that an option is one of the allowed names.

    Args:
        name: name of the option.
        value: its value.
        allowed: the names.

    Raises:
        InvalidInputError: if it is not.
    """
    if value not in allowed:
        raise InvalidInputError(f"{name} is one of {', '.join(allowed)}; got {value!r}.")


def check_sigma(sigma: Any, sigma_px: Any) -> None:
    """Checks the standard deviation of a blur.

    Args:
        sigma: a fraction of the image's side, 0 to 1.
        sigma_px: pixels, or None.

    Raises:
        InvalidInputError: for a value out of range.
    """
    check_number("sigma", sigma, 0, 1, unit="shares of the image's side")
    if sigma_px is not None:
        check_number("sigma_px", sigma_px, 0, unit="pixels")


def placed(prompt: VisualPrompt) -> tuple[Region, ...]:
    """The prompt's regions clipped to its image, points with their default radius.

    Args:
        prompt: a prompt with at least one region.

    Raises:
        InvalidInputError: without a region, or if one lies outside the image.
    """
    if not prompt.regions:
        raise InvalidInputError("this strategy needs a region: give vp.Request(…, region=vp.Box(x0, y0, x1, y1)).")
    return tuple(region.clip(prompt.image.size) for region in prompt.regions)


def stroke_width(wh: tuple[int, int], width: int | None) -> int:
    """Width of a line in pixels.

    Args:
        wh: width and height of the image, pixels.
        width: the option; None: 1/200 of the longer side, at least 1.
    """
    return max(1, int(max(wh) / 200)) if width is None else width


def padded(xyxy: Xyxy, padding: float) -> Xyxy:
    """A box grown by `padding` pixels on every side."""
    return (xyxy[0] - padding, xyxy[1] - padding, xyxy[2] + padding, xyxy[3] + padding)


def ellipse_share(xyxy: Xyxy, wh: tuple[int, int]) -> np.ndarray:
    """The fraction of every pixel inside the ellipse inscribed in a box, antialiased at the edge.

    Args:
        xyxy: the box, pixels.
        wh: width and height of the image, pixels.

    Returns:
        float32 `[H, W]` in [0, 1]; all zero for a box without area.
    """
    width, height = wh
    result = np.zeros((height, width), dtype=np.float32)
    x0, y0, x1, y1 = xyxy
    a, b = (x1 - x0) / 2, (y1 - y0) / 2
    left, top, right, bottom = (
        max(int(x0) - 1, 0),
        max(int(y0) - 1, 0),
        min(int(x1) + 2, width),
        min(int(y1) + 2, height),
    )
    if a <= 0 or b <= 0 or right <= left or bottom <= top:
        return result
    x = (np.arange(left, right) + 0.5 - (x0 + x1) / 2)[None, :]
    y = (np.arange(top, bottom) + 0.5 - (y0 + y1) / 2)[:, None]
    # distance to the edge to first order: the implicit function over the length of its gradient
    radius = np.sqrt((x / a) ** 2 + (y / b) ** 2)
    slope = np.sqrt((x / a**2) ** 2 + (y / b**2) ** 2) / np.maximum(radius, 1e-9)
    distance = (radius - 1) / np.maximum(slope, 1 / max(a, b))
    result[top:bottom, left:right] = np.clip(0.5 - distance, 0, 1)
    return result


def rectangle_share(xyxy: Xyxy, wh: tuple[int, int]) -> np.ndarray:
    """The fraction of every pixel inside a box.

    Args:
        xyxy: the box, pixels.
        wh: width and height of the image, pixels.

    Returns:
        float32 `[H, W]` in [0, 1]; all zero for a box without area or outside the image.
    """
    x0, y0, x1, y1 = max(xyxy[0], 0.0), max(xyxy[1], 0.0), min(xyxy[2], float(wh[0])), min(xyxy[3], float(wh[1]))
    if x1 <= x0 or y1 <= y0:
        return np.zeros((wh[1], wh[0]), dtype=np.float32)
    return Box(x0, y0, x1, y1).rasterise(wh)


def inside_share(regions: Sequence[Region], wh: tuple[int, int], shape: str) -> np.ndarray:
    """The fraction of every pixel inside any of the regions.

    Args:
        regions: the regions.
        wh: width and height of the image, pixels.
        shape: "mask" for the regions' own shapes, "box" for the boxes around them.

    Returns:
        float32 `[H, W]` in [0, 1].
    """
    result = np.zeros((wh[1], wh[0]), dtype=np.float32)
    for region in regions:
        share = region.rasterise(wh) if shape == "mask" or isinstance(region, Box) else rectangle_share(region.xyxy, wh)
        np.maximum(result, share, out=result)
    return result


@renamed_parameters(picture="image")
def lay_over(image: Image.Image, top: Image.Image | Rgb, share: np.ndarray) -> Image.Image:
    """Composites an image or a colour over an image.

    Args:
        image: the lower image.
        top: the upper image, or a colour.
        share: opacity of `top`, `[H, W]` in [0, 1].

    Returns:
        A new image.
    """
    layer = top if isinstance(top, Image.Image) else Image.new("RGB", image.size, top)
    return Image.composite(layer, image, Image.fromarray(np.round(share * 255).astype(np.uint8)))


@renamed_parameters(picture="image")
def blurred_outside(image: Image.Image, inside: np.ndarray, sigma_px: float) -> Image.Image:
    """Blurs an image outside a mask by a Gaussian.

    Args:
        image: the image.
        inside: `[H, W]` in [0, 1], 1 where it stays sharp.
        sigma_px: standard deviation, pixels.

    Returns:
        A new image.
    """
    return lay_over(image, image.filter(ImageFilter.GaussianBlur(sigma_px)), 1 - inside)
