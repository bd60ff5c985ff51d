"""The contribution of each patch to the similarity of an image and a text."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import noise, wrapped_tiny

import visprompt as vp
from visprompt.models.attribution import Question, attribute, can_attribute, default_block, in_parts


@pytest.mark.parametrize("name", ["transformers-clip", "transformers-siglip"])
def test_the_cosine_is_the_models_own(name: str) -> None:
    model = wrapped_tiny(name)
    questions = [
        Question(noise(), "a red star"),
        Question(noise(seed=1), "a dog"),
        Question(noise(seed=1), "a red star"),
    ]
    found = attribute(model, questions)
    with torch.no_grad():
        images = model.encode([vp.VisualPrompt(question.image) for question in questions]).embeddings
        texts = model.embed_text([question.text for question in questions])
    expected = torch.nn.functional.cosine_similarity(images, texts)
    np.testing.assert_allclose([item.cosine for item in found], expected.numpy(), atol=1e-5)
    assert all(item.similarity.shape == (item.geometry.num_patches,) for item in found)


def test_questions_do_not_mix() -> None:
    model = wrapped_tiny("transformers-clip")
    first, second = noise(), noise(seed=1)
    together = attribute(model, [Question(first, "a"), Question(second, "b"), Question(first, "b")])
    for item, question in zip(together, [(first, "a"), (second, "b"), (first, "b")], strict=True):
        (alone,) = attribute(model, [Question(*question)])
        np.testing.assert_allclose(item.similarity, alone.similarity, atol=1e-5)


def test_who_can_be_asked() -> None:
    assert can_attribute(wrapped_tiny("transformers-clip"))
    vision = wrapped_tiny("transformers-clip-vision")
    assert not can_attribute(vision)
    with pytest.raises(vp.UnsupportedError, match="no text tower"):
        attribute(vision, [Question(noise(), "a")])
    model = wrapped_tiny("transformers-clip")
    assert default_block(model) == model.num_blocks - 2
    pooled = wrapped_tiny("transformers-siglip")
    assert default_block(pooled) == pooled.num_blocks - 1


def test_smaller_parts_when_memory_runs_out() -> None:
    sizes: list[int] = []

    def run(part: list[int]) -> int:
        sizes.append(len(part))
        if len(part) > 2:
            raise MemoryError
        return sum(part)

    found = list(in_parts(list(range(8)), 8, run))
    assert sum(total for _, total in found) == 28
    assert [number for part, _ in found for number in part] == list(range(8))
    assert sizes[:3] == [8, 4, 2]
    with pytest.raises(MemoryError):
        list(in_parts([0], 1, lambda part: (_ for _ in ()).throw(MemoryError())))
