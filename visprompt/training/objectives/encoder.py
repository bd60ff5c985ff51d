"""Shared parts of objectives on image encoders: the prompts of a batch, the forward through the frozen tower, and
embeddings that are computed once where no part of the tower is trained.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from visprompt.errors import UnsupportedError
from visprompt.models.encoding import Encoding
from visprompt.training.dataset import ImageDataset, collate
from visprompt.training.objectives.base import Batch, Objective, Split, batches_of
from visprompt.utils.renamed import renamed_hooks
from visprompt.visual_prompt import VisualPrompt

if TYPE_CHECKING:
    from visprompt.data.labelled.dataset import Labelled
    from visprompt.learned.strategy import Learned
    from visprompt.models.base import Model
    from visprompt.training.settings import FitSettings

#: cached embeddings of whole data sets by model, shared by the runs of a sweep; dropped with model or data
_known: weakref.WeakKeyDictionary[nn.Module, weakref.WeakKeyDictionary[Labelled, tuple[Any, dict[int, Tensor]]]]
_known = weakref.WeakKeyDictionary()


@renamed_hooks(pictures="images")
class EncoderObjective(Objective):
    """Base of the objectives on image encoders; see `Objective` for the arguments.

    Raises:
        UnsupportedError: for a model that takes packed images.
    """

    #: whether labels are masks and the head reads the patch features
    dense: bool = False

    def __init__(self, model: Model, prompter: Learned, splits: dict[Split, Labelled], settings: FitSettings) -> None:
        super().__init__(model, prompter, splits, settings)
        if model.parts.tower is not None and model.parts.tower.padded:
            raise UnsupportedError(
                f"{model.name} takes packed images, whose batches have a layout of their own: nothing can be trained "
                "on it. Take a checkpoint with inputs of one size."
            )
        self._blanks: dict[tuple[int, int], Image.Image] = {}
        self._images: dict[Split, ImageDataset] = {}
        self._embedded: dict[Split, Embedded] = {}

    @property
    def data(self) -> Labelled:
        """The training split; classes and `ignore_index` are the same in all splits."""
        return self.splits["train"]

    # -- samples ------------------------------------------------------------------------------------------------------

    def images(self, split: Split, **options: bool) -> ImageDataset:
        """The images of a split as the model's inputs; created once.

        Args:
            split: which split.
            **options: `dense` or `where` of `ImageDataset`.
        """
        if split not in self._images:
            self._images[split] = ImageDataset(
                self.splits[split],
                self.model.parts.reader,
                fit=self.settings.fit,
                augment=self.settings.augment if split == "train" else "none",
                seed=self.settings.seed,
                **options,
            )
        return self._images[split]

    def samples(self, split: Split) -> torch.utils.data.Dataset[Any]:
        """The images of a split, or their embeddings if these never change during the training."""
        images = self.images(split, dense=self.dense)
        if self.dense or not self._is_worth_keeping(split) or not self._leaves_the_tower_alone():
            return images
        if split not in self._embedded:
            images.cache_bytes = 0  # each is read once
            self._embedded[split] = Embedded(images.data, self._once(images))
        return self._embedded[split]

    def collate(self, samples: Sequence[Any]) -> Batch | None:
        """A batch, see `visprompt.training.dataset.collate`; None if every sample was left out."""
        batch = collate(samples)
        return batch if len(batch["index"]) else None

    # -- the forward --------------------------------------------------------------------------------------------------

    @contextmanager
    def encoded(self, batch: Batch, draws: Sequence[int] | None) -> Iterator[Encoding]:
        """Encodes a batch with the prompted tower; call `backward()` inside the scope.

        Args:
            batch: with `"pixel_values"` `[n, 3, h, w]`, or `"embedding"` `[n, d]`.
            draws: one seed per image for random choices in training; None: no random choices.

        Yields:
            The encoding; its embeddings are `[n, d]`.
        """
        if "embedding" in batch:
            yield Encoding(batch["embedding"])
            return
        pixels: Tensor = batch["pixel_values"]
        self.prompter.constrain()
        prompts = self.prompter.training_edit(self._prompts(pixels), self.model, draws)
        with self.model.prompting(prompts, features=self.dense) as encode:
            yield encode(pixels.to(self.model.dtype))

    def _prompts(self, pixels: Tensor) -> list[VisualPrompt]:
        """One prompt per image of a batch, with a blank image: only its size is used, since the batch has the
        pixels.
        """
        wh = (int(pixels.shape[-1]), int(pixels.shape[-2]))
        if wh not in self._blanks:
            self._blanks[wh] = Image.new("RGB", wh)
        return [VisualPrompt(self._blanks[wh], fit=self.settings.fit)] * len(pixels)

    # -- embeddings that do not change ------------------------------------------------------------------------------

    def _is_worth_keeping(self, split: Split) -> bool:
        """True if the images of a split are encoded more than once without augmentation."""
        if split != "train":
            return True
        settings, count = self.settings, len(self.splits["train"])
        passes = settings.epochs
        if settings.max_steps is not None:
            passes = min(passes, settings.max_steps * settings.batch_size * settings.accumulate // count)
        return settings.augment == "none" and passes > 1

    def _leaves_the_tower_alone(self) -> bool:
        """True if neither the model nor the prompt changes the frozen tower (linear probing)."""
        if any(item.requires_grad for item in self.model.module.parameters()):
            return False
        plain = self._prompts(torch.zeros(1, 3, 64, 64))
        (prompt,) = self.prompter.training_edit(plain, self.model, None)
        has_tokens = prompt.tokens is not None and prompt.tokens.count > 0
        return not has_tokens and not prompt.attention and prompt.image is plain[0].image

    def _once(self, images: ImageDataset) -> dict[int, Tensor]:
        """`_embeddings`, computed again only if the weights or `settings.fit` have changed."""
        module = self.model.module
        # In-place changes increment a tensor's version; inference tensors cannot change and have no version.
        versions = [0 if item.is_inference() else item._version for item in module.parameters()]
        state = (versions, self.model.dtype, self.model.device, self.settings.fit)
        by_data = _known.setdefault(module, weakref.WeakKeyDictionary())
        held = by_data.get(images.data)
        if held is None or held[0] != state:
            held = (state, self._embeddings(images))
            by_data[images.data] = held
        return held[1]

    @torch.no_grad()
    def _embeddings(self, images: ImageDataset) -> dict[int, Tensor]:
        """Embeddings `[d]`, float32, of every readable image, by index.

        Computed in the order of the data and without autocast, so that they do not depend on when they are computed.
        """
        keys = [[(index, 0) for index in part] for part in batches_of(range(len(images)), self.settings.batch_size)]
        loader = torch.utils.data.DataLoader(
            images,
            batch_sampler=keys,  # type: ignore[arg-type]
            num_workers=self.settings.workers,
            collate_fn=self.collate,
            generator=torch.Generator(),  # not torch's global one, from which a loader would draw a seed
        )
        found: dict[int, Tensor] = {}
        with torch.autocast(self.model.device.type, enabled=False):
            for batch in loader:
                if batch is None:
                    continue
                batch["pixel_values"] = batch["pixel_values"].to(self.model.device)
                with self.encoded(batch, None) as encoding:
                    embeddings = encoding.embeddings.float().cpu()
                found.update(zip(batch["index"].tolist(), embeddings, strict=True))
        return found


class Embedded(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """A dataset of images with known embeddings; items of unreadable images are None.

    Args:
        data: gives the labels.
        embeddings: `[d]`, float32, by index into the data.
    """

    def __init__(self, data: Labelled, embeddings: dict[int, Tensor]) -> None:
        self.data, self.embeddings = data, embeddings

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any] | None:
        index = key[0]
        if index not in self.embeddings:
            return None
        return {"embedding": self.embeddings[index], "label": self.data.label(index), "index": index}


def embedding_width(model: Model) -> int:
    """Width d of a model's image embeddings, from one forward of a blank image."""
    with torch.no_grad():
        return int(model.encode([VisualPrompt(Image.new("RGB", (224, 224)))]).embeddings.shape[-1])


def adding_type(device: torch.device) -> torch.dtype:
    """The floating type for sums over a data set: float64, or float32 on Apple's GPUs, which have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64
