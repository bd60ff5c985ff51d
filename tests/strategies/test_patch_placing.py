"""Where a patch goes, and how large: on regions, around them, at the image's edges, in images of any size."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import visprompt as vp
from visprompt.errors import InvalidInputError
from visprompt.geometry.geometry import Geometry, Tile
from visprompt.imaging.paste import paste_boxes
from visprompt.training.patch.priors import Baked

GREY = (90, 90, 90)


class Grid:
    """A model whose tokens are known: 8 × 8 of them over an image of any size, squashed into 64 pixels."""

    def __init__(self, grid: int = 8) -> None:
        self.grid = grid

    def has_tower(self, name: str) -> bool:
        return name == "vision"

    def geometry_of(self, prompt: Any, tower: str = "vision") -> Geometry:
        width, height = prompt.image.size
        tile = Tile((64 / width, 64 / height), (0.0, 0.0), (64, 64), (self.grid, self.grid))
        return Geometry((width, height), (tile,))


def made(**options: Any) -> Any:
    options = {"size": 2.0, "shape": "full", **options}
    patch: Any = vp.Prompter.from_name("patch", **options)
    red = np.zeros((4, 8, 8), dtype=np.uint8)
    red[[0, 3]] = 255
    patch.parameters = Baked(torch.from_numpy(red))
    return patch


def painted(patch: Any, image: Image.Image, *regions: Any, model: Any = None) -> np.ndarray:
    """Which pixels changed."""
    prompt = vp.VisualPrompt(image, regions=regions)
    edited = patch.edit(prompt, model or Grid()).image
    assert edited.size == image.size
    changed: np.ndarray = (np.asarray(edited) != np.asarray(image)).any(axis=-1)
    return changed


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), GREY)


def extent(changed: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def moon(wh: tuple[int, int]) -> vp.Mask:
    """A disc without a disc: its box's centre is not in it."""
    y, x = np.mgrid[: wh[1], : wh[0]] + 0.5
    return vp.Mask((np.hypot(x - 60, y - 40) < 26) & (np.hypot(x - 66, y - 40) >= 24))


def test_the_centre_of_a_mask_lies_in_it() -> None:
    mask = moon((120, 80))
    changed = painted(made(size=0.25), grey(120, 80), mask)
    assert changed.any()
    assert not (changed & ~mask.array).any()
    assert (painted(made(size=0.25), grey(120, 80), vp.Box(*mask.xyxy)) & ~mask.array).any()


@pytest.mark.parametrize("count", [1, 3, 8])
def test_marks_on_a_rim_lie_on_the_outline(count: int) -> None:
    mask = moon((120, 80))
    marks = paste_boxes([mask], "rim", count, (120, 80), lambda spot: (2.0, 2.0))
    assert len(marks) == count
    inside = mask.array
    for (x, y), side in marks:
        near = inside[max(int(y) - 2, 0) : int(y) + 3, max(int(x) - 2, 0) : int(x) + 3]
        assert near.any(), "no pixel of the mask within 2 pixels"
        assert not near.all(), "deep inside"
        assert side == (2.0, 2.0)


@pytest.mark.parametrize("region", [vp.Box(48, 40, 80, 56), vp.Point(64, 48, 8), "moon"])
def test_corners_hide_nothing_of_the_region(region: Any) -> None:
    region = moon((128, 96)) if region == "moon" else region
    x0, y0, x1, y1 = region.xyxy
    changed = painted(made(size=1.0, place="corners"), grey(128, 96), region)
    assert not changed[int(y0) : int(y1), int(x0) : int(x1)].any()
    assert changed.sum() == 4 * 16 * 12  # a token is 16 × 12 pixels of this image
    assert extent(changed) == (x0 - 16, y0 - 12, x1 + 16, y1 + 12)


def test_corners_of_a_region_at_the_edge_are_cut_off_and_never_all_gone() -> None:
    whole = grey(64, 64)
    at_corner = painted(made(size=1.0, place="corners"), whole, vp.Box(0, 0, 32, 32))
    assert at_corner.sum() == 64  # the mark at the bottom right; the other three lie outside
    assert extent(at_corner) == (32, 32, 40, 40)
    everything = painted(made(size=1.0, place="corners"), whole, vp.Box(0, 0, 64, 64))
    assert everything.sum() == 4 * 16
    assert everything[0, 0]
    assert everything[-1, -1]


@pytest.mark.parametrize("place", ["centre", "rim", "corners"])
@pytest.mark.parametrize("options", [{}, {"size_share": 0.2}])
def test_where_the_model_crops_the_image_a_mark_is_in_what_it_sees(place: str, options: dict[str, Any]) -> None:
    """Of a box that reaches beyond that too: otherwise nothing at all would be done, and nobody told."""
    model = vp.load_model("bundled:scenes-clip")
    image = grey(300, 40)
    x0, y0, x1, y1 = (round(edge) for edge in model.geometry((300, 40)).visible_xyxy())
    assert (x0, x1) == (130, 170)
    for box in (vp.Box(0, 0, 300, 40), vp.Box(60, 0, 200, 40), vp.Box(0, 0, 150, 40)):
        (prompt,) = vp.Prompter.from_name("patch", place=place, **options).prompt(vp.Request(image, region=box), model)
        changed = (np.asarray(prompt.image) != np.asarray(image)).any(axis=-1)
        assert changed[y0:y1, x0:x1].any(), box


def test_several_regions_together_at_their_corners() -> None:
    item = vp.Request(grey(64, 64), region=[vp.Box(16, 16, 24, 24), vp.Box(40, 40, 48, 48)], regions_as="together")
    model: Any = Grid()
    (prompt,) = [made(size=0.5, place="corners").edit(one, model) for one in _prompts(item)]
    changed = (np.asarray(prompt.image) != np.asarray(item.pil_image)).any(axis=-1)
    assert changed.sum() == 8 * 16


def _prompts(item: vp.Request) -> list[vp.VisualPrompt]:
    return [vp.VisualPrompt(item.pil_image, regions=tuple(item.regions))]


@pytest.mark.parametrize(("x", "y", "left"), [(0.0, 0.0, 8 * 8), (64.0 - 1e-6, 32.0, 8 * 16), (4.0, 32.0, 12 * 16)])
def test_marks_partly_outside_are_cut(x: float, y: float, left: int) -> None:
    assert painted(made(), grey(64, 64), vp.Point(x, y, 3)).sum() == pytest.approx(left, abs=16)


def test_a_region_partly_outside_is_marked_where_it_can_be_seen() -> None:
    changed = painted(made(size=1.0), grey(64, 64), vp.Box(-100, 16, 16, 32))
    assert extent(changed) == (4, 20, 12, 28)  # around (8, 24): the middle of what is left of the box


def test_a_region_outside_is_an_error() -> None:
    with pytest.raises(InvalidInputError, match="lies outside"):
        painted(made(), grey(64, 64), vp.Box(70, 70, 80, 80))


@pytest.mark.parametrize("wh", [(16, 16), (5, 3), (1, 1)])
@pytest.mark.parametrize("place", ["centre", "rim", "corners"])
def test_tiny_images(wh: tuple[int, int], place: str) -> None:
    """Marks are at least a pixel wide, so that something is there whatever the image."""
    changed = painted(made(size=0.25, place=place), grey(*wh), vp.Box(0, 0, *wh))
    assert changed.any()


@pytest.mark.parametrize("wh", [(64, 64), (640, 640), (300, 200), (31, 90)])
def test_the_side_follows_the_image_that_is_given(wh: tuple[int, int]) -> None:
    """2 of 8 tokens are a quarter of each side, whatever the image's size: it is pasted before any resize."""
    changed = painted(made(), grey(*wh), vp.Point(wh[0] / 2, wh[1] / 2, 1))
    x0, y0, x1, y1 = extent(changed)
    assert x1 - x0 == pytest.approx(wh[0] / 4, abs=1.5)
    assert y1 - y0 == pytest.approx(wh[1] / 4, abs=1.5)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_scale_is_a_factor_on_the_side(scale: float) -> None:
    image, spot = grey(64, 64), vp.Point(32, 32, 3)
    side = 16 * scale
    assert painted(made(scale=scale), image, spot).sum() == side**2
    assert painted(made(scale=scale, size_share=0.25), image, spot).sum() == side**2
    small = made(scale=scale, size_share=1.0)
    assert painted(small, image, spot).sum() == min(64, 64 * scale) ** 2


def test_random_colours_are_a_control_of_the_same_form() -> None:
    ring, noise = made(shape="circle", ratio=0.5), made(shape="circle", ratio=0.5, colours="random")
    alpha = np.zeros((8, 8), dtype=np.uint8)
    alpha[2:6] = 255
    for patch in (ring, noise):
        patch.parameters.rgba[3] = torch.from_numpy(alpha)
    image, spot = grey(64, 64), vp.Point(32, 32, 3)
    np.testing.assert_array_equal(painted(ring, image, spot), painted(noise, image, spot))
    prompt = vp.VisualPrompt(image, regions=(spot,))
    model: Any = Grid()
    first, again = (np.asarray(noise.edit(prompt, model).image) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(first[24:40, 24:40].reshape(-1, 3), axis=0)) > 20
    assert ring.describe() != noise.describe()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"place": "corner"}, "place is one of centre, rim, corners"),
        ({"scale": 0.0}, "scale is a number from 0.05 to 20"),
        ({"scale": "large"}, "scale is a number"),
        ({"colours": "red"}, "colours is one of learned, random"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        vp.Prompter.from_name("patch", **options)


def test_options_of_use_go_with_the_patch_that_ships() -> None:
    model = vp.load_model("bundled:scenes-clip")
    patch = vp.Prompter.from_name("patch", place="corners", scale=0.5)
    item = vp.Request(grey(64, 64), region=vp.Box(24, 24, 40, 40))
    (prompt,) = patch.prompt(item, model)
    changed = (np.asarray(prompt.image) != np.asarray(item.pil_image)).any(axis=-1)
    assert changed.any()
    assert not changed[24:40, 24:40].any()
