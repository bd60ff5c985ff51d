"""Batches with mixed images, first blocks, heads, rows and forms, with and without sharing, equal single runs."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image

import visprompt as vp
from visprompt.testing.tiny import tiny, tiny_names

SIZES = [(96, 96), (144, 48), (48, 144)]
IMAGES = [
    Image.fromarray(np.random.default_rng(i).integers(0, 256, (wh[1], wh[0], 3), dtype=np.uint8))
    for i, wh in enumerate(SIZES)
]
NAMES = [name for name in tiny_names() if tiny(name).has_attention]


def random_edit(model: vp.Model, patches: int, rng: random.Random, readout_only: bool) -> vp.AttentionEdit:
    columns = np.zeros(patches, dtype=np.float32)
    start = rng.randrange(patches - 2)
    columns[start : start + 3] = rng.uniform(1, 5)
    rows = "readout" if readout_only else rng.choice(["readout", "patches", "all"])
    first = rng.choice([-1, -2, 0.5, 0, 1]) if rows == "readout" else rng.choice([0, 1])
    where = {"first_block": first, "heads": rng.choice([None, (0,), (-1,)]), "rows": rows}
    form = rng.choice(["bias", "temperature", "mass"])
    if form == "bias":
        return vp.AttentionEdit(bias=columns, **where)
    if form == "temperature":
        return vp.AttentionEdit(temperature=rng.choice([0.5, 2.0]), **where)
    return vp.AttentionEdit(target_mass=0.7, weights=(columns > 0) * 0.5, **where)


@pytest.mark.parametrize("readout_only", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_mixed_batches(name: str, readout_only: bool) -> None:
    small = tiny(name)
    model = vp.wrap(small.module, small.processor, small.tokenizer)
    rng = random.Random(1)
    prompts = []
    for _ in range(7):
        image = rng.choice(IMAGES)
        patches = model.geometry(image.size).num_patches
        edits = [random_edit(model, patches, rng, readout_only) for _ in range(rng.choice([0, 1, 1, 2]))]
        masses = [edit for edit in edits if edit.target_mass is not None]
        prompts.append(vp.VisualPrompt(image, attention=tuple(e for e in edits if e not in masses[1:])))
    pool = [site.block for site in model.tower.sites if site.is_pool]
    read = pool if model.tower.readout == "probe" else range(model.num_blocks)
    with torch.no_grad():
        shared = model.encode(prompts, read=read)
        apart = model.encode(prompts, read=read, share_prefix=False)
        alone = [model.encode([prompt], read=read) for prompt in prompts]
    expected = torch.cat([item.embeddings for item in alone])
    scale = float(expected.abs().max())
    torch.testing.assert_close(shared.embeddings, expected, atol=1e-5 * scale, rtol=1e-4)
    torch.testing.assert_close(apart.embeddings, expected, atol=1e-5 * scale, rtol=1e-4)
    for block in read:
        for number, item in enumerate(alone):
            columns = item.attention[block].shape[-1]
            got = shared.attention[block][number, :, :columns]
            torch.testing.assert_close(got, item.attention[block][0], atol=1e-5, rtol=1e-3)
