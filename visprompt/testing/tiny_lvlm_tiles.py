"""Tiny random LVLMs that cut images into tiles: LLaVA-NeXT, OneVision, Idefics3, SmolVLM, InternVL."""

from __future__ import annotations

from typing import Any

import transformers

from visprompt.testing.tiny_lvlm import CHAT, VISION, TinyLvlm, chat_tokenizer, register_lvlm, text_config

_CHAT = CHAT.replace("@IMAGE@", "<image>")
_VIDEO_CHAT = CHAT.replace("@IMAGE@", "<{{ item['type'] }}>")


def _square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


@register_lvlm
def llava_next() -> TinyLvlm:
    """LLaVA-NeXT, with a CLIP tower and a Mistral decoder."""
    sizes = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
    tokenizer = chat_tokenizer(["<image>"])
    images = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": 32}, crop_size=_square(32), image_grid_pinpoints=sizes
    )
    processor = transformers.LlavaNextProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_CHAT,
    )
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION, image_size=32, patch_size=8),
        text_config=transformers.MistralConfig(**text_config(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=sizes,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    module = transformers.LlavaNextForConditionalGeneration(config)
    return TinyLvlm("", module, processor, token_px=8, tiled=True)


@register_lvlm
def llava_onevision() -> TinyLvlm:
    """LLaVA-OneVision. As in the released models, the tower ignores a border of its input: 26 pixels are 4 patches of
    6.
    """
    sizes = [[26 * rows, 26 * columns] for rows in range(1, 4) for columns in range(1, 4)]
    tokenizer = chat_tokenizer(["<image>", "<video>"])
    images = transformers.LlavaOnevisionImageProcessor(size=_square(26), image_grid_pinpoints=sizes)
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=_square(26)),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_5",
        chat_template=_VIDEO_CHAT,
    )
    config = transformers.LlavaOnevisionConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION, image_size=26, patch_size=6, vision_use_head=False),
        text_config=transformers.Qwen2Config(**text_config(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=sizes,
        vision_aspect_ratio="anyres_max_5",
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    module = transformers.LlavaOnevisionForConditionalGeneration(config)
    return TinyLvlm("", module, processor, token_px=6, tiled=True, video=True)


# -- pixel shuffle ----------------------------------------------------------------------------------------------------


def _idefics3_tokenizer(*more: str) -> Any:
    cells = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    names = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
    return chat_tokenizer([*names, *more, *cells])


@register_lvlm
def idefics3() -> TinyLvlm:
    """Idefics3, with pixel shuffle."""
    tokenizer = _idefics3_tokenizer()
    images = transformers.Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = transformers.Idefics3Processor(
        image_processor=images, tokenizer=tokenizer, image_seq_len=16, chat_template=_CHAT
    )
    config = transformers.Idefics3Config(
        vision_config={**VISION, "image_size": 32, "patch_size": 4},
        text_config=transformers.LlamaConfig(**text_config(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )
    module = transformers.Idefics3ForConditionalGeneration(config)
    return TinyLvlm("", module, processor, token_px=8, tiled=True)


@register_lvlm
def smolvlm() -> TinyLvlm:
    """SmolVLM, with pixel shuffle and video."""
    tokenizer = _idefics3_tokenizer("<video>")
    size, tile = {"longest_edge": 96}, {"longest_edge": 32}
    processor = transformers.SmolVLMProcessor(
        image_processor=transformers.SmolVLMImageProcessor(size=size, max_image_size=tile),
        tokenizer=tokenizer,
        video_processor=transformers.SmolVLMVideoProcessor(size=size, max_image_size=tile),
        image_seq_len=4,
        chat_template=_VIDEO_CHAT,
    )
    config = transformers.SmolVLMConfig(
        vision_config={**VISION, "image_size": 32, "patch_size": 4},
        text_config=transformers.LlamaConfig(**text_config(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=4,
    )
    module = transformers.SmolVLMForConditionalGeneration(config)
    return TinyLvlm("", module, processor, token_px=16, tiled=True, video=True)


@register_lvlm
def internvl() -> TinyLvlm:
    """InternVL, with pixel shuffle and video."""
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = chat_tokenizer(list(names.values()))
    for name, token in names.items():
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    processor = transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(size=_square(32), max_patches=4),
        tokenizer=tokenizer,
        video_processor=transformers.InternVLVideoProcessor(size=_square(32)),
        image_seq_length=16,
        chat_template=CHAT.replace(
            "@IMAGE@", "<{% if item['type'] == 'video' %}video{% else %}IMG_CONTEXT{% endif %}>"
        ),
    )
    config = transformers.InternVLConfig(
        vision_config=transformers.InternVLVisionConfig(**VISION, image_size=[32, 32], patch_size=[4, 4]),
        text_config=transformers.Qwen2Config(**text_config(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=16,
        downsample_ratio=0.5,
    )
    module = transformers.InternVLForConditionalGeneration(config)
    return TinyLvlm("", module, processor, token_px=8, tiled=True, video=True)
