"""Tiny models of timm, created by their published names with smaller sizes."""

from __future__ import annotations

from typing import Any

import timm
from timm.data import create_transform

from visprompt.testing.tiny import Tiny, register


def _tiny(name: str, readout: Any, side: int = 64, patch: int = 8, crop_pct: float = 0.9, **options: Any) -> Tiny:
    sizes = {"img_size": side, "patch_size": patch, "embed_dim": 32, "depth": 4, "num_heads": 2}
    module = timm.create_model(name, **{**sizes, "num_classes": 0, **options})
    transform = create_transform(
        input_size=side,
        interpolation="bicubic",
        mean=module.pretrained_cfg["mean"],
        std=module.pretrained_cfg["std"],
        crop_pct=crop_pct,
        crop_mode="center",
    )
    return Tiny(
        name="",
        module=module,
        processor=transform,
        tokenizer=None,
        backend="timm",
        patch_size=patch,
        grid_hw=(side // patch, side // patch),
        patch_embedding="patch_embed.proj",
        has_text=False,
        readout=readout,
        processing="crop",
    )


@register
def timm_vit() -> Tiny:
    """A ViT with its classification head, which is created unless `num_classes=0` is given."""
    return _tiny("vit_tiny_patch16_224", "cls", num_classes=10)


@register
def timm_deit_distilled() -> Tiny:
    """A DeiT with a distillation token."""
    return _tiny("deit_tiny_distilled_patch16_224", "cls")


@register
def timm_vit_mean() -> Tiny:
    """A ViT with the mean over the patches as readout, as MAE checkpoints are fine-tuned."""
    return _tiny("vit_base_patch16_224.mae", "mean", global_pool="avg")


@register
def timm_vit_token() -> Tiny:
    """A ViT with the CLS token as readout, as MoCo v3 checkpoints are used."""
    return _tiny("vit_base_patch16_224.mae", "cls", global_pool="token")


@register
def timm_dinov2_registers() -> Tiny:
    """DINOv2 with register tokens."""
    return _tiny("vit_small_patch14_reg4_dinov2", "cls", side=56, patch=14, crop_pct=1.0)


@register
def timm_eva02() -> Tiny:
    """EVA-02 with the mean over the patches as readout."""
    return _tiny("eva02_tiny_patch14_224", "mean", crop_pct=1.0, ref_feat_shape=(8, 8))


@register
def timm_beit() -> Tiny:
    """BEiT with the mean over the patches as readout."""
    return _tiny("beit_base_patch16_224", "mean")
