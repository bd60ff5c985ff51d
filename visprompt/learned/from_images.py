"""Base class of strategies that are learned from images without labels: data, tower and evaluation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from visprompt.errors import InvalidInputError
from visprompt.learned.strategy import Learned
from visprompt.learned.token_sizes import input_tile

if TYPE_CHECKING:
    from visprompt.data.labelled.dataset import Labelled, Splits
    from visprompt.models.base import Model
    from visprompt.training.result import Fitted


class LearnedFromImages(Learned):
    """Base of strategies that are learned from images alone, on an image encoder or a model's vision tower."""

    def require_learnable(self, sweep: Mapping[str, Sequence[Any]]) -> None:
        """Checks that a sweep varies options that matter in training; called before any data are read.

        Args:
            sweep: values per setting or option, as in `fit`.

        Raises:
            InvalidInputError: if the sweep varies an option that does not affect training.
        """
        of_use = sorted((self.free - set(self.neutral or ())) & set(sweep))
        if of_use:
            called = self.name
            raise InvalidInputError(
                f"{', '.join(of_use)} says how a {called} is used; every value would learn the same."
            )

    def fit(
        self, model: Model, data: Splits | Labelled | str | os.PathLike[str] | None = None, **options: Any
    ) -> Fitted:
        """Learns the prompt from images; see `Learned.fit`.

        Args:
            model: an image encoder, or a vision-language model, whose vision tower is used; it is unchanged.
            data: images: a folder (all images below it) or anything else that `load_splits` reads, a list of paths or
                images, labelled images (labels are ignored), or their splits. None: generated scenes.
            **options: of `Learned.fit`.

        Returns:
            The metrics of the run.

        Raises:
            UnsupportedError: if the model's attention cannot be read.
            InvalidInputError: for data without images, for a sweep over options that do not affect training, and as
                `Learned.fit`.
        """
        from visprompt.models.lvlm.vision_encoder import encoder_of

        self.require_learnable(options.get("sweep") or {})
        seed = options.get("seed", 0)
        # `FitSettings` refuses an invalid seed later.
        splits = self.splits(model, data, seed=seed if isinstance(seed, int) and seed >= 0 else 0)
        return super().fit(encoder_of(model), splits, **options)

    def evaluate(
        self, model: Model, data: Labelled | Splits | str | os.PathLike[str] | None = None, **settings: Any
    ) -> dict[str, float]:
        """Metrics of the prompt, or of the bundled one for the model, on any model, not only the one it was learned on.

        The options are those of the training, except `neutral` options and controls, which are the prompter's own.

        Args:
            model: an image encoder, or a vision-language model.
            data: images, as in `fit`; of splits, the test split, else validation, else training. None: generated
                scenes.
            **settings: as in `Learned.evaluate`.

        Returns:
            Metrics by name.
        """
        from visprompt.data.labelled.dataset import Labelled
        from visprompt.data.labelled.unlabelled import without_labels
        from visprompt.models.lvlm.vision_encoder import encoder_of

        encoder, used = encoder_of(model), self.on(model)
        if used is not self:
            return used.evaluate(model, data, **settings)  # type: ignore[arg-type]  # of the same class as this one
        if isinstance(data, Labelled):
            return super().evaluate(encoder, without_labels(data), **settings)
        splits = self.splits(encoder, data)
        return super().evaluate(encoder, splits.test or splits.validation or splits.train, **settings)

    def splits(self, model: Model, data: Any, seed: int = 0) -> Splits:
        """Images without labels, divided into splits.

        Args:
            model: generated scenes have the size of its input.
            data: as in `fit`.
            seed: of generated scenes, and of the choice of validation images.

        Returns:
            Splits, with a validation split.

        Raises:
            InvalidInputError: for data of another type.
        """
        from visprompt.data.labelled.dataset import Labelled, Splits
        from visprompt.data.labelled.splits import load_splits, without_validation
        from visprompt.data.labelled.unlabelled import splits_without_labels, unlabelled, without_labels
        from visprompt.data.scenes.unlabelled import generated

        if data is None:
            from visprompt.models.lvlm.vision_encoder import encoder_of

            tile = input_tile(encoder_of(model))
            hw = (64, 64) if tile is None else tile.input_hw
            return generated((hw[1], hw[0]), seed=seed)
        if isinstance(data, Splits):
            return splits_without_labels(data)
        if isinstance(data, str | os.PathLike):
            return load_splits(os.fspath(data), labels=False, seed=seed)
        if not isinstance(data, Labelled | Sequence):
            raise InvalidInputError(
                f"data is a folder, a list of images, Splits or Labelled, or None for generated scenes; got "
                f"{type(data).__name__}."
            )
        images = without_labels(data) if isinstance(data, Labelled) else unlabelled(data, name="images")
        return without_validation(images, None, 0.2, seed, "images from Python")
