"""Requests become prompts lazily, in batches that keep an image's prompts together and fit into memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from helpers import noise

import visprompt as vp
from visprompt.geometry import Geometry
from visprompt.runner.batching import batches_by_image, in_halves, prompts_of
from visprompt.runner.text_embeddings import TextEmbeddings
from visprompt.testing.tiny import tiny

BOXES = [vp.Box(4, 4, 30, 30), vp.Box(20, 20, 60, 60)]


def test_requests_may_never_end(clip: vp.Model) -> None:
    asked: list[int] = []

    def endless() -> Iterator[vp.Request]:
        while True:
            asked.append(len(asked))
            yield vp.Request(noise(seed=len(asked)), region=BOXES)

    prompts = prompts_of(endless(), clip, None, "model", lambda: 2)
    first = [next(prompts)[1] for _ in range(3)]
    assert first == [(0, 0), (0, 1), (1, 0)]
    assert len(asked) == 2


def test_visibility_is_measured_once(clip: vp.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Visibility is checked by `falip` and again by the runner: the second check uses the cached result."""
    measured: list[object] = []
    plain = Geometry.visible_fraction
    monkeypatch.setattr(
        Geometry, "visible_fraction", lambda self, region: measured.append(region) or plain(self, region)
    )
    mask = vp.Mask(np.tri(64, dtype=bool))
    request = vp.Request(noise(), region=[vp.Box(3, 5, 33, 35), vp.Point(20, 20), mask])
    for name in ("falip", "circle+falip"):
        list(prompts_of(request, clip, vp.Prompter.from_name(name), "model", lambda: 4))
    assert len(measured) == 3


def test_requests_are_named_only_in_errors(clip: vp.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    named: list[vp.Request] = []
    plain = vp.Request.__repr__
    monkeypatch.setattr(vp.Request, "__repr__", lambda self: named.append(self) or plain(self))
    runner = vp.Runner(clip, vp.Prompter.from_name("falip"))
    runner.score(vp.Request(noise(), region=BOXES), ["a", "b"])
    runner.attention(vp.Request(noise(), region=BOXES))
    assert named == []
    outside = vp.Request(noise((200, 64)), region=vp.Box(0, 0, 20, 20), id="at the edge")
    with pytest.raises(vp.RegionNotVisibleError, match="'at the edge'"):
        runner.encode(outside)
    assert named == [outside]


def test_prompts_on_one_image_stay_together() -> None:
    first, second = noise(), noise(seed=1)
    numbered = [
        (vp.VisualPrompt(item), (0, place)) for place, item in enumerate([first, first, second, second, second])
    ]
    assert [len(batch) for batch in batches_by_image(numbered, lambda: 4)] == [2, 3]
    assert [len(batch) for batch in batches_by_image(numbered, lambda: 2)] == [2, 2, 1]


def test_halves_keep_what_was_computed() -> None:
    class Owner:
        batch_size = 8

    tried: list[int] = []

    def run(part: list[int]) -> list[int]:
        tried.append(len(part))
        if len(part) > 3:
            raise MemoryError
        return [item * 10 for item in part]

    owner = Owner()
    assert list(in_halves(list(range(8)), run, owner)) == [item * 10 for item in range(8)]
    assert owner.batch_size == 2
    assert tried == [8, 4, 2, 2, 2, 2]


def test_texts_are_embedded_once_while_the_weights_stay() -> None:
    small = tiny("transformers-clip")
    model = vp.wrap(small.module, small.processor, small.tokenizer)
    asked: list[list[str]] = []
    plain = model.embed_text
    model.embed_text = lambda texts: asked.append(list(texts)) or plain(texts)  # type: ignore[method-assign]
    embeddings = TextEmbeddings(model)
    with torch.no_grad():
        first = embeddings(["a dog", "a cat", "a dog"])
        embeddings(["a cat", "a bird"])
        assert asked == [["a dog", "a cat"], ["a bird"]]
        assert torch.equal(first[0], first[2])
        next(model.module.text_model.parameters()).mul_(1.5)
        assert not torch.equal(embeddings(["a dog"])[0], first[0])
    assert asked[2:] == [["a dog"]]
