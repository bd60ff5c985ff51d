"""The patches' hidden states behind a tower's last block: what dense tasks read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from visprompt.attention.scope import Scope
from visprompt.attention.sites import Tower
from visprompt.errors import InvalidInputError, SiteNotReachedError


class Features:
    """Keeps what the last block gives, in front of the tower's last norm, for one forward at a time.

    It looks before prompt tokens are taken out: `pool="with_prompts"` puts the patches' mean in every patch's place.

    Args:
        tower: whose last block; with prompt tokens the `Insertion`'s.
        patches: number of patches, P; of padded images the largest.
    """

    def __init__(self, tower: Tower, patches: int) -> None:
        self.tower, self.patches = tower, patches
        self._open = False
        self._kept: Tensor | None = None

    def install(self, scope: Scope) -> None:
        """Hooks the last block; the scope undoes it."""
        scope.hook_after(self.tower.blocks[-1], self._keep, first=True)

    def during(self, run: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """What `run` gives, and the features `[n, P, d]`, with gradients.

        Raises:
            SiteNotReachedError: if the last block did not run.
            InvalidInputError: if it saw another number of patches.
        """
        # Blocks that gradient checkpointing runs again come by here, too, long after what they gave was handed out.
        self._open, self._kept = True, None
        try:
            output, hidden = run(), self._kept
        finally:
            self._open, self._kept = False, None
        if hidden is None:
            raise SiteNotReachedError("the last block never ran, so there are no features of the patches.")
        return output, self._cut(hidden)

    def _cut(self, hidden: Tensor) -> Tensor:
        rest = hidden.shape[1] - self._prefix
        # Packed images may be padded further than the longest of them.
        if rest != self.patches and not (self.tower.padded and rest > self.patches):
            raise InvalidInputError(
                f"the pixels that were given make {rest} patches, and the prompts' images {self.patches}: a prompt's "
                "image must have the size of the one its pixels come from."
            )
        return hidden.narrow(1, self._prefix, self.patches)

    @property
    def _prefix(self) -> int:
        """Tokens before the patches, prompts included."""
        return self.tower.sites[len(self.tower.blocks) - 1].prefix

    def _keep(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._open:
            hidden = output[0] if isinstance(output, tuple) else output
            images_first = self.tower.shareable or self.tower.padded
            self._kept = hidden if images_first else hidden.transpose(0, 1)


def run_with(features: Features | None, run: Callable[[], Tensor]) -> tuple[Tensor, Tensor | None]:
    """What `run` gives, and features if they are wanted."""
    return (run(), None) if features is None else features.during(run)
