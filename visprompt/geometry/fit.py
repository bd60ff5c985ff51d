"""Bringing an image into a model's input so that all of it is seen: padded or squashed."""

from __future__ import annotations

import math

from PIL import Image

from visprompt.errors import InvalidInputError
from visprompt.geometry.analytic import Pair, Size
from visprompt.utils.renamed import renamed_names, renamed_parameters

MIN_SIDE_PX = 16
MAX_ASPECT = 50.0


def check_processable(wh: Size) -> None:
    """Refuses images that no encoder can be asked about.

    A side below 16 pixels says nothing, and beyond 50 to 1 a processor that keeps the aspect ratio would make a
    224-pixel-high image of 448,000 pixels' width out of 20000×10.

    Raises:
        InvalidInputError: saying which it was and what to do.
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
    """The whole image in the aspect ratio of the model's input.

    >>> fitted, scale_xy, offset_xy = fit_image(Image.new("RGB", (400, 200)), "pad", (100, 100))
    >>> fitted.size, scale_xy, offset_xy
    ((100, 100), (0.25, 0.25), (0.0, 25.0))

    Args:
        image: any size.
        fit: `"pad"` keeps the aspect ratio and fills up with `fill`; `"squash"` gives it up.
        input_hw: height and width of the model's input.
        fill: colour of the padding, usually the one that the processor normalises to zero.
        resample: filter of the resize.
        canvas_hw: size of the result if it is to be larger than `input_hw`, with the input somewhere in it: for
            processors that cut a border off (256 → 224), so that what they cut is ours.
        origin_xy: where on the canvas the input begins; None: centred.

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
    """Size of the image that a processor crops to `input_hw` without resizing, given its scale at `input_hw`."""
    return (math.ceil(input_hw[0] * scale_xy[1] - 1e-6), math.ceil(input_hw[1] * scale_xy[0] - 1e-6))


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"fit_picture": "fit_image"}, globals())
