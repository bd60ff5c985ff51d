"""Exports the auto-encoder's checkpoint as a folder that transformers loads offline, with the decoder in its own file.

`AutoModel` loads the encoder, a ``ViTMAEModel``. The decoder is in ``decoder.safetensors``, to reconstruct images;
`with_decoder` loads both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from zoo.export import image_processor
from zoo.mae_train import MAE_RECIPES, new_mae

DECODER = "decoder.safetensors"


def export_mae(checkpoint: Path, folder: Path) -> int:
    """Writes the model folder; an existing README.md is kept.

    Args:
        checkpoint: the file that `zoo.mae_train.train_mae` wrote.
        folder: the model folder.

    Returns:
        The number of steps of the checkpoint.
    """
    saved = torch.load(checkpoint, weights_only=True)
    model = new_mae(MAE_RECIPES["scenes-mae"].mask_ratio)
    model.load_state_dict(saved["model"])
    model.half()
    model.vit.save_pretrained(folder)
    save_file(
        {name: value.contiguous() for name, value in model.decoder.state_dict().items()},
        folder / DECODER,
        metadata={"format": "pt"},
    )
    image_processor().save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors restricts files to their owner, and wheels keep modes
    return int(saved["step"])


def with_decoder(folder: Path) -> Any:
    """Loads encoder and decoder of an exported folder as a ``ViTMAEForPreTraining`` in float32."""
    from transformers import ViTMAEModel

    encoder = ViTMAEModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    model = new_mae(encoder.config.mask_ratio)
    model.vit.load_state_dict(encoder.state_dict())
    model.decoder.load_state_dict({name: value.float() for name, value in load_file(folder / DECODER).items()})
    return model.eval()
