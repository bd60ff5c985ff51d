"""Base class of strategies whose learned prompt is a small image with an alpha channel: storage and saving.

During training a prior computes the image (`visprompt.training.patch.priors`); afterwards its pixels are kept in 8
bits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from visprompt.errors import InvalidInputError
from visprompt.imaging.paste import to_rgba
from visprompt.learned.from_images import LearnedFromImages
from visprompt.learned.token_sizes import input_tile
from visprompt.prompter import Prompter

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from PIL import Image
    from torch import Tensor, nn

    from visprompt.data.labelled.dataset import Labelled, Splits
    from visprompt.models.base import Model
    from visprompt.training.patch.priors import Baked
    from visprompt.training.result import Fitted
    from visprompt.visual_prompt import VisualPrompt


class ImagePrompter(LearnedFromImages):
    """Base of strategies that learn a small RGBA image and put it into other images.

    Sub-classes write `make` (a prior: a module that is a `PatchSource`) and `edit`. `parameters` is the prior during
    training, and the pixels (`Baked`) afterwards.

    The image is saved as `prompt.rgba`, uint8 `[4, r, r]`: red, green, blue and alpha; and as a PNG file.
    """

    acts_on: ClassVar[frozenset[str]] = frozenset({"pixels"})
    #: any model can read pixels
    transferable: ClassVar[bool] = True

    # -- making and using ---------------------------------------------------------------------------------------------

    def build(self, model: Model, seed: int = 0) -> None:
        """Initialises the image for a model; works for models without attention too.

        Args:
            model: the model.
            seed: of the initial values.
        """
        import torch

        model.require(self.acts_on, self.name)
        self.parameters = self.make(model, torch.Generator().manual_seed(seed)).to(model.device)
        self.backbone = _backbone(model)
        self.head, self.record = None, {}

    def fit(
        self, model: Model, data: Splits | Labelled | str | os.PathLike[str] | None = None, **options: Any
    ) -> Fitted:
        fitted = super().fit(model, data, **options)
        self.parameters = self.baked().to(model.device)
        return fitted

    fit.__doc__ = LearnedFromImages.fit.__doc__

    def check(self, prompts: Sequence[VisualPrompt], model: Model) -> None:
        """As `Learned.check`; a switched-off prompt needs no parameters."""
        if self.parameters is None and self.switched_off:
            Prompter.check(self, prompts, model)  # a switched-off prompt needs no parameters
        else:
            super().check(prompts, model)

    def array(self) -> np.ndarray:
        """The image in 8 bits, as float32 `[4, r, r]` in [0, 1].

        Raises:
            InvalidInputError: if there is no learned image.
        """
        if self.parameters is None:
            raise InvalidInputError(
                f"{self.name!r} has learned nothing yet; what ships for a model is prompter.on(model)."
            )
        found: np.ndarray = self.baked().patch().cpu().numpy()
        return found

    def image(self) -> Image.Image:
        """The image, RGBA.

        Raises:
            InvalidInputError: if there is no learned image.
        """
        return to_rgba(self.array())

    # -- what is saved ------------------------------------------------------------------------------------------------

    def baked(self) -> Baked:
        """The current pixels, without the prior that computed them."""
        from visprompt.training.patch.priors import Baked, bake

        source: Any = self.parameters
        return source if isinstance(source, Baked) else bake(source)

    def state(self) -> dict[str, Tensor]:
        """The pixels as `prompt.rgba`, uint8 `[4, r, r]` on the CPU; empty if there is no image."""
        return {} if self.parameters is None else {"prompt.rgba": self.baked().rgba.cpu().clone()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Replaces the pixels.

        Args:
            state: `{"prompt.rgba": uint8 [4, r, r]}`.

        Raises:
            InvalidInputError: if the tensors are not one such image.
        """
        import torch

        from visprompt.training.patch.priors import Baked

        rgba = state.get("prompt.rgba")
        fits = rgba is not None and rgba.dtype == torch.uint8 and rgba.ndim == 3
        fits = fits and rgba is not None and rgba.shape[0] == 4 and rgba.shape[1] == rgba.shape[2] > 0
        if rgba is None or not fits or set(state) != {"prompt.rgba"}:
            found = ", ".join(f"{name} {list(item.shape)}" for name, item in state.items()) or "nothing"
            raise InvalidInputError(f"a {self.name} is one tensor, prompt.rgba, uint8 [4, r, r]; got {found}.")
        self.parameters = Baked(rgba.clone())

    def remake(self, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
        """Black transparent pixels of the given shape, to be filled by `load_state`."""
        import torch

        from visprompt.training.patch.priors import Baked

        return Baked(torch.zeros(shapes.get("rgba", (4, 1, 1)), dtype=torch.uint8))


def _backbone(model: Model) -> dict[str, Any]:
    """The record of the model that an image was made for: `identity` if it has a vision tower, and its patch grid."""
    from visprompt.models.identity import identity
    from visprompt.models.lvlm.vision_encoder import VISION

    # The vision tower of an LVLM is loaded by the LVLM's name.
    name, tile = model.name.removesuffix(VISION), input_tile(model)
    if tile is not None:
        return {**identity(model), "name": name, "grid_hw": list(tile.grid_hw)}
    if model.name.startswith("remote:"):
        return {"name": name, "class": type(model).__name__, "backend": "remote"}
    return {"name": name, "class": type(model.module).__name__, "backend": model.parts.backend}
