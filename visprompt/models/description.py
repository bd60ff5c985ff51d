"""The read-only side of a model: its towers, the geometry of its inputs, and its identity."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn

from visprompt.attention.sites import Tower
from visprompt.errors import UnsupportedError
from visprompt.geometry.geometry import Geometry
from visprompt.models.parts import Parts
from visprompt.visual_prompt import Fit, VisualPrompt


class ModelDescription:
    """The base class of `Model`: its towers, geometry and identity. Nothing here runs the module."""

    #: True for models that generate text
    generates: bool = False

    module: nn.Module
    parts: Parts
    name: str

    @property
    def supports(self) -> frozenset[str]:
        """What prompts can change: always "pixels"; "attention", "tokens" and "text" if the model has them."""
        has = {"pixels"}
        if self.parts.tower is not None:
            has.add("attention")
            if not self.parts.tower.no_tokens:
                has.add("tokens")
        if self.parts.embed_text is not None:
            has.add("text")
        return frozenset(has)

    @property
    def tower(self) -> Tower:
        """The tower that makes the image embedding; of a vision-language model the decoder.

        Raises:
            UnsupportedError: for a model without attention.
        """
        if self.parts.tower is None:
            raise UnsupportedError(f"{self.name} has no attention that can be read or edited.")
        return self.parts.tower

    @property
    def num_blocks(self) -> int:
        """Number of attention blocks; an attention pooling head counts as one."""
        return self.tower.num_blocks

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of its weights."""
        return next(item for item in self.module.parameters() if item.is_floating_point()).dtype

    def has_tower(self, name: str) -> bool:
        """Whether the model has a tower whose attention can be edited.

        Args:
            name: name of the tower: `"vision"`, or `"decoder"`.

        Returns:
            True if it has.
        """
        try:
            self.tower_named(name)
        except UnsupportedError:
            return False
        return True

    def tower_named(self, name: str) -> Tower:
        """Looks up a tower; encoders have one, `"vision"`.

        Args:
            name: its name.

        Returns:
            The tower.

        Raises:
            UnsupportedError: if there is none of that name.
        """
        if self.tower.name != name:
            raise UnsupportedError(f"{self.name} has no tower {name!r}; it has {self.tower.name!r}.")
        return self.tower

    def geometry(self, image_wh: tuple[int, int], fit: Fit = "model", tower: str = "vision") -> Geometry:
        """The map between original pixels, model input and patch grid for an image size.

        Args:
            image_wh: width and height of the image, pixels.
            fit: `"model"`: fitted by the processor; `"pad"`, `"squash"`.
            tower: the tower whose patches are meant; encoders have one.

        Returns:
            The geometry.
        """
        if self.parts.tower is not None:
            self.tower_named(tower)
        return self.parts.reader.geometry(image_wh, fit)

    def geometry_of(self, prompt: VisualPrompt, tower: str | None = None) -> Geometry:
        """The geometry of a prompt's image; it may depend on the other images of the request.

        Args:
            prompt: the prompt, with its image, fit and index in the request.
            tower: the tower whose patches are meant; None: the one that `tower` gives.

        Returns:
            The geometry.
        """
        return self.geometry(prompt.image.size, prompt.fit, **({} if tower is None else {"tower": tower}))

    def require(self, acts_on: frozenset[str], strategy: str) -> None:
        """Checks that the model supports what a strategy changes.

        Args:
            acts_on: "pixels", "text", "tokens", "attention".
            strategy: the strategy's name for the message.

        Raises:
            UnsupportedError: if something is missing; it holds the model, so that the message can name strategies that
                work.
        """
        missing = acts_on - self.supports - {"text"}
        if not missing:
            return
        reason = self.parts.tower.no_tokens if "tokens" in missing and self.parts.tower is not None else ""
        raise UnsupportedError(
            f"strategy {strategy!r} acts on {' and '.join(sorted(missing))}, which {self.name} does not offer "
            f"{f'because {reason} ' if reason else ''}(it takes {', '.join(sorted(self.supports))}).",
            model=self,
        )

    def describe(self) -> dict[str, Any]:
        """The model's identity for result rows.

        Returns:
            Name, class, backend, dtype, device, and a hash of all weights; ready for JSON.
        """
        return {
            "name": self.name,
            "class": type(self.module).__name__,
            "backend": self.parts.backend,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "weights": self.weights_hash(),
        }

    def weights_hash(self) -> str:
        """Hashes the weights.

        Returns:
            The first 16 hex digits of a SHA-256 over names, shapes and values of the state dict.
        """
        digest = hashlib.sha256()
        for name, item in sorted(self.module.state_dict().items()):
            digest.update(f"{name}{tuple(item.shape)}".encode())
            digest.update(item.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]
