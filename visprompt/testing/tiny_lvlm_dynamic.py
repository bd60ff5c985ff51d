"""Tiny random LVLMs with dynamic resolution or special attention masks: Qwen-VL, PaliGemma, Gemma 3."""

from __future__ import annotations

from typing import Any

import transformers

from visprompt.testing.tiny_lvlm import CHAT, VISION, TinyLvlm, chat_tokenizer, register_lvlm, text_config


def _made(module: Any, processor: Any, token_px: int, **facts: Any) -> TinyLvlm:
    """A tiny LVLM that never generates special tokens, which have no text."""
    tokenizer = processor.tokenizer
    module.generation_config.suppress_tokens = sorted({*tokenizer.all_special_ids} - {tokenizer.eos_token_id})
    return TinyLvlm("", module, processor, token_px, **facts)


# -- Qwen -------------------------------------------------------------------------------------------------------------

_QWEN_TOKENS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
_QWEN_CHAT = CHAT.replace(
    "@IMAGE@ ", "<|vision_start|><|{% if item['type'] == 'video' %}video{% else %}image{% endif %}_pad|><|vision_end|>"
)
_QWEN_VISION = {"depth": 4, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
_PATCHES = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
#: pixels of an image, of a frame, and of a whole video (Qwen 3 counts those)
_IMAGE = {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}
_FRAME = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
_VIDEO = {"shortest_edge": 2 * 16 * 16, "longest_edge": 4 * 64 * 64}


def _qwen_ids(tokenizer: Any) -> dict[str, int]:
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return dict(zip(names, tokenizer.convert_tokens_to_ids(_QWEN_TOKENS), strict=True))


def _qwen_processor(kind: Any, videos: Any, tokenizer: Any) -> Any:
    images = transformers.Qwen2VLImageProcessor(size=dict(_IMAGE), **_PATCHES)
    return kind(image_processor=images, tokenizer=tokenizer, video_processor=videos, chat_template=_QWEN_CHAT)


def _old_videos() -> Any:
    return transformers.Qwen2VLVideoProcessor(size=dict(_FRAME), cap_pixels_per_frame=False, **_PATCHES)


def _mrope(**more: Any) -> dict[str, Any]:
    """Rotary positions in time, height and width, which divide the 4 frequencies of a head of width 8."""
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], **more}


def _qwen(module: Any, processor: Any) -> TinyLvlm:
    return _made(module, processor, token_px=8, video=True)


@register_lvlm
def qwen2_vl() -> TinyLvlm:
    """Qwen2-VL."""
    tokenizer = chat_tokenizer(_QWEN_TOKENS)
    config = transformers.Qwen2VLConfig(
        vision_config={**_QWEN_VISION, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2},
        text_config=text_config(tokenizer, rope_parameters=_mrope()),
        **_qwen_ids(tokenizer),
    )
    processor = _qwen_processor(transformers.Qwen2VLProcessor, _old_videos(), tokenizer)
    return _qwen(transformers.Qwen2VLForConditionalGeneration(config), processor)


@register_lvlm
def qwen2_5_vl() -> TinyLvlm:
    """Qwen2.5-VL, with windowed attention in the vision tower."""
    tokenizer = chat_tokenizer(_QWEN_TOKENS)
    vision = {**_QWEN_VISION, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32}
    config = transformers.Qwen2_5_VLConfig(
        vision_config={**vision, "window_size": 32, "fullatt_block_indexes": [1, 3]},  # windows of 4 × 4 tokens
        text_config=text_config(tokenizer, rope_parameters=_mrope()),
        **_qwen_ids(tokenizer),
    )
    processor = _qwen_processor(transformers.Qwen2_5_VLProcessor, _old_videos(), tokenizer)
    return _qwen(transformers.Qwen2_5_VLForConditionalGeneration(config), processor)


def _qwen3_vision() -> dict[str, Any]:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32, "num_position_embeddings": 64}
    return {**_QWEN_VISION, **sizes, "deepstack_visual_indexes": [0, 2]}


def _qwen3_processor(tokenizer: Any) -> Any:
    videos = transformers.Qwen3VLVideoProcessor(size=dict(_VIDEO), cap_pixels_per_frame=False, **_PATCHES)
    return _qwen_processor(transformers.Qwen3VLProcessor, videos, tokenizer)


@register_lvlm
def qwen3_vl() -> TinyLvlm:
    """Qwen3-VL, with deepstack features."""
    tokenizer = chat_tokenizer(_QWEN_TOKENS)
    config = transformers.Qwen3VLConfig(
        vision_config=_qwen3_vision(),
        text_config=text_config(tokenizer, head_dim=8, rope_parameters=_mrope(mrope_interleaved=True)),
        **_qwen_ids(tokenizer),
    )
    return _qwen(transformers.Qwen3VLForConditionalGeneration(config), _qwen3_processor(tokenizer))


@register_lvlm
def qwen3_vl_moe() -> TinyLvlm:
    """Qwen3-VL with a mixture of experts."""
    tokenizer = chat_tokenizer(_QWEN_TOKENS)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    config = transformers.Qwen3VLMoeConfig(
        vision_config=_qwen3_vision(),
        text_config=text_config(tokenizer, head_dim=8, rope_parameters=_mrope(mrope_interleaved=True), **experts),
        **_qwen_ids(tokenizer),
    )
    return _qwen(transformers.Qwen3VLMoeForConditionalGeneration(config), _qwen3_processor(tokenizer))


# -- PaliGemma --------------------------------------------------------------------------------------------------------


def _paligemma(text: Any, **changes: Any) -> TinyLvlm:
    tokenizer = chat_tokenizer(["<image>"])
    images = transformers.SiglipImageProcessor(size={"height": 64, "width": 64})
    images.image_seq_length = 64
    processor = transformers.PaliGemmaProcessor(image_processor=images, tokenizer=tokenizer)
    vision = transformers.SiglipVisionConfig(**VISION, image_size=64, patch_size=8, vision_use_head=False)
    config = transformers.PaliGemmaConfig(
        vision_config=vision,
        text_config=text(**text_config(tokenizer, head_dim=8, **changes)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
        hidden_size=32,
    )
    return _made(transformers.PaliGemmaForConditionalGeneration(config), processor, token_px=8)


@register_lvlm
def paligemma() -> TinyLvlm:
    """PaliGemma, on Gemma."""
    return _paligemma(transformers.GemmaConfig)


def tiny_paligemma2(sliding_window: int = 96) -> TinyLvlm:
    """A PaliGemma 2, on Gemma 2, with soft-capped logits and sliding-window attention in blocks 0 and 2.

    Args:
        sliding_window: width of the window, tokens.
    """
    return _paligemma(transformers.Gemma2Config, sliding_window=sliding_window, query_pre_attn_scalar=8)


@register_lvlm
def paligemma_2() -> TinyLvlm:
    """PaliGemma 2 with the default window."""
    return tiny_paligemma2()


# -- Gemma 3 ----------------------------------------------------------------------------------------------------------

_GEMMA_TOKENS = ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]


def tiny_gemma3(sliding_window: int = 50, **images: Any) -> TinyLvlm:
    """A Gemma 3 with sliding-window attention in blocks 0 and 2.

    Args:
        sliding_window: width of the window, tokens.
        **images: settings of its image processor (`do_pan_and_scan`, …).
    """
    tokenizer = chat_tokenizer(_GEMMA_TOKENS)
    names = ("boi_token", "eoi_token", "image_token")
    tokenizer._set_model_specific_special_tokens(dict(zip(names, _GEMMA_TOKENS, strict=True)))
    processor = transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessor(size={"height": 64, "width": 64}, **images),
        tokenizer=tokenizer,
        image_seq_length=16,
        chat_template=CHAT.replace("@IMAGE@", "<start_of_image>"),
    )
    vision = transformers.SiglipVisionConfig(**VISION, image_size=64, patch_size=4, vision_use_head=False)
    layers = {"sliding_window": sliding_window, "sliding_window_pattern": 2, "query_pre_attn_scalar": 8, "head_dim": 8}
    ids = dict(zip(names, tokenizer.convert_tokens_to_ids(_GEMMA_TOKENS), strict=True))
    config = transformers.Gemma3Config(
        vision_config=vision,
        text_config=transformers.Gemma3TextConfig(**text_config(tokenizer, **layers)),
        mm_tokens_per_image=16,
        **{f"{name}_index": number for name, number in ids.items()},
    )
    return _made(transformers.Gemma3ForConditionalGeneration(config), processor, token_px=16)


@register_lvlm
def gemma3() -> TinyLvlm:
    """Gemma 3 with the default window."""
    return tiny_gemma3()
