"""``python -m zoo.mae_figures``: the figures of the masked auto-encoder's card, and the image of what it paints.

A linear probe per downstream set (`visprompt.data.scenes.downstream`): features of a frozen encoder, standardised,
and a softmax on them, fitted to the 800 training images; its weight decay is chosen on the 200 validation images,
not on the test split. Whole images are read as the mean over patches. Segments are read patch by patch, fitted
to the shares of the classes in each, and the scores enlarged bilinearly to pixels. Beside the bundled encoder stand its
untrained self and the tower of scenes-clip, which was trained with captions.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from visprompt import bundled
from visprompt.data.scenes.downstream import DOWNSTREAM, downstream
from visprompt.data.scenes.world import SPLITS, scenes
from visprompt.utils.statistics import wilson
from zoo.mae_export import with_decoder
from zoo.mae_train import MAE_RECIPES, N_PATCHES, new_mae, patch_statistics
from zoo.samples import GRID
from zoo.shared import MEAN, STD, normalised

DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)
Encoder = Callable[[Tensor], Tensor]


def mae_rows(encoder: Any) -> Encoder:
    """Patch rows of a ``ViTMAEModel`` that leaves nothing out: ``(n, 3, 64, 64)`` to ``(n, 64, 128)``."""
    encoder.config.mask_ratio = 0.0
    return lambda pixels: encoder(pixels, noise=torch.arange(N_PATCHES).float().expand(len(pixels), -1))[0][:, 1:]


def encoders() -> dict[str, Encoder]:
    """The encoders of the table, by name."""
    from transformers import CLIPModel, ViTMAEModel

    torch.manual_seed(0)
    ours = ViTMAEModel.from_pretrained(bundled.path("scenes-mae"), local_files_only=True, dtype=torch.float32)
    clip = CLIPModel.from_pretrained(bundled.path("scenes-clip"), local_files_only=True, dtype=torch.float32).eval()
    return {
        "untrained": mae_rows(new_mae().vit.eval()),
        "scenes-mae": mae_rows(ours.eval()),
        "scenes-clip's tower": lambda pixels: clip.vision_model(pixels).last_hidden_state[:, 1:],
    }


@cache
def tensors(name: str, split: str) -> tuple[Tensor, Tensor, int]:
    """Images uint8 ``(n, 64, 64, 3)``, labels ``(n,)`` or ``(n, 64, 64)``, and the number of classes."""
    data = downstream(name, split)
    images = np.stack([np.asarray(data.image(i)) for i in range(len(data))])
    labels = np.stack([np.asarray(data.label(i)) for i in range(len(data))])
    return torch.from_numpy(images), torch.from_numpy(labels), len(data.classes)


@torch.no_grad()
def read(encoder: Encoder, images: Tensor, pooled: bool) -> Tensor:
    """Features, ``(n, 128)`` or ``(n, 64, 128)``."""
    rows = torch.cat([encoder(normalised(part, torch.float32)) for part in images.split(250)])
    return rows.mean(1) if pooled else rows


def fit(features: Tensor, decay: float, score: Callable[[Tensor], Tensor], classes: int) -> Tensor:
    """Weights and bias ``(width + 1, classes)`` with the least ``score(logits)`` + decay · |weights|²."""
    weights = torch.zeros(features.shape[-1] + 1, classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=150, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = score(apply(weights, features)) + decay * weights[:-1].square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach()


def apply(weights: Tensor, features: Tensor) -> Tensor:
    """Logits."""
    return features @ weights[:-1] + weights[-1]


def enlarged(logits: Tensor) -> Tensor:
    """Scores per patch ``(n, 64, classes)`` to scores per pixel ``(n, classes, 64, 64)``."""
    grid = logits.movedim(-1, 1).unflatten(2, (GRID, GRID))
    return F.interpolate(grid, scale_factor=64 // GRID, mode="bilinear", align_corners=False)


def shares(labels: Tensor, classes: int) -> Tensor:
    """Share of every class in every patch, float ``(n, 64, classes)``, of labels ``(n, 64, 64)``."""
    tiles = labels.long().unflatten(1, (GRID, -1)).unflatten(3, (GRID, -1)).transpose(2, 3).flatten(3).flatten(1, 2)
    return F.one_hot(tiles, classes).float().mean(2)


def counts(guess: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Pixels of every image's intersections and unions: ``(n, 2, classes)``."""
    found, there = (F.one_hot(part.long(), classes).bool() for part in (guess, truth))
    return torch.stack([(found & there).sum((1, 2)), (found | there).sum((1, 2))], dim=1).double()


def mean_iou(tally: Tensor) -> float:
    """Mean intersection over union, over all images of `counts`."""
    both, either = tally.sum(0)
    return float((both / either.clamp_min(1)).mean())


def probe(encoder: Encoder, name: str) -> tuple[float, float, float, int]:
    """Accuracy (segments: mean intersection over union) on the test split, its 95 % interval, and n."""
    dense = name == "segment"
    images, labels, (classes, *_) = zip(*(tensors(name, split) for split in SPLITS), strict=True)
    rows = [read(encoder, part, not dense) for part in images]
    flat = rows[0].flatten(0, -2)
    middle, spread = flat.mean(0), flat.std(0) + 1e-6
    rows = [(part - middle) / spread for part in rows]
    target = shares(labels[0], classes).flatten(0, 1) if dense else labels[0]
    fitted = [
        fit(rows[0].flatten(0, -2), decay, lambda logits: F.cross_entropy(logits, target), classes) for decay in DECAYS
    ]

    def judged(weights: Tensor, split: int) -> Tensor:
        """Per image: right or wrong, or `counts`."""
        logits = apply(weights, rows[split])
        if not dense:
            return (logits.argmax(-1) == labels[split]).double()
        return counts(enlarged(logits).argmax(1), labels[split], classes)

    value = mean_iou if dense else lambda right: float(right.mean())
    chosen = max(fitted, key=lambda weights: value(judged(weights, 1)))
    found = judged(chosen, 2)
    if dense:
        draws = torch.Generator().manual_seed(0)
        again = [mean_iou(found[torch.randint(len(found), (len(found),), generator=draws)]) for _ in range(1000)]
        low, high = np.quantile(again, [0.025, 0.975])
    else:
        low, high = wilson(float(found.sum()), len(found))
    return value(found), float(low), float(high), len(found)


def painting(n: int = 6, scale: int = 3) -> Image.Image:
    """Original, what the encoder sees, and what the decoder paints, for the first test scenes, one column each.

    The model paints patches that are normalised (`zoo.mae_train.patch_statistics`): outlines and contrasts, but not the
    mean colour. For the image mean and contrast are taken from the original; a patch of background is grain.
    """
    made = torch.from_numpy(np.stack([one.image for one in scenes(n, "test", seed=4)]))
    pixels = normalised(made, torch.float32)
    model = with_decoder(bundled.path("scenes-mae"))
    noise = torch.rand(n, N_PATCHES, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = model(pixels, noise=noise)
    floor = MAE_RECIPES["scenes-mae"].target_floor
    patches = model.patchify(pixels)
    middle, spread = patch_statistics(patches, floor)
    left_out = out.mask[..., None].bool()
    grey = torch.zeros_like(patches)
    rows = [patches, torch.where(left_out, grey, patches), torch.where(left_out, out.logits * spread + middle, patches)]
    lines = [torch.cat(list(model.unpatchify(row)), dim=2) for row in rows]
    sheet = torch.cat(lines, dim=1).permute(1, 2, 0) * torch.tensor(STD) + torch.tensor(MEAN)
    image = Image.fromarray((sheet.clamp(0, 1) * 255).round().byte().numpy())
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def main(arguments: list[str] | None = None) -> None:
    """Print the table, and write the image if asked to."""
    parser = argparse.ArgumentParser(prog="python -m zoo.mae_figures", description="Measure the bundled auto-encoder.")
    parser.add_argument("--image", type=Path, help="also write what it paints to this PNG file")
    options = parser.parse_args(arguments)
    if options.image is not None:
        painting().save(options.image)
    table = {name: [probe(encoder, one) for one in DOWNSTREAM] for name, encoder in encoders().items()}
    print("| | " + " | ".join(DOWNSTREAM) + " |\n|" + "---|" * (len(DOWNSTREAM) + 1))
    for name, cells in table.items():
        print(
            f"| {name} | "
            + " | ".join(f"{100 * v:.1f} ({100 * a:.1f} to {100 * b:.1f})" for v, a, b, _ in cells)
            + " |"
        )
    print(f"n = {', '.join(str(cell[3]) for cell in table['untrained'])}")


if __name__ == "__main__":
    main()
