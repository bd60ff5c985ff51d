"""What checks are made with: strategies are put behind what they need, and images are the same every time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import visprompt as vp
from visprompt import registry
from visprompt.testing import conformance, material


def test_images_and_requests_are_the_same_every_time() -> None:
    material.image.cache_clear()
    first = np.asarray(material.image((30, 20), 4)).copy()
    material.image.cache_clear()
    assert np.array_equal(first, np.asarray(material.image((30, 20), 4)))
    assert not np.array_equal(first, np.asarray(material.image((30, 20), 5)))
    assert [one.image.size for one in material.requests()] == list(material.IMAGES)


def test_a_strategy_that_names_none_is_put_behind_one_that_paints(monkeypatch: pytest.MonkeyPatch) -> None:
    class Louder(vp.Prompter):
        needs = frozenset({"prompt"})

    classes = {**registry._classes(), "louder": Louder}
    monkeypatch.setattr(registry, "_classes", lambda: classes)
    before, joined = material.recipe("louder")
    assert before is not None
    assert joined == f"{before}+louder"
    kind = registry.get_class(before)
    assert (kind.acts_on, kind.needs) == ({"pixels"}, {"region"})


def test_ready_makes_what_would_have_been_learned_the_same_every_time() -> None:
    model = conformance.wrapped("timm-vit")[1]
    states = []
    for _ in range(2):
        prompter = material.ready(vp.Prompter.from_name("circle+vpt", prompts=2), model)
        states.append(prompter.parts[1].state()["prompt.tokens"])  # type: ignore[union-attr]
    assert torch.equal(*states)
    assert material.ready(None, model) is None


def test_the_first_strategy_is_one_of_ours() -> None:
    assert registry.first_strategy(lambda kind: "prompt" in kind.needs) == "unleash"
    with pytest.raises(vp.UnsupportedError, match="none of the installed strategies"):
        registry.first_strategy(lambda kind: "a third hand" in kind.needs)
