"""Settings of a training: what they cannot be is said before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from visprompt.errors import InvalidInputError
from visprompt.training.settings import FitSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("momentum", 1.0),  # torch's AdamW raises, its SGD adds up for ever
        ("momentum", -0.1),
        ("max_grad_norm", 0),  # nothing would be learned
        ("seed", 2**63),
        ("templates", 5),
        ("templates", None),
        ("templates", ()),
        ("templates", ("a photo",)),
        ("epochs", 0),
        ("batch_size", True),
        ("lr", float("nan")),
        ("precision", "bfloat16"),
    ],
)
def test_a_value_that_cannot_be_is_named(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=name):
        FitSettings(**{name: value})


def test_one_template_may_stand_alone() -> None:
    assert FitSettings(templates="a sketch of a {}").templates == ("a sketch of a {}",)  # type: ignore[arg-type]
    assert FitSettings(templates=["{}"]).templates == ("{}",)  # type: ignore[arg-type]
