"""Image encoders of `transformers`: CLIP, SigLIP, SigLIP 2, DINOv2, DINOv3, DeiT, ViT, ViTMAE, BEiT, I-JEPA."""

from __future__ import annotations

import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from visprompt.attention.backends import install_shim
from visprompt.attention.sites import Head, Readout, Site, Tower
from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.models.base import Parts
from visprompt.models.clip_logits import contrastive_logits
from visprompt.models.preprocessing import ImageReader, Processed, pixels_of


@dataclass(frozen=True)
class Family:
    """Properties of a family of encoders that cannot be read from the module.

    Args:
        readout: as in `Tower`.
        prefix: number of tokens before the patches, without registers.
        registers: register tokens follow them.
        foldable: as in `Tower`.
        packed: images are rows of patches, padded to a common length (NaFlex).
    """

    readout: Readout
    prefix: int = 1
    registers: bool = False
    foldable: bool = True
    packed: bool = False


FAMILIES: dict[str, Family] = {
    "clip": Family("cls"),
    "siglip": Family("probe", prefix=0),
    "siglip2": Family("probe", prefix=0, packed=True),
    "dinov2": Family("cls"),
    "dinov2_with_registers": Family("cls", registers=True),
    "dinov3_vit": Family("cls", registers=True),
    "deit": Family("cls", prefix=2),
    "vit": Family("cls"),
    "vit_mae": Family("mean"),
    "beit": Family("cls", foldable=False),  # the relative positions in its blocks depend on the sequence length
    "ijepa": Family("mean", prefix=0),
}


def parts_of(module: nn.Module, processor: Any, tokenizer: Any) -> Parts:
    """Makes the parts of a transformers image encoder and installs the attention shim.

    Args:
        module: the model.
        processor: its image processor, or a processor that holds one.
        tokenizer: its tokenizer, or None.

    Returns:
        The parts.

    Raises:
        UnsupportedError: for a model type that is not in `FAMILIES`.
        InvalidInputError: without an image processor.
    """
    image_processor = getattr(processor, "image_processor", processor)
    tokenizer = tokenizer if tokenizer is not None else getattr(processor, "tokenizer", None)
    tower_module = vision_module(module)
    config: Any = tower_module.config
    kind = str(config.model_type).removesuffix("_vision_model").removesuffix("_text_model")
    family = FAMILIES.get(kind)
    if family is None:
        raise UnsupportedError(
            f"{type(module).__name__} (model type {config.model_type!r}) is not an image encoder that visprompt knows: "
            f"transformers {', '.join(sorted(FAMILIES))}; open_clip and timm models have wrappers of their own."
        )
    if image_processor is None:
        raise InvalidInputError(
            f"{type(module).__name__} needs its image processor: vp.wrap(module, processor, tokenizer)."
        )
    patch = config.patch_size if isinstance(config.patch_size, tuple | list) else (config.patch_size, config.patch_size)
    reader = (
        _packed_reader(image_processor, int(patch[0]))
        if family.packed
        else _reader(image_processor, (patch[0], patch[1]))
    )
    tower = replace(
        tower_of(tower_module, config, kind, family),
        head=_head(module, tower_module, kind),
        outlets=_around(module, tower_module),
    )
    restore: list[Callable[[], None]] = []
    for owner, name in install_shim(module):
        restore.append(lambda owner=owner, name=name: setattr(owner, "_attn_implementation_internal", name))  # type: ignore[misc]
    has_text = hasattr(module, "get_text_features") and tokenizer is not None
    return Parts(
        embed=_embedder(module, tower_module, kind, config),
        reader=reader,
        tower=tower,
        embed_text=_text_embedder(module, tokenizer, kind) if has_text else None,
        logits=contrastive_logits(module) if has_text else None,
        backend="transformers",
        restore=restore,
    )


def vision_module(module: nn.Module) -> nn.Module:
    """Finds the image tower inside a model: the module with the patch embeddings and the blocks.

    Args:
        module: the model.

    Returns:
        The tower's module.
    """
    tower: Any = getattr(module, "_orig_mod", module)
    while hasattr(tower, "vision_model"):
        tower = tower.vision_model
    base = getattr(tower, "base_model", tower)
    return base if not hasattr(tower, "embeddings") else tower


def find_blocks(tower: Any) -> nn.ModuleList:
    """Finds the list of blocks, under the names that transformers uses.

    Args:
        tower: the module of a tower.

    Returns:
        The blocks.

    Raises:
        UnsupportedError: if there is none.
    """
    for path in ("encoder.layers", "encoder.layer", "layers", "model.layer", "layer"):
        found: Any = tower
        for name in path.split("."):
            found = getattr(found, name, None)
        if isinstance(found, nn.ModuleList):
            return found
    raise UnsupportedError(f"{type(tower).__name__}: no list of blocks found where transformers models keep it.")


def _attention_of(block: nn.Module) -> nn.Module:
    for child in block.modules():
        if "Attention" in type(child).__name__ and any(hasattr(child, name) for name in ("q_proj", "query", "qkv")):
            return child
    raise UnsupportedError(f"{type(block).__name__} holds no attention that visprompt knows.")


def tower_of(tower: Any, config: Any, kind: str, family: Family) -> Tower:
    """Collects the attention sites of an image tower.

    Args:
        tower: the tower's module.
        config: its config.
        kind: its model type, without `_vision_model`.
        family: its properties.

    Returns:
        The tower.
    """
    blocks = tuple(find_blocks(tower))
    heads = int(config.num_attention_heads)
    registers = int(getattr(config, "num_register_tokens", 0) or 0) if family.registers else 0
    prefix = family.prefix + registers
    sites = []
    for index, block in enumerate(blocks):
        attention = _attention_of(block)
        projection = next(
            (getattr(attention, n) for n in ("out_proj", "o_proj", "proj") if hasattr(attention, n)), None
        )
        sites.append(Site("vision", index, attention, "transformers", heads, prefix, projection))
    readout = family.readout
    if kind == "beit" and config.use_mean_pooling:
        readout = "mean"
    if readout == "probe":
        head = getattr(tower, "head", None)
        if head is None:
            readout = "mean"
        else:
            pool = head.attention
            sites.append(Site("vision", len(blocks), pool, "mha", pool.num_heads, 0, pool.out_proj, is_pool=True))
    norms = tuple(
        next((getattr(block, n) for n in ("layer_norm1", "norm1", "layernorm_before") if hasattr(block, n)), None)
        for block in blocks
    )
    return Tower(
        name="vision",
        sites=tuple(sites),
        blocks=blocks,
        readout=readout,
        prefix=prefix,
        foldable=family.foldable and readout == "cls",
        norms=() if any(norm is None for norm in norms) else norms,  # type: ignore[arg-type]
        padded=family.packed,
        outlets=(tower,),
        shareable=not family.packed,  # the masks of packed images are built for the batch they come in
    )


def _around(module: nn.Module, tower: nn.Module) -> tuple[nn.Module, ...]:
    """The tower and the models around it, which may return its hidden states; without models that read texts
    as well.
    """
    around = [item for item in module.modules() if any(inner is tower for inner in item.modules())]
    return tuple(item for item in around if not hasattr(item, "get_text_features"))


def _head(module: Any, tower: Any, kind: str) -> Head | None:
    """The map from the readout row to the embedding, for families with a text tower."""
    whole = getattr(module, "_orig_mod", module)
    if kind == "clip":
        projection = getattr(whole, "visual_projection", None)
        return Head(tower.post_layernorm, () if projection is None else (projection,))
    head = getattr(tower, "head", None) if kind in ("siglip", "siglip2") else None
    return None if head is None else Head(head.layernorm, mlp=(head.mlp.fc1, head.mlp.activation_fn, head.mlp.fc2))


# -- images ---------------------------------------------------------------------------------------------------------


def _reader(processor: Any, patch: tuple[int, int]) -> ImageReader:
    return ImageReader(processor, Processed(processor), pixels_of, patch)


def _packed_reader(processor: Any, patch: int) -> ImageReader:
    """The reader for NaFlex: patches in a row, padded to a common length, with the grid's shape."""
    names = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
    return ImageReader(processor, Processed(processor, names), functools.partial(_unpacked, patch), (patch, patch))


def _unpacked(patch: int, inputs: dict[str, Tensor]) -> Tensor:
    rows, columns = (int(item) for item in inputs["spatial_shapes"])
    grid = inputs["pixel_values"][: rows * columns].view(rows, columns, patch, patch, 3)
    return grid.permute(4, 0, 2, 1, 3).reshape(3, rows * patch, columns * patch)


# -- embeddings -------------------------------------------------------------------------------------------------------


def _pooled(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.pooler_output


def _embedder(module: Any, tower: Any, kind: str, config: Any) -> Callable[[dict[str, Tensor]], Tensor]:
    def resized(inputs: dict[str, Tensor]) -> dict[str, Any]:
        """Images of another size than the positions were trained for get interpolated ones."""
        size = getattr(config, "image_size", None)
        if size is None or kind in ("dinov2", "dinov2_with_registers", "dinov3_vit", "siglip2"):
            return dict(inputs)
        want = (size, size) if isinstance(size, int) else tuple(size)
        same = tuple(inputs["pixel_values"].shape[-2:]) == want
        return dict(inputs) if same else {**inputs, "interpolate_pos_encoding": True}

    def embed(inputs: dict[str, Tensor]) -> Tensor:
        call = resized(inputs)
        if hasattr(module, "get_image_features"):
            return _pooled(module.get_image_features(**call))
        if hasattr(module, "visual_projection"):
            return module(**call).image_embeds
        if kind == "vit_mae":
            # The masking sorts patches by noise: ascending noise keeps their order.
            pixels = call["pixel_values"]
            count = (pixels.shape[-2] // config.patch_size) * (pixels.shape[-1] // config.patch_size)
            call["noise"] = torch.arange(count, device=pixels.device, dtype=torch.float32).expand(len(pixels), -1)
            with _unmasked(config):
                return tower(**call).last_hidden_state[:, 1:].mean(dim=1)
        output = tower(**call)
        if kind in ("vit", "deit"):
            # Their pooler is part of a classification head, which many checkpoints leave untrained.
            return output.last_hidden_state[:, 0]
        if getattr(output, "pooler_output", None) is not None:
            return output.pooler_output
        states = output.last_hidden_state
        return states.mean(dim=1) if kind in ("ijepa", "siglip", "siglip2") else states[:, 0]

    return embed


_masking = threading.Lock()


@contextmanager
def _unmasked(config: Any) -> Iterator[None]:
    """Turns off ViTMAE's masking of 75 % of the patches (for pre-training) during one call, through the config, which
    is the only way to set the ratio.
    """
    with _masking:
        ratio = config.mask_ratio
        config.mask_ratio = 0.0
        try:
            yield
        finally:
            config.mask_ratio = ratio


def _text_embedder(module: Any, tokenizer: Any, kind: str) -> Callable[[list[str]], Tensor]:
    config = module.config.text_config
    longest = int(config.max_position_embeddings)
    siglip = kind.startswith("siglip")

    def embed(texts: list[str]) -> Tensor:
        lengths = [len(item) for item in tokenizer(texts)["input_ids"]]
        for text, length in zip(texts, lengths, strict=True):
            if length > longest:
                warnings.warn(
                    f"a text of {length} tokens is cut to the model's {longest}: {text[:60]!r}…", stacklevel=4
                )
        # SigLIP was trained on texts padded to full length, without a mask.
        batch = tokenizer(
            texts, padding="max_length" if siglip else True, truncation=True, max_length=longest, return_tensors="pt"
        )
        names = ("input_ids",) if siglip else ("input_ids", "attention_mask")
        device = next(module.parameters()).device
        return _pooled(module.get_text_features(**{name: batch[name].to(device) for name in names if name in batch}))

    return embed
