"""The vision tower inside an LVLM: its sites up to the last block that the decoder sees."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from visprompt.attention.packed_positions import PackedPositions
from visprompt.attention.sites import Site, Tower
from visprompt.models.lvlm.families import LvlmFamily

if TYPE_CHECKING:
    from visprompt.models.lvlm.inputs import ChatInputs
    from visprompt.models.lvlm.model import LVLM

Size = tuple[int, int]

#: reason why packed towers take no prompt tokens
_PACKED = "its vision tower packs the patches of all images into one sequence, cut by lengths that know of no others"
_NO_BLOCKS = "its projector takes what goes into the vision tower's first block"


def vision_tower(module: Any, family: LvlmFamily) -> tuple[Tower | None, int, Size | None]:
    """Finds the vision tower of an LVLM.

    Args:
        module: the LVLM's module.
        family: its family.

    Returns:
        (the tower, or None if it cannot be edited; number of tokens before the patches; patch height and width, or
        None)
    """
    from visprompt.models.backends.transformers import FAMILIES, Family, tower_of

    # towers that exist only inside an LVLM
    inside = {"idefics3": Family("mean", prefix=0), "smolvlm": Family("mean", prefix=0), "internvl": Family("cls")}
    tower = tower_module(module)
    if tower is None:
        return None, 0, None
    config: Any = tower.config
    size = getattr(config, "patch_size", None)
    patch = None if size is None else (int(size), int(size)) if not isinstance(size, list | tuple) else tuple(size)
    kind = str(config.model_type).removesuffix("_vision_model").removesuffix("_vision")
    if family.packing is not None:
        return _packed_tower(tower), 0, patch  # type: ignore[return-value]
    known = {**FAMILIES, **inside}.get(kind)
    prefix = 0 if known is None else known.prefix
    if known is None:
        return None, prefix, patch  # type: ignore[return-value]
    # The decoder gets all patches, whatever the tower's own readout is, and nothing from a pooling head.
    whole = tower_of(tower, config, kind, replace(known, readout="mean"))
    seen = _blocks_seen(module.config, len(whole.blocks))
    cut = replace(
        whole,
        sites=whole.sites[:seen],
        blocks=whole.blocks[:seen],
        readout="patches",
        shareable=False,
        no_tokens="" if seen else _NO_BLOCKS,
        by_module={},
    )
    return cut, prefix, patch  # type: ignore[return-value]


def tower_module(module: Any) -> Any:
    """Finds the module of the vision tower, which has the patch embeddings and the blocks.

    Args:
        module: the LVLM's module.

    Returns:
        The tower's module, or None.
    """
    from visprompt.models.backends.transformers import vision_module

    inner = getattr(getattr(module, "_orig_mod", module), "model", module)
    found = next((getattr(inner, n) for n in ("vision_tower", "vision_model", "visual") if hasattr(inner, n)), None)
    return None if found is None else vision_module(found)


def packing_of(model: LVLM, inputs: ChatInputs) -> PackedPositions | None:
    """The positions of a batch's patches in the sequence of a tower that packs images.

    Args:
        model: the LVLM.
        inputs: inputs of the batch.

    Returns:
        The positions; None for towers with a batch axis.
    """
    if model.family.packing is None:
        return None
    layouts = [item for group in inputs.layouts for item in group]
    tiles = [tile for item in layouts if item.vision is not None for tile in item.vision.tiles]
    streams, patches = model.family.packing(model, tiles)
    return PackedPositions(torch.from_numpy(streams), torch.from_numpy(patches)).to(model.device)


def _packed_tower(tower: Any) -> Tower:
    heads = int(tower.config.num_heads)
    sites = tuple(
        Site("vision", number, block.attn, "transformers", heads, 0, block.attn.proj)
        for number, block in enumerate(tower.blocks)
    )
    return Tower("vision", sites, tuple(tower.blocks), "patches", 0, shareable=False, no_tokens=_PACKED)


def _blocks_seen(config: Any, blocks: int) -> int:
    """Number of blocks before the hidden states that the projector takes: all, or up to the one that
    `vision_feature_layer` names (0 is the embedding; negative from the end).
    """
    layer = getattr(config, "vision_feature_layer", None)
    layers = [layer] if isinstance(layer, int) else list(layer or [])
    return max((item if item >= 0 else blocks + 1 + item for item in layers), default=blocks)
