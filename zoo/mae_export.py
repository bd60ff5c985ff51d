"""Turns the auto-encoder's checkpoint into a folder that transformers loads offline: the encoder, the decoder apart.

`AutoModel` gives the encoder, a ``ViTMAEModel``. The decoder is not part of it: it lies beside it in
``decoder.safetensors``, for those who want to see what the model makes of an image; `with_decoder` puts both together.
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
    """Write the model folder; its README.md, if there is one, stays.

    Args:
        checkpoint: What `zoo.mae_train.train_mae` left behind.
        folder: Where to write.

    Returns:
        The number of steps that the checkpoint has seen.
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
        file.chmod(0o644)  # safetensors writes for the owner only, and wheels keep modes
    return int(saved["step"])


def with_decoder(folder: Path) -> Any:
    """Load encoder and decoder of an exported folder as a ``ViTMAEForPreTraining`` in float32."""
    from transformers import ViTMAEModel

    encoder = ViTMAEModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    model = new_mae(encoder.config.mask_ratio)
    model.vit.load_state_dict(encoder.state_dict())
    model.decoder.load_state_dict({name: value.float() for name, value in load_file(folder / DECODER).items()})
    return model.eval()
