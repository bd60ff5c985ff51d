"""The decoder of a vision-language model: its attention sites."""

from __future__ import annotations

from typing import Any

from torch import nn

from visprompt.attention.sites import Site, Tower
from visprompt.errors import UnsupportedError


def decoder_tower(module: Any, vision: Tower | None) -> Tower:
    """The decoder's blocks as a tower that is read through its text.

    Args:
        module: the language model of transformers, with its language head.
        vision: its vision tower, or None where that is not known.

    Raises:
        UnsupportedError: for a model without a language head, or with a block that has no attention.
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
    # What is said where prompt tokens are refused: they go into vision towers, and this one's may not take them.
    why = "its vision tower is not known" if vision is None else vision.no_tokens or "a decoder takes none"
    return Tower("decoder", tuple(sites), tuple(layers), "text", 0, shareable=False, no_tokens=why)
