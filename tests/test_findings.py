"""Ways of using the library that once went wrong: silently, with a raw traceback, or not at all."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

import visprompt as vp
from visprompt.testing.tiny import tiny

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
REQUEST = vp.Request(IMAGE, region=vp.Box(10, 10, 40, 40))


def fresh(name: str = "transformers-clip") -> vp.Model:
    small = tiny(name)
    return vp.wrap(small.module, small.processor, small.tokenizer)


@pytest.fixture(scope="module")
def clip() -> vp.Model:
    return fresh()


def falip(**options: object) -> vp.Prompter:
    return vp.Prompter.from_name("falip", **options)


def test_inference_mode() -> None:
    expected = vp.Runner(fresh(), falip()).encode(REQUEST)
    model = fresh()
    with torch.inference_mode():
        inside = vp.Runner(model, falip()).encode(REQUEST)
    assert torch.equal(inside, expected)
    with torch.inference_mode():
        born_inside = fresh()
        with pytest.raises(vp.UnsupportedError, match="inference_mode"):
            vp.Runner(born_inside, falip()).encode(REQUEST)
        assert vp.Runner(born_inside).score(REQUEST, ["a dog"]).shape == (1, 1)


def test_a_processor_that_takes_one_size_only() -> None:
    small = tiny("timm-vit-token")
    model = vp.wrap(
        small.module, transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])
    )
    side = small.grid_hw[0] * small.patch_size
    request = vp.Request(IMAGE.resize((side, side)), region=vp.Box(2, 2, side / 2, side / 2))
    assert torch.isfinite(vp.Runner(model, falip()).encode(request)).all()


def test_images_whose_inputs_differ_in_size() -> None:
    small = tiny("transformers-dinov2")
    processor = type(small.processor)(size={"shortest_edge": 64}, do_center_crop=False, do_resize=True)
    model = vp.wrap(small.module, processor)
    requests = [vp.Request(IMAGE.resize(wh), region=vp.Box(10, 10, 40, 40)) for wh in ((96, 96), (144, 72), (96, 96))]
    runner = vp.Runner(model, falip())
    together = runner.encode(requests)
    alone = torch.cat([vp.Runner(model, falip()).encode(request) for request in requests])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    first, second, _ = (item.maps.shape[-2:] for item in runner.attention(requests))
    assert first != second


@pytest.mark.parametrize("name", ["falip+crop", "falip+blur+crop"])
def test_columns_are_tied_to_their_image(clip: vp.Model, name: str) -> None:
    with pytest.raises(vp.InvalidInputError, match=r"crop\+falip"):
        vp.Runner(clip, vp.Prompter.from_name(name)).encode(REQUEST)


@pytest.mark.parametrize("block", [99, -5, 0.0001 + 4, float("nan"), "last"])
def test_blocks_that_do_not_exist(clip: vp.Model, block: object) -> None:
    for name in ("first_block", "last_block"):
        with pytest.raises(vp.InvalidInputError, match="block"):
            vp.Runner(clip, falip(**{name: block})).encode(REQUEST)
    with pytest.raises(vp.InvalidInputError, match="block"):
        vp.Runner(clip).attention(REQUEST, blocks=[block])


def test_image_map_takes_block_numbers(clip: vp.Model) -> None:
    (read,) = vp.Runner(clip).attention(REQUEST, blocks=[1, 3])
    np.testing.assert_array_equal(read.image_map(3), read.image_map(-1))
    with pytest.raises(vp.InvalidInputError, match="block 2 was not read"):
        read.image_map(2)
    with pytest.raises(vp.InvalidInputError, match="head"):
        read.image_map(1, head=9)


def test_a_probe_model_has_its_readout_in_the_head_only() -> None:
    model = fresh("transformers-siglip")
    with pytest.raises(vp.InvalidInputError, match="pooling head"):
        vp.Runner(model).attention(REQUEST, blocks=[0, -1])
    assert vp.Runner(model).attention(REQUEST)[0].blocks == (model.num_blocks - 1,)


def test_a_wrapped_masked_autoencoder_is_still_one() -> None:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    torch.manual_seed(0)
    config = ViTMAEConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
    )
    module = ViTMAEForPreTraining(config).eval()
    pixels, noise = torch.rand(1, 3, 32, 32), torch.rand(1, 16)
    with torch.no_grad():
        before = module(pixels, noise=noise).loss
        model = vp.wrap(module, tiny("transformers-vit-mae").processor)
        assert torch.equal(module(pixels, noise=noise).loss, before)
    assert config.mask_ratio == 0.75
    model.unwrap()


def test_a_module_in_training_mode_is_not_touched() -> None:
    small = tiny("open-clip-resnet")
    small.module.train()
    state = {name: item.clone() for name, item in small.module.state_dict().items()}
    model = vp.wrap(small.module, small.processor, small.tokenizer)
    vp.Runner(model, vp.Prompter.from_name("circle")).encode(REQUEST)
    assert small.module.training
    assert all(torch.equal(item, state[name]) for name, item in small.module.state_dict().items())


def test_contributions_of_a_mean_pooled_model() -> None:
    """They sum to the attention output's mean over the readout's rows."""
    model = fresh("transformers-ijepa")
    outputs = []
    handle = model.tower.sites[1].module.register_forward_hook(lambda m, a, out: outputs.append(out[0]))
    prompt = vp.VisualPrompt(IMAGE)
    with torch.no_grad():
        model.verify_sites(prompt)
        outputs.clear()
        result = model.encode([prompt], decompose=[1])
    handle.remove()
    torch.testing.assert_close(result.contributions[1].sum(1), outputs[0].mean(1), atol=1e-5, rtol=1e-5)


def test_reading_and_decomposing_have_rows_of_their_own(clip: vp.Model) -> None:
    result = clip.encode([vp.VisualPrompt(IMAGE)], read=[1], decompose=[1], read_rows=(2, 3))
    assert result.attention[1].shape[2] == 2
    alone = clip.encode([vp.VisualPrompt(IMAGE)], decompose=[1]).contributions[1]
    torch.testing.assert_close(result.contributions[1], alone)


@pytest.mark.parametrize(
    "options",
    [
        {"heads": ()},
        {"heads": 1},
        {"heads": ("a",)},
        {"heads": (99,)},
        {"sigma_tokens": 1.0},
        {"strength": 2.0, "target_mass": 0.5},
        {"target_mass": "0.5"},
        {"sigma_tokens": "2", "profile": "foveal"},
        {"rows": ["a"]},
        {"rows": (500,)},
        {"rows": "patches", "first_block": -1},
        {"first_block": "x"},
    ],
)
def test_settings_that_would_do_nothing_or_fail_inside(clip: vp.Model, options: dict[str, object]) -> None:
    with pytest.raises(vp.InvalidInputError):
        vp.Runner(clip, falip(**options)).encode(REQUEST)


def test_numpy_numbers_are_numbers(clip: vp.Model) -> None:
    expected = vp.Runner(clip, falip(strength=2)).encode(REQUEST)
    for strength in (np.float32(2), np.int64(2), np.float64(2)):
        assert torch.equal(vp.Runner(clip, falip(strength=strength)).encode(REQUEST), expected)


def test_obvious_mistakes_get_a_sentence(clip: vp.Model) -> None:
    with pytest.raises(vp.InvalidInputError, match=r"from_name\('falip'\)"):
        vp.Runner(clip, "falip")
    with pytest.raises(vp.InvalidInputError, match="load_model"):
        vp.Runner("bundled:scenes-clip")
    with pytest.raises(vp.InvalidInputError, match="fit"):
        vp.Runner(clip, fit="stretch")
    with pytest.raises(vp.InvalidInputError, match="requests"):
        vp.Runner(clip).encode(None)
    with pytest.raises(vp.InvalidInputError, match="name"):
        vp.Prompter.from_name(None)
    with pytest.raises(vp.InvalidInputError, match="name"):
        vp.load_model(None)
    with clip.prompting([vp.VisualPrompt(IMAGE), vp.VisualPrompt(IMAGE)], read=[0]) as encode:
        with pytest.raises(vp.InvalidInputError, match="3 images"):
            encode(torch.zeros(3, 3, 64, 64))
        encode(torch.zeros(2, 3, 64, 64))


def test_parts_with_options_of_their_own(clip: vp.Model) -> None:
    near, far = falip(strength=1.0, first_block=0), falip(strength=2.0, first_block=2)
    both = near + far
    assert isinstance(both, vp.Composition)
    assert both.name == "falip+falip"
    assert [part.options.strength for part in both.parts] == [1.0, 2.0]
    assert len((vp.Prompter.from_name("circle") + both).parts) == 3
    (prompt,) = both.prompt(REQUEST, clip)
    assert len(prompt.attention) == 2


def test_unleash_runs_the_plain_image_once(clip: vp.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = [vp.Box(5, 5, 30, 30), vp.Box(20, 20, 60, 60), vp.Box(0, 30, 30, 60)]
    prompter = vp.Prompter.from_name("falip+unleash")
    vp.Runner(clip, prompter).encode(REQUEST)
    sizes = []
    embed = clip.parts.embed
    monkeypatch.setattr(
        clip, "parts", dataclasses.replace(clip.parts, embed=lambda x: sizes.append(len(x["pixel_values"])) or embed(x))
    )
    vp.Runner(clip, prompter).encode(vp.Request(IMAGE, region=boxes))
    assert sizes == [1, 3]


def test_attention_after_a_crop_knows_its_region(clip: vp.Model) -> None:
    (read,) = vp.Runner(clip, vp.Prompter.from_name("crop")).attention(REQUEST)
    assert read.mass().mean() > 0.5
    with pytest.raises(vp.InvalidInputError, match="no region"):
        vp.Runner(clip).attention(vp.Request(IMAGE))[0].mass()


def test_a_box_that_looks_normalised_warns() -> None:
    with pytest.warns(UserWarning, match="from_normalised"):
        _ = vp.Request(IMAGE, region=(0.3, 0.3, 0.5, 0.6)).regions
