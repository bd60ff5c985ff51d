"""Tiny random vision-language models of transformers, with the processors and chat templates of their families.

>>> small = tiny_lvlm("llava")
>>> type(small.module).__name__
'LlavaForConditionalGeneration'
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import transformers
from torch import nn

from visprompt.errors import unknown_name
from visprompt.testing.tiny import built
from visprompt.testing.tiny_transformers import word_tokenizer

#: modules whose import registers builders
_FAMILIES = ("tiny_lvlm", "tiny_lvlm_tiles", "tiny_lvlm_dynamic")
_BUILDERS: dict[str, Callable[[], TinyLvlm]] = {}

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}
CHAT = (
    "{% for message in messages %}{{ message['role'] }} : {% for item in message['content'] %}"
    "{% if item['type'] == 'text' %}{{ item['text'] }}{% else %}@IMAGE@ {% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}assistant : {% endif %}"
)


@dataclass
class TinyLvlm:
    """A tiny LVLM with its properties, so that tests need not use the code under test to find them.

    Args:
        name: its name among `tiny_lvlm_names()`.
        module: the model, in eval mode, every parameter random.
        processor: its processor, offline.
        token_px: side of an image token in pixels of the tower's input.
        tiled: whether images are cut into tiles.
        video: whether it supports videos.
        vision_edits: whether its vision tower can be edited.
    """

    name: str
    module: nn.Module
    processor: Any
    token_px: int
    tiled: bool = False
    video: bool = False
    vision_edits: bool = True


def register_lvlm(builder: Callable[[], TinyLvlm]) -> Callable[[], TinyLvlm]:
    """Decorator that registers the builder of a tiny LVLM under the function's name (underscores become hyphens)."""
    _BUILDERS[builder.__name__.replace("_", "-")] = builder
    return builder


def tiny_lvlm_names() -> list[str]:
    """The names of all tiny LVLMs."""
    for family in _FAMILIES:
        importlib.import_module(f"visprompt.testing.{family}")
    return sorted(_BUILDERS)


def tiny_lvlm(name: str, seed: int = 0) -> TinyLvlm:
    """Builds a tiny LVLM; the same name and seed give the same weights, and the global random state is unchanged.

    Args:
        name: one of `tiny_lvlm_names()`.
        seed: of all parameters.

    Returns:
        The model with its properties.

    Raises:
        UnknownNameError: if there is no tiny LVLM of that name.
    """
    known = tiny_lvlm_names()
    if name not in known:
        raise unknown_name("tiny LVLM", name, known)
    return built(_BUILDERS[name], name, seed)


def chat_tokenizer(special: list[str]) -> Any:
    """A tiny tokenizer with `<pad>`, `<s>`, `</s>` and a family's own special tokens, which pads on the left.

    Args:
        special: the family's special tokens.
    """
    tokenizer = word_tokenizer("<s>", "</s>", "<pad>", 8192, ["input_ids", "attention_mask"])
    # A decoder's prompt begins with <s> and has no end token.
    from tokenizers import processors

    start = tokenizer.convert_tokens_to_ids("<s>")
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", start)]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.padding_side = "left"
    return tokenizer


def text_config(tokenizer: Any, **changes: Any) -> dict[str, Any]:
    """The settings of a tiny decoder for a tokenizer.

    Args:
        tokenizer: gives vocabulary size and special tokens.
        **changes: settings that differ.
    """
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return {**TEXT, "vocab_size": len(tokenizer), **ids, **changes}


@register_lvlm
def llava() -> TinyLvlm:
    """LLaVA 1.5: a CLIP tower and a Llama decoder."""
    tokenizer = chat_tokenizer(["<image>"])
    side = {"height": 64, "width": 64}
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size=side)
    processor = transformers.LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("@IMAGE@", "<image>"),
    )
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION, image_size=64, patch_size=8),
        text_config=transformers.LlamaConfig(**text_config(tokenizer)),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return TinyLvlm("", transformers.LlavaForConditionalGeneration(config), processor, token_px=8)
