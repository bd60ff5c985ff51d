"""Unleash: what it asks of the model, that it does nothing with nothing to amplify, and that it needs a prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import visprompt as vp
from visprompt.testing import conformance

MODEL = "transformers-clip"


def model() -> Any:
    return conformance.wrapped(MODEL)[1]


def request() -> vp.Request:
    return conformance.requests()[0]


def encoded(name: str, **options: Any) -> torch.Tensor:
    with torch.no_grad():
        return vp.Runner(model(), vp.Prompter.from_name(name, **options)).encode(request())


def test_the_edit_holds_the_options_and_the_image_without_the_prompt() -> None:
    item = request()
    prompter = vp.Prompter.from_name("circle+unleash", gain=0.5, first_block=1, last_block=2, heads=[0], responsive=0.1)
    (prompt,) = prompter.prompt(item, model())
    (edit,) = prompt.attention
    assert (edit.gain, edit.first_block, edit.last_block, edit.heads, edit.responsive) == (0.5, 1, 2, (0,), 0.1)
    assert edit.tower == "vision"
    assert prompt.reference is item.image
    assert prompt.image is not item.image
    assert prompt.label == "circle+unleash"


def test_it_changes_the_embedding_with_the_gain() -> None:
    plain, half, whole = encoded("circle"), encoded("circle+unleash", gain=0.5), encoded("circle+unleash", gain=1.0)
    moved = [float((one - plain).norm()) for one in (half, whole)]
    assert 0 < moved[0] < moved[1]


def test_no_head_is_amplified_that_moves_too_little() -> None:
    assert torch.allclose(encoded("circle+unleash", responsive=1e6), encoded("circle"), atol=1e-6)
    assert torch.allclose(encoded("circle+unleash", responsive=0.0), encoded("circle+unleash"), atol=1e-6)


def test_gain_0_is_the_prompt_alone() -> None:
    assert torch.equal(encoded("circle+unleash", gain=0.0), encoded("circle"))


def test_alone_it_says_what_to_put_before_it() -> None:
    with pytest.raises(vp.InvalidInputError, match="'circle\\+unleash' or 'falip\\+unleash'"):
        encoded("unleash")


def test_checks_put_it_behind_what_it_names() -> None:
    assert conformance.recipe("unleash") == ("circle", "circle+unleash")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gain": "a"}, "finite number"),
        ({"gain": float("nan")}, "finite number"),
        ({"responsive": -0.1}, "0 or more"),
        ({"heads": []}, "one or more head numbers"),
        ({"first_block": "last"}, "block"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(vp.InvalidInputError, match=message):
        vp.Prompter.from_name("unleash", **options)
