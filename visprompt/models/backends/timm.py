"""Image encoders of `timm`: ViT, DeiT, MAE and MoCo-v3 checkpoints, DINOv2, EVA-02, BEiT."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from visprompt.attention.sites import Head, Readout, Site, Tower
from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.models.base import Parts
from visprompt.models.preprocessing import ImageReader, Transformed, pixels_of


def parts_of(module: nn.Module, processor: Any, tokenizer: Any) -> Parts:
    """Makes the parts of a timm model.

    Args:
        module: the model.
        processor: its transform.
        tokenizer: not used; timm models have no text tower.

    Returns:
        The parts.

    Raises:
        InvalidInputError: without the transform.
    """
    if processor is None:
        raise InvalidInputError(
            f"{type(module).__name__} needs its transform: vp.wrap(module, timm.data.create_transform(**"
            "timm.data.resolve_model_data_config(module)))."
        )
    trunk: Any = getattr(module, "_orig_mod", module)

    def embed(inputs: dict[str, Tensor]) -> Tensor:
        return module.forward_head(module.forward_features(inputs["pixel_values"]), pre_logits=True)  # type: ignore[operator]

    return Parts(embed, reader_of(processor, patch_of(trunk)), tower_of(trunk), None, None, "timm")


def reader_of(transform: Any, patch: tuple[int, int] | None) -> ImageReader:
    """Makes an image reader for a torchvision transform (timm's and open_clip's).

    Args:
        transform: image → `[3, h, w]`.
        patch: height and width of a patch in pixels, or None.

    Returns:
        The reader.

    Raises:
        InvalidInputError: for a transform that cannot be called.
    """
    if not callable(transform):
        raise InvalidInputError(
            f"the processor must be a transform from a PIL image to a tensor; got {type(transform).__name__}."
        )
    return ImageReader(transform, Transformed(transform), pixels_of, patch)


def patch_of(trunk: Any) -> tuple[int, int] | None:
    """The patch size of a timm model.

    Args:
        trunk: the model.

    Returns:
        Height and width in pixels; None for convolutional models.
    """
    size = getattr(getattr(trunk, "patch_embed", None), "patch_size", None)
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def tower_of(trunk: Any) -> Tower | None:
    """Collects the attention sites of a timm model.

    Args:
        trunk: the model.

    Returns:
        The tower; None if the model has no blocks with attention.

    Raises:
        UnsupportedError: if fused attention is off.
    """
    blocks = getattr(trunk, "blocks", None)
    if patch_of(trunk) is None or not isinstance(blocks, nn.Sequential | nn.ModuleList):
        return None
    blocks = tuple(blocks)
    if not all(hasattr(block, "attn") and hasattr(block.attn, "num_heads") for block in blocks):
        return None
    prefix = int(getattr(trunk, "num_prefix_tokens", 1 if getattr(trunk, "cls_token", None) is not None else 0))
    sites = []
    for index, block in enumerate(blocks):
        _require_fused(block.attn)
        plain = all(isinstance(getattr(block.attn, n, None), nn.Identity | None) for n in ("norm", "gate"))
        projection = getattr(block.attn, "proj", None) if plain else None
        after = _after(block, plain)
        sites.append(
            Site("vision", index, block.attn, "sdpa", int(block.attn.num_heads), prefix, projection, after=after)
        )
    readout: Readout
    pool = getattr(trunk, "attn_pool", None)
    if pool is not None:
        readout = "probe"
        _require_fused(pool)
        before = prefix if getattr(trunk, "pool_include_prefix", True) else 0
        sites.append(Site("vision", len(blocks), pool, "sdpa", int(pool.num_heads), before, pool.proj, is_pool=True))
    else:
        readout = "cls" if getattr(trunk, "global_pool", "") in ("token", "") and prefix else "mean"
    biased = getattr(trunk, "rel_pos_bias", None) is not None or any(
        getattr(block.attn, "relative_position_bias_table", None) is not None for block in blocks
    )
    kinds = {type(block).__name__ for block in blocks}
    single = readout == "cls" and not hasattr(trunk, "dist_token")
    return Tower(
        name="vision",
        sites=tuple(sites),
        blocks=blocks,
        readout=readout,
        prefix=prefix,
        # Blocks with rotary or relative positions depend on the sequence length and cannot be folded.
        foldable=single and type(trunk).__name__ == "VisionTransformer" and kinds == {"Block"},
        norms=tuple(block.norm1 for block in blocks) if single and kinds <= {"Block", "EvaBlock"} else (),
        readout_rows=(0, 1) if hasattr(trunk, "dist_token") else (0,),
        inner_bias=biased,
    )


def head_of(trunk: Any, behind: nn.Module | None = None) -> Head | None:
    """The map from the readout row of a timm model to its embedding.

    Args:
        trunk: the timm model.
        behind: modules that open_clip appends to it.

    Returns:
        The head; None if it is no chain of norm, MLP and linear maps.
    """
    pool = getattr(trunk, "attn_pool", None)
    chain = [getattr(trunk, "head", None), *(behind.children() if behind is not None else ())]
    linear = tuple(item for item in chain if not isinstance(item, nn.Identity | nn.Dropout | None))
    norms = [pool.norm] if pool is not None else [trunk.norm]
    norms = [item for item in (*norms, getattr(trunk, "fc_norm", None)) if not isinstance(item, nn.Identity | None)]
    mlp = getattr(pool, "mlp", None)
    usual = mlp is None or (hasattr(mlp, "fc1") and isinstance(getattr(mlp, "norm", nn.Identity()), nn.Identity))
    if len(norms) > 1 or not usual or not all(isinstance(item, nn.Linear) for item in linear):
        return None
    return Head(norms[0] if norms else None, linear, None if mlp is None else (mlp.fc1, mlp.act, mlp.fc2))


def _after(block: Any, plain: bool) -> tuple[Any, ...]:
    """The modules between `Site.projection` and the residual stream."""
    inner = () if plain or getattr(block.attn, "gate", None) is not None else (block.attn.norm, block.attn.proj)
    scales = (getattr(block, "ls1", None), getattr(block, "gamma_1", None))
    return (*inner, *(item for item in scales if not isinstance(item, nn.Identity | None)))


def _require_fused(attention: Any) -> None:
    if not getattr(attention, "fused_attn", True):
        raise UnsupportedError(
            f"timm's {type(attention).__name__} was built with fused attention off, where its attention "
            "cannot be reached: "
            "build the model after timm.layers.set_fused_attn(True)."
        )
