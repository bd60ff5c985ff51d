"""A painted region changes the patches that the geometry computes, for every processor family and image shape."""

from __future__ import annotations

import gc
import importlib
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from visprompt.errors import InvalidInputError
from visprompt.geometry import (
    InputMap,
    Tile,
    analytic,
    check_processable,
    fit_image,
    fitted,
    mean_rgb,
    probe,
    resolve,
    resolve_map,
)
from visprompt.geometry.resolve import disagreement_px
from visprompt.request import Box

#: the module; the package has the function of that name
geometry_resolve = importlib.import_module("visprompt.geometry.resolve")

Preprocess = Callable[[Image.Image], np.ndarray]


def _transformers(name: str, **settings: Any) -> Callable[[], tuple[Any, Preprocess]]:
    def make() -> tuple[Any, Preprocess]:
        module = pytest.importorskip("transformers")
        if name.endswith("Pil"):
            from importlib import import_module

            family = {"CLIPImageProcessorPil": "clip", "BitImageProcessorPil": "bit"}[name]
            module = import_module(f"transformers.models.{family}.image_processing_pil_{family}")
        processor = getattr(module, name)(**settings)
        return processor, lambda image: np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0])

    return make


def _open_clip(**settings: Any) -> Callable[[], tuple[Any, Preprocess]]:
    def make() -> tuple[Any, Preprocess]:
        transform = pytest.importorskip("open_clip.transform").image_transform(is_train=False, **settings)
        return transform, lambda image: transform(image).numpy()

    return make


def _timm(**settings: Any) -> Callable[[], tuple[Any, Preprocess]]:
    def make() -> tuple[Any, Preprocess]:
        transform = pytest.importorskip("timm.data").create_transform(**settings)
        return transform, lambda image: transform(image).numpy()

    return make


def _hw(height: int, width: int) -> dict[str, int]:
    return {"height": height, "width": width}


FAMILIES = {
    "clip": _transformers("CLIPImageProcessor", size={"shortest_edge": 112}, crop_size=_hw(112, 112)),
    "clip-tiny": _transformers("CLIPImageProcessor", size={"shortest_edge": 32}, crop_size=_hw(32, 32)),
    "clip-pil": _transformers("CLIPImageProcessorPil", size={"shortest_edge": 112}, crop_size=_hw(112, 112)),
    "clip-padding": _transformers("CLIPImageProcessor", size={"shortest_edge": 96}, crop_size=_hw(113, 113)),
    "clip-pil-padding": _transformers("CLIPImageProcessorPil", size={"shortest_edge": 96}, crop_size=_hw(113, 113)),
    "clip-no-resize": _transformers("CLIPImageProcessor", do_resize=False, crop_size=_hw(96, 96)),
    "siglip": _transformers("SiglipImageProcessor", size=_hw(112, 112)),
    "dinov2": _transformers("BitImageProcessor", size={"shortest_edge": 128}, crop_size=_hw(112, 112)),
    "dinov2-pil-odd": _transformers("BitImageProcessorPil", size={"shortest_edge": 127}, crop_size=_hw(112, 112)),
    "dinov3": _transformers("DINOv3ViTImageProcessor", size=_hw(112, 112)),
    "vit": _transformers("ViTImageProcessor", size=_hw(112, 112)),
    "beit": _transformers("BeitImageProcessor", size=_hw(112, 112)),
    "deit": _transformers("DeiTImageProcessor", size=_hw(128, 128), crop_size=_hw(112, 112), do_center_crop=True),
    "open_clip": _open_clip(image_size=112),
    "open_clip-squash": _open_clip(image_size=112, resize_mode="squash"),
    "open_clip-longest": _open_clip(image_size=112, resize_mode="longest"),
    "open_clip-oblong": _open_clip(image_size=(112, 80)),
    "timm": _timm(input_size=(3, 112, 112)),
    "timm-odd-crop": _timm(input_size=(3, 112, 112), crop_pct=0.95),
    "timm-squash": _timm(input_size=(3, 112, 112), crop_pct=1.0, crop_mode="squash"),
    "timm-border": _timm(input_size=(3, 112, 112), crop_pct=0.9, crop_mode="border"),
}
SHAPES = {"square": (150, 150), "3:1": (300, 100), "1:3": (100, 300)}
PATCH = 16


@pytest.fixture(scope="module")
def made() -> dict[str, tuple[Any, Preprocess]]:
    return {}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, made: dict[str, tuple[Any, Preprocess]]) -> tuple[Any, Preprocess]:
    if request.param not in made:
        made[request.param] = FAMILIES[request.param]()
    return made[request.param]


@pytest.mark.parametrize("wh", [(300, 100), (211, 160), (65, 97)])
def test_stated_equals_measured(family: tuple[Any, Preprocess], wh: tuple[int, int]) -> None:
    processor, preprocess = family
    stated = analytic(processor, wh)
    assert stated is not None
    assert preprocess(Image.new("RGB", wh)).shape[1:] == stated.input_hw
    assert disagreement_px(stated, probe(preprocess, wh), wh) < 0.2


@pytest.mark.parametrize(
    ("fit", "shape"), [*(("model", shape) for shape in SHAPES), ("pad", "3:1"), ("pad", "1:3"), ("squash", "3:1")]
)
def test_painted_region_changes_exactly_the_patches_it_covers(
    family: tuple[Any, Preprocess], fit: str, shape: str
) -> None:
    processor, preprocess = family
    wh = SHAPES[shape]
    ground = Image.new("RGB", wh, (90, 90, 90))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before, geometry = fitted(ground, fit, processor, preprocess, patch_size=PATCH)
    x0, y0, x1, y1 = geometry.visible_xyxy()
    if fit != "model":
        assert (x0, y0, x1, y1) == (0, 0, *wh)
    box = Box(
        round(x0 + 0.23 * (x1 - x0)),
        round(y0 + 0.31 * (y1 - y0)),
        round(x0 + 0.61 * (x1 - x0)),
        round(y0 + 0.72 * (y1 - y0)),
    )
    painted = ground.copy()
    painted.paste((250, 250, 250), tuple(int(value) for value in box.xyxy))  # type: ignore[arg-type]
    after, again = fitted(painted, fit, processor, preprocess, patch_size=PATCH)
    assert again == geometry
    change = np.abs(preprocess(after) - preprocess(before)).mean(axis=0)
    light, dark = (preprocess(Image.new("RGB", after.size, (level,) * 3)) for level in (250, 90))
    rows, columns = geometry.grid_hw
    used = change[: rows * PATCH, : columns * PATCH].reshape(rows, PATCH, columns, PATCH)
    share = used.mean(axis=(1, 3)).reshape(-1) / np.abs(light - dark).mean(axis=0).max()
    coverage = geometry.coverage(box)
    assert np.abs(share - coverage).max() < 0.04
    # the resize filter bleeds a pixel or two into patches that merely touch the region, never more
    assert (share[coverage == 0] < 0.03).all()
    assert (share[coverage > 0.05] > 0).all()


# -- processors that say nothing, or the wrong thing ----------------------------------------------------------------


def _resizer(size: tuple[int, int], left: int = 0) -> Preprocess:
    def preprocess(image: Image.Image) -> np.ndarray:
        small = image.resize(size, Image.Resampling.BILINEAR)
        array = np.asarray(small, dtype=np.float64).transpose(2, 0, 1) / 255 - 0.4
        return np.roll(array, left, axis=2) if left else array

    return preprocess


def test_probe_is_exact_without_any_statement() -> None:
    geometry = resolve(None, _resizer((64, 48)), (200, 150), patch_size=16)
    assert geometry.tiles[0] == Tile((64 / 200, 48 / 150), (0.0, 0.0), (48, 64), (3, 4), (16.0, 16.0))


def test_grid_may_be_given_instead_of_the_patch_size() -> None:
    called = resolve(None, _resizer((64, 48)), (200, 150), grid_hw=lambda hw: (hw[0] // 24, hw[1] // 32))
    assert called.grid_hw == (2, 2)


def test_probe_with_padding_and_odd_normalisation() -> None:
    def preprocess(image: Image.Image) -> np.ndarray:
        canvas = Image.new("RGB", (96, 96), (1, 200, 30))
        canvas.paste(image.resize((80, 40), Image.Resampling.BICUBIC), (10, 30))
        values = np.asarray(canvas, dtype=np.float64).transpose(2, 0, 1)
        return values * np.array([-0.1, 3.0, 0.01])[:, None, None] + np.array([5.0, -2.0, 0.0])[:, None, None]

    assert probe(preprocess, (160, 80)) == InputMap((0.5, 0.5), (10.0, 30.0), (96, 96))


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        (lambda image: np.zeros((9, 768)), "shape .*unknown"),
        (lambda image: np.zeros((2, 3, 8, 8)), "shape .*unknown"),
        (lambda image: np.zeros((3, 32, 32)), "same input for black and white"),
        (lambda image: _resizer((64, 64))(image)[:, :, ::-1], "layout is unknown"),
        (lambda image: _resizer((64, 64))(image).transpose(0, 2, 1), "layout is unknown"),
        (_resizer((64, 64), left=20), "layout is unknown"),
        (lambda image: np.tile(_resizer((32, 32))(image), (1, 2, 2)), "layout is unknown"),
    ],
    ids=["flattened", "tiles", "blind", "flipped", "turned", "rolled", "repeated"],
)
def test_layouts_that_are_no_single_image_are_refused(preprocess: Preprocess, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        resolve(None, preprocess, (120, 90), patch_size=16)


class _Liar:
    """States a squash to 64×64 and does another."""

    def __init__(self) -> None:
        torchvision = pytest.importorskip("torchvision.transforms")
        self.transforms = [torchvision.Resize((64, 64))]


def test_measured_wins_over_a_wrong_statement() -> None:
    liar = _Liar()

    def preprocess(image: Image.Image) -> np.ndarray:
        shrunk = image.resize((60, 64), Image.Resampling.BILINEAR)
        canvas = Image.new("RGB", (64, 64))
        canvas.paste(shrunk, (4, 0))
        return np.asarray(canvas, dtype=np.float64).transpose(2, 0, 1)

    with pytest.warns(UserWarning, match="what it does counts"):
        found = resolve_map(liar, preprocess, (120, 80))
    assert found == InputMap((0.5, 0.8), (4.0, 0.0), (64, 64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # told once, then measured
        assert resolve_map(liar, preprocess, (240, 80)).scale_xy == (0.25, 0.8)


def test_statement_is_used_unchecked_if_it_cannot_be_measured() -> None:
    liar = _Liar()
    with pytest.warns(UserWarning, match="used unchecked"):
        found = resolve_map(liar, lambda image: np.zeros((4, 4)), (120, 80))
    assert found.input_hw == (64, 64)


def test_unknown_step_or_foreign_class_states_nothing() -> None:
    torchvision = pytest.importorskip("torchvision.transforms")
    assert analytic(torchvision.Compose([torchvision.RandomCrop(8)]), (64, 64)) is None
    assert analytic(torchvision.Compose([lambda image: image]), (64, 64)) is None
    assert analytic(object(), (64, 64)) is None
    module = pytest.importorskip("transformers")
    assert analytic(module.ConvNextImageProcessor(), (64, 64)) is None


def test_processor_is_checked_once_and_maps_are_remembered() -> None:
    processor, preprocess = FAMILIES["open_clip"]()
    calls = []

    def counted(image: Image.Image) -> np.ndarray:
        calls.append(image.size)
        return preprocess(image)

    resolve(processor, counted, (200, 100), patch_size=16)
    first = len(calls)
    assert 0 < first <= 8
    for size in [(200, 100), (201, 100), (640, 480)]:
        resolve(processor, counted, size, patch_size=16)
    assert len(calls) == first


def test_changed_settings_are_noticed() -> None:
    processor, preprocess = FAMILIES["siglip"]()
    assert resolve_map(processor, preprocess, (100, 80)).input_hw == (112, 112)
    processor.size = {"height": 64, "width": 64}
    assert resolve_map(processor, preprocess, (100, 80)).input_hw == (64, 64)


def test_memory_is_bounded_and_dies_with_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry_resolve, "MAX_SIZES", 5)
    processor, preprocess = FAMILIES["open_clip"]()
    for width in range(100, 120):
        resolve_map(processor, preprocess, (width, 100))
    assert len(geometry_resolve._known[processor].maps) == 5
    before = len(geometry_resolve._known)
    del processor, preprocess
    gc.collect()
    assert len(geometry_resolve._known) < before


def test_many_threads() -> None:
    processor, preprocess = FAMILIES["timm"]()
    found: list[InputMap] = []
    threads = [
        threading.Thread(target=lambda: found.append(resolve_map(processor, preprocess, (130, 90)))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert len(set(found)) == 1


@pytest.mark.parametrize(
    ("wh", "message"),
    [((1, 1), "16 or more"), ((15, 300), "16"), ((20000, 10), "enlarge"), ((20000, 100), "50 to 1")],
)
def test_unprocessable_sizes_are_refused_before_any_processor_sees_them(wh: tuple[int, int], message: str) -> None:
    def preprocess(image: Image.Image) -> np.ndarray:
        raise AssertionError("must not be called")

    for call in (lambda: check_processable(wh), lambda: resolve(None, preprocess, wh, patch_size=16)):
        with pytest.raises(InvalidInputError, match=message):
            call()
    with pytest.raises(InvalidInputError, match=message):
        fitted(Image.new("L", wh), "pad", None, preprocess, patch_size=16)


# -- fitting ----------------------------------------------------------------


def test_pad_keeps_the_aspect_ratio_and_squash_gives_it_up() -> None:
    image = Image.new("RGB", (300, 100), "white")
    padded, scale_xy, offset_xy = fit_image(image, "pad", (60, 90), fill=(9, 8, 7))
    assert padded.size == (90, 60)
    assert (scale_xy, offset_xy) == ((0.3, 0.3), (0.0, 15.0))
    assert padded.getpixel((0, 0)) == (9, 8, 7)
    assert padded.getpixel((45, 30)) == (255, 255, 255)
    squashed, scale_xy, offset_xy = fit_image(image, "squash", (60, 90))
    assert squashed.size == (90, 60)
    assert (scale_xy, offset_xy) == ((0.3, 0.6), (0.0, 0.0))
    with pytest.raises(InvalidInputError, match="pads or squashes"):
        fit_image(image, "model", (60, 90))


def test_padding_has_the_colour_that_normalises_to_zero() -> None:
    processor, preprocess = FAMILIES["clip"]()
    assert mean_rgb(processor) == (123, 117, 104)
    assert mean_rgb(FAMILIES["siglip"]()[0]) == (128, 128, 128)
    assert mean_rgb(FAMILIES["timm"]()[0]) == (124, 116, 104)
    assert mean_rgb(None) == (124, 116, 104)
    ready, _ = fitted(Image.new("RGB", (300, 100), "white"), "pad", processor, preprocess, patch_size=16)
    assert np.abs(preprocess(ready)[:, 0, :]).max() < 0.02


def test_what_the_model_does_anyway_is_left_to_it() -> None:
    processor, preprocess = FAMILIES["siglip"]()
    image = Image.new("RGB", (300, 100))
    ready, _ = fitted(image, "squash", processor, preprocess, patch_size=16)
    assert ready is image
    square = Image.new("RGB", (200, 200))
    assert fitted(square, "pad", processor, preprocess, patch_size=16)[0] is square


def test_variable_input_size_without_a_fixed_point_is_refused() -> None:
    def preprocess(image: Image.Image) -> np.ndarray:
        return _resizer((image.width // 2, image.height))(image.crop((0, 0, image.width // 2, image.height)))

    with pytest.raises(InvalidInputError, match='fit="model"'):
        fitted(Image.new("RGB", (300, 100)), "pad", None, preprocess, patch_size=16)
