"""The test tools are tested too: tiny models are alive all through, and each check catches what it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import visprompt as vp
from visprompt.testing import check_strategy, conformance, tiny_model, tiny_names

MODEL = "transformers-clip-vision"


@pytest.mark.parametrize("name", tiny_names())
def test_nothing_in_a_tiny_model_is_zero_or_constant(name: str) -> None:
    made = tiny_model(name)
    for path, parameter in made.module.named_parameters():
        if parameter.numel() > 1:
            assert parameter.std() > 0.01, f"{path} is (nearly) constant"
            assert parameter.abs().max() < 10, f"{path} is huge"
    assert not made.module.training
    assert sum(parameter.numel() for parameter in made.module.parameters()) < 5_000_000


@pytest.mark.parametrize("name", [name for name in tiny_names() if tiny_model(name).has_text])
def test_tokenizers_tell_texts_apart(name: str) -> None:
    _, model = conformance.wrapped(name)
    with torch.no_grad():
        one, two, same = model.embed_text(["a red dog", "a zebra in purple pyjamas", "a red dog"])
    assert torch.allclose(one, same, atol=1e-5)
    assert not torch.allclose(one, two, atol=1e-3)


def test_seeds_decide_and_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (tiny_model("timm-vit", seed=seed).module.state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_an_unknown_tiny_model_is_named() -> None:
    with pytest.raises(vp.UnknownNameError, match="transformers-clip"):
        tiny_model("transformers-clop")


# -- strategies with one fault each ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Options(vp.Options):
    dim: float = 0.5


class _Darken(vp.Prompter):
    """Darkens the whole image; correct."""

    Options = _Options
    acts_on = frozenset({"pixels"})
    neutral = {"dim": 0.0}

    def edit(self, prompt: vp.VisualPrompt, model: Any) -> vp.VisualPrompt:
        pixels = np.asarray(prompt.image) * (1 - self.options.dim)
        return prompt.with_(image=Image.fromarray(pixels.astype(np.uint8)))


class _Idle(_Darken):
    """Does nothing."""

    def edit(self, prompt: vp.VisualPrompt, model: Any) -> vp.VisualPrompt:
        return prompt


class _NeverOff(_Darken):
    """Darkens a bit even when switched off."""

    def edit(self, prompt: vp.VisualPrompt, model: Any) -> vp.VisualPrompt:
        return prompt.with_(image=Image.fromarray((np.asarray(prompt.image) * 0.9).astype(np.uint8)))


class _Litters(_Darken):
    """Leaves a hook behind."""

    def edit(self, prompt: vp.VisualPrompt, model: Any) -> vp.VisualPrompt:
        def hook(*_: Any) -> None:
            return None

        hook.__module__ = "visprompt.strategies.litters"
        model.module.register_forward_hook(hook)
        return super().edit(prompt, model)


class _Retrains(_Darken):
    """Changes a weight."""

    def edit(self, prompt: vp.VisualPrompt, model: Any) -> vp.VisualPrompt:
        with torch.no_grad():
            next(model.module.parameters()).mul_(1.01)
        return super().edit(prompt, model)


class _Remembers(_Darken):
    """Counts the prompts that it made, so results depend on what came before."""

    count = 0

    def edit(self, prompt: vp.VisualPrompt, model: Any) -> vp.VisualPrompt:
        type(self).count += 1
        pixels = np.asarray(prompt.image) // (1 + type(self).count % 7)
        return prompt.with_(image=Image.fromarray(pixels.astype(np.uint8)))


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[vp.Prompter]], str]:
    """Puts a class into the registry for one test, and gives every test models of its own."""
    import visprompt.registry as registry

    monkeypatch.setattr(conformance, "wrapped", conformance.functools.cache(conformance.wrapped.__wrapped__))
    monkeypatch.setattr(
        conformance, "_middle_module", conformance.functools.cache(conformance._middle_module.__wrapped__)
    )

    def put(kind: type[vp.Prompter]) -> str:
        name = kind.__name__.strip("_").lower()
        kind.name = name
        classes = {**registry._classes(), name: kind}
        monkeypatch.setattr(registry, "_classes", lambda: classes)
        monkeypatch.setattr(registry, "settings", lambda _: {})
        return name

    return put


def test_a_sound_strategy_passes(registered: Callable[[type[vp.Prompter]], str]) -> None:
    assert check_strategy(registered(_Darken), models=[MODEL]) == {MODEL: "supported"}


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (_Idle, "effect"),
        (_NeverOff, "neutral"),
        (_Litters, "leaves no trace"),
        (_Retrains, "leaves no trace"),
        (_Remembers, "batching"),
    ],
)
def test_each_fault_is_caught(
    registered: Callable[[type[vp.Prompter]], str], kind: type[vp.Prompter], check: str
) -> None:
    with pytest.raises(AssertionError, match=check):
        check_strategy(registered(kind), models=[MODEL])
