"""Pasting: on arrays and with gradients the same, at any place, and Gaussians and coverage where the patch is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers import noise
from PIL import Image

import visprompt as vp
from visprompt.geometry.geometry import Tile
from visprompt.imaging.paste import BLENDINGS, SHAPES, centre_of, overlaps, paste, paste_all, rim_of, shape_alpha
from visprompt.testing import conformance
from visprompt.training.patch.pasting import (
    Marks,
    Normalisation,
    draw_marks,
    gaussian_target,
    overlaid,
    paste_batch,
    side_for,
)
from visprompt.training.patch.priors import Baked, ConvPrior, PixelPrior, bake

TILE = Tile((1.0, 1.0), (0.0, 0.0), (64, 96), (8, 12))
COLOURS = Normalisation(torch.tensor([-1.8, -2.0, -1.5]), torch.tensor([4.0, 4.5, 3.5]))
#: one model for every kind of processor
MODELS = ("transformers-clip", "transformers-siglip", "transformers-dinov2", "open-clip-vit", "timm-vit", "timm-beit")


def patch(side: int = 24, shape: str = "circle", ratio: float = 0.5, seed: int = 1) -> np.ndarray:
    colours = np.random.default_rng(seed).random((3, side, side))
    alpha = shape_alpha(shape, ratio, side)  # type: ignore[arg-type]
    return np.concatenate((colours, alpha[None])).astype(np.float32)


def marks(*centre_xy: tuple[float, float], side: float = 24.0) -> Marks:
    yx = torch.tensor([(y, x) for x, y in centre_xy], dtype=torch.float64)
    return Marks(yx, torch.full_like(yx, side), torch.ones(len(yx)))


def to_input(image: Image.Image) -> torch.Tensor:
    level = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
    return level * COLOURS.span[:, None, None] + COLOURS.black[:, None, None]


def to_levels(pixels: torch.Tensor) -> np.ndarray:
    level = (pixels[0] - COLOURS.black[:, None, None]) / COLOURS.span[:, None, None]
    return (level.permute(1, 2, 0) * 255).detach().numpy()


# -- the same with and without gradients --------------------------------------------------------------------------


@pytest.mark.parametrize("blending", BLENDINGS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("centre_xy", "side"),
    [((40, 30), 24.0), ((40.5, 30.25), 24.0), ((3, 60), 24.0), ((50, 20), 17.3), ((50, 20), 60.0), ((95, 1), 40.0)],
)
def test_both_ways_of_pasting_agree(blending: str, shape: str, centre_xy: tuple[float, float], side: float) -> None:
    """To half a grey level, the rounding to 8 bits; between pixels and beyond the border too."""
    rgba = patch(shape=shape)
    options = {"opacity": 0.8, "blending": blending}
    wanted = paste(noise((96, 64)), rgba, centre_xy, (side, side), **options)  # type: ignore[arg-type]
    found = paste_batch(
        to_input(noise((96, 64))), torch.from_numpy(rgba), marks(centre_xy, side=side), COLOURS, **options
    )  # type: ignore[arg-type]
    assert np.abs(to_levels(found) - np.asarray(wanted, dtype=float)).max() < 0.51


def test_on_whole_pixels_a_full_patch_is_copied() -> None:
    rgba = np.round(patch(side=16, shape="full") * 255) / 255
    done = np.asarray(paste(noise((96, 64)), rgba, (20, 12), (16, 16))).astype(int)
    assert np.array_equal(done[4:20, 12:28], np.rint(rgba[:3] * 255).transpose(1, 2, 0))
    rest = np.ones((64, 96), dtype=bool)
    rest[4:20, 12:28] = False
    assert np.array_equal(done[rest], np.asarray(noise((96, 64)))[rest])


def test_several_marks_are_pasted_one_after_the_other() -> None:
    """Overlapping ones too, and those outside change nothing, not even which image it is."""
    rgba, before = patch(ratio=0.5), noise((96, 64))
    spots = [((20.3, 12.0), (16.0, 9.5)), ((-90.0, 4.0), (16.0, 16.0)), ((25.0, 14.5), (16.0, 16.0))]
    wanted = before
    for spot, side in spots:
        wanted = paste(wanted, rgba, spot, side, opacity=0.7)
    done = paste_all(before, rgba, spots, opacity=0.7)
    assert np.array_equal(done, wanted)
    assert not np.array_equal(done, before)
    assert np.array_equal(before, noise((96, 64)))
    assert paste_all(before, rgba, spots[1:2]) is before


def test_the_hole_of_a_ring_shows_what_is_below() -> None:
    before = noise((96, 64))
    done = np.asarray(paste(before, patch(ratio=0.5), (48, 32), (24, 24)))
    far = np.hypot(*(np.mgrid[:64, :96] + 0.5 - np.array([32, 48])[:, None, None]))
    untouched = (far < 5.2) | (far > 12.8)
    assert np.array_equal(done[untouched], np.asarray(before)[untouched])
    assert (done[(far > 7) & (far < 11)] != np.asarray(before)[(far > 7) & (far < 11)]).any(axis=1).mean() > 0.95


@pytest.mark.parametrize("side", [8.0, 24.0, 40.0])
@pytest.mark.parametrize("start", [-5.5, 0.0, 7.3])
def test_overlaps_add_up_to_what_lies_inside(side: float, start: float) -> None:
    found = overlaps(start, side, 10, 0, 30)
    inside = np.clip(min(start + side, 30) - max(start, 0), 0, None)
    assert found.sum() == pytest.approx(inside)
    assert found.sum(axis=1).max() <= 1 + 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_under_the_patch_is_untouched_to_the_bit(dtype: torch.dtype) -> None:
    pixels = (torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    for blending in BLENDINGS:
        found = paste_batch(pixels, torch.from_numpy(patch()), marks((48, 32), (20, 20)), COLOURS, blending=blending)  # type: ignore[arg-type]
        assert found.dtype == dtype
        assert torch.equal(found[0, :, :, :30], pixels[0, :, :, :30])
        assert torch.equal(found[0, :, 31:33, 47:49], pixels[0, :, 31:33, 47:49])
        assert not torch.equal(found, pixels)


def test_gradients_reach_the_patch_exactly() -> None:
    rgba = torch.from_numpy(patch(side=6)).double().float().requires_grad_()
    where = marks((40.3, 30.6), (5.0, 7.5), side=18.0)
    pixels = to_input(noise((96, 64))).expand(2, -1, -1, -1)
    weight = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))

    def loss(item: torch.Tensor) -> torch.Tensor:
        return (paste_batch(pixels, item, where, COLOURS) * weight).sum()

    (gradient,) = torch.autograd.grad(loss(rgba), rgba)
    for place in [(0, 0, 3), (1, 3, 5), (2, 5, 2)]:
        step = torch.zeros_like(rgba)
        step[place] = 0.05
        with torch.no_grad():
            slope = (loss((rgba + step).clamp(0, 1)) - loss((rgba - step).clamp(0, 1))) / 0.1
            reach = ((rgba + step).clamp(0, 1) - (rgba - step).clamp(0, 1))[place] / 0.1
        assert float(slope) == pytest.approx(float(gradient[place] * reach), rel=0.02, abs=0.05)


@pytest.mark.parametrize("name", MODELS)
def test_normalisation_is_the_processors(name: str) -> None:
    _, model = conformance.wrapped(name)
    reader = model.parts.reader
    colours = Normalisation.of(reader)
    level = np.array([200, 40, 120], dtype=np.uint8)
    seen = reader.preprocess(Image.fromarray(np.broadcast_to(level, (64, 64, 3)).copy()))
    wanted = colours.black + colours.span * torch.from_numpy(level / 255.0).float()
    assert np.abs(seen.reshape(3, -1).mean(axis=1) - wanted.numpy()).max() < 2e-3


@pytest.mark.parametrize("name", ["transformers-clip", "open-clip-vit", "timm-vit"])
def test_pasted_into_the_image_and_into_the_input_is_the_same(name: str) -> None:
    """Through the model's own processor, at its own resolution: to 2 grey levels."""
    _, model = conformance.wrapped(name)
    reader = model.parts.reader
    tile = model.geometry((64, 64)).tiles[0]
    original, rgba = noise(), patch(side=16, shape="square")
    unscaled = tile.scale_xy == (1.0, 1.0)
    if not unscaled:  # resizing noise gives anything: one image with few edges, one patch of one colour
        original, rgba[:3] = Image.new("RGB", (64, 64), (90, 120, 60)), 0.7
    centre = (np.array([28.0, 36.0]) - tile.offset_xy) / tile.scale_xy
    side = 16.0 / np.array(tile.scale_xy)
    ready = reader.preprocess(paste(original, rgba, tuple(centre), tuple(side)))  # type: ignore[arg-type]
    plain = torch.from_numpy(reader.preprocess(original))[None]
    colours = Normalisation.of(reader)
    found = paste_batch(plain, torch.from_numpy(rgba), marks((28, 36), side=16.0), colours)[0].numpy()
    levels = np.abs(found - ready).max(axis=0) / float(colours.span.min()) * 255
    if unscaled:
        assert levels.max() < 2
    else:
        # bicubic overshoots at the edges of ring and frame, by a tenth of the step between the two colours
        assert np.percentile(levels, 90) < 6
        assert levels.mean() < 4


# -- where --------------------------------------------------------------------------------------------------------


def test_a_seed_makes_a_mark() -> None:
    one, two = (draw_marks([1, 2, 3], TILE, 3.0, scale=0.3, brightness=0.3) for _ in range(2))
    alone = draw_marks([2], TILE, 3.0, scale=0.3, brightness=0.3)
    for item in dataclasses.fields(Marks):
        assert torch.equal(getattr(one, item.name), getattr(two, item.name))
        assert torch.equal(getattr(one, item.name)[1:2], getattr(alone, item.name))
    assert not torch.equal(one.centre_yx[0], one.centre_yx[1])


def test_marks_are_everywhere_and_on_centres_if_asked() -> None:
    many = draw_marks(range(600), TILE, 3.0, scale=0.5, brightness=0.2)
    yx = many.centre_yx
    assert yx.min() >= 0
    assert (yx.max(dim=0).values <= torch.tensor([64.0, 96.0])).all()
    assert ((yx / 8).floor() == torch.tensor([7, 11])).any(dim=0).all()
    assert 16.0 <= float(many.side_hw.min()) < 17 < 35 < float(many.side_hw.max()) <= 36.0
    assert 0.8 <= float(many.brightness.min()) < float(many.brightness.max()) <= 1.2
    still = draw_marks(range(20), TILE, 3.0, shift=0.0)
    assert torch.equal(still.centre_yx % 8, torch.full_like(still.centre_yx, 4.0))
    assert (still.side_hw == 24).all()


def test_target_and_coverage_are_where_the_patch_is() -> None:
    where = marks((44.0, 20.0), (0.0, 0.0), side=16.0)
    target, under = gaussian_target(where, TILE, 1.0), overlaid(where, TILE)
    assert torch.allclose(target.sum(1), torch.ones(2))
    assert int(target[0].argmax()) == 2 * 12 + 5
    wanted = torch.zeros(8, 12)
    wanted[1:4, 4:7] = torch.tensor([0.5, 1.0, 0.5])[:, None] * torch.tensor([0.5, 1.0, 0.5])[None, :]
    assert torch.allclose(under[0].view(8, 12), wanted)
    assert under[1].nonzero().flatten().tolist() == [0]  # the rest lies outside
    rows, columns = np.mgrid[:8, :12] + 0.5
    plain = np.exp(-((rows - 20 / 8) ** 2 + (columns - 44 / 8) ** 2) / 2)
    assert np.allclose(target[0].numpy(), (plain / plain.sum()).reshape(-1), atol=1e-6)


def test_places_in_regions() -> None:
    ring = np.zeros((40, 60), dtype=bool)
    ring[5:35, 10:50] = True
    ring[12:28, 17:50] = False  # a C: its centre of mass lies outside
    x, y = centre_of(vp.Mask(ring))
    assert ring[int(y), int(x)]
    assert centre_of(vp.Point(3, 4)) == (3.0, 4.0)
    places = rim_of(vp.Mask(ring), 8)
    assert len(places) == 8
    assert places[0][1] == 5.5
    assert all(ring[int(py), int(px)] for px, py in places)
    assert rim_of(vp.Point(3, 4), 8) == [(3.0, 4.0)]


# -- priors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ConvPrior, PixelPrior])
@pytest.mark.parametrize("side", [8, 13, 24])
def test_priors_make_patches(kind: type, side: int) -> None:
    alpha = torch.from_numpy(shape_alpha("circle", 0.5, side))
    one, two, three = (kind(alpha, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    found = one.patch()
    assert found.shape == (4, side, side)
    assert torch.equal(found[3], alpha)
    assert 0 <= found.min().item() <= found.max().item() <= 1
    assert torch.equal(found, two.patch())
    assert not torch.equal(found, three.patch())
    found[:3].sum().backward()
    assert all(item.grad is not None and item.grad.abs().sum() > 0 for item in one.parameters())
    baked = bake(one)
    assert isinstance(baked, Baked)
    assert not list(baked.parameters())
    assert (baked.patch() - found).abs().max() <= 0.5 / 255 + 1e-6


def test_a_patch_has_the_pixels_of_the_input() -> None:
    assert side_for(3.0, TILE) == 24
    assert side_for(0.25, TILE) == 8
    assert side_for(60.0, TILE) == 128


def test_wrong_numbers_say_so() -> None:
    with pytest.raises(vp.InvalidInputError, match="shape is one of"):
        shape_alpha("star", 0.5, 8)  # type: ignore[arg-type]
    with pytest.raises(vp.InvalidInputError, match="a ratio is"):
        shape_alpha("circle", 1.0, 8)
    with pytest.raises(vp.InvalidInputError, match="2 marks for 1 images"):
        paste_batch(to_input(noise((96, 64))), torch.from_numpy(patch()), marks((1, 1), (2, 2)), COLOURS)
