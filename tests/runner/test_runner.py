"""The runner: order, batches, memory, texts, ensembles, and errors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers import noise

import visprompt as vp
from visprompt.testing.tiny import tiny


@pytest.fixture(scope="module")
def requests() -> list[vp.Request]:
    boxes = [vp.Box(20, 5, 45, 40), vp.Box(30, 20, 65, 55), vp.Box(15, 15, 30, 30)]
    return [vp.Request(noise((80, 60), seed=i), region=boxes[: 1 + i % 3]) for i in range(5)]


def test_rows_come_in_order_of_requests_and_regions(clip: vp.Model, requests: list[vp.Request]) -> None:
    runner = vp.Runner(clip, vp.Prompter.from_name("falip"))
    together = runner.encode(requests)
    assert runner.index == [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (3, 0), (4, 0), (4, 1)]
    alone = torch.cat([vp.Runner(clip, vp.Prompter.from_name("falip")).encode(request) for request in requests])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_batch_size_does_not_matter(clip: vp.Model, requests: list[vp.Request], batch_size: int) -> None:
    prompter = vp.Prompter.from_name("falip")
    small = vp.Runner(clip, prompter, batch_size=batch_size).encode(iter(requests))
    torch.testing.assert_close(small, vp.Runner(clip, prompter).encode(requests), atol=1e-5, rtol=1e-5)


def test_batches_are_halved_when_memory_runs_out(
    clip: vp.Model, requests: list[vp.Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = vp.Runner(clip).encode(requests)
    encode, sizes = clip.encode, []

    def greedy(prompts, **options):  # type: ignore[no-untyped-def]
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return encode(prompts, **options)

    monkeypatch.setattr(clip, "encode", greedy)
    runner = vp.Runner(clip, batch_size=8)
    torch.testing.assert_close(runner.encode(requests), expected, atol=1e-5, rtol=1e-5)
    assert sizes[:3] == [7, 4, 2]
    assert runner.batch_size == 2


def test_other_errors_are_not_swallowed(
    clip: vp.Model, requests: list[vp.Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(prompts, **options):  # type: ignore[no-untyped-def]
        raise RuntimeError("something else")

    monkeypatch.setattr(clip, "encode", broken)
    with pytest.raises(RuntimeError, match="something else"):
        vp.Runner(clip).encode(requests)


def test_scores_are_the_models_own(clip: vp.Model, requests: list[vp.Request]) -> None:
    texts = ["a dog", "a cat"]
    images = clip.parts.reader.inputs([(request.pil_image, "model") for request in requests[:1]], clip)
    tokens = tiny("transformers-clip").tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = clip.module(pixel_values=images["pixel_values"], **tokens).logits_per_image
    torch.testing.assert_close(vp.Runner(clip).score(requests[:1], texts), expected, atol=1e-4, rtol=1e-4)


def test_an_ensemble_sums_scores(clip: vp.Model, requests: list[vp.Request]) -> None:
    texts = ["a dog", "a cat"]
    one, two = (vp.Runner(clip, vp.Prompter.from_name(name)).score(requests, texts) for name in ("circle", "falip"))
    runner = vp.Runner(clip, vp.Prompter.from_name("circle|falip"))
    torch.testing.assert_close(runner.score(requests, texts), one + two)
    assert len(runner.index) == len(one)
    with pytest.raises(vp.InvalidInputError, match="ensemble"):
        runner.encode(requests)


def test_text_edits_reach_the_scores(clip: vp.Model, requests: list[vp.Request]) -> None:
    seen: list[str] = []
    embed = clip.parts.embed_text
    watching = dataclasses.replace(clip.parts, embed_text=lambda texts: seen.extend(texts) or embed(texts))
    model = vp.Model(clip.module, watching, "watching")
    vp.Runner(model, vp.Prompter.from_name("shade")).score(requests[:1], ["a dog"])
    assert "a dog is in red color." in seen


def test_new_weights_get_new_text_embeddings(requests: list[vp.Request]) -> None:
    small = tiny("transformers-clip", seed=3)
    model = vp.wrap(small.module, small.processor, small.tokenizer)
    runner = vp.Runner(model)
    before = runner.score(requests[:1], ["a dog"])
    with torch.no_grad():
        small.module.text_projection.weight.mul_(-1)
    assert not torch.allclose(runner.score(requests[:1], ["a dog"]), before)


def test_attention_follows_the_region(clip: vp.Model, requests: list[vp.Request]) -> None:
    request = requests[0]
    plain = vp.Runner(clip).attention(request)[0]
    looking = vp.Runner(clip, vp.Prompter.from_name("falip", target_mass=0.6, first_block=2)).attention(request)[0]
    region = request.regions[0]
    assert plain.maps.shape == (4, clip.tower.sites[0].heads, *plain.geometry.grid_hw)
    touched = torch.from_numpy(plain.geometry.coverage(region) > 0).reshape(plain.geometry.grid_hw)
    assert (looking.maps[2:][..., touched].sum(-1) >= 0.6 - 1e-4).all()
    torch.testing.assert_close(looking.maps[:2], plain.maps[:2])
    assert looking.image_map().shape == request.pil_image.size[::-1]
    assert (looking.mass(region)[-1] > plain.mass(region)[-1]).all()
    assert vp.Runner(clip).attention(request, blocks=[-1])[0].blocks == (3,)


def test_render_shows_what_was_done(clip: vp.Model, requests: list[vp.Request]) -> None:
    original = np.asarray(requests[0].pil_image)
    for name in ("circle", "falip"):
        (shown,) = vp.Runner(clip, vp.Prompter.from_name(name)).render(requests[0])
        assert shown.size == requests[0].pil_image.size
        assert (np.asarray(shown) != original).any()


@pytest.mark.parametrize("name", ["falip", "circle", "blur", "circle+falip"])
def test_the_crop_removes_a_region_unless_told_otherwise(clip: vp.Model, name: str) -> None:
    request = vp.Request(noise((180, 60)), region=vp.Box(2, 5, 30, 50), id="left edge")
    prompter = vp.Prompter.from_name(name)
    with pytest.raises(vp.InvalidInputError, match=r"left edge[\s\S]*pad"):
        vp.Runner(clip, prompter).encode(request)
    for fit in ("pad", "squash"):
        assert torch.isfinite(vp.Runner(clip, prompter, fit=fit).encode(request)).all()
    # a crop brings the region to the middle, so nothing is lost
    assert torch.isfinite(vp.Runner(clip, vp.Prompter.from_name("crop")).encode(request)).all()


def test_encode_normalises_on_request(clip: vp.Model, requests: list[vp.Request]) -> None:
    norms = vp.Runner(clip).encode(requests, normalize=True).norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_what_it_refuses(clip: vp.Model, requests: list[vp.Request]) -> None:
    with pytest.raises(vp.InvalidInputError, match="no requests"):
        vp.Runner(clip).encode([])
    with pytest.raises(vp.InvalidInputError, match="request 0 is a str"):
        vp.Runner(clip).encode(["photo.jpg"])
    with pytest.raises(vp.InvalidInputError, match="texts"):
        vp.Runner(clip).score(requests, [])
    with pytest.raises(vp.InvalidInputError, match="batch_size"):
        vp.Runner(clip, batch_size=0)
    with pytest.raises(vp.InvalidInputError, match="needs a region"):
        vp.Runner(clip, vp.Prompter.from_name("falip")).encode(vp.Request(noise((80, 60))))
    with pytest.raises(vp.UnsupportedError, match="encoder"):
        vp.Runner(clip).generate(requests)


def test_a_model_without_text_says_so(requests: list[vp.Request]) -> None:
    small = tiny("transformers-dinov2")
    model = vp.wrap(small.module, small.processor)
    with pytest.raises(vp.UnsupportedError, match="no text tower"):
        vp.Runner(model).score(requests, ["a dog"])
