"""Computes where an image processor puts an image, from the steps that its settings name: resize, crop, pad.

Supported are the image processors of transformers that use the library's own resize and crop, and pipelines (`Compose`)
of torchvision, open_clip and timm. For anything else the result is None, and `visprompt.geometry.probe` measures the
map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

Pair: TypeAlias = tuple[float, float]
Size: TypeAlias = tuple[int, int]


class InputMap(NamedTuple):
    """The map from image pixels to pixels of a model input, at pixel edges: `input_xy = scale_xy · image_xy +
    offset_xy`.
    """

    scale_xy: Pair
    offset_xy: Pair
    input_hw: Size

    def after(self, scale_xy: Pair, offset_xy: Pair) -> InputMap:
        """Composes this map with one that is applied before it, e.g. the processor's map with that of a fit before it.

        >>> InputMap((2.0, 2.0), (1.0, 0.0), (8, 8)).after((3.0, 3.0), (5.0, 0.0))
        InputMap(scale_xy=(6.0, 6.0), offset_xy=(11.0, 0.0), input_hw=(8, 8))

        Args:
            scale_xy: scale of the earlier map.
            offset_xy: offset of the earlier map, pixels of its output.

        Returns:
            The composed map.
        """
        (sx, sy), (ox, oy) = self.scale_xy, self.offset_xy
        return InputMap(
            (sx * scale_xy[0], sy * scale_xy[1]), (sx * offset_xy[0] + ox, sy * offset_xy[1] + oy), self.input_hw
        )


def analytic(processor: Any, image_wh: Size) -> InputMap | None:
    """Computes the map of an image processor from its settings.

    >>> from torchvision.transforms import CenterCrop, Compose, Resize
    >>> analytic(Compose([Resize(224), CenterCrop(224)]), (640, 480))
    InputMap(scale_xy=(0.465625, 0.4666666666666667), offset_xy=(-37.0, 0.0), input_hw=(224, 224))

    Args:
        processor: transformers image processor (or a processor that holds one), or a `Compose`.
        image_wh: width and height of the image, pixels.

    Returns:
        The map, or None if the settings are not supported.
    """
    processor = getattr(processor, "image_processor", processor)
    steps = getattr(processor, "transforms", None)
    if isinstance(steps, Sequence):
        return _pipeline(steps, image_wh)
    return _transformers(processor, image_wh) if hasattr(processor, "do_resize") else None


def fingerprint(processor: Any) -> str:
    """The settings that decide the map, as a string: maps are cached under it, so a changed setting is noticed.

    Args:
        processor: as in `analytic`.

    Returns:
        A string that differs when a setting does.
    """
    processor = getattr(processor, "image_processor", processor)
    if isinstance(getattr(processor, "transforms", None), Sequence):
        return repr(processor)
    names = ("do_resize", "size", "do_center_crop", "crop_size", "do_pad", "pad_size", "crop_pct")
    return repr([(name, getattr(processor, name, None)) for name in names])


def mean_rgb(processor: Any, default: tuple[int, int, int] = (124, 116, 104)) -> tuple[int, int, int]:
    """The colour that a processor normalises to zero, for padding.

    Args:
        processor: as in `analytic`.
        default: the result for processors without a mean; ImageNet's mean.

    Returns:
        Red, green and blue, 0–255.
    """
    processor = getattr(processor, "image_processor", processor)
    mean = getattr(processor, "image_mean", None) if getattr(processor, "do_normalize", True) else None
    for step in getattr(processor, "transforms", None) or ():
        mean = getattr(step, "mean", mean)
    if mean is None:
        return default
    values = [float(value) for value in (mean if hasattr(mean, "__len__") else [mean])]
    values = values * 3 if len(values) == 1 else values
    if len(values) != 3 or not all(0 <= value <= 1 for value in values):
        return default
    red, green, blue = (round(255 * value) for value in values)
    return (red, green, blue)


# -- one axis at a time ---------------------------------------------------------------------------------------------


class _State:
    """The map and the image size after the steps so far."""

    def __init__(self, wh: Size) -> None:
        self.wh = wh
        self.scale: Pair = (1.0, 1.0)
        self.offset: Pair = (0.0, 0.0)

    def resize(self, hw: Size) -> None:
        fx, fy = hw[1] / self.wh[0], hw[0] / self.wh[1]
        self.scale = (self.scale[0] * fx, self.scale[1] * fy)
        self.offset = (self.offset[0] * fx, self.offset[1] * fy)
        self.wh = (hw[1], hw[0])

    def window(self, hw: Size, start: Callable[[int, int], int]) -> None:
        """Crops or pads to a window of size `hw`; `start(have, want)` is where the window begins along one axis."""
        left, top = start(self.wh[0], hw[1]), start(self.wh[1], hw[0])
        self.offset = (self.offset[0] - left, self.offset[1] - top)
        self.wh = (hw[1], hw[0])

    def result(self) -> InputMap:
        return InputMap(self.scale, self.offset, (self.wh[1], self.wh[0]))


def _shortest_edge(wh: Size, edge: int, longest: int | None) -> Size:
    """(h, w) with the shorter side at `edge`, the other one rounded down: the rule of torchvision and transformers."""
    short, long = min(wh), max(wh)
    new_short, new_long = edge, int(edge * long / short)
    if longest is not None and new_long > longest:
        new_short, new_long = int(longest * new_short / new_long), longest
    return (new_long, new_short) if wh[0] <= wh[1] else (new_short, new_long)


def _start_round(have: int, want: int) -> int:
    # torchvision, open_clip, timm: padding has its odd pixel on the far side, a cut begins at the half, rounded to even
    return -((want - have) // 2) if have < want else round((have - want) / 2.0)


def _start_floor(have: int, want: int) -> int:
    return -((want - have) // 2) if have < want else (have - want) // 2


def _start_floor_pad_ceil(have: int, want: int) -> int:
    # transformers' PIL processors put the odd pixel of a padding on the near side
    return -math.ceil((want - have) / 2) if have < want else (have - want) // 2


# -- transformers ---------------------------------------------------------------------------------------------------

#: transformers' image processors that only resize, crop and normalise; others qualify if they override none of those
_PLAIN = ("CLIP", "Siglip", "ViT", "DeiT", "Beit", "Bit", "DINOv3ViT", "ChineseCLIP")
_BACKEND_MODULES = ("transformers.image_processing_backends", "transformers.image_processing_utils_fast")


def _is_plain(kind: type) -> bool:
    name = kind.__name__.removesuffix("Fast").removesuffix("Pil").removesuffix("ImageProcessor")
    if name in _PLAIN and kind.__module__.startswith("transformers."):
        return True
    steps = [getattr(kind, step, None) for step in ("_preprocess", "resize", "center_crop")]
    return all(getattr(step, "__module__", None) in _BACKEND_MODULES for step in steps)


def _transformers(processor: Any, image_wh: Size) -> InputMap | None:
    if not _is_plain(type(processor)):
        return None
    state = _State(image_wh)
    if processor.do_resize:
        hw = _target(processor.size, image_wh)
        if hw is None:
            return None
        state.resize(hw)
    if getattr(processor, "do_center_crop", False):
        crop = _size_dict(processor.crop_size)
        if not (crop.get("height") and crop.get("width")):
            return None
        slow = "torchvision" not in str(getattr(processor, "backend", "torchvision"))
        state.window((crop["height"], crop["width"]), _start_floor_pad_ceil if slow else _start_floor)
    if getattr(processor, "do_pad", False):
        pad = _size_dict(getattr(processor, "pad_size", None))
        if pad.get("height") and pad.get("width"):
            state.window((pad["height"], pad["width"]), lambda have, want: 0)
    return state.result()


def _size_dict(size: Any) -> dict[str, int]:
    if size is None:
        return {}
    names = ("height", "width", "shortest_edge", "longest_edge", "max_height", "max_width")
    found = {name: size.get(name) if isinstance(size, dict) else getattr(size, name, None) for name in names}
    return {name: int(value) for name, value in found.items() if value is not None}


def _target(size: Any, wh: Size) -> Size | None:
    """(h, w) that transformers resizes to; None for rules that are left to the probe (shortest and longest edge)."""
    sizes = _size_dict(size)
    if set(sizes) == {"shortest_edge"}:
        return _shortest_edge(wh, sizes["shortest_edge"], None)
    if set(sizes) == {"height", "width"}:
        return (sizes["height"], sizes["width"])
    return None


# -- torchvision, open_clip, timm -----------------------------------------------------------------------------------

_COLOUR_ONLY = {
    "Normalize", "ToTensor", "MaybeToTensor", "PILToTensor", "MaybePILToTensor", "ToNumpy", "MaybeConvertMode",
    "_convert_to_rgb", "ConvertImageDtype", "ToDtype", "ToImage", "RGB", "Identity",
}  # fmt: skip


def _pipeline(steps: Sequence[Any], image_wh: Size) -> InputMap | None:
    state = _State(image_wh)
    for step in steps:
        name = getattr(step, "__name__", type(step).__name__)
        module = str(getattr(step, "__module__", ""))
        if not module.startswith(("torchvision.", "open_clip.", "timm.", "torch.")):
            return None
        if name in _COLOUR_ONLY:
            continue
        if name == "Resize":
            hw = _resize_target(step, state.wh)
            if hw is None:
                return None
            state.resize(hw)
        elif name == "ResizeKeepRatio":
            if getattr(step, "random_scale_prob", 0) or getattr(step, "random_aspect_prob", 0):
                return None
            ratio_w, ratio_h = state.wh[0] / step.size[1], state.wh[1] / step.size[0]
            ratio = max(ratio_w, ratio_h) * step.longest + min(ratio_w, ratio_h) * (1.0 - step.longest)
            state.resize((round(state.wh[1] / ratio), round(state.wh[0] / ratio)))
        elif name in ("CenterCrop", "CenterCropOrPad"):
            height, width = (step.size, step.size) if isinstance(step.size, int) else step.size
            state.window((int(height), int(width)), _start_round)
        elif name == "TrimBorder":
            border = step.border_size
            size = (max(state.wh[1] - 2 * border, 0), max(state.wh[0] - 2 * border, 0))
            if min(size) == 0:
                return None
            state.window(size, lambda have, want, border=border: border)  # type: ignore[misc]
        elif name == "Compose":
            inner = _pipeline(step.transforms, state.wh)
            if inner is None:
                return None
            whole = inner.after(state.scale, state.offset)
            state.scale, state.offset = whole.scale_xy, whole.offset_xy
            state.wh = (inner.input_hw[1], inner.input_hw[0])
        else:
            return None
    return state.result()


def _resize_target(step: Any, wh: Size) -> Size | None:
    size = [step.size] if isinstance(step.size, int) else list(step.size or ())
    if len(size) == 1:
        return _shortest_edge(wh, int(size[0]), getattr(step, "max_size", None))
    return (int(size[0]), int(size[1])) if len(size) == 2 else None
