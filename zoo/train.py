"""Trains one bundled CLIP model: seeded, resumable after a kill, two threads, a log line every 50 steps.

The annotated model starts from the default model's weights. Two measures, neither a visual prompt, make the CLS row
depend on what it reads in late blocks: the auxiliary patch loss (`zoo.objective`), and that in training CLS skips the
first 0 to 3 blocks at random for each image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.forward import encode_images, encode_texts
from zoo.objective import PatchNames, contrastive
from zoo.samples import Mixture, batch
from zoo.shared import Log, batches, cosine_lr, decay_groups, keep, normalised, position_waves
from zoo.text import BOS, EOS, MAX_TOKENS, PAD, VOCABULARY


@dataclass(frozen=True)
class Recipe:
    """One model's schedule.

    Attributes:
        steps: optimiser steps; the learning rate falls to zero along a cosine over exactly these.
        first: mixture at step 0.
        last: mixture after ``curriculum``; linear in between.
        curriculum: fraction of the steps over which the mixture changes.
        start_from: name of the model whose final weights are the initial ones.
    """

    name: str
    steps: int
    first: Mixture
    last: Mixture
    curriculum: float = 0.25
    batch_size: int = 128
    peak_lr: float = 1e-3
    warmup_steps: int = 150
    weight_decay: float = 0.05
    patch_loss: float = 0.3
    seed: int = 1
    start_from: str | None = None
    checkpoint_every: int = 200

    def mixture(self, step: int) -> Mixture:
        """Mixture of images at a step."""
        done = min(step / max(self.curriculum * self.steps, 1.0), 1.0)
        a, b = self.first, self.last
        fields = ("single", "zoom", "circled", "blurred")
        return Mixture(**{f: (1 - done) * getattr(a, f) + done * getattr(b, f) for f in fields})

    def lr(self, step: int) -> float:
        """Learning rate at a step: linear warm-up, then a cosine to zero."""
        return cosine_lr(step, self.steps, self.peak_lr, self.warmup_steps)


RECIPES: dict[str, Recipe] = {
    "scenes-clip": Recipe(
        name="scenes-clip",
        steps=6000,
        first=Mixture(single=0.7, zoom=0.15),
        last=Mixture(single=0.12, zoom=0.15),
    ),
    "scenes-clip-annotated": Recipe(
        name="scenes-clip-annotated",
        steps=1600,
        first=Mixture(single=0.10, zoom=0.12, circled=0.12, blurred=0.08),
        last=Mixture(single=0.10, zoom=0.12, circled=0.12, blurred=0.08),
        peak_lr=5e-4,
        warmup_steps=100,
        seed=2,
        start_from="scenes-clip",
    ),
}


def new_model() -> Any:
    """The untrained ``CLIPModel``: 64 px, patches of 8, width 128, 6 + 2 blocks, 4 heads, 128-d embeddings."""
    from transformers import CLIPConfig, CLIPModel

    shared = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "hidden_act": "gelu"}
    vision = {**shared, "num_hidden_layers": 6, "image_size": 64, "patch_size": 8}
    text = {**shared, "num_hidden_layers": 2, "vocab_size": len(VOCABULARY), "max_position_embeddings": MAX_TOKENS}
    ids = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
    vision["projection_dim"] = text["projection_dim"] = 128
    config = CLIPConfig(text_config={**text, **ids}, vision_config=vision, projection_dim=128)
    model = CLIPModel(config)
    _start_seeing_shapes(model.vision_model.embeddings)
    return model


@torch.no_grad()
def _start_seeing_shapes(embeddings: Any) -> None:
    """Initialises embeddings in which position and edges have the same scale as colour.

    With the library's own initialisation the mean colour of a patch dominates its position and edges; colours are then
    learned within minutes and shapes stay at chance for thousands of steps.
    """
    side = embeddings.image_size // embeddings.patch_size
    embeddings.position_embedding.weight[1:] = 0.5 * position_waves(side, embeddings.embed_dim)
    kernel = embeddings.patch_embedding.weight
    mean = kernel.mean(dim=(2, 3), keepdim=True)
    kernel.copy_(2.5 * (kernel - mean) + mean)


class Steps(torch.utils.data.Dataset[dict[str, Tensor]]):
    """One batch per step number; used in the loader's own process."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __len__(self) -> int:
        return self.recipe.steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        made = batch(self.recipe.seed, step, self.recipe.batch_size, self.recipe.mixture(step))
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in made.items()}


def _losses(
    model: Any, names: PatchNames, data: dict[str, Tensor], cls_from: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The contrastive loss of a batch, and the loss of the patch classification."""
    images, rows = encode_images(model, normalised(data["images"], dtype), cls_from)
    texts = encode_texts(model, data["tokens"], dtype)
    images, texts = (torch.nn.functional.normalize(t.float(), dim=-1) for t in (images, texts))
    logits = model.logit_scale.exp() * images @ texts.T
    return contrastive(logits, data["truth"], data["weight"]), names(rows, data["patch_labels"])


def _start(recipe: Recipe, out: Path) -> dict[str, Any] | None:
    """The recipe's own checkpoint, or that of the recipe it starts from; None: it starts from scratch.

    Raises:
        FileNotFoundError: the model to start from has not been trained.
    """
    checkpoint = out / f"{recipe.name}.pt"
    if not checkpoint.exists():
        if recipe.start_from is None:
            return None
        checkpoint = out / f"{recipe.start_from}.pt"
        if not checkpoint.exists():
            raise FileNotFoundError(
                f"{recipe.name} starts from {recipe.start_from}: train that first ({checkpoint} is missing)"
            )
    saved: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    return saved


def train(
    recipe: Recipe, out: Path, dtype: torch.dtype = torch.bfloat16, threads: int = 2, stop_at: int | None = None
) -> Path:
    """Trains a model, or resumes from the last checkpoint.

    Args:
        recipe: the schedule.
        out: folder for ``<name>.pt`` (checkpoint) and ``<name>.jsonl`` (log); must hold the checkpoint of
            ``start_from``.
        dtype: of the forward and backward pass; weights and optimiser stay float32.
        threads: of the training process; one more process creates the images.
        stop_at: stop after this step, as a kill would (for tests); the schedule is unchanged.

    Returns:
        The checkpoint's path.

    Raises:
        FileNotFoundError: the model to start from has not been trained.
    """
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, log_path = out / f"{recipe.name}.pt", out / f"{recipe.name}.jsonl"
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    model, names = new_model(), PatchNames(128, n_taps=3)
    parameters = {**dict(model.named_parameters()), **{f"names.{k}": v for k, v in names.named_parameters()}}
    groups = decay_groups(parameters, recipe.weight_decay, lambda n, p: p.ndim < 2 or "embedding" in n)
    optimiser = torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=(0.9, 0.98), fused=True)
    saved, step = _start(recipe, out), 0
    if checkpoint.exists():
        assert saved is not None
        optimiser.load_state_dict(saved["optimiser"])
        step = saved["step"]
    if saved is not None:
        model.load_state_dict(saved["model"])
        names.load_state_dict(saved["names"])
    loader = batches(Steps(recipe), step, recipe.steps if stop_at is None else stop_at)
    log = Log(log_path, recipe.steps, step, {"match": 4, "patches": 4, "grad": 3})
    draws = torch.Generator()
    for data in loader:
        draws.manual_seed(recipe.seed * 1_000_003 + step)
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr(step)
        cls_from = torch.randint(0, 4, (recipe.batch_size,), generator=draws)
        match, patches = _losses(model, names, data, cls_from, dtype)
        loss = match + recipe.patch_loss * patches
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), 1.0)
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0.0, math.log(100.0))
        log.add(torch.tensor([match.item(), patches.item(), float(norm)]))
        step += 1
        if step % log.EVERY == 0:
            log.write(log.line(step, recipe.lr(step), scale=round(model.logit_scale.exp().item(), 2)))
        if step % recipe.checkpoint_every == 0 or step == recipe.steps:
            state = {"model": model.state_dict(), "names": names.state_dict(), "optimiser": optimiser.state_dict()}
            keep(checkpoint, {**state, "step": step})
    return checkpoint
