"""The image encoder inside a model: what learns on encoders learns on the vision tower of a language model too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.models.base import Model
from visprompt.models.parts import Parts
from visprompt.models.proof import features_of

if TYPE_CHECKING:
    from visprompt.models.lvlm import LVLM


def encoder_of(model: Model) -> Model:
    """A model that encodes pictures: an encoder itself, or the vision tower of a vision-language model.

    The tower's model shares the module, whose `unwrap` stays with the language model. It is read through its patches,
    since these are what the decoder gets; its embeddings `[n, d]` are the mean of that, and mean nothing to texts.

    Args:
        model: any.

    Raises:
        UnsupportedError: for remote models, and for towers that pack pictures, or get them in tiles.
    """
    if not model.generates:
        return model
    found = getattr(model, "vision_tower", None)
    if found is None:
        raise UnsupportedError(f"{model.name} has no vision tower that can be looked into.")
    lvlm: LVLM = model  # type: ignore[assignment]
    tower = lvlm.tower_named("vision")
    if lvlm.family.packing is not None or tower.padded:
        raise UnsupportedError(
            f"{model.name}: its vision tower packs pictures of any size into one sequence, and takes no pixels of one "
            "size. Take an encoder, or a language model with a tower of CLIP's kind (LLaVA-1.5)."
        )
    try:
        lvlm.reader.geometry((256, 256), "model")
    except InvalidInputError:
        raise UnsupportedError(
            f"{model.name} cuts pictures into tiles before its vision tower sees them: take an encoder, or a language "
            "model that takes them whole (LLaVA-1.5)."
        ) from None

    def embed(inputs: dict[str, Tensor]) -> Tensor:
        pixels = inputs["pixel_values"]
        tokens = features_of(lvlm.module, {"pixel_values": pixels})
        return tokens.unflatten(0, (len(pixels), -1)).mean(dim=1)

    return Model(
        lvlm.module, Parts(embed, lvlm.reader, tower, None, None, lvlm.parts.backend), f"{model.name} (vision)"
    )
