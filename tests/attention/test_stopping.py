"""A forward that ends with what is read: the same maps and gradients, and nothing left behind."""

from __future__ import annotations

import pytest
import torch

import visprompt as vp
from visprompt.testing import conformance
from visprompt.testing.conformance import differences, snapshot

MODELS = ("transformers-clip", "transformers-siglip", "transformers-dinov3", "open-clip-vit", "timm-vit", "timm-beit")


@pytest.mark.parametrize("name", MODELS)
def test_stopping_changes_nothing_that_is_read(name: str) -> None:
    made, model = conformance.wrapped(name)
    state = snapshot(made.module)
    read = model.reader if hasattr(model, "reader") else model.parts.reader
    pixels = torch.stack(
        [torch.from_numpy(read.preprocess(conformance.picture((64, 64), number))) for number in range(2)]
    )
    prompts = [vp.VisualPrompt(conformance.picture((pixels.shape[-1], pixels.shape[-2])))] * 2
    blocks = [model.num_blocks - 1] if model.tower.readout == "probe" else [0, 1]
    ran: list[int] = []
    handle = model.tower.blocks[-1].register_forward_hook(lambda *_: ran.append(1))
    found = []
    try:
        for stop in (False, True):
            ran.clear()
            leaf = pixels.clone().requires_grad_()
            with model.prompting(prompts, read=blocks, stop=stop) as encode:
                for _ in range(2):  # several forwards in one scope
                    encoding = encode(leaf)
                total = torch.stack([encoding.attention[block].float().square().sum() for block in blocks]).sum()
                (gradient,) = torch.autograd.grad(total, leaf)
            found.append((encoding.attention[blocks[-1]].detach(), gradient))
            assert bool(ran) is (not stop or blocks[0] > 0)
    finally:
        handle.remove()
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], atol=1e-9)
    assert encoding.embeddings.shape == (2, 0)
    assert not differences(state, snapshot(made.module))
