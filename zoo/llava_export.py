"""Exports the LVLM's checkpoint as a folder that transformers loads offline and `transformers serve` can serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zoo.export import image_processor, write
from zoo.llava_text import BOS, CHAT_TEMPLATE, EOS, PAD, tokenizer
from zoo.llava_train import new_llava


def processor() -> Any:
    """The ``LlavaProcessor``: images as for scenes-clip, 64 tokens each."""
    from transformers import LlavaProcessor

    return LlavaProcessor(
        image_processor=image_processor(),
        tokenizer=tokenizer(),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLS, which the "default" strategy removes
        chat_template=CHAT_TEMPLATE,
    )


def export_llava(checkpoint: Path, folder: Path) -> int:
    """Writes the model folder; an existing README.md is kept.

    Args:
        checkpoint: the file that `zoo.llava_train.train_llava` wrote.
        folder: the model folder.

    Returns:
        The number of steps of the checkpoint.
    """
    from transformers import GenerationConfig

    saved = torch.load(checkpoint, weights_only=True)
    model = new_llava()
    model.load_state_dict(saved["model"])
    # An answer is one word; the limit ends answers to questions that the model does not understand.
    model.generation_config = GenerationConfig(
        bos_token_id=BOS, eos_token_id=EOS, pad_token_id=PAD, do_sample=False, max_new_tokens=8
    )
    write(model, processor(), folder)
    return int(saved["step"])
