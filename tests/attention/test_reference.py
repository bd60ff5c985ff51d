"""The authors' own numbers on thin ViTs, in both libraries: FALIP's masks, embeddings and attention; API's maps,
masks and overlays.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from visprompt.strategies._heatmap import RawMap, mask_of, over_image, overlay
from visprompt.strategies._views import View, assembled

import visprompt as vp
from visprompt.models.attribution import Attribution, decomposed
from visprompt.models.encoder_run import Kept, encode_sorted

FOLDER = Path(__file__).parents[1] / "vectors"


@dataclass(frozen=True)
class Thin:
    """Sizes of a thin ViT with patches of 16 pixels."""

    layers: int
    width: int
    heads: int
    size: int


FALIP, API = Thin(12, 128, 2, 224), Thin(6, 96, 4, 112)


def vectors(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / name, allow_pickle=False) as content:
        return {key: content[key] for key in content.files}


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    return vectors("falip_vit_b16_thin.npz")


@pytest.fixture(scope="module")
def api_reference() -> dict[str, np.ndarray]:
    return vectors("api_clip_thin.npz")


def open_clip_model(reference: dict[str, np.ndarray], thin: Thin) -> torch.nn.Module:
    import open_clip

    module = open_clip.CLIP(
        embed_dim=64,
        vision_cfg={
            "image_size": thin.size,
            "layers": thin.layers,
            "width": thin.width,
            "head_width": thin.width // thin.heads,
            "patch_size": 16,
        },
        text_cfg={"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
        quick_gelu=True,
    )
    weights = {n[8:]: torch.from_numpy(v).float() for n, v in reference.items() if n.startswith("weights/")}
    module.visual.load_state_dict(weights, strict=True)
    return module.eval()


def transformers_model(reference: dict[str, np.ndarray], thin: Thin) -> torch.nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=thin.width,
        intermediate_size=4 * thin.width,
        num_hidden_layers=thin.layers,
        num_attention_heads=thin.heads,
        image_size=thin.size,
        patch_size=16,
        projection_dim=64,
        hidden_act="quick_gelu",
    )
    module = CLIPVisionModelWithProjection(config)
    names = [
        (r"^class_embedding$", "vision_model.embeddings.class_embedding"),
        (r"^positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
        (r"^conv1\.", "vision_model.embeddings.patch_embedding."),
        (r"^ln_pre\.", "vision_model.pre_layrnorm."),
        (r"^ln_post\.", "vision_model.post_layernorm."),
        (r"^transformer\.resblocks\.(\d+)\.ln_1\.", r"vision_model.encoder.layers.\1.layer_norm1."),
        (r"^transformer\.resblocks\.(\d+)\.ln_2\.", r"vision_model.encoder.layers.\1.layer_norm2."),
        (r"^transformer\.resblocks\.(\d+)\.attn\.out_proj\.", r"vision_model.encoder.layers.\1.self_attn.out_proj."),
        (r"^transformer\.resblocks\.(\d+)\.mlp\.c_fc\.", r"vision_model.encoder.layers.\1.mlp.fc1."),
        (r"^transformer\.resblocks\.(\d+)\.mlp\.c_proj\.", r"vision_model.encoder.layers.\1.mlp.fc2."),
    ]
    state = {}
    for key, value in reference.items():
        if not key.startswith("weights/"):
            continue
        name, tensor = key[8:], torch.from_numpy(value).float()
        packed = re.match(r"^transformer\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)$", name)
        if packed:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                state[f"vision_model.encoder.layers.{packed[1]}.self_attn.{part}_proj.{packed[2]}"] = piece
        elif name == "proj":
            state["visual_projection.weight"] = tensor.T
        else:
            for pattern, target in names:
                name = re.sub(pattern, target, name)
            state[name] = tensor
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("position_ids" in name for name in missing)
    return module.eval()


MODELS = {"open_clip": open_clip_model, "transformers": transformers_model}


def squashing(library: str, reference: dict[str, np.ndarray], thin: Thin) -> vp.Model:
    module = MODELS[library](reference, thin)
    if library == "transformers":
        from transformers import CLIPImageProcessor

        squash = {"height": thin.size, "width": thin.size}
        return vp.wrap(module, CLIPImageProcessor(size=squash, do_center_crop=False))
    return vp.wrap(module, transforms.Compose([transforms.Resize((thin.size, thin.size)), transforms.ToTensor()]))


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, reference: dict[str, np.ndarray]) -> vp.Model:
    return squashing(request.param, reference, FALIP)


@pytest.fixture(scope="module", params=MODELS)
def api_model(request: pytest.FixtureRequest, api_reference: dict[str, np.ndarray]) -> vp.Model:
    return squashing(request.param, api_reference, API)


def prompts(reference: dict[str, np.ndarray], model: vp.Model) -> list[vp.VisualPrompt]:
    image = Image.new("RGB", tuple(int(side) for side in reference["image_size_wh"]))
    boxes = [vp.Box(*box) for box in reference["boxes_xyxy"]]
    return vp.Prompter.from_name("falip", preset="paper").prompt(vp.Request(image, region=boxes), model)


def test_masks_are_the_authors_exactly(reference: dict[str, np.ndarray], model: vp.Model) -> None:
    for prompt, mask in zip(prompts(reference, model), reference["foveal_mask"], strict=True):
        (edit,) = prompt.attention
        np.testing.assert_array_equal(edit.bias.reshape(14, 14), mask)
        assert edit.blocks(12) == range(8, 12)


@pytest.mark.parametrize("shared", [True, False])
def test_embeddings_and_attention(reference: dict[str, np.ndarray], model: vp.Model, shared: bool) -> None:
    pixels = torch.from_numpy(reference["pixels"]).float()
    items = prompts(reference, model)
    index = torch.zeros(len(items), dtype=torch.long)
    with torch.no_grad():
        # The reference gives normalised pixels, so the processor is passed by.
        result = encode_sorted(model, items, {"pixel_values": pixels}, index, Kept(read=tuple(range(12))), shared)
    np.testing.assert_allclose(result.embeddings.numpy(), reference["embedding"], atol=1e-4)
    attention = torch.stack([result.attention[block].mean(1) for block in range(12)], dim=1)
    np.testing.assert_allclose(attention.numpy(), reference["cls_attention"], atol=1e-5)


def test_unprompted(reference: dict[str, np.ndarray], model: vp.Model) -> None:
    pixels = torch.from_numpy(reference["pixels"]).float()
    with torch.no_grad():
        result = model.embed_pixels(pixels, [vp.VisualPrompt(Image.new("RGB", (224, 224)))])
    np.testing.assert_allclose(result.embeddings[0].numpy(), reference["embedding_unprompted"], atol=1e-4)


# -- API --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def attributed(api_reference: dict[str, np.ndarray], api_model: vp.Model) -> list[Attribution]:
    """The maps of the three reference images, one text each."""
    geometries = [api_model.geometry((API.size, API.size))] * 3
    with torch.no_grad():
        inputs = {"pixel_values": torch.from_numpy(api_reference["pixels"]).float()}
        run = decomposed(api_model, inputs, geometries, None)
        np.testing.assert_allclose(run.embeddings.numpy(), api_reference["image_embedding"], atol=1e-4)
        return run.for_texts(torch.from_numpy(api_reference["text_embedding"]), torch.arange(3))


def test_api_maps(api_reference: dict[str, np.ndarray], attributed: list[Attribution]) -> None:
    for found, psi, alone in zip(
        attributed, api_reference["psi_cls"], api_reference["psi_comp_similarity"], strict=True
    ):
        np.testing.assert_allclose(found.contribution.reshape(7, 7), psi, atol=1e-6)
        np.testing.assert_allclose(found.similarity.reshape(7, 7), alone, atol=1e-5)


def test_api_masks_and_overlays(api_reference: dict[str, np.ndarray], attributed: list[Attribution]) -> None:
    options = vp.Prompter.from_name("api", preset="paper").options
    image = Image.fromarray(api_reference["image"])
    for found, mask, painted in zip(attributed, api_reference["merged_mask"], api_reference["overlay"], strict=True):
        part = RawMap(found.contribution, found.similarity, found.geometry)
        raw = assembled([part], [View(image, "model")], image.size, options.align)
        values = mask_of(raw, options.maps, options.enhance, options.kernel_size)
        np.testing.assert_allclose(values.reshape(7, 7), mask, atol=1e-4)
        over = over_image(values, raw.geometry, options.interpolation, 1.0)
        ours = np.asarray(overlay(image, over, options.grey, options.floor)).astype(int)
        assert np.abs(ours - painted).max() <= 1


# -- gated prompt tuning ----------------------------------------------------------------------------------------------


def gated_timm(reference: dict[str, np.ndarray]) -> vp.Model:
    import timm

    module = timm.create_model(
        "vit_base_patch16_224.mae",
        img_size=64,
        embed_dim=96,
        depth=6,
        num_heads=4,
        num_classes=0,
        global_pool="avg",
    )
    weights = {name[8:]: torch.from_numpy(item).float() for name, item in reference.items() if name[:8] == "weights/"}
    # timm calls the norm behind an average by another name.
    weights = {re.sub(r"^norm\.", "fc_norm.", name): item for name, item in weights.items()}
    module.load_state_dict(weights, strict=True)
    return vp.wrap(module.eval(), transforms.Compose([transforms.Resize((64, 64)), transforms.ToTensor()]))


def gated_transformers(reference: dict[str, np.ndarray]) -> vp.Model:
    from transformers import ViTImageProcessor, ViTMAEConfig, ViTMAEModel

    config = ViTMAEConfig(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=64,
        patch_size=16,
        layer_norm_eps=1e-6,
    )
    module = ViTMAEModel(config)
    names = [
        (r"^cls_token$", "embeddings.cls_token"),
        (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
        (r"^norm\.", "layernorm."),
    ]
    parts = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.o_proj",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    state = {}
    for key, item in reference.items():
        if not key.startswith("weights/"):
            continue
        name, tensor = key[8:], torch.from_numpy(item).float()
        packed = re.match(r"^blocks\.(\d+)\.attn\.qkv\.(weight|bias)$", name)
        inner = re.match(r"^blocks\.(\d+)\.(.+)\.(weight|bias)$", name)
        if packed:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                state[f"layers.{packed[1]}.attention.{part}_proj.{packed[2]}"] = piece
        elif inner:
            state[f"layers.{inner[1]}.{parts[inner[2]]}.{inner[3]}"] = tensor
        else:
            for pattern, target in names:
                name = re.sub(pattern, target, name)
            state[name] = tensor
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not missing
    assert not unexpected
    return vp.wrap(module.eval(), ViTImageProcessor(size={"height": 64, "width": 64}))


def as_data(model: vp.Model, learned: dict[str, torch.Tensor]) -> vp.VisualPrompt:
    """The prompt in plain code."""
    # The reference's gradients are those at the clamped temperatures.
    clamped = learned["temperatures"].clamp(0.01, 10).unbind()
    return vp.VisualPrompt(
        Image.new("RGB", (64, 64)),
        tokens=vp.PromptTokens(learned["tokens"], learned["gate_logits"], pool="with_prompts"),
        attention=tuple(
            vp.AttentionEdit(temperature=tau, rows="all", first_block=block, last_block=block)
            for block, tau in enumerate(clamped)
        ),
    )


def as_strategy(model: vp.Model, learned: dict[str, torch.Tensor]) -> vp.VisualPrompt:
    """The strategy's prompt in training, without dropout."""
    prompter: Any = vp.Prompter.from_name("gated", preset="paper", prompts=learned["tokens"].shape[1])
    prompter.build(model)
    for name, item in prompter.tensors().items():
        assert item.shape == learned[name].shape
        item.data.copy_(learned[name])
        learned[name] = item
    prompter.constrain()
    (prompt,) = prompter.training_edit([vp.VisualPrompt(Image.new("RGB", (64, 64)))], model, None)
    return prompt  # type: ignore[no-any-return]


@pytest.mark.parametrize("make", [as_data, as_strategy])
@pytest.mark.parametrize("library", [gated_timm, gated_transformers])
def test_gated_prompts(library: Callable[..., vp.Model], make: Callable[..., vp.VisualPrompt]) -> None:
    reference = vectors("gated_mae_thin.npz")
    model = library(reference)
    names = {"tokens": "prompt_embeddings", "gate_logits": "gate_logits", "temperatures": "temperatures"}
    learned = {ours: torch.from_numpy(reference[name]).clone().requires_grad_() for ours, name in names.items()}
    prompt = make(model, learned)
    pixels = torch.from_numpy(reference["pixels"]).float()
    with model.prompting([prompt] * len(pixels)) as encode:
        features = encode(pixels).embeddings
        (features @ torch.from_numpy(reference["loss_direction"])).sum().backward()
    np.testing.assert_allclose(features.detach().numpy(), reference["features"], atol=1e-4)
    for ours, name in names.items():
        found = learned[ours].grad
        assert found is not None
        np.testing.assert_allclose(found.numpy(), reference[f"grad_{name}"], atol=1e-4, err_msg=name)
