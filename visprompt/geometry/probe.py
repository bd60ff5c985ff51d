"""Measures where a processor puts an image, with test images whose colours encode their coordinates.

It works for any preprocessing that keeps the image upright and in one piece. A black and a white image give each input
pixel's value range (so normalisation need not be known, and padding shows as pixels that never change); ramps along x
and y give the image position of each input pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from visprompt.errors import InvalidInputError
from visprompt.geometry.analytic import InputMap

Preprocess: TypeAlias = Callable[[Image.Image], Any]

#: pixels (of input or image) that are left out near the image's border, where resampling filters bend a ramp
_BORDER_PX = 4.0
#: a layout is affine if positions are off by no more than this, in input pixels (root mean square)
_MAX_RESIDUAL_PX = 0.35
#: grey levels of a ramp, of the slope across it, of the noise on it and below it: less than 256 in all, so that
#: overshoot of a filter is not clipped
_RAMP_LEVELS, _SLOPE_LEVELS, _NOISE_LEVELS, _FLOOR_LEVEL = 190, 16, 24, 12


def probe(preprocess: Preprocess, image_wh: tuple[int, int]) -> InputMap:
    """Measures the map from an image to what `preprocess` makes of it.

    Red and blue encode x, green encodes y; each axis is fitted in float64 to a rising and a falling ramp. The ramps are
    dithered, noisy and slope slightly along the other axis too, so that rounding to 8 bit, before and after the resize,
    averages out. The resized size and the offset are rounded to whole numbers where the measurement cannot tell them
    from one. `preprocess` is called four times.

    >>> def half(image):
    ...     return np.asarray(image.resize((64, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1) / 255.0
    >>> probe(half, (128, 64))
    InputMap(scale_xy=(0.5, 0.5), offset_xy=(0.0, 0.0), input_hw=(32, 64))

    Args:
        preprocess: PIL image → array `[3, h, w]`.
        image_wh: width and height of the image, pixels.

    Returns:
        The map.

    Raises:
        InvalidInputError: if the result is not one upright image, e.g. tiles, flattened patches, a flip.
    """
    width, height = image_wh
    random = np.random.default_rng(0)
    flat = np.zeros((height, width, 3))
    black, white = _run(preprocess, flat), _run(preprocess, flat + 255)
    if black.shape != white.shape:
        raise InvalidInputError("the preprocessing gives images of one size different shapes; give the map by hand.")
    span = white - black
    # where black and white do not differ the input shows padding, not the image
    live = np.abs(span) > 0.5 * np.abs(span).max(axis=(1, 2), keepdims=True)
    if not live.any() or not np.isfinite(span).all():
        raise InvalidInputError("the preprocessing gives the same input for black and white; it cannot be probed.")
    span = np.where(live, span, 1.0)
    up_x, down_x, share_x = _ramps(width)
    up_y, down_y, share_y = _ramps(height)
    # the same noise and slope under both ramps: they cancel, and so does whatever else shifts both alike
    noise = random.integers(0, _NOISE_LEVELS, (height, width))
    under_x = _dither(np.linspace(0, _SLOPE_LEVELS, height)[:, None] + noise, random)
    under_y = _dither(np.linspace(0, _SLOPE_LEVELS, width)[None, :] + noise, random)
    seen = []
    for ramp_x, ramp_y in ((up_x, up_y), (down_x, down_y)):
        in_x = _dither(ramp_x[None, :] + np.zeros((height, 1)), random) + under_x
        in_y = _dither(ramp_y[:, None] + np.zeros((1, width)), random) + under_y
        seen.append((_run(preprocess, np.stack([in_x, in_y, in_x], axis=2) + _FLOOR_LEVEL) - black) / span * 255)
    rise = (seen[0] - seen[1]) / 2  # in levels, zero in the middle of the image
    scale_x, offset_x = _fit_axis(rise[0::2] / (2 * share_x) + 0.5, live[0::2], 2, width)
    scale_y, offset_y = _fit_axis(rise[1:2] / (2 * share_y) + 0.5, live[1:2], 1, height)
    return InputMap((scale_x, scale_y), (offset_x, offset_y), (black.shape[1], black.shape[2]))


def _ramps(size: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Rising and falling levels along one axis, and half the levels that the whole axis spans.

    On short axes the steps are whole levels, which 8 bits hold exactly.
    """
    step = _RAMP_LEVELS / size
    step = float(int(step)) if step >= 1 else step
    up = np.arange(size) * step
    return up, up[::-1].copy(), size * step / 2


def _dither(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.floor(values + np.where(values == np.floor(values), 0.5, random.random(values.shape)))


def _run(preprocess: Preprocess, values: np.ndarray) -> np.ndarray:
    output = preprocess(Image.fromarray(values.astype(np.uint8)))
    if hasattr(output, "detach"):
        output = output.detach().cpu().float().numpy()
    array = np.asarray(output, dtype=np.float64)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3 or array.shape[0] != 3:
        raise InvalidInputError(
            f"the preprocessing gives an array of shape {array.shape}, not one image [3, h, w]: its layout is "
            "unknown. Put patches or tiles back into images first, or build the Geometry from its tiles."
        )
    return array


def _fit_axis(position: np.ndarray, live: np.ndarray, axis: int, size: int) -> tuple[float, float]:
    """Scale and offset along one axis from `position`: the image position that each input pixel shows, as a fraction of
    the image's width or height.
    """
    other = (0, 1) if axis == 2 else (0, 2)
    count = live.sum(axis=other)
    mean = (position * live).sum(axis=other) / np.maximum(count, 1)
    centre = np.arange(len(mean)) + 0.5
    use = count > 0.5 * count.max()
    scale = offset = error = 0.0
    for _ in range(3):  # repeated: which pixels lie near the image's border depends on the fit
        if use.sum() < 3:
            raise InvalidInputError(
                f"too little of the image reaches the model to measure where it lands (side of {size} pixels); "
                "enlarge the image or use a processor that states its steps."
            )
        x, y = centre[use], mean[use]
        slope = float(np.sum((x - x.mean()) * (y - y.mean())) / np.sum((x - x.mean()) ** 2))
        if slope <= 1e-9:
            raise InvalidInputError("the preprocessing flips, turns or rearranges the image: its layout is unknown.")
        start = float(y.mean() - slope * x.mean())
        scale, offset = 1 / (slope * size), -start / slope
        residual = (y - slope * x - start) / slope  # in input pixels
        error = float(np.sqrt(np.mean(residual**2)))
        border = min(max(_BORDER_PX, 3.0 * scale), 0.3 * size * scale)
        inside = (centre > offset + border) & (centre < offset + size * scale - border)
        use = (count > 0.5 * count.max()) & inside
    # columns may agree on average while rows disagree (tiles, flips): then each half has its own map
    drift = _drift(position, live, axis, scale, offset, size, use)
    limit = max(_MAX_RESIDUAL_PX, 0.1 * scale)  # a strongly enlarged image has fewer levels per input pixel
    if error > limit or drift > 2 * limit:
        raise InvalidInputError(
            f"the preprocessing is no resize, crop and pad of the whole image (positions are off by "
            f"{max(error, drift):.2g} pixels): its layout is unknown. Build the Geometry from its tiles."
        )
    return _snapped(scale, offset, size, centre[use], mean[use])


def _drift(
    position: np.ndarray, live: np.ndarray, axis: int, scale: float, offset: float, size: int, use: np.ndarray
) -> float:
    """The largest deviation of any quarter of the input, cut across the axis, from the common fit, in input pixels."""
    centre = (np.arange(position.shape[axis]) + 0.5 - offset) / scale / size
    error = np.moveaxis(position, axis, 2) - centre[None, None, :]
    weight = np.moveaxis(live, axis, 2) & use[None, None, :]
    parts = np.array_split(np.arange(error.shape[1]), 4)
    means = [float(error[:, part][weight[:, part]].mean()) for part in parts if weight[:, part].any()]
    return max(abs(value) for value in means) * size * scale if means else 0.0


def _snapped(scale: float, offset: float, size: int, centre: np.ndarray, mean: np.ndarray) -> tuple[float, float]:
    """Rounds the resized size and the offset to whole numbers if the measurement cannot tell them from whole ones."""
    resized = round(scale * size)
    if resized < 1 or abs(scale * size - resized) > 0.12:
        return scale, offset
    fitted = float(np.mean(centre - resized * mean))
    return resized / size, float(round(fitted)) if abs(fitted - round(fitted)) < 0.12 else fitted
