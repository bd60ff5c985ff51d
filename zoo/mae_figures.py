"""``python -m zoo.mae_figures``: the figures of the masked auto-encoder's card, and the image of its reconstructions.

A linear probe per downstream set (`visprompt.data.scenes.downstream`): standardised features of a frozen encoder and a
softmax classifier, fitted to the 800 training images; the weight decay is chosen on the 200 validation images. Whole
images are represented by the mean over patches. For segmentation every patch is classified, fitted to the fractions of
the classes in it, and the logits are upsampled bilinearly to pixels. The bundled encoder is compared with an untrained
one and with the tower of scenes-clip, which was trained with captions.
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
    """An encoder that gives the patch rows of a ``ViTMAEModel`` without masking: ``(n, 3, 64, 64)`` to ``(n, 64,
    128)``.
    """
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
    """A downstream set as tensors.

    Args:
        name: of the set.
        split: "train", "validation" or "test".

    Returns:
        Images uint8 ``(n, 64, 64, 3)``, labels ``(n,)`` or ``(n, 64, 64)``, and the number of classes.
    """
    data = downstream(name, split)
    images = np.stack([np.asarray(data.image(i)) for i in range(len(data))])
    labels = np.stack([np.asarray(data.label(i)) for i in range(len(data))])
    return torch.from_numpy(images), torch.from_numpy(labels), len(data.classes)


@torch.no_grad()
def read(encoder: Encoder, images: Tensor, pooled: bool) -> Tensor:
    """Features of images.

    Args:
        encoder: gives patch rows.
        images: uint8 ``(n, 64, 64, 3)``.
        pooled: average over patches.

    Returns:
        ``(n, 128)`` if pooled, else ``(n, 64, 128)``.
    """
    rows = torch.cat([encoder(normalised(part, torch.float32)) for part in images.split(250)])
    return rows.mean(1) if pooled else rows


def fit(features: Tensor, decay: float, score: Callable[[Tensor], Tensor], classes: int) -> Tensor:
    """Fits a linear classifier by L-BFGS: minimises ``score(logits)`` + decay · |weights|².

    Args:
        features: ``(n, width)``.
        decay: weight decay.
        score: loss of logits ``(n, classes)``.
        classes: number of classes.

    Returns:
        Weights and bias, ``(width + 1, classes)``.
    """
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
    """Applies a linear classifier.

    Args:
        weights: weights and bias `(width + 1, classes)`, from `fit`.
        features: `(…, width)`.

    Returns:
        Logits `(…, classes)`.
    """
    return features @ weights[:-1] + weights[-1]


def enlarged(logits: Tensor) -> Tensor:
    """Upsamples logits per patch ``(n, 64, classes)`` to logits per pixel ``(n, classes, 64, 64)``."""
    grid = logits.movedim(-1, 1).unflatten(2, (GRID, GRID))
    return F.interpolate(grid, scale_factor=64 // GRID, mode="bilinear", align_corners=False)


def shares(labels: Tensor, classes: int) -> Tensor:
    """The fraction of every class in every patch.

    Args:
        labels: `(n, 64, 64)`.
        classes: number of classes.

    Returns:
        float `(n, 64, classes)`.
    """
    tiles = labels.long().unflatten(1, (GRID, -1)).unflatten(3, (GRID, -1)).transpose(2, 3).flatten(3).flatten(1, 2)
    return F.one_hot(tiles, classes).float().mean(2)


def counts(guess: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Pixels in the intersection and union of prediction and label, per image and class.

    Args:
        guess: predicted classes ``(n, h, w)``.
        truth: labels ``(n, h, w)``.
        classes: number of classes.

    Returns:
        float64 ``(n, 2, classes)``.
    """
    found, labelled = (F.one_hot(part.long(), classes).bool() for part in (guess, truth))
    return torch.stack([(found & labelled).sum((1, 2)), (found | labelled).sum((1, 2))], dim=1).double()


def mean_iou(tally: Tensor) -> float:
    """Mean intersection over union, from `counts` summed over all images."""
    both, either = tally.sum(0)
    return float((both / either.clamp_min(1)).mean())


def probe(encoder: Encoder, name: str) -> tuple[float, float, float, int]:
    """Fits and measures a linear probe.

    Args:
        encoder: gives patch rows.
        name: of the downstream set.

    Returns:
        Accuracy (segmentation: mean intersection over union) on the test split, its 95 % interval, and n.
    """
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
    """A sheet of the first test scenes, one column each: original, visible patches, and reconstruction.

    The model predicts normalised patches (`zoo.mae_train.patch_statistics`), without mean and contrast; these are taken
    from the original.

    Args:
        n: number of scenes.
        scale: integer factor of enlargement.
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
    """Prints the table, and writes the image if requested.

    Args:
        arguments: the command line; None: that of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m zoo.mae_figures", description="Measure the bundled auto-encoder.")
    parser.add_argument("--image", type=Path, help="also write reconstructions to this PNG file")
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
