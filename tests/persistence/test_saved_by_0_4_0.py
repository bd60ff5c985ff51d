"""Prompts that version 0.4.0 saved, in `data/0.4.0`: they load, and are what they were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import visprompt as vp
from visprompt.learned import learned_parts
from visprompt.testing import conformance

DATA = Path(__file__).parent / "data" / "0.4.0"
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_it_loads_with_its_options_and_weights(name: str) -> None:
    """`expected.json` holds what 0.4.0 itself gave for `describe()` and the tensors of `state()`."""
    loaded = vp.Prompter.from_pretrained(DATA / name)
    assert json.loads(json.dumps(loaded.describe())) == EXPECTED[name]["describe"]
    parts = loaded.parts if isinstance(loaded, vp.Composition) else (loaded,)
    state = {
        f"{number}.{key}": value
        for number, part in enumerate(parts)
        if part in learned_parts(loaded)
        for key, value in part.state().items()  # type: ignore[attr-defined]
    }
    found = {key: {"shape": list(one.shape), "sum": float(one.double().sum())} for key, one in state.items()}
    assert found == {
        key: {"shape": one["shape"], "sum": pytest.approx(one["sum"], abs=1e-9)}
        for key, one in EXPECTED[name]["state"].items()
    }


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_saved_again_it_is_the_same(name: str, tmp_path: Path) -> None:
    vp.Prompter.from_pretrained(DATA / name).save_pretrained(tmp_path)
    for file in ("config.json", "prompt.safetensors"):
        old, new = (DATA / name / file).read_bytes(), (tmp_path / file).read_bytes()
        if file == "config.json":
            assert _without_version(new) == _without_version(old)
        else:
            assert new == old


def _without_version(content: bytes) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(content)
    assert isinstance(config.pop("visprompt_version"), str)
    return config


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_model_it_was_made_for_takes_it(name: str) -> None:
    model = conformance.wrapped("timm-vit")[1]
    request = vp.Request(conformance.image((48, 64)), region=vp.Box(4, 4, 30, 30))
    with torch.no_grad():
        plain = vp.Runner(model).encode(request)
        prompted = vp.Runner(model, vp.Prompter.from_pretrained(DATA / name)).encode(request)
    assert torch.isfinite(prompted).all()
    assert not torch.equal(plain, prompted)
