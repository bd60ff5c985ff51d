"""FGVP: masks as they are, boxes by GrabCut, blur outside, and the same every time."""

from __future__ import annotations

import threading
import warnings
from typing import Any

import numpy as np
import pytest
from helpers import noise
from PIL import Image, ImageFilter
from visprompt.strategies.fgvp import cut_out

from visprompt.data.scenes.world import scene
from visprompt.errors import InvalidInputError
from visprompt.prompter import Prompter
from visprompt.registry import list_strategies
from visprompt.request import Box, Mask, Point, Region
from visprompt.visual_prompt import VisualPrompt

WH = (120, 80)
DISC = Mask(np.hypot(*(np.mgrid[:80, :120] - np.array([40, 50])[:, None, None])) < 15)
BOX = Box(*DISC.xyxy)


def disc_image() -> Image.Image:
    """A bright disc on a dark ground, both noisy."""
    return Image.fromarray(np.where(DISC.array[..., None], noise(WH, low=180), noise(WH, high=70)).astype(np.uint8))


def run(*regions: Region, image: Image.Image, **options: Any) -> VisualPrompt:
    prompt = VisualPrompt(image, regions=regions)
    return Prompter.from_name("fgvp", **options).edit(prompt, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("mask", ["given", "grabcut"])
def test_a_mask_is_used_as_it_is(mask: str) -> None:
    image = noise(WH)
    pixels = np.asarray(run(DISC, image=image, sigma_px=5, mask=mask).image)
    expected = np.where(DISC.array[..., None], image, image.filter(ImageFilter.GaussianBlur(5)))
    assert np.array_equal(pixels, expected)


def test_it_is_blur_outside_a_mask() -> None:
    prompt = VisualPrompt(noise(WH), regions=(DISC, Mask(~DISC.array & (np.arange(120) > 100))))
    both = [Prompter.from_name(name, sigma=0.05).edit(prompt, None).image for name in ("fgvp", "blur")]  # type: ignore[arg-type]
    assert np.array_equal(*both)


def test_an_object_is_cut_out_of_its_box() -> None:
    found = cut_out(disc_image(), BOX)
    assert found is not None
    overlap = (found.array & DISC.array).sum() / (found.array | DISC.array).sum()
    assert overlap > 0.97
    pixels = np.asarray(run(BOX, image=disc_image(), sigma_px=5).image)
    assert np.array_equal(pixels[30:50, 40:60], np.asarray(disc_image())[30:50, 40:60])
    corner = np.asarray(disc_image())[26:29, 36:39].astype(int)
    assert (pixels[26:29, 36:39] != corner).any(), "the box's corners stayed sharp"


def test_cutting_out_finds_the_objects_of_the_bundled_world() -> None:
    overlaps, boxes = [], []
    for seed in range(12):
        made = scene(seed, hard=True)
        for thing in made.objects:
            box = Box(*thing.box_xyxy)
            found = cut_out(made.pil, box)
            inside = box.rasterise(made.pil.size) > 0.5
            shape = inside if found is None else found.array
            overlaps.append((shape & thing.mask).sum() / (shape | thing.mask).sum())
            boxes.append((inside & thing.mask).sum() / (inside | thing.mask).sum())
    assert np.mean(overlaps) > 0.85
    assert np.mean(overlaps) > np.mean(boxes) + 0.2


def test_large_images_are_cut_at_a_smaller_scale() -> None:
    large = disc_image().resize((1800, 1200), Image.Resampling.BICUBIC)
    found = cut_out(large, Box(*(15 * value for value in BOX.xyxy)))
    truth = np.asarray(Image.fromarray(DISC.array).resize((1800, 1200)))
    assert found is not None
    assert (found.array & truth).sum() / (found.array | truth).sum() > 0.95


def test_points_are_discs_to_cut_from() -> None:
    found = cut_out(disc_image(), Point(50, 40, 25))
    assert found is not None
    assert (found.array & DISC.array).sum() / (found.array | DISC.array).sum() > 0.97


def test_nothing_to_compare_with_keeps_the_region_and_says_so() -> None:
    whole = Box(0, 0, *WH)
    assert cut_out(disc_image(), whole) is None
    flat = Image.new("RGB", WH, "grey")
    with pytest.warns(UserWarning, match="GrabCut found no object"):
        run(whole, image=disc_image(), sigma_px=5)
    for region in (Box(50.2, 40.2, 50.4, 40.4), Box(119, 79, 120, 80), Box(-5, -5, 20, 20), BOX, Point(2, 2, 9)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert run(region, image=flat, sigma_px=5).image.size == WH


def test_it_is_deterministic_across_threads() -> None:
    first = np.asarray(run(BOX, image=noise(WH), sigma_px=5).image)
    found: list[np.ndarray] = []

    def work() -> None:
        found.extend(np.asarray(run(BOX, image=noise(WH), sigma_px=5).image) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 15
    assert all(np.array_equal(one, first) for one in found)


def test_given_refuses_boxes_and_names_what_to_do() -> None:
    with pytest.raises(InvalidInputError, match=r"no fine mask.*vp\.Mask\(array\).*grabcut.*'blur'"):
        run(BOX, image=noise(WH), mask="given")


def test_paper_preset_is_the_authors_blur() -> None:
    assert "paper" in next(info for info in list_strategies() if info.name == "fgvp").presets
    image = noise((300, 200))
    region = Mask(np.ones((200, 300), bool) & (np.arange(300) < 90))
    prompt = run(region, image=image, preset="paper")
    blurred = image.filter(ImageFilter.GaussianBlur(0.2604 * 200))  # 100 px on a shorter side of 384
    assert round(0.2604 * 384) == 100
    assert prompt.fit == "squash"
    assert np.array_equal(np.asarray(prompt.image)[:, 90:], np.asarray(blurred)[:, 90:])


def test_switched_off_gives_the_very_prompt_back() -> None:
    neutral: Any = type(Prompter.from_name("fgvp")).neutral
    for preset in (None, "paper"):
        prompt = VisualPrompt(noise(WH), regions=(BOX,))
        assert Prompter.from_name("fgvp", preset=preset, **neutral).edit(prompt, None) is prompt  # type: ignore[arg-type]


BAD = [
    ({"sigma": 3}, "sigma is a number of shares"),
    ({"sigma_px": -1}, "sigma_px"),
    ({"per": "diagonal"}, "per is one of longer, shorter"),
    ({"mask": "sam"}, "mask is one of grabcut, given"),
    ({"fit": "stretch"}, "fit is one of"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[str(options) for options, _ in BAD])
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Prompter.from_name("fgvp", **options)
