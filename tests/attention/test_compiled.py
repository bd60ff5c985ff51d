"""Compilation is detected at any time, without walking all modules of the model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import visprompt as vp
from visprompt.attention.compiled import CompiledCheck, is_compiled
from visprompt.testing.tiny import tiny

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


class Small(nn.Module):
    """root → blocks → block → attention, and another child of the root."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"attention": nn.Linear(2, 2)}) for _ in range(3))
        self.text = nn.Linear(2, 2)

    @property
    def attentions(self) -> list[nn.Module]:
        return [block["attention"] for block in self.blocks]


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Records every module whose tree is walked."""
    found: list[nn.Module] = []
    plain = nn.Module.modules

    def modules(self: nn.Module) -> Iterator[nn.Module]:
        found.append(self)
        return plain(self)

    monkeypatch.setattr(nn.Module, "modules", modules)
    return found


def test_the_way_is_walked_once(walks: list[nn.Module]) -> None:
    module, check = Small(), CompiledCheck()
    for _ in range(5):
        assert not check(module, module.attentions)
    assert walks == [module]


@pytest.mark.parametrize("where", ["", "blocks", "blocks.1", "blocks.1.attention"])
def test_a_module_on_the_way_that_is_compiled_later(where: str, walks: list[nn.Module]) -> None:
    module, check = Small(), CompiledCheck()
    assert not check(module, module.attentions)
    module.get_submodule(where).compile(backend="eager")
    assert check(module, module.attentions)
    assert walks == [module]


def test_a_module_that_is_replaced_by_a_compiled_one() -> None:
    module, check = Small(), CompiledCheck()
    attentions, plain = module.attentions, module.blocks[2]
    assert not check(module, attentions)
    module.blocks[2] = torch.compile(plain, backend="eager")  # type: ignore[assignment]
    assert check(module, attentions)
    module.blocks[2] = plain
    assert not check(module, attentions)


def test_another_root() -> None:
    module, check = Small(), CompiledCheck()
    assert not check(module, module.attentions)
    whole: nn.Module = torch.compile(module, backend="eager")  # type: ignore[assignment]
    assert is_compiled(whole)
    assert check(whole, module.attentions)
    assert not check(module, module.attentions)


def test_a_part_beside_the_way_does_not_matter() -> None:
    module, check = Small(), CompiledCheck()
    module.text.compile(backend="eager")
    assert not check(module, module.attentions)


def test_a_module_that_is_no_longer_part_of_the_model() -> None:
    module, check = Small(), CompiledCheck()
    gone = nn.Linear(2, 2)
    assert not check(module, [gone])
    gone.compile(backend="eager")
    assert check(module, [gone])


def test_a_models_encode_walks_no_modules(walks: list[nn.Module]) -> None:
    small = tiny("timm-vit-token")
    model = vp.wrap(small.module, small.processor)
    prompts = [vp.VisualPrompt(IMAGE), vp.VisualPrompt(IMAGE).adding(vp.AttentionEdit(temperature=2.0))]
    model.encode(prompts)
    walks.clear()
    for _ in range(3):
        model.encode(prompts)
    assert walks == []


def test_hooks_are_refused_as_soon_as_the_model_is_compiled() -> None:
    small = tiny("timm-vit-token")
    model = vp.wrap(small.module, small.processor)
    prompt = vp.VisualPrompt(IMAGE).adding(vp.AttentionEdit(temperature=2.0))
    model.encode([prompt])
    model.module.blocks[0].compile(backend="eager")
    with pytest.raises(vp.UnsupportedError, match="is compiled"):
        model.encode([prompt])
