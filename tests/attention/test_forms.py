"""Adds a new form of edit: one field, one tensor and one entry suffice."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from helpers import wrapped_tiny
from PIL import Image
from torch import Tensor

import visprompt as vp
from visprompt.attention import program_builder
from visprompt.attention.forms import FORMS, Form, form_named
from visprompt.attention.program import SiteProgram
from visprompt.attention.program_builder import compile_programs
from visprompt.attention.site_tensors import site_tensor, site_tensors
from visprompt.visual_prompt import AttentionEdit, form_of_edit

IMAGES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)) for seed in range(2)
]


@dataclass(frozen=True, eq=False)
class CappedEdit(AttentionEdit):
    """`cap`: no logit of a patch is above it; one number per patch, +inf where there is no cap."""

    cap: np.ndarray | None = field(
        default=None, metadata=form_of_edit(lambda cap: bool(np.isposinf(cap).all()), per_patch=True)
    )


@dataclass(frozen=True, eq=False)
class CappedProgram(SiteProgram):
    cap: Tensor | None = field(
        default=None, metadata=site_tensor("stream", "head", "row", "patch", form="cap", fill=float("inf"))
    )


def _write(builder: Any, place: Any, edit: Any) -> None:
    caps = builder.array("cap")
    caps[place.columns] = np.minimum(caps[place.columns], edit.cap)


def _apply(program: Any, logits: Tensor, prefix: int) -> Tensor:
    return torch.minimum(logits, program.to_keys(program.cap, prefix, logits.shape[-1], float("inf")))


@pytest.fixture
def capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMS, "cap", Form(_write, on_logits=_apply))
    monkeypatch.setattr(program_builder, "SiteProgram", CappedProgram)


@pytest.fixture(scope="module")
def model() -> vp.Model:
    return wrapped_tiny("transformers-clip")


def cap(value: float, patch: int = 0, **where: Any) -> CappedEdit:
    """The edit that caps one patch."""
    caps = np.full(64, np.inf, dtype=np.float32)
    caps[patch] = value
    return CappedEdit(cap=caps, **where)


def test_it_is_one_of_the_forms() -> None:
    edit = cap(-3.0)
    assert edit.form == "cap"
    assert list(edit.per_patch) == ["cap"]
    assert not edit.is_identity
    assert cap(float("inf")).is_identity
    with pytest.raises(vp.InvalidInputError, match=r"temperature, gain and cap; got \['gain', 'cap'"):
        CappedEdit(cap=np.zeros(4), gain=1.0)


@pytest.mark.usefixtures("capped")
def test_it_is_carried_through_everything_that_rearranges_programs(model: vp.Model) -> None:
    edits = [(cap(-1.0, 3),), (cap(-2.0, 5), vp.AttentionEdit(temperature=2.0))]
    program = compile_programs(model.tower, edits, [64, 64])[model.tower.sites[1]]
    assert isinstance(program, CappedProgram)
    assert program.cap.shape == (2, 1, 1, 64)
    assert program.cap[0, 0, 0, 3] == -1
    assert program.cap[1, 0, 0, 5] == -2
    assert torch.isposinf(program.cap).sum() == 2 * 63
    assert [form.on_logits for form in program.forms] == [FORMS["temperature"].on_logits, _apply]
    assert not program._tempers_alone

    assert program.take(torch.tensor([1, 1, 0])).cap[:, 0, 0, 5].tolist() == [-2, -2, float("inf")]
    one = program.take(torch.tensor([0]))
    assert one.repeated(4).cap[:, 0, 0, 3].tolist() == [-1] * 4
    wide = program.with_rows([0, 7])
    assert wide.cap[:, 0, :, 5].tolist() == [[float("inf")] * 2, [-2, float("inf")]]
    back = wide.at_rows(torch.tensor([0]), torch.tensor([0]), None)
    assert torch.equal(back.cap, program.cap)
    folded = program.folded(torch.tensor([[0, 1]]))
    assert folded.cap.shape == (1, 1, 2, 64)
    assert folded.cap[0, 0, :, 3].tolist() == [-1, float("inf")]
    assert program.to(torch.device("cpu")).cap is program.cap


@pytest.mark.usefixtures("capped")
@pytest.mark.parametrize("share_prefix", [True, False])
def test_it_acts(model: vp.Model, share_prefix: bool) -> None:
    last = {"first_block": -1}
    prompts = [
        vp.VisualPrompt(IMAGES[0], attention=(cap(-30.0, 9, **last),)),
        vp.VisualPrompt(IMAGES[0]),
        vp.VisualPrompt(IMAGES[1], attention=(cap(-30.0, 2, **last),)),
    ]
    block = model.num_blocks - 1
    read = model.encode(prompts, read=[block], share_prefix=share_prefix).attention[block]
    assert read[0, :, 9].max() < 1e-9
    assert read[1, :, 9].min() > 1e-4
    assert read[2, :, 2].max() < 1e-9
    apart = [model.encode([prompt], read=[block]).attention[block] for prompt in prompts]
    torch.testing.assert_close(read, torch.cat(apart))


def test_a_form_without_an_entry_is_an_error(model: vp.Model) -> None:
    with pytest.raises(vp.UnsupportedError, match=r"'cap'.*FORMS, which has temperature, bias, target_mass, gain"):
        compile_programs(model.tower, [(cap(-1.0),)], [64])
    assert form_named("gain").needs_reference


def test_every_form_has_a_field_of_the_edit_and_tensors_of_the_program() -> None:
    edits = {"bias": np.ones(4), "target_mass": 0.5, "temperature": 2.0, "gain": 1.0}
    assert set(edits) == set(FORMS) == {tensor.form for tensor in site_tensors(SiteProgram).values()} - {""}
    for name, value in edits.items():
        extra = {"weights": np.ones(4)} if name == "target_mass" else {}
        assert AttentionEdit(**{name: value}, **extra).form == name
