"""Training prompts under bfloat16 autocast and on bfloat16 weights: learned tensors stay float32."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import visprompt as vp
from visprompt.testing.conformance import image
from visprompt.testing.tiny import tiny
from visprompt.training.gradient_checkpointing import checkpointed

NAMES = ["transformers-vit", "transformers-vit-mae", "transformers-beit", "open-clip-vit", "timm-vit", "timm-beit"]
IMAGE = image((96, 96))
CLASSES = 3


class Task:
    """Four noisy images of three classes, a tiny frozen model, and its trained tensors."""

    def __init__(self, name: str, loaded: bool, deep: bool = False) -> None:
        made = tiny(name)
        made.module.requires_grad_(False)
        self.model = vp.wrap(made.module, made.processor, made.tokenizer)
        if loaded:
            made.module.to(torch.bfloat16)
        generator = torch.Generator().manual_seed(0)
        pixels = self.model.parts.reader.inputs([(IMAGE, "model")], self.model)["pixel_values"]
        self.pixels = torch.randn(4, *pixels.shape[1:], generator=generator)
        self.labels = torch.tensor([0, 1, 2, 1])
        blocks = len(self.model.tower.blocks)
        tokens = torch.randn(blocks if deep else 1, 3, 32, generator=generator)
        self.tokens = nn.Parameter(tokens)
        self.gates = None if deep else nn.Parameter(torch.zeros(blocks - 1))
        self.taus = [nn.Parameter(torch.tensor(1.2)) for _ in range(blocks)]
        self.head = torch.randn(CLASSES, 1, generator=generator)

    def learned(self) -> list[nn.Parameter]:
        return [item for item in (self.tokens, self.gates, *self.taus) if item is not None]

    def loss(self, autocast: bool) -> Tensor:
        """Runs the backward pass, too."""
        edits = tuple(
            vp.AttentionEdit(temperature=tau, rows="all", first_block=block, last_block=block)
            for block, tau in enumerate(self.taus)
        )
        given = vp.PromptTokens(self.tokens, gate_logits=self.gates)
        prompt = vp.VisualPrompt(IMAGE, tokens=given, attention=edits)
        with self.model.prompting([prompt] * 4) as encode:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                features = encode(self.pixels.to(self.model.dtype)).embeddings.float()
                # A head that is not learned: what falls is the prompts' doing.
                head = torch.linspace(-1, 1, features.shape[-1]) * self.head
                loss = F.cross_entropy(F.layer_norm(features, features.shape[-1:]) @ head.T.roll(1, 0), self.labels)
            loss.backward()
        return loss.detach()

    def slopes(self, autocast: bool) -> list[Tensor]:
        self.loss(autocast)
        found = [item.grad for item in self.learned()]
        assert all(item is not None and item.dtype == torch.float32 for item in found)
        return found  # type: ignore[return-value]


def similarity(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Cosine of the angle between two gradients."""
    one, other = (torch.cat([item.flatten() for item in items]) for items in (found, wanted))
    return float(F.cosine_similarity(one, other, dim=0))


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_float32(name: str, loaded: bool, deep: bool) -> None:
    wanted = Task(name, loaded=False, deep=deep).slopes(autocast=False)
    task = Task(name, loaded, deep)
    found = task.slopes(autocast=not loaded)
    assert all(item.dtype == torch.float32 for item in task.learned())
    assert similarity(found[:1], wanted[:1]) > 0.99
    assert similarity(found, wanted) > 0.99
    assert 0.9 < float(found[0].norm() / wanted[0].norm()) < 1.1


@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls(name: str, loaded: bool) -> None:
    task = Task(name, loaded)
    optimizer = torch.optim.Adam(task.learned(), lr=0.05)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        losses.append(float(task.loss(autocast=not loaded)))
        optimizer.step()
    assert losses[5] < losses[0]
    assert sum(later < earlier for earlier, later in pairwise(losses)) >= 4


@pytest.mark.parametrize("name", NAMES)
def test_under_gradient_checkpointing(name: str) -> None:
    """Gradient checkpointing runs blocks again under the same autocast."""
    wanted = Task(name, loaded=False).slopes(autocast=True)
    task = Task(name, loaded=False)
    with checkpointed(task.model):
        found = task.slopes(autocast=True)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
