"""Turns a checkpoint into a folder that transformers loads offline: float16 weights, config, tokenizer, processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zoo.samples import IMAGE_PX
from zoo.shared import MEAN, STD
from zoo.text import tokenizer
from zoo.train import new_model


def image_processor() -> Any:
    """Build the processor: shorter side to 64 px, centre crop, normalise."""
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(
        do_resize=True,
        size={"shortest_edge": IMAGE_PX},
        do_center_crop=True,
        crop_size={"height": IMAGE_PX, "width": IMAGE_PX},
        do_rescale=True,
        do_normalize=True,
        image_mean=list(MEAN),
        image_std=list(STD),
        do_convert_rgb=True,
    )


def export(checkpoint: Path, folder: Path) -> int:
    """Write the model folder; its README.md, if there is one, stays.

    Args:
        checkpoint: What `zoo.train.train` left behind.
        folder: Where to write.

    Returns:
        The number of steps that the checkpoint has seen.
    """
    from transformers import CLIPProcessor

    saved = torch.load(checkpoint, weights_only=True)
    model = new_model()
    model.load_state_dict(saved["model"])
    write(model, CLIPProcessor(image_processor=image_processor(), tokenizer=tokenizer()), folder)
    return int(saved["step"])


def write(model: Any, processor: Any, folder: Path) -> None:
    """Write weights in float16, config, tokenizer and processor."""
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes for the owner only, and wheels keep modes
