"""Predictions of trained heads: a class per image, or a class per pixel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from visprompt.errors import InvalidInputError, UnsupportedError

if TYPE_CHECKING:
    from visprompt.learned.strategy import Learned
    from visprompt.models.encoding import Encoding
    from visprompt.prompter import Prompter
    from visprompt.request import Request
    from visprompt.runner.runner import Runner
    from visprompt.visual_prompt import VisualPrompt


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction for one image.

    Args:
        label: name of the most probable class; for segmentation, of the class with the most pixels.
        number: its index.
        probability: its entry in `probabilities`.
        probabilities: `[C]` float32, of all classes; for segmentation, the fraction of the visible pixels in each
            class.
        classes: the names, by index.
        mask: for segmentation: the class of every pixel of the image, `[h, w]` uint8 (uint16 above 255 classes); pixels
            that the model's processor crops away have the type's largest number. None otherwise.
        index: (request, region) that it belongs to.
    """

    label: str
    number: int
    probability: float
    probabilities: np.ndarray
    classes: tuple[str, ...]
    mask: np.ndarray | None = None
    index: tuple[int, int] = (0, 0)

    def top(self, k: int = 5) -> dict[str, float]:
        """The most probable classes.

        Args:
            k: how many.

        Returns:
            Probabilities by class name, highest first.
        """
        order = np.argsort(-self.probabilities, kind="stable")[:k]
        return {self.classes[number]: float(self.probabilities[number]) for number in order}

    def __repr__(self) -> str:
        size = "" if self.mask is None else f", mask {self.mask.shape[1]}×{self.mask.shape[0]}"
        return f"<Prediction {self.label!r} {self.probability:.3f} of {len(self.classes)} classes{size}>"


def predict(runner: Runner, requests: Request | Iterable[Request]) -> list[Prediction]:
    """`Runner.predict`.

    Args:
        runner: the runner; its `index` and `batch_size` are updated.
        requests: as in `Runner.encode`.

    Returns:
        One prediction per request and region.

    Raises:
        UnsupportedError: for a vision-language model.
        InvalidInputError: for a strategy without a trained head.
    """
    if runner.model.generates:
        raise UnsupportedError(f"{runner.model.name} answers in words: use answer() or generate().")
    part = with_head(runner.prompter)
    head: Any = part.head
    classes = tuple(part.record.get("classes") or map(str, range(int(head.describe()["classes"]))))
    # As in training, unless the runner has a `fit` of its own.
    trained_fit = (part.record.get("settings") or {}).get("fit", "model")
    twin = runner._like(runner.prompter)  # type: ignore[arg-type]  # with_head refused None
    twin.fit = trained_fit if runner.fit == "model" else runner.fit
    dense = head.describe()["kind"] == "pup"

    def rows(prompts: Sequence[VisualPrompt], encoding: Encoding) -> list[Prediction]:
        if dense:
            return [_segmented(head, prompts, encoding, i, runner.model, classes) for i in range(len(prompts))]
        probabilities = head(encoding.embeddings).softmax(dim=-1).cpu().numpy()
        return [_prediction(item, classes) for item in probabilities]

    found = twin._run(requests, rows, features=dense)
    runner.index, runner.batch_size = twin.index, twin.batch_size
    return [replace(item, index=place) for item, place in zip(found, runner.index, strict=True)]


def with_head(prompter: Prompter | None) -> Learned:
    """Finds the learned part of a strategy that has a head.

    Args:
        prompter: the strategy, or None.

    Returns:
        That part.

    Raises:
        InvalidInputError: if there is none, or several.
    """
    from visprompt.learned.strategy import learned_parts

    if hasattr(prompter, "members"):
        raise InvalidInputError("predict() takes one strategy, and this is an ensemble: predict with each member.")
    learned = [] if prompter is None else learned_parts(prompter)
    heads = [part for part in learned if part.head is not None]
    if len(heads) == 1:
        return heads[0]
    name = "none" if prompter is None else prompter.name
    if heads:
        raise InvalidInputError(f"{name!r} has {len(heads)} parts with a head of their own: predict with one of them.")
    if not learned:
        reason = "it learns nothing"
    else:
        reason = "it has not been trained" if learned[0].parameters is None else "it was trained without one"
    raise InvalidInputError(
        f"predict() reads a trained head, and {name!r} has none ({reason}): fit a learned strategy on labelled "
        "images (prompter.fit(model, data), 'visprompt fit'), or load one with vp.Prompter.from_pretrained(folder). "
        "Texts are compared with score()."
    )


def _prediction(probabilities: np.ndarray, classes: tuple[str, ...], mask: np.ndarray | None = None) -> Prediction:
    number = int(probabilities.argmax())
    probabilities = probabilities.astype(np.float32)
    return Prediction(classes[number], number, float(probabilities[number]), probabilities, classes, mask)


def _segmented(
    head: Any, prompts: Sequence[VisualPrompt], encoding: Encoding, i: int, model: Any, classes: tuple[str, ...]
) -> Prediction:
    """Predicts one image at a time, because its full-size logits are large."""
    from visprompt.training.dataset import labels_to_original
    from visprompt.training.objectives.segmentation import UNSEEN, pixel_logits

    geometry = model.geometry_of(prompts[i])
    assert encoding.features is not None
    features = encoding.features[i : i + 1, : geometry.num_patches]
    logits = pixel_logits(head, features, geometry.tiles[0])[0]
    found = labels_to_original(logits, geometry, prompts[i].image.size, outside=UNSEEN)
    seen = found[found != UNSEEN]
    shares = np.bincount(seen, minlength=len(classes)) / max(seen.size, 1)
    kind = np.uint8 if len(classes) <= 255 else np.uint16
    mask = np.where(found == UNSEEN, np.iinfo(kind).max, found).astype(kind)
    return _prediction(shares, classes, mask)
