"""The authors' own numbers on a thin ViT-B/16: FALIP's masks, embeddings and attention, in both libraries."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

import visprompt as vp

FILE = Path(__file__).parents[1] / "vectors" / "falip_vit_b16_thin.npz"
VISION = {"layers": 12, "width": 128, "patch": 16, "size": 224}


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(FILE, allow_pickle=False) as content:
        return {name: content[name] for name in content.files}


def open_clip_model(reference: dict[str, np.ndarray]) -> torch.nn.Module:
    import open_clip

    module = open_clip.CLIP(
        embed_dim=64,
        vision_cfg={"image_size": 224, "layers": 12, "width": 128, "head_width": 64, "patch_size": 16},
        text_cfg={"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
        quick_gelu=True,
    )
    weights = {n[8:]: torch.from_numpy(v).float() for n, v in reference.items() if n.startswith("weights/")}
    module.visual.load_state_dict(weights, strict=True)
    return module.eval()


def transformers_model(reference: dict[str, np.ndarray]) -> torch.nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=12,
        num_attention_heads=2,
        image_size=224,
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


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, reference: dict[str, np.ndarray]) -> vp.Model:
    transform = transforms.Compose([transforms.Resize((224, 224)), transforms.ToTensor()])
    module = MODELS[request.param](reference)
    if request.param == "transformers":
        from transformers import CLIPImageProcessor

        squash = {"height": 224, "width": 224}
        return vp.wrap(module, CLIPImageProcessor(size=squash, do_center_crop=False))
    return vp.wrap(module, transform)


def prompts(reference: dict[str, np.ndarray], model: vp.Model) -> list[vp.VisualPrompt]:
    picture = Image.new("RGB", tuple(int(side) for side in reference["image_size_wh"]))
    boxes = [vp.Box(*box) for box in reference["boxes_xyxy"]]
    return vp.Prompter.from_name("falip", preset="paper").prompt(vp.Request(picture, region=boxes), model)


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
        result = model._encode_sorted(items, {"pixel_values": pixels}, index, tuple(range(12)), (), shared)
    np.testing.assert_allclose(result.embeddings.numpy(), reference["embedding"], atol=1e-4)
    attention = torch.stack([result.attention[block].mean(1) for block in range(12)], dim=1)
    np.testing.assert_allclose(attention.numpy(), reference["cls_attention"], atol=1e-5)


def test_unprompted(reference: dict[str, np.ndarray], model: vp.Model) -> None:
    pixels = torch.from_numpy(reference["pixels"]).float()
    with torch.no_grad():
        result = model.embed_pixels(pixels, [vp.VisualPrompt(Image.new("RGB", (224, 224)))])
    np.testing.assert_allclose(result.embeddings[0].numpy(), reference["embedding_unprompted"], atol=1e-4)
