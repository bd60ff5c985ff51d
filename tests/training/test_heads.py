"""Heads against plain tensor code; each is made again from its description; float32 under autocast."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import visprompt as vp
from visprompt.errors import UnsupportedError
from visprompt.training.heads import Head, LinearHead, MlpHead, PupHead, ZeroShotHead, head_from, stages_for

HEADS: dict[str, Callable[[], Head]] = {
    "linear": lambda: LinearHead(12, 5),
    "linear, normed": lambda: LinearHead(12, 5, norm="layer"),
    "mlp": lambda: MlpHead(12, 5),
    "mlp, hidden": lambda: MlpHead(12, 5, hidden=7, norm="layer"),
    "zero-shot": lambda: ZeroShotHead(torch.randn(5, 12), 14.3, -1.5),
    "pup": lambda: PupHead(12, 5, channels=6),
    "pup, patch by patch": lambda: PupHead(12, 5, channels=6, stages=0),
}


@pytest.fixture(params=HEADS)
def head(request: pytest.FixtureRequest) -> Head:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return HEADS[request.param]()


def run(head: Head, features: Tensor) -> Tensor:
    if head.kind == "pup":
        return head(features[:, None].expand(-1, 12, -1), (3, 4), (24, 33))
    return head(features)


def test_made_again_from_its_description(head: Head) -> None:
    features = torch.randn(3, 12)
    again = head_from(json.loads(json.dumps(head.describe())))
    assert type(again) is type(head)
    again.load_state_dict(head.state_dict())
    assert torch.equal(run(again, features), run(head, features))
    assert again.describe() == head.describe()


def test_float32_under_autocast(head: Head) -> None:
    features = torch.randn(3, 12)
    wanted = run(head, features.bfloat16().float())
    with torch.autocast("cpu", torch.bfloat16):
        found = run(head, features.bfloat16())
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)
    assert all(item.dtype == torch.float32 for item in head.state_dict().values())


def test_drawn_with_a_generator() -> None:
    def drawn(seed: int) -> list[Tensor]:
        kinds: list[Callable[..., Head]] = [LinearHead, MlpHead, PupHead]
        heads = [kind(8, 3, generator=torch.Generator().manual_seed(seed)) for kind in kinds]
        return [item for head in heads for item in head.state_dict().values()]

    assert all(torch.equal(a, b) for a, b in zip(drawn(1), drawn(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(drawn(1), drawn(2), strict=True))


def test_linear() -> None:
    features = torch.randn(4, 12) * 0.01 + 3
    plain, normed = LinearHead(12, 5), LinearHead(12, 5, norm="layer")
    torch.testing.assert_close(plain(features), features @ plain.out.weight.T + plain.out.bias)
    centred = features - features.mean(dim=-1, keepdim=True)
    wanted = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() @ normed.out.weight.T
    torch.testing.assert_close(normed(features), wanted + normed.out.bias, atol=1e-5, rtol=1e-4)


def test_mlp() -> None:
    head, features = MlpHead(12, 5, hidden=7), torch.randn(4, 12)
    inner = features @ head.inner.weight.T + head.inner.bias
    gelu = 0.5 * inner * (1 + torch.erf(inner / math.sqrt(2)))
    torch.testing.assert_close(head(features), gelu @ head.out.weight.T + head.out.bias)


def test_zero_shot() -> None:
    texts, features = torch.randn(5, 12), torch.randn(4, 12)
    head = ZeroShotHead(texts, 14.3, -1.5)
    cosine = torch.stack([torch.stack([F.cosine_similarity(x, t, dim=0) for t in texts]) for x in features])
    torch.testing.assert_close(head(features), 14.3 * cosine - 1.5, atol=1e-5, rtol=1e-5)
    assert not list(head.parameters())


def test_pup() -> None:
    """Size, gradients to every weight, and that a patch speaks for its own place."""
    head = PupHead(12, 5, channels=6, stages=2, generator=torch.Generator().manual_seed(0))
    features = torch.randn(2, 12, 12, requires_grad=True)
    logits = head(features, (3, 4), (48, 64))
    assert logits.shape == (2, 5, 48, 64)
    logits.square().sum().backward()
    assert all(item.grad is not None and item.grad.ne(0).any() for item in head.parameters())
    flat = PupHead(12, 5, stages=0, generator=torch.Generator().manual_seed(0))
    base = torch.zeros(1, 12, 12)
    changed = base.clone()
    changed[0, 6] = torch.randn(12)  # row 1, column 2 of the grid
    moved = (flat(changed, (3, 4), (24, 32)) - flat(base, (3, 4), (24, 32))).abs().sum(dim=1)[0]
    assert divmod(int(moved.argmax()), 32) == pytest.approx((12, 20), abs=4)
    assert moved[:8, :12].max() == 0


@pytest.mark.parametrize("patch", [4, 7, 8, 14, 16, 28, 32])
def test_stages_reach_a_quarter_of_the_input(patch: int) -> None:
    assert patch / 2 ** stages_for(patch) <= 4
    assert stages_for(patch) == 1 or patch / 2 ** (stages_for(patch) - 1) > 4


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ({"kind": "linaer", "width": 1, "classes": 1}, vp.UnknownNameError, "linear"),
        ({"kind": "linear", "classes": 1}, vp.InvalidInputError, "width"),
        ({"kind": "linear", "width": 1, "classes": 1, "norm": "batch"}, vp.InvalidInputError, "norm"),
        ({}, vp.UnknownNameError, "head"),
    ],
)
def test_what_describes_no_head(content: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        head_from(content)


@pytest.mark.parametrize("head", [LinearHead(8, 3), MlpHead(8, 3), ZeroShotHead(torch.eye(3, 8), 1.0)])
def test_another_reading_of_the_same_tower_is_named(head: Any) -> None:
    """CLIP with its projection and without has the same blocks, so the backbone alone does not tell."""
    with pytest.raises(UnsupportedError, match="reads 8 numbers per image, and the model gives 6"):
        head(torch.zeros(2, 6))
