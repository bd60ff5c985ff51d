"""The patches' hidden states after a tower's last block, for dense tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from visprompt.attention.scope import Scope
from visprompt.attention.sites import Tower
from visprompt.errors import InvalidInputError, SiteNotReachedError


class Features:
    """Keeps the output of the last block, before the tower's last norm, for one forward at a time.

    Its hook runs before prompt tokens are removed: with `pool="with_prompts"` that step replaces every patch by the
    mean.

    Args:
        tower: the tower; with prompt tokens that of the `Insertion`.
        patches: P, the number of patches; for padded images the largest.
    """

    def __init__(self, tower: Tower, patches: int) -> None:
        self.tower, self.patches = tower, patches
        self._open = False
        self._kept: Tensor | None = None

    def install(self, scope: Scope) -> None:
        """Hooks the last block.

        Args:
            scope: the scope, which removes the hook on exit.
        """
        scope.hook_after(self.tower.blocks[-1], self._keep, first=True)

    def during(self, run: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
        """Runs a forward and keeps the features.

        Args:
            run: the forward.

        Returns:
            Its result, and the features `[n, P, d]`, with gradients.

        Raises:
            SiteNotReachedError: if the last block did not run.
            InvalidInputError: if it saw another number of patches.
        """
        # Gradient checkpointing runs blocks again in the backward pass: their outputs are not kept a second time.
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
        """Number of tokens before the patches, prompt tokens included."""
        return self.tower.sites[len(self.tower.blocks) - 1].prefix

    def _keep(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._open:
            hidden = output[0] if isinstance(output, tuple) else output
            images_first = self.tower.shareable or self.tower.padded
            self._kept = hidden if images_first else hidden.transpose(0, 1)


def run_with(features: Features | None, run: Callable[[], Tensor]) -> tuple[Tensor, Tensor | None]:
    """Runs a forward, with features if they are wanted.

    Args:
        features: keeps them; None: no features.
        run: the forward.

    Returns:
        Its result, and `[n, P, d]` or None.
    """
    return (run(), None) if features is None else features.during(run)
