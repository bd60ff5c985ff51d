"""The image encoder inside a model, so that training for encoders also works on the vision tower of an LVLM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from visprompt.attention.packed_positions import PackedPositions
from visprompt.errors import UnsupportedError
from visprompt.models.base import Model
from visprompt.models.lvlm.square_input import WHOLE, Packing, packed_reader, padded_reader, tile_reader
from visprompt.models.lvlm.vision_tower import tower_module
from visprompt.models.parts import Parts
from visprompt.models.site_checks import features_of

if TYPE_CHECKING:
    from visprompt.models.lvlm.model import LVLM

Embed = Callable[[dict[str, Tensor]], Tensor]

#: suffix that turns an LVLM's name into that of its vision tower
VISION = " (vision)"


def encoder_of(model: Model) -> Model:
    """A model that encodes images: an encoder itself, or the vision tower of a vision-language model.

    The tower's model shares the module, which only the LVLM can unwrap. Its readout are the patches, since these are
    what the decoder gets; its embeddings `[n, d]` are the mean of its output and cannot be compared with texts. Its
    input is one square: where the processor tiles images, a tile that shows the whole image; where the number of
    patches depends on the image (Qwen-VL, and SigLIP 2's NaFlex among encoders), a square that the processor leaves
    unchanged.

    Args:
        model: any model.

    Returns:
        The encoder; `model` itself if it is one with inputs of one size.

    Raises:
        UnsupportedError: for remote models, and for towers of which no square input is known.
    """
    if not model.generates:
        return _square(model) if model.parts.tower is not None and model.parts.tower.padded else model
    found = getattr(model, "vision_tower", None)
    if found is None:
        raise UnsupportedError(
            f"{model.name} has no vision tower that can be looked into: take an encoder, or a vision-language model "
            "that is loaded here. A patch that was learned on one can be used on this model."
        )
    lvlm: LVLM = model  # type: ignore[assignment]
    tower, backend, name = lvlm.tower_named("vision"), lvlm.parts.backend, f"{model.name}{VISION}"
    if lvlm.family.packing is not None:
        reader, packing = packed_reader(lvlm)
        parts = Parts(_packed(lvlm, packing), reader, tower, None, None, backend, packing=_order(lvlm, packing))
        return Model(lvlm.module, parts, name)
    if tower.padded:
        raise UnsupportedError(
            f"{model.name}: its vision tower takes padded images, and no pixels of one size. Take an encoder, or a "
            "language model with a tower of CLIP's kind (LLaVA-1.5)."
        )
    if str(lvlm.config.model_type) in WHOLE:
        return Model(lvlm.module, Parts(_tile(lvlm), tile_reader(lvlm), tower, None, None, backend), name)
    return Model(lvlm.module, Parts(_projected(lvlm), lvlm.reader, tower, None, None, backend), name)


def _square(model: Model) -> Model:
    """An encoder with padded rows of patches, on squares without padding."""
    parts = model.parts
    reader, padding = padded_reader(parts.reader, model.name)

    def embed(inputs: dict[str, Tensor]) -> Tensor:
        return parts.embed(padding.pack(inputs["pixel_values"]))

    tower = replace(model.tower, padded=False)
    whole = replace(parts, embed=embed, reader=reader, tower=tower, restore=[])  # `unwrap` stays with the model itself
    return Model(model.module, whole, model.name)


def _projected(model: LVLM) -> Embed:
    """Embeds images as the mean of the tokens that the decoder gets."""

    def embed(inputs: dict[str, Tensor]) -> Tensor:
        pixels = inputs["pixel_values"]
        tokens = features_of(model.module, {"pixel_values": pixels})
        return tokens.unflatten(0, (len(pixels), -1)).mean(dim=1)

    return embed


def _tile(model: LVLM) -> Embed:
    """Embeds images as the mean of the patches after the last block that the decoder sees. The steps after it join
    several tiles, and here there is one.
    """
    tower = model.tower_named("vision")
    module = tower_module(model.module)

    def embed(inputs: dict[str, Tensor]) -> Tensor:
        states = module(inputs["pixel_values"], output_hidden_states=True).hidden_states[len(tower.blocks)]
        mean: Tensor = states[:, tower.prefix :].mean(dim=1)
        return mean

    return embed


def _packed(model: LVLM, packing: Packing) -> Embed:
    def embed(inputs: dict[str, Tensor]) -> Tensor:
        pixels = inputs["pixel_values"]
        media = {"pixel_values": packing.pack(pixels), "image_grid_thw": packing.grids(len(pixels), pixels.device)}
        return features_of(model.module, media).unflatten(0, (len(pixels), -1)).mean(dim=1)

    return embed


def _order(model: LVLM, packing: Packing) -> Callable[[int], PackedPositions]:
    tile = packing.tile()
    assert model.family.packing is not None
    one = torch.from_numpy(model.family.packing(model, [tile])[1])

    def order(images: int) -> PackedPositions:
        return PackedPositions(torch.arange(images).repeat_interleave(len(one)), one.repeat(images))

    return order
