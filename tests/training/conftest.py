"""Shared by the tests of training: image readers of tiny models, and a look at which splits are measured."""

from __future__ import annotations

from typing import Any

import pytest

import visprompt as vp
from visprompt.models.preprocessing import ImageReader
from visprompt.testing import conformance
from visprompt.testing.tiny import tiny

#: one model per way in which processors fit images
MODELS = ("transformers-clip", "transformers-siglip", "transformers-deit", "timm-vit", "open-clip-vit")


@pytest.fixture(scope="module")
def model() -> vp.Model:
    """A tiny ViT that averages its patches, one for all tests of the process."""
    return conformance.wrapped("timm-vit-mean")[1]  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def readers() -> dict[str, ImageReader]:
    found = {}
    for name in MODELS:
        made = tiny(name)
        found[name] = vp.wrap(made.module, made.processor, made.tokenizer).parts.reader
    return found


@pytest.fixture(scope="session")
def reader(readers: dict[str, ImageReader]) -> ImageReader:
    return readers["transformers-clip"]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits that were measured, in order."""
    from visprompt.training import evaluation

    seen: list[str] = []
    original = evaluation.measured

    def look(objective: Any, split: str, *rest: Any) -> Any:
        seen.append(split)
        return original(objective, split, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(evaluation, "measured", look)
    return seen
