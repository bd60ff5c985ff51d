"""Visual prompt tuning: how many tokens are made, how they are drawn, and what they change."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import visprompt as vp
from visprompt.testing import conformance

MODEL = "timm-vit-mean"  # 4 blocks of width 32, patches of 8 pixels


def model() -> Any:
    return conformance.wrapped(MODEL)[1]


def built(**options: Any) -> Any:
    prompter: Any = vp.Prompter.from_name("vpt", **options)
    prompter.build(model(), seed=3)
    return prompter


def encoded(prompter: vp.Prompter | None) -> torch.Tensor:
    with torch.no_grad():
        return vp.Runner(model(), prompter).encode(conformance.requests())


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"prompts": 5}, (1, 5)),
        ({"prompts": 5, "deep": True}, (4, 5)),
        ({"prompts": 2, "deep": True, "first_block": 1}, (3, 2)),
        ({"prompts": 2, "deep": True, "first_block": 0.5}, (2, 2)),
        ({"prompts": 2, "deep": True, "first_block": -1}, (1, 2)),
        ({"prompts": 0}, (1, 0)),
    ],
)
def test_tokens_per_block(options: dict[str, Any], shape: tuple[int, int]) -> None:
    assert tuple(built(**options).state()["prompt.tokens"].shape) == (*shape, 32)


def test_tokens_are_drawn_uniformly_as_the_authors_do() -> None:
    tokens = built(prompts=400).state()["prompt.tokens"]
    side = conformance.wrapped(MODEL)[0].patch_size
    limit = math.sqrt(6 / (3 * side * side + tokens.shape[-1]))
    assert float(tokens.abs().max()) <= limit
    assert float(tokens.std()) == pytest.approx(limit / math.sqrt(3), rel=0.03)  # of a uniform distribution
    assert torch.equal(tokens, built(prompts=400).state()["prompt.tokens"])


def test_without_tokens_the_model_is_as_it_was() -> None:
    assert torch.equal(encoded(built(prompts=0)), encoded(None))
    assert not torch.equal(encoded(built(prompts=2)), encoded(None))


def test_deep_tokens_of_every_block_count() -> None:
    prompter = built(prompts=2, deep=True)
    before = encoded(prompter)
    tokens = dict(prompter.tensors())["tokens"]
    for block in range(len(tokens)):
        kept = tokens.detach().clone()
        tokens.data[block] += 0.5
        assert not torch.equal(encoded(prompter), before), f"the tokens of block {block} change nothing"
        tokens.data.copy_(kept)
    assert torch.equal(encoded(prompter), before)


def test_what_was_learned_by_block() -> None:
    prompter = built(prompts=3, deep=True, first_block=2)
    tokens = prompter.state()["prompt.tokens"]
    rows = prompter.blocks_table()
    assert [row["block"] for row in rows] == [0, 1, 2, 3]
    assert [row["tokens"] for row in rows[:2]] == [None, None]
    assert [row["tokens"] for row in rows[2:]] == pytest.approx([float(one.norm(dim=-1).mean()) for one in tokens])
    assert {row[name] for row in rows for name in ("gate", "temperature", "selection")} == {None}
    assert vp.Prompter.from_name("vpt").blocks_table() == []  # type: ignore[attr-defined]


def test_the_preset_for_a_head_alone_brings_no_tokens() -> None:
    kind: Any = type(vp.Prompter.from_name("vpt"))
    made = vp.Prompter.from_name("vpt", preset=kind.head_preset)
    assert made.options.prompts == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": -1}, "at least 0"),
        ({"prompts": True}, "number of tokens"),
        ({"dropout": 1.0}, "below 1"),
        ({"deep": 1}, "True or False"),
        ({"pool": "mean"}, "with_prompts"),
        ({"first_block": "last"}, "block"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(vp.InvalidInputError, match=message):
        vp.Prompter.from_name("vpt", **options)
