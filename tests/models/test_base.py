"""A wrapped model: its inputs, the order of its outputs, and that the module is unchanged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import noise

import visprompt as vp
from visprompt.testing.tiny import tiny

WARM = vp.AttentionEdit(temperature=2.0)


def test_what_it_is(clip: vp.Model) -> None:
    assert clip.supports == {"pixels", "attention", "tokens", "text"}
    assert clip.has_tower("vision")
    assert not clip.has_tower("decoder")
    described = clip.describe()
    assert described["backend"] == "transformers"
    assert described["weights"] == clip.weights_hash()
    with torch.no_grad():
        weight = next(clip.module.parameters())
        weight.add_(1.0)
        assert clip.weights_hash() != described["weights"]
        weight.sub_(1.0)


def test_rows_come_in_the_order_of_the_prompts(clip: vp.Model) -> None:
    """Prompts on one image that are apart in the list are grouped, and the results are in the original order."""
    first, second = noise((80, 60), seed=1), noise((80, 60), seed=2)
    prompts = [
        vp.VisualPrompt(first),
        vp.VisualPrompt(second).adding(WARM),
        vp.VisualPrompt(first).adding(WARM),
        vp.VisualPrompt(second),
        vp.VisualPrompt(first, fit="squash"),
    ]
    whole = clip.encode(prompts, read=[0])
    apart = [clip.encode([prompt], read=[0]) for prompt in prompts]
    torch.testing.assert_close(whole.embeddings, torch.cat([item.embeddings for item in apart]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole.attention[0], torch.cat([item.attention[0] for item in apart]))


def test_kinds_of_tokens_run_in_forwards_of_their_own(clip: vp.Model) -> None:
    width = clip.module.config.vision_config.hidden_size
    tokens = [vp.PromptTokens(torch.randn(1, count, width)) for count in (1, 2)]
    prompts = [vp.VisualPrompt(noise((80, 60)), tokens=item) for item in (tokens[0], None, tokens[1], tokens[0])]
    whole = clip.encode(prompts).embeddings
    torch.testing.assert_close(whole, torch.cat([clip.encode([prompt]).embeddings for prompt in prompts]))
    assert torch.equal(whole[0], whole[3])
    assert not torch.equal(whole[0], whole[1])


def test_training_mode_is_put_back(clip: vp.Model) -> None:
    seen: list[bool] = []
    block = clip.tower.blocks[0]
    handle = block.register_forward_hook(lambda module, *_: seen.append(module.training))
    block.train()
    try:
        clip.encode([vp.VisualPrompt(noise((80, 60)))])
        assert seen == [False]
        assert block.training
        with pytest.raises(vp.InvalidInputError):
            clip.encode([vp.VisualPrompt(noise((80, 60))).adding(vp.AttentionEdit(bias=np.ones(3)))])
        assert block.training
    finally:
        handle.remove()
        block.eval()


def test_it_says_what_it_cannot_do(clip: vp.Model) -> None:
    with pytest.raises(vp.InvalidInputError, match="nothing to encode"):
        clip.encode([])
    with pytest.raises(vp.UnsupportedError, match="writes no text"):
        clip.generate([])
    with pytest.raises(vp.UnsupportedError, match="has no tower 'decoder'; it has 'vision'"):
        clip.tower_named("decoder")
    small = tiny("open-clip-resnet")
    plain = vp.wrap(small.module, small.processor, small.tokenizer)
    with pytest.raises(vp.UnsupportedError, match="acts on attention"):
        plain.encode([vp.VisualPrompt(noise((80, 60)))], read=[0])


def test_unwrapped_it_cannot_be_used() -> None:
    small = tiny("transformers-clip")
    model = vp.wrap(small.module, small.processor, small.tokenizer)
    assert model.unwrap() is small.module
    for use in (lambda: model.encode([vp.VisualPrompt(noise((80, 60)))]), lambda: model.embed_text(["a"])):
        with pytest.raises(vp.UnsupportedError, match="wrap the module again"):
            use()


def test_in_training_pixels_belong_to_prompts(clip: vp.Model) -> None:
    prompt = vp.VisualPrompt(noise((80, 60))).adding(WARM)
    inputs = clip.parts.reader.inputs([(prompt.image, "model")], clip)["pixel_values"]
    with torch.no_grad():
        trained = clip.embed_pixels(inputs, [prompt], read=[0])
    encoded = clip.encode([prompt], read=[0])
    torch.testing.assert_close(trained.embeddings, encoded.embeddings)
    torch.testing.assert_close(trained.attention[0], encoded.attention[0])
    with pytest.raises(vp.InvalidInputError, match="2 images' pixels for 1 prompts"):
        clip.embed_pixels(torch.cat([inputs, inputs]), [prompt])
