"""A learned image: what is kept of it, and on which models it can be made."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import visprompt as vp
from visprompt.testing import conformance
from visprompt.training.patch.priors import Baked


def made(**options: Any) -> Any:
    return vp.Prompter.from_name("patch", **options)


def test_state_is_8_bits_of_what_the_prior_makes() -> None:
    prompter = made(pixels=9)
    assert prompter.state() == {}
    prompter.build(conformance.wrapped("timm-vit")[1])
    assert not isinstance(prompter.parameters, Baked)
    rgba = prompter.state()["prompt.rgba"]
    assert rgba.shape == (4, 9, 9)
    assert rgba.dtype == torch.uint8
    assert torch.equal(rgba, (prompter.parameters.patch() * 255).round().to(torch.uint8))
    assert np.array_equal(np.asarray(prompter.image()).transpose(2, 0, 1), rgba.numpy())
    assert np.allclose(prompter.array(), rgba.numpy() / 255)


def test_pixels_replace_the_prior() -> None:
    prompter = made()
    rgba = torch.arange(64, dtype=torch.uint8).reshape(4, 4, 4)
    prompter.load_state({"prompt.rgba": rgba})
    assert isinstance(prompter.parameters, Baked)
    assert torch.equal(prompter.state()["prompt.rgba"], rgba)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"prompt.rgba": torch.zeros((4, 3, 3))},
        {"prompt.rgba": torch.zeros((3, 3, 3), dtype=torch.uint8)},
        {"prompt.rgba": torch.zeros((4, 3, 2), dtype=torch.uint8)},
        {"prompt.rgba": torch.zeros((4, 0, 0), dtype=torch.uint8)},
        {"prompt.rgba": torch.zeros((4, 3, 3), dtype=torch.uint8), "prompt.more": torch.zeros(1)},
    ],
)
def test_other_tensors_are_refused(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(vp.InvalidInputError, match=r"a patch is one tensor, prompt\.rgba, uint8 \[4, r, r\]"):
        made().load_state(state)


def test_nothing_learned_has_no_image() -> None:
    with pytest.raises(vp.InvalidInputError, match=r"what ships for a model is prompter\.on\(model\)"):
        made().image()


def test_it_remembers_the_grid_of_its_model() -> None:
    model = conformance.wrapped("timm-vit")[1]
    prompter = made()
    prompter.build(model)
    assert prompter.backbone["grid_hw"] == list(model.geometry((64, 64)).tiles[0].grid_hw)
    assert prompter.backbone["name"] == model.name
    remote = vp.load_model("remote:some", base_url="http://127.0.0.1:9/v1")
    prompter.build(remote)
    assert prompter.backbone == {"name": remote.name, "class": type(remote).__name__, "backend": "remote"}


def test_switched_off_it_needs_nothing_learned() -> None:
    model = conformance.wrapped("timm-vit")[1]
    request = conformance.requests()[0]
    (prompt,) = made(opacity=0.0).prompt(request, model)
    assert prompt.image is request.pil_image
