"""Finds the map of a processor for an image size: computed from its settings, checked by measurement, and cached.

A processor whose settings state the map is checked once: at its first use the stated map is compared with what a probe
measures on two small fixed sizes, a wide and a tall one. If they differ by more than half an input pixel, the
measurement is used, with a warning, and that processor is measured for every new size. A measurement takes some
milliseconds to tens of them per size, which is why not every size of a trusted processor is measured. Maps are cached
per processor, its settings and the size.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cachetools import LRUCache
from PIL import Image

from visprompt.errors import InvalidInputError
from visprompt.geometry.analytic import InputMap, Size, analytic, fingerprint, mean_rgb
from visprompt.geometry.fit import canvas_for, check_processable, fit_image
from visprompt.geometry.geometry import Geometry
from visprompt.geometry.probe import Preprocess, probe
from visprompt.utils.renamed import renamed_parameters

#: sizes remembered per processor
MAX_SIZES = 1024
#: largest allowed difference between stated and measured maps, in pixels of the input
MAX_DISAGREEMENT_PX = 0.5

_CHECK_WH = ((331, 200), (149, 210))  # no multiples of common sizes, so that differences in rounding show


@dataclass
class _Known:
    """The cached maps of one processor with one set of settings."""

    settings: str
    trusted: bool | None = None  # None: not checked yet
    maps: LRUCache[Size, InputMap] = field(default_factory=lambda: LRUCache(maxsize=MAX_SIZES))


_known: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def resolve(
    processor: Any,
    preprocess: Preprocess,
    image_wh: Size,
    *,
    patch_size: int | Size | None = None,
    grid_hw: Size | Callable[[Size], Size] | None = None,
) -> Geometry:
    """The geometry of an image in a model that sees it as one tile.

    Args:
        processor: transformers image processor (or a processor that holds one), or a `Compose`; None and unsupported
            processors are measured with `preprocess`.
        preprocess: PIL image → array or tensor `[3, h, w]`, the model's input.
        image_wh: width and height of the original image, pixels.
        patch_size: pixels of the input, an int or (height, width).
        grid_hw: instead of `patch_size`: rows and columns of patches, or a function from `input_hw` to them.

    Returns:
        The geometry.

    Raises:
        InvalidInputError: if the image is too small or too long (`check_processable`), or the map cannot be found.
    """
    mapped = resolve_map(processor, preprocess, image_wh)
    grid = grid_hw(mapped.input_hw) if callable(grid_hw) else grid_hw
    return Geometry.single(image_wh, mapped, patch_size, grid)


def resolve_map(processor: Any, preprocess: Preprocess, image_wh: Size) -> InputMap:
    """The map from an image to the model input, as in `resolve`, without patches.

    Args:
        processor: as in `resolve`.
        preprocess: as in `resolve`.
        image_wh: width and height of the original image, pixels.

    Returns:
        The map.

    Raises:
        InvalidInputError: as in `resolve`.
    """
    check_processable(image_wh)
    return _map(processor, preprocess, (int(image_wh[0]), int(image_wh[1])))


def _map(processor: Any, preprocess: Preprocess, image_wh: Size) -> InputMap:
    known = _of(processor, preprocess)
    with _lock:
        found = known.maps.get(image_wh)
    if found is None:
        found = _find(known, processor, preprocess, image_wh)
        with _lock:
            known.maps[image_wh] = found
    return found


@renamed_parameters(picture="image")
def fitted(
    image: Image.Image,
    fit: str,
    processor: Any,
    preprocess: Preprocess,
    *,
    patch_size: int | Size | None = None,
    grid_hw: Size | Callable[[Size], Size] | None = None,
    fill: tuple[int, int, int] | None = None,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> tuple[Image.Image, Geometry]:
    """Fits an image for a processor, and gives the geometry of the original image after both.

    `fit="model"` returns the image unchanged. `"pad"` and `"squash"` resize it to the size that the processor leaves
    unchanged; where the processor crops a border, a border is added first, so that no part of the image is lost. If the
    processor alone does what `fit` asks for, the image is returned unchanged too.

    Args:
        image: the original.
        fit: `"model"`, `"pad"` or `"squash"`.
        processor: as in `resolve`.
        preprocess: as in `resolve`.
        patch_size: as in `resolve`.
        grid_hw: as in `resolve`.
        fill: colour of the padding; None: the processor's mean.
        resample: filter of the resize.

    Returns:
        The image to give to the processor, and the geometry of `image`.

    Raises:
        InvalidInputError: as in `resolve`; also if the processor leaves no image size unchanged.
    """
    own = resolve_map(processor, preprocess, image.size)
    grid = grid_hw(own.input_hw) if callable(grid_hw) else grid_hw
    if fit == "model" or _does_already(own, fit, image.size):
        return image, Geometry.single(image.size, own, patch_size, grid)
    height, width = own.input_hw
    first = _map(processor, preprocess, (width, height))
    canvas = canvas_for((height, width), first.scale_xy)
    last = _map(processor, preprocess, (canvas[1], canvas[0]))
    exact = last.input_hw == own.input_hw and all(abs(scale - 1) < 1e-9 for scale in last.scale_xy)
    # the part of the canvas that the input shows: what a crop leaves, or the whole canvas where the processor pads
    left, top = (max(0, -round(offset)) for offset in last.offset_xy)
    right = min(canvas[1], width - round(last.offset_xy[0]))
    bottom = min(canvas[0], height - round(last.offset_xy[1]))
    if not exact or right <= left or bottom <= top:
        raise InvalidInputError(
            f"fit={fit!r} is not possible with this processor: there is no image size that it leaves alone but for a "
            f'crop or a padding (it takes {canvas[1]}×{canvas[0]} to {last}); use fit="model".'
        )
    colour = mean_rgb(processor) if fill is None else fill
    window = (bottom - top, right - left)
    result, scale_xy, offset_xy = fit_image(image, fit, window, colour, resample, canvas, (left, top))
    return result, Geometry.single(image.size, last.after(scale_xy, offset_xy), patch_size, grid)


def _does_already(own: InputMap, fit: str, wh: Size) -> bool:
    (sx, sy), offset = own.scale_xy, own.offset_xy
    whole = offset == (0.0, 0.0) and own.input_hw == (round(sy * wh[1]), round(sx * wh[0]))
    return whole and (fit == "squash" or abs(sx / sy - 1) < 1e-9)


def _of(processor: Any, preprocess: Preprocess) -> _Known:
    owner = preprocess if processor is None else processor
    settings = "" if processor is None else fingerprint(processor)
    try:
        with _lock:
            known = _known.get(owner)
            if known is None or known.settings != settings:
                known = _known[owner] = _Known(settings)
            return known
    except TypeError:  # neither hashable nor weakly referenceable: not cached
        return _Known(settings)


def _find(known: _Known, processor: Any, preprocess: Preprocess, image_wh: Size) -> InputMap:
    stated = None if processor is None else analytic(processor, image_wh)
    if stated is None:
        return probe(preprocess, image_wh)
    if known.trusted is None:
        known.trusted = all(_check(processor, preprocess, wh) for wh in _CHECK_WH)
    return stated if known.trusted else probe(preprocess, image_wh)


def _check(processor: Any, preprocess: Preprocess, wh: Size) -> bool:
    stated = analytic(processor, wh)
    if stated is None:
        return False
    try:
        measured = probe(preprocess, wh)
    except InvalidInputError as error:
        warnings.warn(
            f"the settings of {type(processor).__name__} state where images of {wh[0]}×{wh[1]} pixels go, but it could "
            f"not be measured ({error}); the stated map is used unchecked.",
            UserWarning,
            stacklevel=5,
        )
        return True
    off = disagreement_px(stated, measured, wh)
    if off <= MAX_DISAGREEMENT_PX:
        return True
    warnings.warn(
        f"{type(processor).__name__} states {stated} for images of {wh[0]}×{wh[1]} pixels and does {measured}, "
        f"{off:.1f} pixels away; what it does counts, and every new size is measured from here on.",
        UserWarning,
        stacklevel=5,
    )
    return False


def disagreement_px(a: InputMap, b: InputMap, wh: Size) -> float:
    """The largest distance along one axis between the positions of the visible image under two maps.

    Args:
        a: a map.
        b: another map of the same image.
        wh: width and height of the image, pixels.

    Returns:
        Input pixels; infinity if the sizes of the inputs differ.
    """
    if a.input_hw != b.input_hw:
        return float("inf")
    worst = 0.0
    for axis, side in ((0, a.input_hw[1]), (1, a.input_hw[0])):
        for corner in (0.0, float(wh[axis])):
            # corners of the visible part: far outside of the input a tiny difference in scale would count for much
            edge = min(max(a.scale_xy[axis] * corner + a.offset_xy[axis], 0.0), float(side))
            source = (edge - a.offset_xy[axis]) / a.scale_xy[axis]
            worst = max(worst, abs(b.scale_xy[axis] * source + b.offset_xy[axis] - edge))
    return worst
