"""Semantic segmentation: one class per pixel, from a decoder on the tuned tower's patch features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.models.identity import width_of
from visprompt.training.heads import Head, PupHead, stages_for
from visprompt.training.objectives.base import Batch, Split
from visprompt.training.objectives.encoder import EncoderObjective, adding_type
from visprompt.training.pixel_labels import labels_to_original

if TYPE_CHECKING:
    from visprompt.data.labelled.dataset import Labelled
    from visprompt.geometry.geometry import Tile
    from visprompt.learned.strategy import Learned
    from visprompt.models.base import Model
    from visprompt.training.settings import FitSettings

#: predicted class of pixels that the processor cropped away
UNSEEN = -1


class Segmentation(EncoderObjective):
    """Cross-entropy averaged over the labelled pixels of an image. Metrics: `loss`, `miou` (the mean intersection over
    union of the classes that occur or are predicted, from one confusion matrix over all images), `pixel_accuracy`.

    The loss is computed in pixels of the model's input, the metrics in pixels of the original image; pixels that the
    processor crops away count as wrong. `settings.head`: None for progressive upsampling (`PupHead`), `"linear"` for a
    linear classifier on every patch.

    Raises:
        InvalidInputError: for a head that gives one class per image.
        UnsupportedError: for a model without blocks that visprompt knows.
    """

    metric: ClassVar[str] = "miou"
    higher_is_better: ClassVar[bool] = True
    dense = True

    def __init__(self, model: Model, prompter: Learned, splits: dict[Split, Labelled], settings: FitSettings) -> None:
        super().__init__(model, prompter, splits, settings)
        if settings.head not in (None, "linear"):
            raise InvalidInputError(
                f"head={settings.head!r} gives one class per image, and these data have one per pixel: leave it out "
                '(progressive upsampling), or take "linear".'
            )
        if model.parts.tower is None:
            raise UnsupportedError(f"{model.name} has no blocks that visprompt knows, so no features of patches.")
        tile = model.geometry((224, 224), settings.fit).tiles[0]
        stages = 0 if settings.head == "linear" else stages_for(max(tile.patch_hw))
        self.head: Head = PupHead(width_of(model.tower), len(self.data.classes), stages=stages)
        self.ignore = -100 if self.data.ignore_index is None else self.data.ignore_index

    def samples(self, split: Split) -> torch.utils.data.Dataset[Any]:
        """The images of a split; except in training, with their mask in pixels of the original image."""
        images = super().samples(split)
        return images if split == "train" else WithOriginals(images, self.splits[split])

    def collate(self, samples: Sequence[Any]) -> Batch | None:
        """A batch; `"original"` lists the masks `[H, W]` in pixels of the original images, if the samples have them."""
        readable = [item for item in samples if item is not None]
        originals = [item["original"] for item in readable if "original" in item]
        batch = super().collate([{name: item[name] for name in item if name != "original"} for item in readable])
        return batch if batch is None or not originals else {**batch, "original": originals}

    @contextmanager
    def loss(self, batch: Batch, draws: Sequence[int] | None) -> Iterator[Tensor]:
        """The cross-entropy, summed over the images; see `Objective.loss`."""
        with self.encoded(batch, draws) as encoding:
            yield self._cross_entropy(self._logits(batch, encoding.features), batch["label"])

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Number of images, summed loss, and the confusion matrix over pixels."""
        with self.encoded(batch, None) as encoding:
            features = encoding.features
        assert features is not None
        label: Tensor = batch["label"]
        classes = len(self.data.classes)
        loss = torch.zeros((), device=label.device, dtype=adding_type(label.device))
        counted = np.zeros((classes, classes + 1), dtype=np.int64)
        for i in range(len(label)):  # one image at a time: the logits of 150 classes in full size take 30 MB
            logits = self._logits(batch, features[i : i + 1])
            loss += self._cross_entropy(logits, label[i : i + 1])
            if "original" in batch:
                mask: np.ndarray = batch["original"][i]
                found = self._in_original(logits[0], mask)
            else:
                mask, found = label[i].cpu().numpy(), logits[0].argmax(dim=0).cpu().numpy()
            counted += confusion(found, mask, classes, self.ignore)
        return {
            "count": torch.tensor(len(label), device=label.device),
            "loss": loss,
            "confusion": torch.as_tensor(counted, device=label.device),
        }

    def figures(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """`loss`, `miou` and `pixel_accuracy`."""
        found = segmentation_figures(sums["confusion"].cpu().numpy())
        return {"loss": float(sums["loss"]) / float(sums["count"]), **found}

    def describe(self) -> dict[str, Any]:
        """The task, the head and the class names."""
        return {"task": "segmentation", "head": self.head.describe(), "classes": list(self.data.classes)}

    def _logits(self, batch: Batch, features: Tensor | None) -> Tensor:
        assert features is not None
        (prompt,) = self._prompts(batch["pixel_values"][:1])
        return pixel_logits(self.head, features, self.model.geometry_of(prompt).tiles[0])

    def _cross_entropy(self, logits: Tensor, label: Tensor) -> Tensor:
        """Averaged over an image's labelled pixels, summed over images; an image without labelled pixels adds 0."""
        losses = F.cross_entropy(logits, label, ignore_index=self.ignore, reduction="none").sum(dim=(1, 2))
        return (losses / (label != self.ignore).sum(dim=(1, 2)).clamp(min=1)).sum()

    def _in_original(self, logits: Tensor, mask: np.ndarray) -> np.ndarray:
        wh = (mask.shape[1], mask.shape[0])
        return labels_to_original(logits, self.model.geometry(wh, self.settings.fit), wh, outside=UNSEEN)


class WithOriginals(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Samples with `"original"`, their mask in pixels of the original image.

    Args:
        images: the samples.
        data: gives the masks.
    """

    def __init__(self, images: torch.utils.data.Dataset[Any], data: Labelled) -> None:
        self.images, self.data = images, data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any] | None:
        sample = self.images[key]
        return None if sample is None else {**sample, "original": self.data.label(key[0])}


def pixel_logits(head: Any, features: Tensor, tile: Tile) -> Tensor:
    """`[n, C, h, w]` logits for the pixels of the model's input.

    Args:
        head: a `PupHead`.
        features: `[n, P, d]`.
        tile: where the patches are. The rest of an input that is no whole number of patches gets what stands at its
            edge.
    """
    (height, width), seen = tile.input_hw, tuple(tile.grid_hw[axis] * tile.patch_hw[axis] for axis in (0, 1))
    rows, columns = (round(side) for side in seen)
    logits: Tensor = head(features, tile.grid_hw, (rows, columns))
    if (rows, columns) == (height, width):
        return logits
    return F.pad(logits, (0, width - columns, 0, height - rows), mode="replicate")


def confusion(found: np.ndarray, mask: np.ndarray, classes: int, ignore: int) -> np.ndarray:
    """Pixels by label (rows) and prediction (columns), int64 `[C, C + 1]`; the last column is no class at all.

    Args:
        found: predicted classes `[h, w]`, -1 for none.
        mask: labels `[h, w]`.
        classes: C.
        ignore: label of pixels that do not count.
    """
    counts = mask != ignore
    label, given = mask[counts].astype(np.int64), found[counts].astype(np.int64)
    given = np.where(given < 0, classes, given)
    return np.bincount(label * (classes + 1) + given, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


def segmentation_figures(counted: np.ndarray) -> dict[str, float]:
    """`miou` and `pixel_accuracy` of a confusion matrix `[C, C + 1]`.

    >>> segmentation_figures(np.array([[2, 1, 0], [0, 4, 1]]))
    {'miou': 0.6666666666666666, 'pixel_accuracy': 0.75}
    """
    right = np.diagonal(counted).astype(np.float64)
    union = counted.sum(axis=1) + counted[:, :-1].sum(axis=0) - right
    occurs = union > 0
    return {
        "miou": float((right[occurs] / union[occurs]).mean()) if occurs.any() else 0.0,
        "pixel_accuracy": float(right.sum() / max(counted.sum(), 1)),
    }
