"""Prompt tokens in the vision towers of LVLMs: the decoder gets none, and patches keep their positions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import visprompt as vp
from visprompt.attention.engine import open_scope
from visprompt.attention.program import SiteProgram
from visprompt.attention.prompt_tokens import Insertion
from visprompt.models.chat import Chat
from visprompt.models.lvlm.inputs import media_of, prepare
from visprompt.models.site_checks import features_of
from visprompt.testing.conformance import image
from visprompt.testing.tiny_lvlm import tiny_lvlm, tiny_lvlm_names

M = 3


@pytest.mark.parametrize("name", tiny_lvlm_names())
def test_features_without_prompts(name: str) -> None:
    made = tiny_lvlm(name)
    model = vp.wrap(made.module, made.processor)
    tower = model.vision_tower
    assert tower is not None
    media = media_of(prepare(model, [Chat((vp.VisualPrompt(image((96, 96))),), "What is it?")]))
    shape = input_shape(model, media)
    given = vp.PromptTokens(torch.randn(1, M, shape[-1], generator=torch.Generator().manual_seed(0)))
    if len(shape) == 2:
        with pytest.raises(vp.UnsupportedError, match="packs the patches of all images"):
            Insertion(tower, [given] * shape[0])
        return
    insertion = Insertion(tower, [given] * shape[0])
    # Columns counted from the first prompt token on, so that a bias hides the prompts from everybody.
    bias = torch.zeros(shape[0], 1, 1, shape[1] - tower.prefix + M)
    bias[..., :M] = -1e9
    sites = [replace(site, prefix=tower.prefix, prompts=0) for site in insertion.tower.sites]
    rows = torch.arange(shape[1] + M)
    programs = {
        site: SiteProgram(rows, torch.ones(shape[0], site.heads, len(rows), dtype=torch.bool), bias=bias)
        for site in sites
    }
    with torch.no_grad():
        plain = features_of(model.module, media)
        with open_scope(insertion.tower, {}, tokens=insertion):
            prompted = features_of(model.module, media)
        with open_scope(replace(insertion.tower, sites=tuple(sites), by_module={}), programs, tokens=insertion):
            hidden = features_of(model.module, media)
    assert prompted.shape == plain.shape
    assert (prompted - plain).abs().max() > 1e-2
    torch.testing.assert_close(hidden, plain, atol=1e-4, rtol=1e-4)


def input_shape(model: vp.Model, media: dict[str, Tensor]) -> tuple[int, ...]:
    """(images or tiles, tokens, width) of what the first block of the vision tower gets; packed: (tokens, width)."""
    seen: list[Tensor] = []
    block = model.vision_tower.blocks[0]
    handle = block.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        features_of(model.module, media)
    handle.remove()
    return tuple(seen[0].shape)
