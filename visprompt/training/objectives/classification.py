"""Image classification: one class per image, from a head on the tuned tower's embedding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from visprompt.errors import UnsupportedError
from visprompt.training.heads import Head, LinearHead, MlpHead, Norm, ZeroShotHead
from visprompt.training.objectives.base import Batch, Split
from visprompt.training.objectives.encoder import EncoderObjective, adding_type, embedding_width

if TYPE_CHECKING:
    from visprompt.data.labelled.dataset import Labelled
    from visprompt.learned.strategy import Learned
    from visprompt.models.base import Model
    from visprompt.training.settings import FitSettings

#: texts per forward of the text tower
TEXTS_AT_ONCE = 256


class Classification(EncoderObjective):
    """Cross-entropy of a head's logits. Metrics: `loss`, `accuracy`, and `class_accuracy`, the mean accuracy over the
    classes that occur.

    `settings.head`: `"linear"` (also if None), `"mlp"`, or `"zero-shot"`: text embeddings of the class names in
    `settings.templates`, without trainable parameters. Linear and MLP heads normalise the embeddings of models that
    average their patch features (`LinearHead`).

    Raises:
        UnsupportedError: for a zero-shot head on a model without a text tower.
    """

    metric: ClassVar[str] = "accuracy"
    higher_is_better: ClassVar[bool] = True

    def __init__(self, model: Model, prompter: Learned, splits: dict[Split, Labelled], settings: FitSettings) -> None:
        super().__init__(model, prompter, splits, settings)
        self.head: Head = self._make_head()

    def _make_head(self) -> Head:
        classes, kind = self.data.classes, self.settings.head
        if kind == "zero-shot":
            return zero_shot_head(self.model, classes, self.settings.templates)
        tower = self.model.parts.tower
        norm: Norm = "layer" if tower is not None and tower.readout == "mean" else "none"
        width = embedding_width(self.model)
        return (MlpHead if kind == "mlp" else LinearHead)(width, len(classes), norm=norm)

    @contextmanager
    def loss(self, batch: Batch, draws: Sequence[int] | None) -> Iterator[Tensor]:
        """The cross-entropy, summed over the images; see `Objective.loss`."""
        with self.encoded(batch, draws) as encoding:
            yield F.cross_entropy(self.head(encoding.embeddings), batch["label"], reduction="sum")

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Number of images, summed loss, and images and correct predictions per class."""
        with self.encoded(batch, None) as encoding:
            logits = self.head(encoding.embeddings)
        label: Tensor = batch["label"]
        right, classes = logits.argmax(dim=-1) == label, len(self.data.classes)
        return {
            "count": torch.tensor(len(label), device=label.device),
            "loss": F.cross_entropy(logits, label, reduction="sum").to(adding_type(label.device)),
            "right": torch.bincount(label[right], minlength=classes),
            "there": torch.bincount(label, minlength=classes),
        }

    def figures(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """`loss`, `accuracy` and `class_accuracy`."""
        images, right = sums["there"].double().cpu(), sums["right"].double().cpu()
        occurs = images > 0
        return {
            "loss": float(sums["loss"]) / float(sums["count"]),
            "accuracy": float(right.sum() / images.sum()),
            "class_accuracy": float((right[occurs] / images[occurs]).mean()),
        }

    def describe(self) -> dict[str, Any]:
        """The task, the head and the class names."""
        return {"task": "classification", "head": self.head.describe(), "classes": list(self.data.classes)}


@torch.no_grad()
def zero_shot_head(model: Model, classes: Sequence[str], templates: Sequence[str]) -> ZeroShotHead:
    """A classifier from class names: every name in every template, unit embeddings averaged per class (arXiv
    2103.00020).

    Args:
        model: a model with a text tower.
        classes: class names, as they are put into the templates.
        templates: texts with `{}` for the class name.

    Returns:
        A head with the model's own scale and bias.

    Raises:
        UnsupportedError: if the model has no text tower.
    """
    if model.parts.embed_text is None:
        raise UnsupportedError(
            f'{model.name} has no text tower, and head="zero-shot" reads the class names: take head="linear", or a '
            "CLIP-like model with its tokenizer."
        )
    texts = [template.replace("{}", name) for name in classes for template in templates]
    parts = [texts[start : start + TEXTS_AT_ONCE] for start in range(0, len(texts), TEXTS_AT_ONCE)]
    embedded = F.normalize(torch.cat([model.embed_text(part).float() for part in parts]), dim=-1)
    means = embedded.unflatten(0, (len(classes), len(templates))).mean(dim=1)
    # The model's logits are scale · cosine + bias: the logits for cosines of 1 and 0 give both.
    unit = torch.eye(means.shape[-1], device=means.device)[:2]
    one, zero = model.logits(unit[:1], unit)[0]
    return ZeroShotHead(means, one - zero, zero)
