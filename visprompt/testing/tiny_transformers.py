"""Tiny models of the transformers library."""

from __future__ import annotations

import functools
from typing import Any

import transformers

from visprompt.testing.tiny import Tiny, register

_WIDTH = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
_VIT = {**_WIDTH, "image_size": 64, "patch_size": 8}
_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_SIDE = {"height": 64, "width": 64}

_VOCABULARY = (
    "a an the of in on is and photo picture left right top bottom small large red green blue yellow grey black white "
    "color dog cat bird car person man woman tree star circle square triangle"
)
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,-'!?:"


def word_tokenizer(start: str | None, end: str, pad: str, max_length: int, inputs: list[str]) -> Any:
    """A tokenizer with a tiny vocabulary; unknown words are spelled letter by letter, so different texts stay
    different.

    Args:
        start: the token before the text, or None.
        end: the token after the text.
        pad: the padding token; may be the same as `end`, as for CLIP.
        max_length: `model_max_length`.
        inputs: `model_input_names`.

    Returns:
        A fast tokenizer of transformers.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = list(dict.fromkeys(token for token in ("<unk>", pad, start, end) if token is not None))
    tokens = [*_VOCABULARY.split(), *_LETTERS, *("##" + letter for letter in _LETTERS)]
    # Special tokens come last, except padding, as in CLIP's vocabulary, where the end of text has the highest id.
    ordered = list(dict.fromkeys([*(["<pad>"] if pad == "<pad>" else []), *tokens, *special]))
    vocabulary = {token: index for index, token in enumerate(ordered)}
    model = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    model.normalizer = normalizers.BertNormalizer()
    model.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    template = f"{start} $A {end}" if start else f"$A {end}"
    ends = [(token, vocabulary[token]) for token in (start, end) if token]
    model.post_processor = processors.TemplateProcessing(single=template, special_tokens=ends)
    names = {"unk_token": "<unk>", "pad_token": pad, "eos_token": end}
    if start:
        names["bos_token"] = start
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=model, model_max_length=max_length, model_input_names=inputs, **names
    )


@functools.lru_cache(maxsize=1)
def _clip_tokenizer() -> Any:
    return word_tokenizer("<|startoftext|>", "<|endoftext|>", "<|endoftext|>", 77, ["input_ids", "attention_mask"])


@functools.lru_cache(maxsize=2)
def _siglip_tokenizer(end: str) -> Any:
    return word_tokenizer(None, end, "<pad>" if end == "<eos>" else end, 32, ["input_ids"])


def _clip_processor() -> Any:
    return transformers.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=_SIDE)


def _tiny(module: Any, processor: Any, patch_embedding: str, **facts: Any) -> Tiny:
    defaults: dict[str, Any] = {
        "tokenizer": None,
        "patch_size": 8,
        "grid_hw": (8, 8),
        "has_text": facts.get("tokenizer") is not None,
        "readout": "cls",
        "processing": "squash",
    }
    return Tiny(
        name="",
        module=module,
        processor=processor,
        backend="transformers",
        patch_embedding=patch_embedding,
        **{**defaults, **facts},
    )


@register
def transformers_clip() -> Tiny:
    """CLIP with both towers."""
    tokenizer = _clip_tokenizer()
    text = {
        **_TEXT,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = transformers.CLIPConfig(text_config=text, vision_config=_VIT, projection_dim=24)
    path = "vision_model.embeddings.patch_embedding"
    return _tiny(transformers.CLIPModel(config), _clip_processor(), path, tokenizer=tokenizer, processing="crop")


@register
def transformers_clip_vision() -> Tiny:
    """CLIP's vision tower with its projection."""
    config = transformers.CLIPVisionConfig(**_VIT, projection_dim=24)
    module = transformers.CLIPVisionModelWithProjection(config)
    return _tiny(module, _clip_processor(), "vision_model.embeddings.patch_embedding", processing="crop")


def _siglip(end: str, side: int) -> Tiny:
    tokenizer = _siglip_tokenizer(end)
    text = {
        **_TEXT,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 32,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = transformers.SiglipConfig(text_config=text, vision_config={**_VIT, "image_size": side})
    processor = transformers.SiglipImageProcessor(size={"height": side, "width": side})
    return _tiny(
        transformers.SiglipModel(config),
        processor,
        "vision_model.embeddings.patch_embedding",
        tokenizer=tokenizer,
        readout="probe",
        grid_hw=(side // 8, side // 8),
    )


@register
def transformers_siglip() -> Tiny:
    """SigLIP, whose readout is a pooling probe."""
    return _siglip("</s>", 64)


@register
def transformers_siglip2() -> Tiny:
    """SigLIP 2 at a fixed resolution: the classes of SigLIP with Gemma's tokens."""
    return _siglip("<eos>", 48)


@register
def transformers_siglip2_naflex() -> Tiny:
    """SigLIP 2 with packed images of any aspect ratio (NaFlex)."""
    tokenizer = _siglip_tokenizer("<eos>")
    text = {
        **_TEXT,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 32,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**_WIDTH, "patch_size": 8, "num_patches": 64}
    config = transformers.Siglip2Config(text_config=text, vision_config=vision)
    return _tiny(
        transformers.Siglip2Model(config),
        transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=64),
        "vision_model.embeddings.patch_embedding",
        tokenizer=tokenizer,
        readout="probe",
        grid_hw=None,
        processing="naflex",
    )


def _dino_sizes() -> dict[str, Any]:
    # Training size and input size differ, as in the real models, so that position embeddings are interpolated.
    sizes = {key: value for key, value in _WIDTH.items() if key != "intermediate_size"}
    return {**sizes, "mlp_ratio": 2, "image_size": 98, "patch_size": 14}


def _dino_processor() -> Any:
    # The real processor's ratio (256 to 224) at a quarter of its size.
    return transformers.BitImageProcessor(
        size={"shortest_edge": 64},
        crop_size={"height": 56, "width": 56},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )


@register
def transformers_dinov2() -> Tiny:
    """DINOv2."""
    module = transformers.Dinov2Model(transformers.Dinov2Config(**_dino_sizes()))
    path = "embeddings.patch_embeddings.projection"
    return _tiny(module, _dino_processor(), path, patch_size=14, grid_hw=(4, 4), processing="crop")


@register
def transformers_dinov2_registers() -> Tiny:
    """DINOv2 with register tokens."""
    config = transformers.Dinov2WithRegistersConfig(**_dino_sizes(), num_register_tokens=4)
    module = transformers.Dinov2WithRegistersModel(config)
    path = "embeddings.patch_embeddings.projection"
    return _tiny(module, _dino_processor(), path, patch_size=14, grid_hw=(4, 4), processing="crop")


@register
def transformers_dinov3() -> Tiny:
    """DINOv3 with register tokens and rotary positions."""
    config = transformers.DINOv3ViTConfig(**_VIT, num_register_tokens=4)
    processor = transformers.DINOv3ViTImageProcessor(size=_SIDE)
    return _tiny(transformers.DINOv3ViTModel(config), processor, "embeddings.patch_embeddings")


@register
def transformers_deit() -> Tiny:
    """DeiT with a distillation token."""
    module = transformers.DeiTModel(transformers.DeiTConfig(**_VIT))
    processor = transformers.DeiTImageProcessor(size={"height": 72, "width": 72}, crop_size=_SIDE)
    return _tiny(module, processor, "embeddings.patch_embeddings.projection", processing="squash-crop")


@register
def transformers_vit() -> Tiny:
    """A ViT with the CLS token as readout."""
    module = transformers.ViTModel(transformers.ViTConfig(**_VIT))
    processor = transformers.ViTImageProcessor(size=_SIDE)
    return _tiny(module, processor, "embeddings.patch_embeddings.projection")


@register
def transformers_vit_mae() -> Tiny:
    """ViTMAE with its published mask ratio of 0.75: to embed images, masking must be switched off."""
    decoder = {
        "decoder_hidden_size": 32,
        "decoder_intermediate_size": 64,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
    }
    module = transformers.ViTMAEModel(transformers.ViTMAEConfig(**_VIT, **decoder))
    processor = transformers.ViTImageProcessor(size=_SIDE)
    return _tiny(module, processor, "embeddings.patch_embeddings.projection", readout="mean")


@register
def transformers_beit() -> Tiny:
    """BEiT with relative position biases; the readout is the mean over the patches."""
    config = transformers.BeitConfig(**_VIT, use_relative_position_bias=True, drop_path_rate=0.0)
    processor = transformers.BeitImageProcessor(size=_SIDE, do_center_crop=False)
    path = "embeddings.patch_embeddings.projection"
    return _tiny(transformers.BeitModel(config), processor, path, readout="mean")


@register
def transformers_ijepa() -> Tiny:
    """I-JEPA; the readout is the mean over the patches."""
    module = transformers.IJepaModel(transformers.IJepaConfig(**_VIT))
    processor = transformers.ViTImageProcessor(size=_SIDE)
    return _tiny(module, processor, "embeddings.patch_embeddings.projection", readout="mean")
