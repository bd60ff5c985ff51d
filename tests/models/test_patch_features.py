"""The patches' hidden states behind the last block, on every tiny encoder: what the libraries give, and no prompts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import visprompt as vp
from visprompt.models.backends.transformers import vision_module
from visprompt.models.patch_features import Features
from visprompt.testing.conformance import differences, image, snapshot
from visprompt.testing.tiny import Tiny, tiny, tiny_names

BLOCKS, WIDTH = 4, 32
NAMES = [name for name in tiny_names() if tiny(name).has_attention]
#: takes images packed into one sequence, which training refuses
PACKED = "transformers-siglip2-naflex"
IMAGE, LONG = image((96, 96)), image((144, 48))
PLAIN = vp.VisualPrompt(IMAGE)


def tokens(blocks: int = 1, m: int = 3, seed: int = 0, **options: Any) -> vp.PromptTokens:
    return vp.PromptTokens(torch.randn(blocks, m, WIDTH, generator=torch.Generator().manual_seed(seed)), **options)


@pytest.fixture(scope="module", params=NAMES)
def small(request: pytest.FixtureRequest) -> tuple[Tiny, vp.Model]:
    made = tiny(request.param)
    return made, vp.wrap(made.module, made.processor, made.tokenizer)


def of_the_library(made: Tiny, inputs: dict[str, Tensor]) -> tuple[Tensor, nn.Module | None]:
    """The patches' hidden states from the library itself, and the norm to apply to ours, if any."""
    module: Any = made.module
    if made.backend == "timm":
        return module.forward_intermediates(inputs["pixel_values"], norm=False, output_fmt="NLC")[1][-1], None
    if made.backend == "open_clip":
        visual = module.visual
        if hasattr(visual, "trunk"):
            return visual.trunk.forward_intermediates(inputs["pixel_values"], norm=False, output_fmt="NLC")[1][-1], None
        given = visual.forward_intermediates(inputs["pixel_values"], output_fmt="NLC")
        return given["image_intermediates"][-1], None
    tower: Any = vision_module(module)
    kind = tower.config.model_type
    extra = {"noise": torch.arange(64.0).expand(len(inputs["pixel_values"]), -1)} if kind == "vit_mae" else {}
    ratio = getattr(tower.config, "mask_ratio", None)
    try:
        if ratio is not None:
            tower.config.mask_ratio = 0.0
        states = tower(**inputs, **extra).last_hidden_state
    finally:
        if ratio is not None:
            tower.config.mask_ratio = ratio
    norms = ("post_layernorm", "layernorm", "norm")
    norm = None if "clip" in kind or kind == "beit" else next(getattr(tower, n) for n in norms if hasattr(tower, n))
    return states, norm


@torch.no_grad()
def test_they_are_what_the_library_gives(small: tuple[Tiny, vp.Model]) -> None:
    made, model = small
    before = snapshot(made.module)
    inputs = model.parts.reader.inputs([(IMAGE, "model")], model)
    wanted, norm = of_the_library(made, inputs)
    found = model.encode([PLAIN], features=True)
    patches = model.geometry_of(PLAIN).num_patches
    assert found.features is not None
    assert found.features.shape == (1, patches, WIDTH)
    mine = found.features if norm is None else norm(found.features)
    own = 0 if wanted.shape[1] == patches else model.tower.prefix
    torch.testing.assert_close(mine, wanted[:, own : own + patches], atol=1e-5, rtol=1e-5)
    assert torch.equal(found.embeddings, model.encode([PLAIN]).embeddings)
    assert model.encode([PLAIN]).features is None
    assert not differences(before, snapshot(made.module))


@torch.no_grad()
def test_they_are_in_order(small: tuple[Tiny, vp.Model]) -> None:
    """What changes most when a corner of the image does is the patch that shows it."""
    model = small[1]
    geometry = model.geometry_of(PLAIN)
    plain = model.encode([PLAIN], features=True).features
    assert plain is not None
    for index in (0, geometry.grid_hw[1] - 1, geometry.num_patches - geometry.grid_hw[1]):
        box = geometry.patch_box(index)
        changed = IMAGE.copy()
        changed.paste((255, 0, 255), tuple(int(value) for value in box.xyxy))
        found = model.encode([vp.VisualPrompt(changed)], features=True).features
        assert found is not None
        assert int((found - plain).norm(dim=-1).argmax()) == index


@torch.no_grad()
def test_prompts_act_and_do_not_leak_in(small: tuple[Tiny, vp.Model]) -> None:
    """Prompts on several images in one batch, shared and not: each gets what it gets alone."""
    model = small[1]
    deep = PLAIN.with_(tokens=tokens(BLOCKS, m=2))
    edited = PLAIN.adding(vp.AttentionEdit(temperature=2.0, rows="all", first_block=1))
    prompts = [PLAIN, edited, PLAIN.with_(tokens=tokens()), deep, vp.VisualPrompt(LONG, tokens=tokens()), PLAIN]
    found = model.encode(prompts, features=True)
    assert found.features is not None
    for prompt, item, embedding in zip(prompts, found.features, found.embeddings, strict=True):
        alone = model.encode([prompt], features=True)
        assert alone.features is not None
        count = model.geometry_of(prompt).num_patches
        assert alone.features.shape[1] == count
        torch.testing.assert_close(item[:count], alone.features[0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(embedding, alone.embeddings[0], atol=1e-5, rtol=1e-4)
        assert not item[count:].any() or model.tower.padded
    for other in (1, 2, 3):
        assert (found.features[other] - found.features[0]).abs().max() > 1e-3


@pytest.mark.parametrize("name", [name for name in NAMES if tiny(name).readout == "mean"])
def test_prompts_that_are_pooled_are_not_in_them(name: str) -> None:
    """`pool="with_prompts"` replaces the patches by their mean where the embedding is made, and only there."""
    made = tiny(name)
    model = vp.wrap(made.module, made.processor, made.tokenizer)
    given = tokens()
    with torch.no_grad():
        found = model.encode([PLAIN.with_(tokens=given)], features=True)
        pooled = model.encode([PLAIN.with_(tokens=replace(given, pool="with_prompts"))], features=True)
    assert found.features is not None
    assert pooled.features is not None
    assert torch.equal(found.features, pooled.features)
    assert not torch.equal(found.embeddings, pooled.embeddings)


@pytest.mark.parametrize("small", [name for name in NAMES if name != PACKED], indirect=True)
@pytest.mark.parametrize("prompted", [True, False])
def test_gradients(small: tuple[Tiny, vp.Model], prompted: bool) -> None:
    made, model = small
    pixels = model.parts.reader.inputs([(IMAGE, "model")] * 2, model)["pixel_values"].requires_grad_()
    given = tokens().tokens.clone().requires_grad_()
    prompt = PLAIN.with_(tokens=vp.PromptTokens(given)) if prompted else PLAIN
    made.module.requires_grad_(False)
    try:
        with model.prompting([prompt] * 2, features=True) as encode:
            found = encode(pixels).features
            assert found is not None
            (found * torch.linspace(-1, 2, WIDTH)).sum().backward()
    finally:
        made.module.requires_grad_(True)
    assert pixels.grad is not None
    assert pixels.grad.ne(0).any()
    assert (given.grad is not None and bool(given.grad.ne(0).all())) == prompted
    with torch.no_grad():
        wanted = model.encode([prompt], features=True).features
    assert wanted is not None
    torch.testing.assert_close(found.detach()[:1], wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["transformers-vit", "transformers-dinov2", "open-clip-vit"])
def test_gradient_checkpointing(name: str) -> None:
    made = tiny(name)
    model = vp.wrap(made.module, made.processor, made.tokenizer)
    made.module.requires_grad_(False)
    given = tokens().tokens.clone().requires_grad_()
    pixels = model.parts.reader.inputs([(IMAGE, "model")], model)["pixel_values"]

    def gradient() -> Tensor:
        with model.prompting([PLAIN.with_(tokens=vp.PromptTokens(given))], features=True) as encode:
            first, second = encode(pixels).features, encode(pixels + 0.1).features
            assert first is not None
            assert second is not None
            return torch.autograd.grad((first * second).sum(), [given])[0]

    wanted = gradient()
    if made.backend == "open_clip":
        made.module.set_grad_checkpointing()  # type: ignore[operator]
    else:
        made.module.gradient_checkpointing_enable()  # type: ignore[operator]
        for block in model.tower.blocks:
            block.training = True
    torch.testing.assert_close(gradient(), wanted, atol=1e-4, rtol=1e-4)


def test_tokens_before_images() -> None:
    """open_clip's towers can also be built with the batch on the second axis inside the blocks."""
    from open_clip.model import CLIP, CLIPVisionCfg

    made = tiny("open-clip-vit")
    vision = {"layers": BLOCKS, "width": WIDTH, "head_width": 8, "patch_size": 8, "image_size": 64}
    sizes = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    with torch.random.fork_rng(devices=[]):
        first, second = (
            CLIP(embed_dim=24, vision_cfg=CLIPVisionCfg(**vision), text_cfg=sizes).eval() for _ in range(2)
        )
    second.load_state_dict(first.state_dict())
    second.visual.transformer.batch_first = False
    for block in second.visual.transformer.resblocks:
        block.attn.batch_first = False
    with torch.no_grad():
        found = [
            vp.wrap(item, made.processor, made.tokenizer).encode([PLAIN, PLAIN], features=True).features
            for item in (first, second)
        ]
    assert found[0] is not None
    assert found[1] is not None
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)


# -- what is refused --------------------------------------------------------------------------------------------------


def test_packed_images_are_not_trained_on() -> None:
    made = tiny(PACKED)
    model = vp.wrap(made.module, made.processor, made.tokenizer)
    with pytest.raises(vp.UnsupportedError, match="packed"), model.prompting([PLAIN], features=True):
        pass


def test_a_model_without_blocks() -> None:
    made = tiny("open-clip-resnet")
    model = vp.wrap(made.module, made.processor, made.tokenizer)
    with pytest.raises(vp.UnsupportedError, match="no features of patches"):
        model.encode([PLAIN], features=True)
    with pytest.raises(vp.UnsupportedError, match="no features of patches"), model.prompting([PLAIN], features=True):
        pass


def test_pixels_of_another_size_are_refused() -> None:
    made = tiny("transformers-dinov2")
    model = vp.wrap(made.module, made.processor)
    with (
        pytest.raises(vp.InvalidInputError, match="25 patches"),
        model.prompting([PLAIN], features=True) as encode,
    ):
        encode(torch.zeros(1, 3, 70, 70))


def test_a_block_that_never_runs_is_an_error() -> None:
    made = tiny("timm-vit")
    model = vp.wrap(made.module, made.processor)
    with pytest.raises(vp.SiteNotReachedError, match="never ran"):
        Features(model.tower, 64).during(lambda: torch.zeros(1))
