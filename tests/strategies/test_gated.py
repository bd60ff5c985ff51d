"""`gated` and `vpt`: what they put into a model, and when they are one another or nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import visprompt as vp
from visprompt.testing import conformance, tiny_model

IMAGES = [vp.Request(conformance.image(wh)) for wh in conformance.IMAGES]


def wrapped(name: str = "timm-vit-mean") -> vp.Model:
    return conformance.wrapped(name)[1]  # type: ignore[no-any-return]


def built(name: str, model: vp.Model, seed: int = 0, **options: Any) -> Any:
    prompter: Any = vp.Prompter.from_name(name, **options)
    prompter.build(model, seed)
    return prompter


@torch.no_grad()
def encoded(model: vp.Model, prompter: vp.Prompter | None) -> Tensor:
    return vp.Runner(model, prompter).encode(IMAGES)


# -- what is made -----------------------------------------------------------------------------------------------------


def test_initialisation() -> None:
    """Uniform in ± sqrt(6 / (3 p² + d)), gates at sigmoid(−γ), temperatures 1; a seed means the same numbers."""
    model = wrapped()
    blocks = len(model.tower.blocks)
    one = built("gated", model, prompts=400, gamma=5.0)
    tensors = one.tensors()
    side = model.module.patch_embed.patch_size[0]  # type: ignore[union-attr, index]
    span = math.sqrt(6 / (3 * side**2 + 32))
    assert tensors["tokens"].shape == (1, 400, 32)
    assert 0.98 * span < tensors["tokens"].abs().max() <= span
    assert abs(tensors["tokens"].mean()) < 0.03 * span
    assert torch.equal(tensors["gate_logits"], torch.full((blocks - 1,), -5.0))
    assert torch.equal(tensors["temperatures"], torch.ones(blocks))
    assert torch.equal(built("gated", model, prompts=400).tensors()["tokens"], tensors["tokens"])
    assert not torch.equal(built("gated", model, seed=1, prompts=400).tensors()["tokens"], tensors["tokens"])


def test_paper_preset_is_the_authors_setting() -> None:
    options = vp.Prompter.from_name("gated", preset="paper").options
    assert (options.prompts, options.gamma, options.dropout) == (100, 5.0, 0.1)
    assert (options.gates, options.shaping) == (True, True)


@pytest.mark.parametrize(("first_block", "shapes"), [(0, (4, 3, 4)), (2, (2, 1, 4)), (-1, (1, 0, 4)), (0.5, (2, 1, 4))])
def test_numbers_of_tensors_follow_the_first_block(first_block: Any, shapes: tuple[int, int, int]) -> None:
    model = wrapped()
    deep = built("vpt", model, prompts=2, deep=True, first_block=first_block).tensors()
    gated = built("gated", model, prompts=2, first_block=first_block).tensors()
    found = (deep["tokens"].shape[0], gated["gate_logits"].shape[0], gated["temperatures"].shape[0])
    assert found == shapes
    assert torch.isfinite(encoded(model, built("gated", model, prompts=2, first_block=first_block))).all()


# -- what they are equal to -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timm-vit-mean", "transformers-vit-mae", "transformers-clip", "open-clip-vit"])
def test_open_gates_without_shaping_are_vpt_shallow(name: str) -> None:
    model = wrapped(name)
    gated, vpt = built("gated", model, prompts=3), built("vpt", model, prompts=3)
    tensors = gated.tensors()
    tensors["gate_logits"].data.fill_(60.0)  # sigmoid(60) is 1 in float32
    assert tensors["gate_logits"].sigmoid().eq(1).all()
    torch.testing.assert_close(encoded(model, gated), encoded(model, vpt), atol=1e-6, rtol=1e-6)
    bare = built("gated", model, preset="ungated", prompts=3)
    assert torch.equal(encoded(model, bare), encoded(model, vpt))
    tensors["gate_logits"].data.fill_(-5.0)
    assert (encoded(model, gated) - encoded(model, vpt)).abs().max() > 1e-4


def test_gates_and_shaping_each_make_a_difference() -> None:
    model = wrapped()
    results = []
    for gates in (True, False):
        for shaping in (True, False):
            prompter = built("gated", model, prompts=3, gates=gates, shaping=shaping)
            assert ("gate_logits" in prompter.tensors(), "temperatures" in prompter.tensors()) == (gates, shaping)
            if shaping:
                prompter.tensors()["temperatures"].data.fill_(0.5)
            results.append(encoded(model, prompter))
    assert all((a - b).abs().max() > 1e-4 for i, a in enumerate(results) for b in results[:i])


def test_without_prompts_shaping_alone_is_left() -> None:
    model = wrapped()
    prompter = built("gated", model, prompts=0)
    assert sorted(prompter.tensors()) == ["temperatures", "tokens"]
    prompter.tensors()["temperatures"].data.fill_(0.5)
    assert (encoded(model, prompter) - encoded(model, None)).abs().max() > 1e-4


# -- training ---------------------------------------------------------------------------------------------------------


def test_temperatures_are_kept_in_range() -> None:
    prompter = built("gated", wrapped())
    prompter.tensors()["temperatures"].data[:2] = torch.tensor([-3.0, 40.0])
    prompter.constrain()
    assert prompter.tensors()["temperatures"][:2].tolist() == pytest.approx([0.01, 10.0])


def test_dropout_is_drawn_per_image_and_only_in_training() -> None:
    model = wrapped()
    prompter = built("gated", model, prompts=200, dropout=0.3)
    plain = [unit for item in IMAGES for unit in item.units()]
    first = [prompt.tokens.tokens for prompt in prompter.training_edit(plain, model, [1, 2, 1])]
    own = prompter.tensors()["tokens"]
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    dropped = first[0] == 0
    assert 0.25 < float(dropped.float().mean()) < 0.35
    torch.testing.assert_close(first[0][~dropped], own[~dropped] / 0.7)
    for prompt in (*prompter.training_edit(plain, model, None), *prompter.edit_all(plain, model)):
        assert torch.equal(prompt.tokens.tokens, own)


def test_gradients_reach_every_number_in_training_and_none_in_use() -> None:
    model = wrapped()
    prompter = built("gated", model, prompts=3, dropout=0.0)
    pixels = torch.randn(1, 3, *model.parts.reader.preprocess(IMAGES[0].image).shape[1:])
    (prompt,) = prompter.training_edit(IMAGES[0].units(), model, [0])
    with model.prompting([prompt]) as encode:
        encode(pixels).embeddings.square().sum().backward()
    for name, item in prompter.tensors().items():
        assert item.grad is not None, name
        assert item.grad.abs().max() > 0, name
    assert not prompter.edit(IMAGES[0].units()[0], model).tokens.tokens.requires_grad


# -- what can be looked at --------------------------------------------------------------------------------------------


def test_selection_is_the_share_of_every_block() -> None:
    """By hand: what block l weighs in the prompts that the last block gets; the shares add up to 1."""
    model = wrapped()
    prompter = built("gated", model, prompts=2)
    logits = torch.tensor([0.3, -1.0, 2.0])
    prompter.tensors()["gate_logits"].data.copy_(logits)
    gates = logits.sigmoid()
    share = torch.tensor([1.0, 0, 0, 0])  # the tokens themselves, then blocks 0, 1, 2
    for block, gate in enumerate(gates):
        share = share * (1 - gate)
        share[block + 1] += gate
    rows = {row["block"]: row for row in prompter.blocks_table()}
    assert [rows[block]["selection"] for block in (-1, 0, 1, 2)] == pytest.approx(share.tolist())
    assert sum(row["selection"] or 0 for row in rows.values()) == pytest.approx(1)
    assert rows[3]["gate"] is None
    assert rows[0]["temperature"] == 1.0
    assert rows[0]["tokens"] > 0


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": -1}, "prompts is a number of tokens"),
        ({"prompts": 2.5}, "prompts is a number of tokens"),
        ({"dropout": 1.0}, "dropout is a share"),
        ({"pool": "all"}, "pool is"),
        ({"gamma": math.nan}, "gamma is a finite number"),
        ({"gates": "yes"}, "gates is True or False"),
        ({"first_block": "first"}, "a block is a number"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(vp.InvalidInputError, match=message):
        vp.Prompter.from_name("gated", **options)


def test_untrained_says_what_to_do() -> None:
    with pytest.raises(vp.InvalidInputError, match=r"learned nothing yet: prompter\.fit"):
        vp.Runner(wrapped(), vp.Prompter.from_name("gated")).encode(IMAGES)


def test_another_backbone_is_refused_with_the_difference() -> None:
    prompter = built("gated", wrapped())
    same = tiny_model("timm-vit-mean")
    with torch.no_grad():  # hardly longer, and yet others: as after a little fine-tuning
        for item in same.module.blocks.parameters():  # type: ignore[union-attr]
            item.add_(0.1 * item.std().nan_to_num() * torch.randn_like(item))
    other = vp.wrap(same.module, same.processor, same.tokenizer)
    with pytest.raises(vp.UnsupportedError, match="same shape, but other weights"):
        vp.Runner(other, prompter).encode(IMAGES)
    deeper = wrapped("open-clip-resnet")
    with pytest.raises(vp.UnsupportedError, match="work on it"):
        vp.Runner(deeper, prompter).encode(IMAGES)


def test_the_same_backbone_in_half_precision_is_the_same() -> None:
    prompter = built("gated", wrapped())
    half = tiny_model("timm-vit-mean")
    model = vp.wrap(half.module.to(torch.bfloat16), half.processor, half.tokenizer)
    found = encoded(model, prompter).float()
    similarity = torch.cosine_similarity(found, encoded(wrapped(), prompter), dim=1)
    assert (similarity > 0.98).all()


def test_two_strategies_with_tokens_do_not_compose() -> None:
    model = wrapped()
    with pytest.raises(vp.InvalidInputError, match="has some already"):
        vp.Runner(model, built("vpt", model) + built("gated", model)).encode(IMAGES)


def test_it_composes_with_what_acts_elsewhere() -> None:
    model = wrapped()
    gated = built("gated", model, prompts=3)
    item = vp.Request(IMAGES[0].image, region=vp.Box(14, 20, 50, 62))
    alone = vp.Runner(model, gated).encode(item)
    joined = vp.Runner(model, vp.Prompter.from_name("circle") + gated + vp.Prompter.from_name("falip")).encode(item)
    assert (alone - joined).abs().max() > 1e-4
