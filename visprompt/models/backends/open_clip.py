"""Image encoders of `open_clip`: CLIP ViTs, CoCa, SigLIP and EVA-02-CLIP (timm towers), and ResNet CLIPs
(pixels only).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from visprompt.attention.sites import Head, Readout, Site, Tower
from visprompt.errors import InvalidInputError
from visprompt.models.backends import timm as timm_models
from visprompt.models.base import Parts
from visprompt.models.clip_logits import contrastive_logits


def parts_of(module: nn.Module, processor: Any, tokenizer: Any) -> Parts:
    """Makes the parts of an open_clip model.

    Args:
        module: the model.
        processor: its preprocessing transform.
        tokenizer: its tokenizer, or None.

    Returns:
        The parts.

    Raises:
        InvalidInputError: without the transform.
    """
    if processor is None:
        raise InvalidInputError(
            f"{type(module).__name__} needs its transform: vp.wrap(module, preprocess, tokenizer) as "
            "open_clip.create_model_"
            "and_transforms and open_clip.get_tokenizer give them."
        )
    model: Any = module
    visual = getattr(module, "_orig_mod", module).visual  # type: ignore[union-attr]
    trunk = getattr(visual, "trunk", None)
    if trunk is not None:
        tower, patch = timm_models.tower_of(trunk), timm_models.patch_of(trunk)
        tower = None if tower is None else replace(tower, head=timm_models.head_of(trunk, visual.head))
    else:
        tower, patch = _tower(visual), getattr(visual, "patch_size", None)

    def embed(inputs: dict[str, Tensor]) -> Tensor:
        return model.encode_image(inputs["pixel_values"])

    return Parts(
        embed=embed,
        reader=timm_models.reader_of(processor, None if patch is None else (int(patch[0]), int(patch[1]))),
        tower=tower,
        embed_text=_text_embedder(model, tokenizer)
        if tokenizer is not None and hasattr(model, "encode_text")
        else None,
        logits=contrastive_logits(model) if tokenizer is not None else None,
        backend="open_clip",
    )


def _tower(visual: Any) -> Tower | None:
    transformer = getattr(visual, "transformer", None)
    blocks = tuple(getattr(transformer, "resblocks", ()))
    if not blocks:
        return None  # ModifiedResNet: convolutions, and a pooling that is not attention over a ViT's patches
    if not all(isinstance(getattr(block, "attn", None), nn.MultiheadAttention) for block in blocks):
        return None
    sites = [
        Site(
            "vision",
            index,
            block.attn,
            "mha",
            int(block.attn.num_heads),
            1,
            block.attn.out_proj,
            after=tuple(item for name in ("ln_attn", "ls_1") if _acts(item := getattr(block, name, None))),
        )
        for index, block in enumerate(blocks)
    ]
    readout: Readout = "cls"
    if visual.attn_pool is not None:
        readout = "probe"
        pooler = visual.attn_pool
        if visual.attn_pool_contrastive is not None:
            if visual.attn_pool_type == "cascade":
                return None  # its probe reads the first pooler's tokens, not patches
            pooler = visual.attn_pool_contrastive
        attention = pooler.attn
        sites.append(
            Site("vision", len(blocks), attention, "mha", int(attention.num_heads), 1, attention.out_proj, is_pool=True)
        )
    elif visual.pool_type == "avg":
        readout = "mean"
    cls = readout == "cls"
    # CoCa with two poolers normalises before them, all other models after
    norm = None if readout == "probe" and visual.attn_pool_contrastive is not None else visual.ln_post
    return Tower(
        name="vision",
        sites=tuple(sites),
        blocks=blocks,
        readout=readout,
        prefix=1,
        shareable=all(block.attn.batch_first for block in blocks),
        foldable=cls and all(block.attn.batch_first for block in blocks),
        norms=tuple(block.ln_1 for block in blocks) if cls and all(block.attn.batch_first for block in blocks) else (),
        no_tokens="" if all(block.attn.batch_first for block in blocks) else "its blocks take tokens before images",
        head=None if readout == "mean" else Head(norm, () if visual.proj is None else (visual.proj,)),
    )


def _acts(module: Any) -> bool:
    return module is not None and not isinstance(module, nn.Identity)


def _text_embedder(model: Any, tokenizer: Any) -> Callable[[list[str]], Tensor]:
    def embed(texts: list[str]) -> Tensor:
        longest = int(getattr(model, "context_length", None) or getattr(tokenizer, "context_length", 0) or 0)
        tokens = tokenizer(texts)
        encode = getattr(tokenizer, "encode", None)
        if longest and encode is not None:
            for text in texts:
                count = len(encode(text)) + 2
                if count > longest:
                    warnings.warn(
                        f"a text of {count} tokens is cut to the model's {longest}: {text[:60]!r}…", stacklevel=4
                    )
        return model.encode_text(tokens.to(next(model.parameters()).device))

    return embed
