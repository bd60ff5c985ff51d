"""Exports a checkpoint as a folder that transformers loads offline: float16 weights, config, tokenizer, processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zoo.samples import IMAGE_PX
from zoo.shared import MEAN, STD
from zoo.text import tokenizer
from zoo.train import new_model


def image_processor() -> Any:
    """The image processor: shorter side to 64 px, centre crop, normalisation."""
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
    """Writes the model folder; an existing README.md is kept.

    Args:
        checkpoint: the file that `zoo.train.train` wrote.
        folder: the model folder.

    Returns:
        The number of steps of the checkpoint.
    """
    from transformers import CLIPProcessor

    saved = torch.load(checkpoint, weights_only=True)
    model = new_model()
    model.load_state_dict(saved["model"])
    write(model, CLIPProcessor(image_processor=image_processor(), tokenizer=tokenizer()), folder)
    return int(saved["step"])


def write(model: Any, processor: Any, folder: Path) -> None:
    """Writes weights in float16, config, tokenizer and processor.

    Args:
        model: a transformers model; it is converted to float16.
        processor: a transformers processor with an image processor.
        folder: the model folder.
    """
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors restricts files to their owner, and wheels keep modes
