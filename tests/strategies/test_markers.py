"""The manual markers paint what they say, where they say, and nothing when they are switched off."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import noise
from PIL import Image, ImageDraw, ImageFilter

from visprompt.errors import InvalidInputError, UnknownNameError
from visprompt.geometry.fit import check_processable
from visprompt.prompter import Prompter
from visprompt.registry import list_strategies
from visprompt.request import Box, Mask, Point, Region, Request
from visprompt.visual_prompt import VisualPrompt

MARKERS = ("circle", "box", "crop", "blur", "grey", "shade")
WH = (120, 80)
BOX = Box(30, 20, 70, 60)
DISC = Mask(np.hypot(*(np.mgrid[:80, :120] - np.array([40, 50])[:, None, None])) < 15)
REGIONS: dict[str, Region] = {
    "box": BOX,
    "fractional": Box(29.5, 20.25, 70.5, 59.5),
    "point": Point(50, 40, 12),
    "mask": DISC,
}


def run(name: str, *regions: Region, image: Image.Image | None = None, **options: Any) -> VisualPrompt:
    prompter = Prompter.from_name(name, **options)
    prompt = VisualPrompt(noise(WH) if image is None else image, regions=regions, query="the dog")
    for part in getattr(prompter, "parts", [prompter]):
        prompt = part.edit(prompt, None)
    return prompt


def pixels(prompt: VisualPrompt | Image.Image) -> np.ndarray:
    return np.asarray(prompt.image if isinstance(prompt, VisualPrompt) else prompt).astype(int)


def changed(prompt: VisualPrompt, image: Image.Image | None = None) -> np.ndarray:
    return np.abs(pixels(prompt) - pixels(noise(WH) if image is None else image)).max(axis=2) > 0


# -- all of them ----------------------------------------------------------------


def test_all_are_registered_with_summary_and_paper_preset() -> None:
    infos = {info.name: info for info in list_strategies()}
    for name in MARKERS:
        assert infos[name].summary
        assert "paper" in infos[name].presets
        assert infos[name].needs == ("region",)
        assert infos[name].acts_on == (("pixels", "text") if name == "shade" else ("pixels",))


@pytest.mark.parametrize("name", MARKERS)
@pytest.mark.parametrize("kind", REGIONS)
def test_every_marker_takes_every_kind_of_region(name: str, kind: str) -> None:
    before = noise(WH)
    prompt = run(name, REGIONS[kind], image=before)
    assert prompt.image.mode == "RGB"
    assert prompt.image.size == WH or name == "crop"
    assert name == "crop" or changed(prompt, before).any()
    assert np.array_equal(pixels(before), pixels(noise(WH))), "the request's own image was painted on"


@pytest.mark.parametrize("name", MARKERS)
def test_every_preset_runs(name: str) -> None:
    for preset in next(info for info in list_strategies() if info.name == name).presets:
        run(name, BOX, preset=preset)


@pytest.mark.parametrize("name", [name for name in MARKERS if name != "crop"])
def test_together_is_the_union(name: str) -> None:
    other = Box(85, 5, 110, 30)
    both = changed(run(name, BOX, other))
    one, two = changed(run(name, BOX)), changed(run(name, other))
    assert np.array_equal(both, one & two if name in ("blur", "grey") else one | two)


@pytest.mark.parametrize(
    ("name", "off"),
    [
        ("circle", {"width": 0}),
        ("circle", {"width": 0, "blur_outside": 0, "antialiased": False}),
        ("box", {"width": 0}),
        ("blur", {"sigma": 0}),
        ("blur", {"sigma_px": 0}),
        ("grey", {"alpha": 0}),
        ("shade", {"alpha": 0}),
    ],
)
def test_switched_off_gives_the_very_prompt_back(name: str, off: dict[str, Any]) -> None:
    prompt = VisualPrompt(noise(WH), regions=(BOX,))
    assert Prompter.from_name(name, **off).edit(prompt, None) is prompt  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MARKERS)
def test_neutral_options_switch_it_off(name: str) -> None:
    neutral = type(Prompter.from_name(name)).neutral
    if name == "crop":
        assert neutral is None
        return
    assert neutral is not None
    for preset in (None, "paper"):
        prompt = VisualPrompt(noise(WH), regions=(BOX,))
        assert Prompter.from_name(name, preset=preset, **neutral).edit(prompt, None) is prompt  # type: ignore[arg-type]


@pytest.mark.parametrize("name", MARKERS)
def test_no_region_or_one_outside_is_an_error(name: str) -> None:
    with pytest.raises(InvalidInputError, match="needs a region"):
        run(name)
    with pytest.raises(InvalidInputError, match="outside the image"):
        run(name, Box(500, 500, 600, 600))
    with pytest.raises(InvalidInputError, match="as large as"):
        run(name, Mask(np.ones((5, 5), bool)))


@pytest.mark.parametrize("name", MARKERS)
def test_point_without_radius_and_box_beyond_the_border(name: str) -> None:
    run(name, Point(50, 40))
    run(name, Point(2, 2, radius=9))
    run(name, Box(-10, -10, 30, 30))
    run(name, Box(0, 0, *WH))
    run(name, Box(119, 79, 120, 80))
    run(name, Box(50.2, 40.2, 50.4, 40.4))


BAD = [
    ("circle", {"colour": "rde"}, "'rde' is no colour"),
    ("circle", {"colour": (1, 2)}, "a colour is"),
    ("circle", {"colour": (0, 0, 256)}, "a colour is"),
    ("circle", {"colour": (0.5, 0, 0)}, "a colour is"),
    ("circle", {"colour": None}, "a colour is"),
    ("circle", {"width": -1}, "width is a number of pixels, 0 or more; got -1"),
    ("circle", {"width": "thick"}, "width"),
    ("circle", {"width": float("nan")}, "width"),
    ("circle", {"padding": -2}, "padding"),
    ("circle", {"blur_outside": -5}, "blur_outside"),
    ("box", {"width": -1}, "width"),
    ("box", {"colour": "#12"}, "no colour"),
    ("crop", {"margin": -0.1}, "margin"),
    ("crop", {"fit": "stretch"}, "fit is one of model, pad, squash"),
    ("blur", {"sigma": -1}, "sigma"),
    ("blur", {"sigma": 20}, "between 0 and 1"),
    ("blur", {"sigma_px": float("inf")}, "sigma_px"),
    ("blur", {"shape": "disc"}, "shape is one of mask, box"),
    ("grey", {"level": 300}, "a colour is"),
    ("grey", {"level": True}, "a colour is"),
    ("grey", {"alpha": 1.5}, "between 0 and 1"),
    ("grey", {"shape": 3}, "shape"),
    ("shade", {"alpha": 127}, "between 0 and 1"),
    ("shade", {"colour": "crimsn"}, "no colour"),
    ("shade", {"colour": (1, 2, 3)}, "colour_name"),
    ("shade", {"colour": "#ff0000"}, "colour_name"),
    ("shade", {"suffix": " is {colour} {x}"}, "no other braces"),
    ("shade", {"suffix": None}, "suffix"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD, ids=[f"{name}-{options}" for name, options, _ in BAD])
def test_bad_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Prompter.from_name(name, **options)


def test_misspelt_option_is_suggested() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'width'"):
        Prompter.from_name("circle", widht=3)


# -- one by one -----------------------------------------------------------------


def test_paper_circle_is_pillows_ellipse() -> None:
    image = noise((640, 420))
    expected = image.copy()
    ImageDraw.Draw(expected).ellipse((100, 50, 400, 300), outline=(255, 0, 0), width=3)  # int(640 / 200)
    assert np.array_equal(pixels(run("circle", Box(100, 50, 400, 300), image=image, preset="paper")), pixels(expected))


def test_antialiased_circle_is_close_to_it_and_symmetric() -> None:
    ground = Image.new("RGB", (400, 300))
    red = pixels(run("circle", Box(100, 50, 300, 250), image=ground, width=6))[..., 0]
    hard = pixels(run("circle", Box(100, 50, 300, 250), image=ground, width=6, antialiased=False))[..., 0]
    assert red.sum() / 255 == pytest.approx(np.pi * (100**2 - 94**2), rel=0.01)
    assert (np.abs(red - hard) > 200).sum() < 0.15 * (hard > 0).sum()
    assert np.array_equal(red[50:250, 100:300], red[50:250, 100:300][::-1])
    assert np.array_equal(red[50:250, 100:300], red[50:250, 100:300][:, ::-1])
    assert red[:50].sum() == red[250:].sum() == red[:, :100].sum() == red[:, 300:].sum() == 0


def test_circle_width_padding_and_colour() -> None:
    ground = Image.new("RGB", (1000, 300))
    assert pixels(run("circle", Box(400, 100, 500, 200), image=ground))[100:105, 450, 0].min() > 250
    assert pixels(run("circle", Box(400, 100, 500, 200), image=ground, padding=20))[80:85, 450, 0].min() > 250
    lime = run("circle", Box(400, 100, 500, 200), image=ground, colour=[0, 255, 0], width=3)
    assert lime.image.getpixel((450, 101)) == (0, 255, 0)
    tiny = run("circle", Box(3, 3, 5, 5), image=Image.new("RGB", (20, 20)), width=9)
    assert pixels(tiny)[3:5, 3:5, 0].min() > 150


def test_circle_blurs_outside_only() -> None:
    edges = changed(run("circle", BOX, width=0, blur_outside=8))
    yy, xx = np.mgrid[:80, :120] + 0.5
    radius = np.hypot((xx - 50) / 20, (yy - 40) / 20)
    assert not edges[radius < 0.93].any()
    assert edges[radius > 1.07].mean() > 0.9


def test_box_outline_pixels() -> None:
    prompt = run("box", BOX, width=2, image=Image.new("RGB", WH))
    expected = np.zeros((80, 120), int)
    expected[20:60, 30:70] = 255
    expected[22:58, 32:68] = 0
    assert np.array_equal(pixels(prompt)[..., 0], expected)
    assert pixels(prompt)[..., 1:].max() == 0
    padded = run("box", BOX, width=2, padding=3, image=Image.new("RGB", WH))
    assert pixels(padded)[17, 27:73, 0].min() == 255
    at_border = run("box", Box(0, 0, *WH), width=2, padding=10, image=Image.new("RGB", WH))
    assert pixels(at_border).max() == 0  # the line lies outside the image


def test_crop_moves_regions_along() -> None:
    prompt = run("crop", BOX)
    assert np.array_equal(pixels(prompt), pixels(noise(WH))[20:60, 30:70])
    assert (prompt.regions, prompt.fit) == ((Box(0, 0, 40, 40),), "squash")
    wide = run("crop", BOX, margin=0.25, fit=None)
    assert (wide.image.size, wide.regions, wide.fit) == ((60, 60), (Box(10, 10, 50, 50),), "model")
    shape = run("crop", DISC, margin=0.1)
    assert isinstance(shape.regions[0], Mask)
    assert shape.regions[0].array.sum() == DISC.array.sum()
    assert shape.regions[0].array.shape == shape.image.size[::-1]
    point = run("crop", Point(50, 40, 12))
    assert point.regions == (Point(12, 12, 12),)
    both = run("crop", BOX, Box(80, 10, 100, 30))
    assert both.image.size == (70, 50)
    assert both.regions == (Box(0, 10, 40, 50), Box(50, 0, 70, 20))
    fraction = run("crop", Box(30.4, 20.6, 69.5, 59.5))
    assert fraction.image.size == (40, 40)
    assert fraction.regions[0].xyxy == pytest.approx((0.4, 0.6, 39.5, 39.5))


@pytest.mark.parametrize(
    "box", [Box(5, 5, 8, 8), Box(50.2, 40.2, 50.4, 40.4), Box(0, 40, 120, 41), Box(119, 0, 120, 80), Box(0, 0, 1, 1)]
)
@pytest.mark.parametrize("wh", [WH, (2000, 80)])
def test_crops_stay_processable(box: Box, wh: tuple[int, int]) -> None:
    prompt = run("crop", box if wh == WH else Box(0, 40, 2000, 41), image=noise(wh))
    check_processable(prompt.image.size)
    assert prompt.regions[0].clip(prompt.image.size) == prompt.regions[0]


def test_crop_then_circle_draws_in_the_crop() -> None:
    prompt = run("crop+circle", BOX, margin=0.5, width=2, image=Image.new("RGB", WH))
    assert prompt.image.size == (80, 80)
    red = np.argwhere(pixels(prompt)[..., 0] > 100)
    assert red.min(axis=0).tolist() == [20, 20]
    assert red.max(axis=0).tolist() == [59, 59]


@pytest.mark.parametrize(("shape", "inside"), [("mask", DISC.array), ("box", Box(*DISC.xyxy).rasterise(WH) > 0)])
def test_blur_and_grey_keep_the_region(shape: str, inside: np.ndarray) -> None:
    blurred = run("blur", DISC, shape=shape, sigma_px=5)
    assert not changed(blurred)[inside].any()
    expected = pixels(noise(WH).filter(ImageFilter.GaussianBlur(5)))
    assert np.array_equal(pixels(blurred)[~inside], expected[~inside])
    grey = run("grey", DISC, shape=shape, level=77)
    assert not changed(grey)[inside].any()
    assert (pixels(grey)[~inside] == 77).all()
    half = run("grey", DISC, shape=shape, level="white", alpha=0.5, image=Image.new("RGB", WH))
    assert pixels(half)[~inside].tolist() == [[128] * 3] * int((~inside).sum())


def test_relative_sigma_means_the_longer_side() -> None:
    assert np.array_equal(pixels(run("blur", BOX, sigma=0.05)), pixels(run("blur", BOX, sigma_px=0.05 * 120)))


def test_paper_shade() -> None:
    image = noise(WH)
    prompt = run("shade", BOX, image=image, preset="paper")
    tint = Image.new("RGBA", WH, (240, 0, 30, 127))
    expected = pixels(Image.alpha_composite(image.convert("RGBA"), tint).convert("RGB"))
    assert np.abs(pixels(prompt)[20:60, 30:70] - expected[20:60, 30:70]).max() <= 1
    outside = np.ones((80, 120), bool)
    outside[20:60, 30:70] = False
    assert not changed(prompt, image)[outside].any()
    assert prompt.text is not None
    assert prompt.text("the dog") == prompt.text("the dog. ") == "the dog is in red color."


def test_shade_texts() -> None:
    blue = run("shade", BOX, colour="blue")
    assert blue.text is not None
    assert blue.text("it") == "it is in blue color."
    assert pixels(run("shade", BOX, colour="blue", alpha=1))[40, 50].tolist() == [0, 10, 255]
    named = run("shade", BOX, colour=(250, 128, 114), colour_name="salmon", suffix=" ({colour})")
    assert named.text is not None
    assert named.text("it") == "it (salmon)"
    silent = Prompter.from_name("shade", text=False, colour="#00ff00")
    assert silent.acts_on == {"pixels"}
    assert Prompter.from_name("shade").acts_on == {"pixels", "text"}
    assert silent.edit(VisualPrompt(noise(WH), regions=(BOX,)), None).text is None  # type: ignore[arg-type]


def test_markers_go_through_a_request() -> None:
    class Anything:
        def require(self, acts_on: frozenset[str], name: str) -> None:
            """Takes everything."""

    request = Request(noise(WH), region=[BOX, Point(90, 40)])
    prompts = Prompter.from_name("circle").prompt(request, Anything())  # type: ignore[arg-type]
    assert [prompt.label for prompt in prompts] == ["circle", "circle"]
    assert not np.array_equal(pixels(prompts[0]), pixels(prompts[1]))
    with pytest.raises(InvalidInputError, match="strategy 'circle' needs a region and Request"):
        Prompter.from_name("circle").prompt(Request(noise(WH)), Anything())  # type: ignore[arg-type]
