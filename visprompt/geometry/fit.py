"""Fits a whole image into a model's input, padded or squashed."""

from __future__ import annotations

import math

from PIL import Image

from visprompt.errors import InvalidInputError
from visprompt.geometry.analytic import Pair, Size
from visprompt.utils.renamed import renamed_names, renamed_parameters

MIN_SIDE_PX = 16
MAX_ASPECT = 50.0


def check_processable(wh: Size) -> None:
    """Refuses images that are too small or too long for any encoder.

    A side below 16 pixels holds too little, and beyond 50 to 1 a processor that keeps the aspect ratio would enlarge
    e.g. a 20000×10 image to 448,000×224 pixels.

    Args:
        wh: width and height, pixels.

    Raises:
        InvalidInputError: naming the size and what to do.
    """
    width, height = wh
    if min(wh) < MIN_SIDE_PX:
        raise InvalidInputError(
            f"the image is {width}×{height} pixels; encoders need {MIN_SIDE_PX} or more each way: enlarge it first."
        )
    if max(wh) / min(wh) > MAX_ASPECT:
        raise InvalidInputError(
            f"the image is {width}×{height} pixels, longer than {MAX_ASPECT:g} to 1: cut it into parts first."
        )


@renamed_parameters(picture="image")
def fit_image(
    image: Image.Image,
    fit: str,
    input_hw: Size,
    fill: tuple[int, int, int] = (124, 116, 104),
    resample: Image.Resampling = Image.Resampling.BICUBIC,
    canvas_hw: Size | None = None,
    origin_xy: Size | None = None,
) -> tuple[Image.Image, Pair, Pair]:
    """Resizes the whole image to the size of the model's input.

    >>> fitted, scale_xy, offset_xy = fit_image(Image.new("RGB", (400, 200)), "pad", (100, 100))
    >>> fitted.size, scale_xy, offset_xy
    ((100, 100), (0.25, 0.25), (0.0, 25.0))

    Args:
        image: any size.
        fit: `"pad"` keeps the aspect ratio and pads with `fill`; `"squash"` does not keep it.
        input_hw: height and width of the model's input, pixels.
        fill: colour of the padding, usually the one that the processor normalises to zero.
        resample: filter of the resize.
        canvas_hw: height and width of the result if larger than `input_hw`: for processors that crop a border (256 →
            224), so that only padding is cropped.
        origin_xy: where on the canvas the input begins, pixels; None: centred.

    Returns:
        The fitted image, and the map from the original to it: `fitted_xy = scale_xy · xy + offset_xy`.

    Raises:
        InvalidInputError: for another `fit`.
    """
    if fit not in ("pad", "squash"):
        raise InvalidInputError(f'fit_image pads or squashes: fit is "pad" or "squash", not {fit!r}.')
    height, width = input_hw
    canvas_h, canvas_w = canvas_hw or input_hw
    left, top = origin_xy or ((canvas_w - width) // 2, (canvas_h - height) // 2)
    new_w, new_h = width, height
    if fit == "pad":
        factor = min(width / image.width, height / image.height)
        new_w = min(max(round(image.width * factor), 1), width)
        new_h = min(max(round(image.height * factor), 1), height)
        left, top = left + (width - new_w) // 2, top + (height - new_h) // 2
    resized = image.resize((new_w, new_h), resample)
    scale = (new_w / image.width, new_h / image.height)
    if resized.size == (canvas_w, canvas_h):
        return resized, scale, (0.0, 0.0)
    canvas = Image.new("RGB", (canvas_w, canvas_h), fill)
    canvas.paste(resized, (left, top))
    return canvas, scale, (float(left), float(top))


def canvas_for(input_hw: Size, scale_xy: Pair) -> Size:
    """Size of the image that a processor crops to its input without resizing.

    Args:
        input_hw: height and width of the model's input, pixels.
        scale_xy: the processor's scale for an image of that size.

    Returns:
        Height and width, pixels.
    """
    return (math.ceil(input_hw[0] * scale_xy[1] - 1e-6), math.ceil(input_hw[1] * scale_xy[0] - 1e-6))


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"fit_picture": "fit_image"}, globals())
