"""Before the first edit every site is verified to have an effect; errors name those without."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import visprompt as vp
from visprompt.models.site_checks import check_gradient, zeros_at
from visprompt.testing.tiny import tiny
from visprompt.testing.tiny_lvlm import tiny_lvlm

PROMPT = vp.VisualPrompt(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)))
EDITED = PROMPT.adding(vp.AttentionEdit(temperature=2.0))


def silence(projection: torch.nn.Linear) -> None:
    """Sets a projection to zero, so that the attention before it has no effect."""
    with torch.no_grad():
        projection.weight.zero_()


@pytest.mark.parametrize("name", ["transformers-clip", "open-clip-vit", "timm-vit-token"])
def test_a_site_without_an_effect_is_named(name: str) -> None:
    small = tiny(name)
    model = vp.wrap(small.module, small.processor, small.tokenizer)
    model.encode([EDITED])
    small = tiny(name)
    model = vp.wrap(small.module, small.processor, small.tokenizer)
    silence(model.tower.sites[1].projection)  # type: ignore[arg-type]
    with pytest.raises(vp.SiteNotReachedError, match=r"vision block 1,"):
        model.encode([EDITED])


def test_it_is_looked_at_once_and_leaves_the_weights_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    small = tiny("transformers-clip")
    model = vp.wrap(small.module, small.processor, small.tokenizer)
    before = model.weights_hash()
    backward, asked = torch.autograd.backward, []
    monkeypatch.setattr(torch.autograd, "backward", lambda *args, **kw: asked.append(1) or backward(*args, **kw))
    for _ in range(3):
        model.encode([EDITED])
    assert len(asked) == 1
    assert model.weights_hash() == before
    assert all(parameter.grad is None for parameter in model.module.parameters())


def test_a_decoder_block_without_an_effect_is_named() -> None:
    small = tiny_lvlm("llava")
    model = vp.wrap(small.module, small.processor)
    silence(model.tower.sites[-1].projection)  # type: ignore[arg-type]
    runner = vp.Runner(model, vp.Prompter.from_name("falip"))
    with pytest.raises(vp.SiteNotReachedError, match=f"decoder block {model.num_blocks - 1}"):
        runner.generate(vp.Request(PROMPT.image, region=(8, 8, 40, 40), query="what"), max_new_tokens=1)


def test_zeros_stand_at_the_sites_that_have_a_row() -> None:
    small = tiny("transformers-clip")
    sites = vp.wrap(small.module, small.processor, small.tokenizer).tower.sites
    programs, zeros = zeros_at(sites, {sites[0]: 3}, torch.device("cpu"), streams=2)
    assert set(programs) == set(zeros) == {sites[0]}
    assert programs[sites[0]].rows.tolist() == [3]
    assert programs[sites[0]].edits
    assert zeros[sites[0]].shape == (2, sites[0].heads, 1, 1)
    assert zeros[sites[0]].requires_grad


def test_an_output_without_a_gradient_is_said() -> None:
    with pytest.raises(vp.SiteNotReachedError, match="use_reentrant=False"):
        check_gradient(torch.zeros(1, 2))
    check_gradient(torch.zeros(1, 2, requires_grad=True) * 2)
