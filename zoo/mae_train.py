"""Trains the bundled masked auto-encoder: seeded, resumable after a kill, two threads, a log line every 50 steps.

The paper: He et al., Masked Autoencoders Are Scalable Vision Learners, https://arxiv.org/abs/2111.06377. Most patches
of an image are masked, the encoder gets the others, and a small decoder reconstructs the masked ones. Only pixels are
used: objects, masks and captions of the scenes are dropped before.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visprompt.data.scenes.world import scene
from zoo.samples import IMAGE_PX, PATCH_PX
from zoo.shared import Log, batches, cosine_lr, decay_groups, keep, normalised, position_waves

EDGE = 1.5  # initial scale of the patch filters' deviation from their mean (edges) relative to the mean (colour)
N_PATCHES = (IMAGE_PX // PATCH_PX) ** 2


@dataclass(frozen=True)
class MaeRecipe:
    """The masked auto-encoder's schedule.

    Attributes:
        steps: optimiser steps; the learning rate falls to zero along a cosine over exactly these.
        mask_ratio: fraction of the patches that are masked.
        crops: fraction of images that are an enlarged random part of a scene.
        target_floor: added to a patch's variance when the target is normalised, in units of the normalised input.
    """

    name: str = "scenes-mae"
    steps: int = 4000
    batch_size: int = 128
    mask_ratio: float = 0.6
    crops: float = 0.3
    target_floor: float = 0.05
    peak_lr: float = 1.5e-3
    warmup_steps: int = 200
    weight_decay: float = 0.05
    seed: int = 5
    checkpoint_every: int = 200

    def lr(self, step: int) -> float:
        """Learning rate at a step: linear warm-up, then a cosine to zero."""
        return cosine_lr(step, self.steps, self.peak_lr, self.warmup_steps)


MAE_RECIPES: dict[str, MaeRecipe] = {"scenes-mae": MaeRecipe()}


def new_mae(mask_ratio: float = 0.6) -> Any:
    """The untrained ``ViTMAEForPreTraining``: a tower like that of scenes-clip, a decoder of 2 blocks of width 96."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    config = ViTMAEConfig(
        hidden_size=128,
        intermediate_size=512,
        num_attention_heads=4,
        num_hidden_layers=6,
        image_size=IMAGE_PX,
        patch_size=PATCH_PX,
        decoder_hidden_size=96,
        decoder_intermediate_size=384,
        decoder_num_attention_heads=4,
        decoder_num_hidden_layers=2,
        mask_ratio=mask_ratio,
        norm_pix_loss=True,
        attn_implementation="eager",  # the backward of the fused CPU kernel takes half of a step
    )
    model = ViTMAEForPreTraining(config)
    _start_with_places(model)
    return model


@torch.no_grad()
def _start_with_places(model: Any) -> None:
    """Writes the fixed position embeddings, and initialises patch filters that respond to edges as well as to colours.

    transformers (5.23) leaves both tables of fixed positions at zero in a model that is not loaded from a checkpoint.
    Linear layers are initialised as in the paper.
    """
    embeddings, decoder = model.vit.embeddings, model.decoder
    side = IMAGE_PX // PATCH_PX
    for table in (embeddings.position_embeddings, decoder.decoder_pos_embed):
        table.zero_()
        table[0, 1:] = position_waves(side, table.shape[-1])
    for part in model.modules():
        if isinstance(part, torch.nn.Linear):
            torch.nn.init.xavier_uniform_(part.weight)
    kernel = embeddings.patch_embeddings.projection.weight
    torch.nn.init.xavier_uniform_(kernel.view(len(kernel), -1))
    mean = kernel.mean(dim=(2, 3), keepdim=True)
    kernel.copy_(EDGE * (kernel - mean) + mean)
    for token in (embeddings.cls_token, decoder.mask_token):
        token.normal_(std=0.02)


def images(recipe: MaeRecipe, step: int) -> NDArray[np.uint8]:
    """Creates the images of one step: a function of recipe and step alone.

    Args:
        recipe: the schedule.
        step: number of the step.

    Returns:
        uint8 ``(batch_size, 64, 64, 3)``.
    """
    size = recipe.batch_size
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([recipe.seed, step])))
    made = []
    for index in range(step * size, (step + 1) * size):
        kind: Literal["any", "hard", "position"] = ("any", "any", "hard", "position")[int(rng.integers(4))]  # type: ignore[assignment]
        image = scene(recipe.seed, "train", kind=kind, index=index).image
        made.append(_cropped(rng, image) if rng.random() < recipe.crops else image)
    return np.stack(made)


def _cropped(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    side = int(rng.integers(IMAGE_PX // 2, IMAGE_PX))
    x, y = (int(rng.integers(IMAGE_PX - side + 1)) for _ in range(2))
    part = image[y : y + side, x : x + side]
    return np.asarray(cv2.resize(part, (IMAGE_PX, IMAGE_PX), interpolation=cv2.INTER_LINEAR), np.uint8)


class Steps(torch.utils.data.Dataset[Tensor]):
    """The images of every step number; used in the loader's own process."""

    def __init__(self, recipe: MaeRecipe) -> None:
        self.recipe = recipe

    def __len__(self) -> int:
        return self.recipe.steps

    def __getitem__(self, step: int) -> Tensor:
        return torch.from_numpy(images(self.recipe, step))


def patch_statistics(patches: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Mean of every patch, and sqrt(variance + ``floor``), with which its target is normalised.

    The floor keeps the grain of flat background from being scaled to full contrast.

    Args:
        patches: ``(n, 64, 192)``.
        floor: as `MaeRecipe.target_floor`.

    Returns:
        Two tensors ``(n, 64, 1)``.
    """
    return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + floor).sqrt()


def reconstruction_loss(painted: Tensor, patches: Tensor, mask: Tensor, floor: float) -> Tensor:
    """Mean squared error over the masked patches, with normalised targets.

    Args:
        painted: prediction of the decoder, ``(n, 64, 192)``.
        patches: the normalised input as patches, ``(n, 64, 192)``.
        mask: ``(n, 64)``, 1 for masked patches.
        floor: as `MaeRecipe.target_floor`.

    Returns:
        A scalar.
    """
    middle, spread = patch_statistics(patches, floor)
    error = (painted.float() - (patches - middle) / spread).square().mean(-1)
    return (error * mask).sum() / mask.sum()


def train_mae(
    recipe: MaeRecipe, out: Path, dtype: torch.dtype = torch.bfloat16, threads: int = 2, stop_at: int | None = None
) -> Path:
    """Trains the auto-encoder, or resumes from the last checkpoint.

    Args:
        recipe: the schedule.
        out: folder for ``<name>.pt`` (checkpoint) and ``<name>.jsonl`` (log).
        dtype: of the forward and backward pass; weights and optimiser stay float32.
        threads: of the training process; one more process creates the images.
        stop_at: stop after this step, as a kill would (for tests); the schedule is unchanged.

    Returns:
        The checkpoint's path.
    """
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, log_path = out / f"{recipe.name}.pt", out / f"{recipe.name}.jsonl"
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    model = new_mae(recipe.mask_ratio).train()
    learnt = {name: value for name, value in model.named_parameters() if value.requires_grad}
    groups = decay_groups(learnt, recipe.weight_decay, lambda n, p: p.ndim < 2 or "token" in n)
    optimiser = torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=(0.9, 0.95), fused=True)
    step = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        step = saved["step"]
    loader = batches(Steps(recipe), step, recipe.steps if stop_at is None else stop_at)
    log = Log(log_path, recipe.steps, step, {"loss": 4, "grad": 3})
    draws = torch.Generator()
    for images in loader:
        draws.manual_seed(recipe.seed * 1_000_003 + step)
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr(step)
        pixels = normalised(images, torch.float32)
        noise = torch.rand(len(pixels), N_PATCHES, generator=draws)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            seen = model.vit(pixels, noise=noise)
            painted = model.decoder(seen.last_hidden_state, seen.ids_restore).logits
        loss = reconstruction_loss(painted, model.patchify(pixels), seen.mask, recipe.target_floor)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(learnt.values(), 1.0)
        optimiser.step()
        log.add(torch.stack([loss.detach(), norm]))
        step += 1
        if step % log.EVERY == 0:
            log.write(log.line(step, recipe.lr(step)))
        if step % recipe.checkpoint_every == 0 or step == recipe.steps:
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
            keep(checkpoint, state)
    return checkpoint
