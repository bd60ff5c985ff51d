"""Tiny models of open_clip."""

from __future__ import annotations

import functools
from typing import Any

import open_clip
import timm
from open_clip import image_transform
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.tokenizer import SimpleTokenizer

from visprompt.testing.tiny import Tiny, register

_CONTEXT = 24
_TEXT: dict[str, Any] = {"context_length": _CONTEXT, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
_VISION: dict[str, Any] = {"image_size": 64, "patch_size": 8, "layers": 4, "width": 32, "head_width": 16}


@functools.lru_cache(maxsize=1)
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer(context_length=_CONTEXT)


def _transform(squash: bool = False) -> Any:
    if squash:
        half = (0.5, 0.5, 0.5)
        return image_transform(64, False, mean=half, std=half, resize_mode="squash", interpolation="bicubic")
    return image_transform(64, False, mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD)


def _tiny(module: Any, patch_embedding: str, squash: bool = False, **facts: Any) -> Tiny:
    defaults: dict[str, Any] = {"patch_size": 8, "grid_hw": (8, 8), "readout": "cls"}
    return Tiny(
        name="",
        module=module,
        processor=_transform(squash),
        tokenizer=_tokenizer(),
        backend="open_clip",
        patch_embedding=patch_embedding,
        has_text=True,
        processing="squash" if squash else "crop",
        **{**defaults, **facts},
    )


def _with_trunk(trunk: Any, text: dict[str, Any], **options: Any) -> CustomTextCLIP:
    # open_clip creates timm towers by name in their full size; the small test model of timm is replaced by our trunk.
    vision = {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "none", "image_size": 64}
    module = CustomTextCLIP(embed_dim=32, vision_cfg=vision, text_cfg=text, **options)
    module.visual.trunk = trunk
    return module


@register
def open_clip_vit() -> Tiny:
    """A CLIP with open_clip's own ViT."""
    return _tiny(CLIP(embed_dim=24, vision_cfg=_VISION, text_cfg=_TEXT), "visual.conv1")


@register
def open_clip_coca() -> Tiny:
    """CoCa, with an attention pooler as readout."""
    from open_clip.coca_model import CoCa

    vision = {**_VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    text = {**_TEXT, "context_length": _CONTEXT - 1, "embed_cls": True, "output_tokens": True}
    decoder = {**_TEXT, "context_length": _CONTEXT - 1, "attn_pooler_heads": 2}
    module = CoCa(embed_dim=32, multimodal_cfg=decoder, text_cfg=text, vision_cfg=vision)
    made = _tiny(module, "visual.conv1", readout="pooler")
    made.tokenizer = SimpleTokenizer(context_length=_CONTEXT - 1)
    return made


@register
def open_clip_siglip() -> Tiny:
    """SigLIP with a timm tower, whose readout is a pooling probe."""
    trunk = timm.create_model(
        "vit_base_patch16_siglip_224",
        img_size=64,
        patch_size=8,
        embed_dim=32,
        depth=4,
        num_heads=2,
        num_classes=0,
        global_pool="map",
    )
    text = {**_TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
    module = _with_trunk(trunk, text, init_logit_bias=-10)
    return _tiny(module, "visual.trunk.patch_embed.proj", squash=True, readout="probe")


@register
def open_clip_eva02() -> Tiny:
    """A CLIP with a timm EVA-02 tower."""
    trunk = timm.create_model(
        "eva02_base_patch16_clip_224",
        img_size=64,
        patch_size=8,
        embed_dim=32,
        depth=4,
        num_heads=2,
        num_classes=32,
        global_pool="token",
        ref_feat_shape=(8, 8),
    )
    return _tiny(_with_trunk(trunk, _TEXT), "visual.trunk.patch_embed.proj")


@register
def open_clip_resnet() -> Tiny:
    """A convolutional CLIP: it supports edits of pixels and has no attention over patches."""
    vision = {"image_size": 64, "layers": (1, 1, 1, 1), "width": 8, "patch_size": None}
    module = CLIP(embed_dim=32, vision_cfg=vision, text_cfg=_TEXT)
    return _tiny(module, "visual.layer4", patch_size=32, grid_hw=(2, 2), readout="none", num_blocks=0)
