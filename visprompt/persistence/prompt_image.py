"""The protocol of strategies whose prompt is an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from PIL.Image import Image


@runtime_checkable
class HasImage(Protocol):
    """A strategy whose prompt is an image."""

    def image(self) -> Image:
        """The current prompt as an image, RGBA."""
        ...
