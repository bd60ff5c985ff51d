"""The attention sites of a vision-language model's decoder."""

from __future__ import annotations

from typing import Any

from torch import nn

from visprompt.attention.sites import Site, Tower
from visprompt.errors import UnsupportedError


def decoder_tower(module: Any, vision: Tower | None) -> Tower:
    """Makes a tower of the decoder's blocks; its readout is the text.

    Args:
        module: the model of transformers, with its language head.
        vision: its vision tower, or None if unknown.

    Returns:
        The tower.

    Raises:
        UnsupportedError: for a model without a language head, or with a block without attention.
    """
    decoder: Any = module.get_decoder() if hasattr(module, "get_decoder") else None
    layers = getattr(decoder, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not hasattr(module, "generate") or not hasattr(module, "lm_head"):
        raise UnsupportedError(
            f"{type(module).__name__} writes no text: load it with a language head (…ForConditionalGeneration)."
        )
    sites = []
    for index, layer in enumerate(layers):
        attention = getattr(layer, "self_attn", None)
        if attention is None:
            raise UnsupportedError(
                f"{type(module).__name__}: decoder block {index} has no attention that can be edited."
            )
        heads = int(decoder.config.num_attention_heads)
        sites.append(Site("decoder", index, attention, "transformers", heads, 0, getattr(attention, "o_proj", None)))
    # The reason given when prompt tokens are refused: only vision towers take them, and this model's may not.
    why = "its vision tower is not known" if vision is None else vision.no_tokens or "a decoder takes none"
    return Tower("decoder", tuple(sites), tuple(layers), "text", 0, shareable=False, no_tokens=why)
