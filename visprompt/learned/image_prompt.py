"""Strategies whose learned prompt is a small image with an alpha channel: how it is kept, saved and looked at.

While it is learned it is what a prior makes (`visprompt.training.patch.priors`); what is kept are its pixels in 8 bits.
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

    Sub-classes write `make` (a prior, `PatchSource` and module in one) and `edit`. `parameters` is the prior while it
    is learned, and the pixels (`Baked`) afterwards.

    Shapes: saved as `prompt.rgba`, uint8 `[4, r, r]`, red, green, blue and alpha, and as a PNG file to look at.
    """

    acts_on: ClassVar[frozenset[str]] = frozenset({"pixels"})
    #: pixels are seen by any model
    transferable: ClassVar[bool] = True

    # -- making and using ---------------------------------------------------------------------------------------------

    def build(self, model: Model, seed: int = 0) -> None:
        """Makes an image for a model, untrained; also for models without attention, since any can look at it."""
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
        if self.parameters is None and self.switched_off:
            Prompter.check(self, prompts, model)  # it changes nothing, whatever it would be
        else:
            super().check(prompts, model)

    def array(self) -> np.ndarray:
        """The image in 8 bits, float32 `[4, r, r]` in [0, 1].

        Raises:
            InvalidInputError: if nothing was learned.
        """
        if self.parameters is None:
            raise InvalidInputError(
                f"{self.name!r} has learned nothing yet; what ships for a model is prompter.on(model)."
            )
        found: np.ndarray = self.baked().patch().cpu().numpy()
        return found

    def image(self) -> Image.Image:
        """The image to look at, RGBA.

        Raises:
            InvalidInputError: if nothing was learned.
        """
        return to_rgba(self.array())

    # -- what is saved ------------------------------------------------------------------------------------------------

    def baked(self) -> Baked:
        """The pixels as they are now, without the prior that made them."""
        from visprompt.training.patch.priors import Baked, bake

        source: Any = self.parameters
        return source if isinstance(source, Baked) else bake(source)

    def state(self) -> dict[str, Tensor]:
        """The pixels, `prompt.rgba`: the prior that made them is not kept."""
        return {} if self.parameters is None else {"prompt.rgba": self.baked().rgba.cpu().clone()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Puts other pixels in the place of what there is.

        Raises:
            InvalidInputError: if the tensors are no image.
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
        import torch

        from visprompt.training.patch.priors import Baked

        return Baked(torch.zeros(shapes.get("rgba", (4, 1, 1)), dtype=torch.uint8))


def _backbone(model: Model) -> dict[str, Any]:
    """What is remembered of the model that an image was made for: `identity` where there is a tower, and the grid."""
    from visprompt.models.identity import identity
    from visprompt.models.lvlm.vision_encoder import VISION

    # The tower of a language model is loaded by that model's name.
    name, tile = model.name.removesuffix(VISION), input_tile(model)
    if tile is not None:
        return {**identity(model), "name": name, "grid_hw": list(tile.grid_hw)}
    if model.name.startswith("remote:"):
        return {"name": name, "class": type(model).__name__, "backend": "remote"}
    return {"name": name, "class": type(model.module).__name__, "backend": model.parts.backend}
