"""FALIP's and unleash's own options; the authors' vectors are in tests/attention/test_reference.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import visprompt as vp
from visprompt.testing.tiny_lvlm import tiny_lvlm

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def bias(model: vp.Model, region: object, **options: object) -> np.ndarray:
    (prompt,) = vp.Prompter.from_name("falip", **options).prompt(vp.Request(IMAGE, region=region), model)
    return prompt.attention[0].bias.reshape(8, 8)


def test_a_flat_bias_is_strength_times_coverage(clip: vp.Model) -> None:
    got = bias(clip, vp.Box(8, 8, 28, 16), strength=3.0)
    expected = np.zeros((8, 8), dtype=np.float32)
    expected[1, 1:4] = 3.0, 3.0, 1.5
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_touched_patches_count_fully(clip: vp.Model) -> None:
    got = bias(clip, vp.Box(8, 8, 28, 16), strength=3.0, rounding="touched")
    np.testing.assert_array_equal(got[1, 1:4], [3.0, 3.0, 3.0])


def test_the_bump_is_highest_in_the_middle(clip: vp.Model) -> None:
    got = bias(clip, vp.Box(8, 8, 48, 48), strength=1.0, profile="foveal", sigma_tokens=1.5)
    assert got[3, 3] == pytest.approx(1.0)
    assert got[3, 3] > got[2, 3] > got[1, 3] > got[1, 1] > 0
    np.testing.assert_allclose(got, got.T, atol=1e-6)


def test_several_regions_together(clip: vp.Model) -> None:
    boxes = [vp.Box(0, 0, 8, 8), vp.Box(56, 56, 64, 64)]
    request = vp.Request(IMAGE, region=boxes, regions_as="together")
    (prompt,) = vp.Prompter.from_name("falip", strength=1.0).prompt(request, clip)
    got = prompt.attention[0].bias.reshape(8, 8)
    assert got[0, 0] == got[7, 7] == 1.0
    assert got.sum() == 2.0


def test_a_mask_and_a_point_work_as_well(clip: vp.Model) -> None:
    mask = np.zeros((64, 64), dtype=bool)
    mask[16:24, 32:40] = True
    assert bias(clip, vp.Mask(mask), strength=1.0)[2, 4] == pytest.approx(1.0)
    assert bias(clip, vp.Point(20, 20, 3), strength=1.0)[2, 2] > 0


def test_the_region_follows_a_crop(clip: vp.Model) -> None:
    request = vp.Request(IMAGE, region=vp.Box(16, 16, 48, 48))
    (prompt,) = vp.Prompter.from_name("crop+falip", strength=1.0).prompt(request, clip)
    # the crop is the region (with its margin): falip then covers nearly everything
    assert (prompt.attention[0].bias > 0.5).mean() > 0.6
    assert prompt.label == "crop+falip"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": float("nan")}, "finite"),
        ({"target_mass": 1.0}, "between 0 and 1"),
        ({"profile": "round"}, "flat, foveal"),
        ({"rounding": "up"}, "coverage, touched, paper"),
        ({"fit": "stretch"}, "model, pad, squash"),
        ({"sigma_tokens": 0}, "positive"),
        ({"rows": "cls_token"}, "readout"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(vp.InvalidInputError, match=message):
        vp.Prompter.from_name("falip", **options)


def test_an_unknown_option_lists_the_known_ones() -> None:
    with pytest.raises(vp.UnknownNameError, match="did you mean 'strength'"):
        vp.Prompter.from_name("falip", strenght=1.0)
    with pytest.raises(vp.UnknownNameError, match="paper"):
        vp.Prompter.from_name("falip", preset="papr")


def test_a_target_mass_over_everything_is_refused(clip: vp.Model) -> None:
    request = vp.Request(IMAGE, region=vp.Box(0, 0, 64, 64))
    with pytest.raises(vp.InvalidInputError, match="a region and a rest"):
        vp.Runner(clip, vp.Prompter.from_name("falip", target_mass=0.5)).encode(request)


def test_saved_and_loaded(tmp_path, clip: vp.Model) -> None:  # type: ignore[no-untyped-def]
    prompter = vp.Prompter.from_name("circle+falip", strength=1.25, heads=(0,), colour="blue")
    prompter.save_pretrained(tmp_path)
    again = vp.Prompter.from_pretrained(tmp_path)
    assert again.describe() == prompter.describe()
    request = vp.Request(IMAGE, region=vp.Box(16, 16, 48, 48))
    torch.testing.assert_close(vp.Runner(clip, again).encode(request), vp.Runner(clip, prompter).encode(request))


def test_an_option_of_a_newer_version_warns(tmp_path) -> None:  # type: ignore[no-untyped-def]
    vp.Prompter.from_name("falip").save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(file.read_text().replace('"strength"', '"loudness"'))
    with pytest.warns(UserWarning, match="loudness"):
        vp.Prompter.from_pretrained(tmp_path)
    file.write_text("{}")
    with pytest.raises(vp.InvalidInputError, match="not a saved strategy"):
        vp.Prompter.from_pretrained(tmp_path)


def test_falip_has_nothing_to_learn(clip: vp.Model) -> None:
    with pytest.raises(vp.UnsupportedError, match="nothing to learn"):
        vp.Prompter.from_name("falip").fit(clip, [])


def test_unleash_amplifies_what_the_circle_changed(clip: vp.Model) -> None:
    request = vp.Request(IMAGE, region=vp.Box(16, 16, 48, 48))

    def embedding(name: str | None, **options: object) -> torch.Tensor:
        return vp.Runner(clip, vp.Prompter.from_name(name, **options) if name else None).encode(request)

    plain, circle = embedding(None), embedding("circle")
    loud = embedding("circle+unleash", gain=2.0, first_block=0)
    assert torch.equal(embedding("circle+unleash", gain=0.0), circle)
    assert (loud - plain).norm() > (circle - plain).norm()
    # no head reaches a change of 10,000 %: none is amplified
    torch.testing.assert_close(embedding("circle+unleash", gain=2.0, responsive=100.0), circle)


def test_unleash_needs_something_before_it(clip: vp.Model) -> None:
    with pytest.raises(vp.InvalidInputError, match="circle"):
        vp.Runner(clip, vp.Prompter.from_name("unleash")).encode(vp.Request(IMAGE, region=vp.Box(1, 1, 40, 40)))


def test_the_papers_rounding_is_refused_where_a_image_is_cut_into_tiles():
    made = tiny_lvlm("llava-next")
    model = vp.wrap(made.module, made.processor)
    request = vp.Request(IMAGE, region=vp.Box(8, 8, 40, 40))
    with pytest.raises(vp.InvalidInputError, match="one tile"):
        vp.Prompter.from_name("falip", rounding="paper").prompt(request, model)
