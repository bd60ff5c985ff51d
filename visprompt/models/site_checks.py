"""Verifies that attention edits and prompt tokens have an effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from visprompt.attention.engine import open_scope
from visprompt.attention.program import SiteProgram
from visprompt.attention.prompt_tokens import Insertion
from visprompt.attention.sites import Site, Tower
from visprompt.errors import SiteNotReachedError
from visprompt.utils.renamed import renamed_names
from visprompt.visual_prompt import PromptTokens, VisualPrompt

if TYPE_CHECKING:
    from visprompt.attention.packed_positions import PackedPositions
    from visprompt.models.base import Model, Parts
    from visprompt.models.lvlm.model import LVLM


def verify_sites(name: str, parts: Parts, prompt: VisualPrompt, model: Model) -> None:
    """Verifies the sites of an encoder: one forward with a zero added at every site's readout and one backward must
    give each zero a gradient.

    Args:
        name: the model's name for messages.
        parts: the model's parts.
        prompt: the prompt whose image and fit are used.
        model: the model.

    Raises:
        SiteNotReachedError: naming the sites whose edits would change nothing.
    """
    reader, tower = parts.reader, parts.tower
    assert tower is not None
    patches = reader.geometry(prompt.image.size, prompt.fit).num_patches
    rows = {site: tower.rows_of(site, "readout", patches) for site in tower.sites}
    programs, zeros = zeros_at(tower.sites, {site: row[0] for site, row in rows.items() if len(row)}, model.device)
    with open_scope(tower, programs, None, model.device, parts.timeline(1, model.device)):
        embedding = parts.embed(reader.inputs([(prompt.image, prompt.fit)], model))
        _backward(embedding, zeros)
    _refuse_dead(name, zeros, "embedding")


def verify_prompt_tokens(name: str, parts: Parts, prompt: VisualPrompt, model: Model) -> None:
    """Verifies prompt tokens in an encoder: one token per block, each of which must get a gradient.

    Args:
        name: the model's name for messages.
        parts: the model's parts.
        prompt: a prompt with tokens.
        model: the model.

    Raises:
        SiteNotReachedError: naming the blocks whose tokens would change nothing.
    """
    tower, given = parts.tower, prompt.tokens
    assert tower is not None
    assert given is not None
    width, blocks = given.tokens.shape[-1], len(tower.blocks)
    tokens = torch.linspace(-1, 1, width, device=model.device).expand(blocks, 1, width).clone().requires_grad_()
    insertion = Insertion(tower, [PromptTokens(tokens)])
    with open_scope(insertion.tower, {}, None, model.device, tokens=insertion):
        embedding = parts.embed(parts.reader.inputs([(prompt.image, prompt.fit)], model))
        _weighted(embedding).backward(inputs=[tokens])
    dead = [block for block in range(blocks) if tokens.grad is None or not tokens.grad[block].any()]
    if dead:
        raise SiteNotReachedError(f"{name}: prompt tokens in blocks {dead} would change nothing in the embedding.")


def zeros_at(
    sites: Sequence[Site], rows: dict[Site, int], device: torch.device, streams: int = 1
) -> tuple[dict[Site, SiteProgram], dict[Site, Tensor]]:
    """Makes programs that add a zero to the output of one row per site.

    Args:
        sites: the sites.
        rows: the row of each; sites without an entry are skipped.
        device: device of the zeros.
        streams: n, the number of streams.

    Returns:
        Programs, and zeros `[n, H, 1, 1]` that require gradients, by site.
    """
    zeros = {
        site: torch.zeros(streams, site.heads, 1, 1, device=device, requires_grad=True)
        for site in sites
        if site in rows
    }
    programs = {
        site: SiteProgram(
            torch.tensor([rows[site]]), torch.zeros(streams, site.heads, 1, dtype=torch.bool), inject=zero
        )
        for site, zero in zeros.items()
    }
    return programs, zeros


def verify_decoder_sites(model: LVLM) -> None:
    """Verifies the sites of a decoder on four tokens without an image, which suffice for any model.

    Args:
        model: the LVLM.

    Raises:
        SiteNotReachedError: naming the sites whose edits would change nothing.
    """
    tower = model.tower
    ids = torch.arange(4, device=model.device)[None] + 5
    programs, zeros = zeros_at(tower.sites, dict.fromkeys(tower.sites, 3), model.device)
    with open_scope(tower, programs, None, model.device):
        logits = model.module(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, -1]
        _backward(logits, zeros)
    _refuse_dead(model.name, zeros, "answer")


def verify_vision_sites(
    model: LVLM, tower: Tower, media: dict[str, Tensor], streams: int, packing: PackedPositions | None = None
) -> None:
    """Verifies the sites of an LVLM's vision tower on images.

    Args:
        model: the LVLM.
        tower: its vision tower.
        media: the images' inputs.
        streams: number of images (tiles) that the tower gets.
        packing: positions in its sequence, if it packs images into one.

    Raises:
        SiteNotReachedError: naming the sites whose edits would change nothing.
    """
    programs, zeros = zeros_at(tower.sites, dict.fromkeys(tower.sites, tower.prefix), model.device, streams)
    with open_scope(tower, programs, None, model.device, packing):
        _backward(features_of(model.module, media), zeros)
    _refuse_dead(model.name, zeros, "answer")


def verify_vision_tokens(model: LVLM, tower: Tower, media: dict[str, Tensor], width: int) -> None:
    """Verifies prompt tokens in an LVLM's vision tower: one token per block, each of which must get a gradient.

    Args:
        model: the LVLM.
        tower: its vision tower.
        media: inputs of an image.
        width: d, the width of the tower's hidden states.

    Raises:
        SiteNotReachedError: naming the blocks whose tokens would change nothing.
    """
    blocks = len(tower.blocks)
    tokens = torch.linspace(-1, 1, width, device=model.device).expand(blocks, 1, width).clone().requires_grad_()
    insertion = Insertion(tower, [PromptTokens(tokens)])
    with open_scope(insertion.tower, {}, None, model.device, tokens=insertion):
        _weighted(features_of(model.module, media)).backward(inputs=[tokens])
    dead = [block for block in range(blocks) if tokens.grad is None or not tokens.grad[block].any()]
    if dead:
        raise SiteNotReachedError(f"{model.name}: prompt tokens in blocks {dead} would change nothing in the answer.")


def features_of(module: Any, media: dict[str, Tensor]) -> Tensor:
    """The features that the decoder of an LVLM gets for images.

    Args:
        module: the LVLM's module.
        media: inputs of images or of videos.

    Returns:
        `[tokens, d]` of all images.
    """
    if "pixel_values_videos" in media:
        grid = {name: item for name, item in media.items() if name == "video_grid_thw"}
        features = module.get_video_features(media["pixel_values_videos"], **grid)
    else:
        features = module.get_image_features(**media)
    features = getattr(features, "pooler_output", features)
    parts = features if isinstance(features, list | tuple) else [features]
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])


def _backward(output: Tensor, zeros: dict[Site, Tensor]) -> None:
    _weighted(output).backward(inputs=list(zeros.values()))


def check_gradient(output: Tensor) -> None:
    """Checks that an output has a gradient, when something in the model is trained.

    Args:
        output: the output.

    Raises:
        SiteNotReachedError: if it has none, with what to do.
    """
    if not output.requires_grad:
        raise SiteNotReachedError(
            "no gradient comes out of this model: reentrant gradient checkpointing loses it where the weights are "
            "frozen. Use use_reentrant=False (timm: timm.layers.set_reentrant_ckpt(False))."
        )


def _weighted(output: Tensor) -> Tensor:
    check_gradient(output)
    return (output.float() * torch.linspace(0.5, 1.5, output.shape[-1], device=output.device)).sum()


def _refuse_dead(name: str, zeros: dict[Site, Tensor], what: str) -> None:
    dead = [site for site, zero in zeros.items() if zero.grad is None or not zero.grad.any()]
    if dead:
        raise SiteNotReachedError(f"{name}: edits at {', '.join(map(repr, dead))} would change nothing in the {what}.")


#: names of 0.4.0
__getattr__ = renamed_names(
    __name__,
    {
        "prove": "verify_sites",
        "prove_tokens": "verify_prompt_tokens",
        "prove_decoder": "verify_decoder_sites",
        "prove_vision": "verify_vision_sites",
        "prove_vision_tokens": "verify_vision_tokens",
    },
    globals(),
)
