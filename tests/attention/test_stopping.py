"""A forward that stops after the last read block: same maps and gradients, and no hooks left."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import visprompt as vp
from visprompt.models.lvlm.vision_encoder import encoder_of
from visprompt.testing import conformance, conformance_lvlm
from visprompt.testing.conformance import differences, snapshot

#: CLS, probe and mean; three libraries; towers of language models, one of which packs its images
ENCODERS = ("transformers-clip", "transformers-siglip", "transformers-dinov3", "open-clip-vit", "timm-vit", "timm-beit")
LVLMS = ("llava", "idefics3", "qwen2-5-vl")


def first_pixels(model: Any) -> torch.Tensor:
    """Of two images."""
    shown = [conformance.image((64, 64), number) for number in range(2)]
    return torch.stack([torch.from_numpy(model.parts.reader.preprocess(image)) for image in shown])


@pytest.mark.parametrize("name", [*ENCODERS, *LVLMS])
@pytest.mark.parametrize("blocks", [(0, 1), (-1,)])
def test_stopping_changes_nothing_that_is_read(name: str, blocks: tuple[int, ...]) -> None:
    made, model = (conformance_lvlm if name in LVLMS else conformance).wrapped(name)
    model = encoder_of(model)
    state = snapshot(made.module)
    pixels = first_pixels(model)
    prompts = [vp.VisualPrompt(conformance.image((pixels.shape[-1], pixels.shape[-2])))] * 2
    blocks = tuple(block % model.num_blocks for block in blocks)
    ran: list[int] = []
    handle = model.tower.blocks[-1].register_forward_hook(lambda *_: ran.append(1))
    found = []
    try:
        for stop in (False, True):
            ran.clear()
            leaf = pixels.clone().requires_grad_()
            with model.prompting(prompts, read=blocks, read_rows="summary", stop=stop) as encode:
                for _ in range(2):  # several forwards in one scope
                    encoding = encode(leaf)
                total = torch.stack([encoding.attention[block].float().square().sum() for block in blocks]).sum()
                (gradient,) = torch.autograd.grad(total, leaf)
            found.append((encoding.attention[blocks[-1]].detach(), gradient))
            # A probe stands behind the last block.
            assert bool(ran) is (not stop or blocks[-1] == len(model.tower.blocks))
    finally:
        handle.remove()
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], atol=1e-9)
    assert encoding.embeddings.shape == (2, 0)
    assert not differences(state, snapshot(made.module))


@pytest.mark.parametrize("name", ["transformers-clip", "qwen2-5-vl"])
def test_a_forward_that_fails_leaves_the_next_one_whole(name: str) -> None:
    """In one scope, the positions that the first forward processed do not count for the second."""
    _, model = (conformance_lvlm if name in LVLMS else conformance).wrapped(name)
    model = encoder_of(model)
    pixels = first_pixels(model)
    prompts = [vp.VisualPrompt(conformance.image((64, 64)))] * 2
    with torch.no_grad(), model.prompting(prompts, read=[1], stop=True) as encode:
        wanted = encode(pixels).attention[1]
        with conformance.crashing(model.tower.blocks[0]), pytest.raises(conformance.Crash):
            encode(pixels)
        with pytest.raises(vp.InvalidInputError, match="give one each"):
            encode(pixels[:1])
        assert torch.equal(encode(pixels).attention[1], wanted)
