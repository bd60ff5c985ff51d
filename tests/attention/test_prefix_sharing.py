"""Prompts on one image share the blocks before their first edit, with the same results as without sharing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import wrapped_tiny
from PIL import Image

import visprompt as vp
from visprompt.attention import compile_programs
from visprompt.attention.prefix_sharing import replace_hidden, sharing_of

IMAGES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)) for seed in range(2)
]


def bias(seed: int, patches: int, **where: Any) -> vp.AttentionEdit:
    return vp.AttentionEdit(bias=np.random.default_rng(seed).normal(size=patches), **where)


@pytest.mark.parametrize("name", ["transformers-clip", "open-clip-vit", "timm-vit-token", "timm-vit-mean"])
@pytest.mark.parametrize("first_block", [0, 1, -1])
def test_shared_is_as_alone(name: str, first_block: int) -> None:
    model = wrapped_tiny(name)
    patches = model.geometry(IMAGES[0].size).num_patches
    prompts = [
        vp.VisualPrompt(image).adding(bias(seed, patches, first_block=first_block))
        for image in IMAGES
        for seed in range(3)
    ]
    shared = model.encode(prompts, read=[model.num_blocks - 1])
    alone = model.encode(prompts, read=[model.num_blocks - 1], share_prefix=False)
    torch.testing.assert_close(shared.embeddings, alone.embeddings, atol=1e-5, rtol=1e-5)
    (a,), (b,) = shared.attention.values(), alone.attention.values()
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("share_prefix", [True, False])
def test_blocks_before_the_first_edit_see_each_image_once(share_prefix: bool) -> None:
    model = wrapped_tiny("transformers-clip")
    prompts = [vp.VisualPrompt(IMAGES[0]).adding(bias(seed, 64, first_block=2)) for seed in range(5)]
    model.encode(prompts)
    seen: list[int] = []
    handles = [
        block.register_forward_hook(lambda _, args, __: seen.append(len(args[0]))) for block in model.tower.blocks
    ]
    model.encode(prompts, share_prefix=share_prefix)
    for handle in handles:
        handle.remove()
    assert seen[:2] == ([1, 1] if share_prefix else [5, 5])
    assert seen[3:] == [5] * (model.num_blocks - 3)


def test_where_streams_part() -> None:
    model = wrapped_tiny("transformers-clip")
    index = torch.tensor([0, 0, 0, 1])
    edits = [(bias(seed, 64, first_block=2),) for seed in range(4)]
    sharing = sharing_of(model.tower, index, compile_programs(model.tower, edits, [64] * 4))
    assert sharing is not None
    assert (sharing.first_block, sharing.fold, sharing.copies) == (2, True, 3)
    assert sharing.slots.tolist() == [[0, 1, 2], [3, 3, 3]]
    assert sharing.slot_of.tolist() == [0, 1, 2, 0]
    patches = [(bias(seed, 64, first_block=2, rows="all"),) for seed in range(4)]
    expanded = sharing_of(model.tower, index, compile_programs(model.tower, patches, [64] * 4))
    assert expanded is not None
    assert not expanded.fold
    reading = compile_programs(model.tower, [()] * 4, [64] * 4, read=[1])
    assert sharing_of(model.tower, index, reading) is None


def test_hidden_states_wherever_a_block_takes_them() -> None:
    assert replace_hidden((1, 2), {}, lambda item: item * 10) == ((10, 2), {})
    assert replace_hidden((), {"hidden_states": 1, "mask": 2}, lambda item: item * 10) == (
        (),
        {"hidden_states": 10, "mask": 2},
    )
