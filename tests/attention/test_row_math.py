"""The arithmetic of attention rows against plain tensor code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import noise
from PIL import Image

import visprompt as vp
from visprompt.attention.row_math import target_mass_logits
from visprompt.testing.tiny import tiny


def by_hand(module: torch.nn.Module, pixels: torch.Tensor, first: int, change) -> torch.Tensor:  # type: ignore[no-untyped-def]
    """A CLIP image tower in 20 lines; `change(logits[n, H, K]) -> logits` acts on the CLS row from block `first` on."""
    vision = module.vision_model
    x = vision.pre_layrnorm(vision.embeddings(pixels))
    for number, layer in enumerate(vision.encoder.layers):
        attention, y = layer.self_attn, layer.layer_norm1(x)
        q, k, v = (
            getattr(attention, f"{name}_proj")(y).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for name in "qkv"
        )
        logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if number >= first:
            logits = torch.cat((change(logits[:, :, 0])[:, :, None], logits[:, :, 1:]), dim=2)
        x = x + attention.out_proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
        x = x + layer.mlp(layer.layer_norm2(x))
    return module.visual_projection(vision.post_layernorm(x[:, 0]))


def pixels_of(model: vp.Model, image: Image.Image) -> torch.Tensor:
    return model.parts.reader.inputs([(image, "model")], model)["pixel_values"]


def test_bias_is_added_to_the_readout_row(clip: vp.Model) -> None:
    inputs = noise((96, 96))
    bias = torch.randn(clip.geometry(inputs.size).num_patches, generator=torch.Generator().manual_seed(0))
    prompt = vp.VisualPrompt(inputs).adding(vp.AttentionEdit(bias=bias.numpy(), first_block=1))
    with torch.no_grad():
        ours = clip.encode([prompt]).embeddings
        row = torch.cat((torch.zeros(1), bias))
        expected = by_hand(clip.module, pixels_of(clip, inputs), 1, lambda logits: logits + row)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_bias_in_some_heads_only(clip: vp.Model) -> None:
    inputs = noise((96, 96), seed=1)
    bias = np.linspace(-2, 2, clip.geometry(inputs.size).num_patches)
    prompt = vp.VisualPrompt(inputs).adding(vp.AttentionEdit(bias=bias, first_block=2, heads=(1,)))

    def change(logits: torch.Tensor) -> torch.Tensor:
        logits = logits.clone()
        logits[:, 1, 1:] += torch.from_numpy(bias).float()
        return logits

    with torch.no_grad():
        ours = clip.encode([prompt]).embeddings
        expected = by_hand(clip.module, pixels_of(clip, inputs), 2, change)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_temperature_divides_the_logits(clip: vp.Model) -> None:
    inputs = noise((96, 96), seed=2)
    prompt = vp.VisualPrompt(inputs).adding(vp.AttentionEdit(temperature=2.5))
    with torch.no_grad():
        ours = clip.encode([prompt]).embeddings
        expected = by_hand(clip.module, pixels_of(clip, inputs), 0, lambda logits: logits / 2.5)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_target_mass_is_what_was_asked_for() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 1, 10, generator=generator)
    weights = torch.zeros(2, 1, 1, 10)
    weights[..., 4:7] = torch.tensor([0.2, 1.0, 0.5])
    target = torch.tensor([0.6, 0.9])[:, None, None].expand(2, 3, 1)
    share = target_mass_logits(logits, weights.log(), target).softmax(-1)[..., 4:7].sum(-1)
    torch.testing.assert_close(share, target, atol=1e-6, rtol=0)
    # weights act inside the region: relative to their logits, columns are in proportion to w
    inside = (target_mass_logits(logits, weights.log(), target) - logits)[..., 4:7]
    torch.testing.assert_close(inside[..., 0] - inside[..., 1], torch.full((2, 3, 1), math.log(0.2)), atol=1e-5, rtol=0)


def test_target_mass_leaves_rows_alone_that_have_it() -> None:
    logits = torch.zeros(1, 1, 1, 4)
    weights = torch.tensor([1.0, 1.0, 1.0, 0.0]).log()
    assert torch.equal(target_mass_logits(logits, weights, torch.tensor([[[0.5]]])), logits)
    assert torch.equal(target_mass_logits(logits, weights, torch.tensor([[[float("nan")]]])), logits)


def test_target_mass_does_not_disturb_gradients() -> None:
    logits = torch.zeros(1, 1, 2, 4, requires_grad=True)
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0]).log()
    target_mass_logits(logits, weights, torch.tensor([[[0.9, float("nan")]]])).softmax(-1)[..., 1].sum().backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", ["transformers-clip", "open-clip-vit", "timm-vit-token", "transformers-dinov3"])
def test_contributions_sum_to_the_attention_output(name: str) -> None:
    small = tiny(name)
    model = vp.wrap(small.module, small.processor, small.tokenizer)
    site = model.tower.sites[1]
    seen = []
    handle = site.module.register_forward_hook(lambda m, a, out: seen.append(out[0] if isinstance(out, tuple) else out))
    prompt = vp.VisualPrompt(noise((96, 96)))
    model.verify_sites(prompt)
    seen.clear()
    from visprompt.attention import compile_programs, open_scope

    with torch.no_grad():
        count = model.geometry(prompt.image.size).num_patches
        with open_scope(model.tower, compile_programs(model.tower, [()], [count], decompose=[1])) as scope:
            model.parts.embed(model.parts.reader.inputs([(prompt.image, "model")], model))
    handle.remove()
    torch.testing.assert_close(scope.decomposition[site].sum(1)[0], seen[0][0, 0], atol=1e-5, rtol=1e-5)


def test_output_gain_adds_the_change_once_more(clip: vp.Model) -> None:
    """`G' + g (G' − G)` in the last block only, by hand."""
    inputs, other = noise((96, 96), seed=3), noise((96, 96), seed=4)
    last = clip.num_blocks - 1
    prompt = vp.VisualPrompt(inputs, reference=other).adding(vp.AttentionEdit(gain=0.7, first_block=last))
    layer = clip.module.vision_model.encoder.layers[last]
    states: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda m, a: states.append(a[0]))
    with torch.no_grad():
        ours = clip.encode([prompt]).embeddings
        states.clear()
        clip.encode([vp.VisualPrompt(inputs)])
        clip.encode([vp.VisualPrompt(other)])
        now, before = (layer.self_attn(layer.layer_norm1(x), attention_mask=None)[0][:, 0] for x in states)
        # out_proj is affine, so its bias drops out of the difference
        x = states[0][:, 0] + now + 0.7 * (now - before)
        x = x + layer.mlp(layer.layer_norm2(x))
        expected = clip.module.visual_projection(clip.module.vision_model.post_layernorm(x))
    handle.remove()
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_chosen_rows_are_read_one_by_one(clip: vp.Model) -> None:
    inputs = noise((96, 96), seed=5)
    block = 2
    layer = clip.module.vision_model.encoder.layers[block]
    states: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda m, a: states.append(a[0]))
    with torch.no_grad():
        clip.verify_sites(vp.VisualPrompt(inputs))
        states.clear()
        read = clip.encode([vp.VisualPrompt(inputs)], read=[block], read_rows=(0, 3)).attention[block]
        attention, x = layer.self_attn, layer.layer_norm1(states[0])
        q, k = (
            getattr(attention, f"{name}_proj")(x).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for name in "qk"
        )
        expected = (q @ k.transpose(-1, -2) * attention.scale).softmax(-1)[:, :, [0, 3], 1:]
    handle.remove()
    torch.testing.assert_close(read, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("rows", ["patches", "all", (0, 5)])
def test_the_readout_can_be_read_while_other_rows_are_edited(clip: vp.Model, rows: object) -> None:
    request = vp.Request(noise((96, 96), seed=6), region=vp.Box(20, 20, 60, 60))
    prompter = vp.Prompter.from_name("falip", rows=rows, strength=3.0, first_block=1)
    runner = vp.Runner(clip, prompter)
    (read,) = runner.attention(request)
    embeddings = vp.Runner(clip, prompter).encode(request)
    plain = vp.Runner(clip).attention(request)[0]
    if rows == "patches":  # the readout's own logits are not raised in the first edited block
        torch.testing.assert_close(read.maps[1], plain.maps[1], atol=1e-5, rtol=1e-4)
    else:
        assert (read.mass(request.regions[0])[1] > plain.mass(request.regions[0])[1]).all()
    with torch.no_grad():
        together = clip.encode(prompter.prompt(request, clip), read=range(4)).embeddings
    torch.testing.assert_close(together, embeddings, atol=1e-5, rtol=1e-5)
