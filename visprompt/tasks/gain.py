"""Attention gain: how much more the readout attends to a region when a marker is on it (arXiv 2406.03303, Fig. 4).

Markers are measured as they are used: painted into the image in 8 bits, read by the model's own processor, and all at
the same positions.

>>> import visprompt as vp
>>> from visprompt.data.scenes.unlabelled import generated
>>> from visprompt.tasks.gain import GainMeter
>>> scenes = generated((64, 64), sizes={"train": 1, "validation": 0, "test": 4}).test
>>> meter = GainMeter(vp.load_model("bundled:scenes-clip"), [scenes.image(i) for i in range(4)])
>>> [item.block for item in meter.measure(vp.Prompter.from_name("circle")).blocks]
[0, 1, 2, 3, 4, 5]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from visprompt.errors import InvalidInputError
from visprompt.imaging.paste import random_colours
from visprompt.learned.strategy import Learned
from visprompt.prompter import Prompter
from visprompt.request import Box, Request
from visprompt.tasks.gain_statistics import BlockGain, GainRatio, Masses, compared, mass_on, summary
from visprompt.utils.renamed import renamed_attributes, renamed_parameters
from visprompt.visual_prompt import block_number, is_number

if TYPE_CHECKING:
    from visprompt.geometry.geometry import Geometry
    from visprompt.imaging.load import ImageSource
    from visprompt.models.base import Model
    from visprompt.visual_prompt import VisualPrompt

__all__ = [
    "BlockGain",
    "GainMeter",
    "GainRatio",
    "GainResult",
    "Masses",
    "attention_gain",
    "compared",
    "marked_square",
    "mass_on",
    "random_patch",
    "summary",
]

_SALT = 603304
#: number of images in memory at once
_CHUNK = 64


@dataclass(frozen=True, eq=False)
class GainResult:
    """Attention gain in every block that was measured.

    Args:
        blocks: gain with interval, one entry per block, in order.
        masses: `[n, B]`, fraction of the attention on the marked tokens with the marker, per image and block.
        without: `[n, B]`, the same without the marker.
    """

    blocks: tuple[BlockGain, ...]
    masses: Masses
    without: Masses


@renamed_attributes(pictures="images")
class GainMeter:
    """Measures markers on one model and one set of images; positions and plain attention are computed once.

    In every image, the marked region is a wholly visible square of `size_tokens` tokens. Its position is drawn from the
    seed and the image's index alone, so all markers are measured at the same positions. The square is the region that a
    strategy gets: a patch of that size covers it, a circle is inscribed in it. The mass is the attention on tokens
    under the square, weighted by the fraction of each token that it covers.

    Args:
        model: an encoder with attention, or a vision-language model, whose vision tower is measured.
        images: paths, PIL images or arrays. A sequence is read again for every marker, so it may be lazy and large;
            other iterables are turned into a list.
        size_tokens: side of the square in tokens.
        blocks: block numbers, negative ones from the end; None: all. In each block the readout's row is used (CLS, a
            pooling probe, or the mean over all patches' rows).
        seed: seed of the positions.
        without: `[n, B]`, masses without a marker from an earlier meter with the same arguments; None: they are
            measured.
        **runner: arguments of `Runner` (`batch_size`, `fit`, …).

    Raises:
        UnsupportedError: for a model without attention between its own image tokens.
        InvalidInputError: without images, or for a square larger than the model's input.
    """

    @renamed_parameters(pictures="images")
    def __init__(
        self,
        model: Model,
        images: Iterable[ImageSource],
        *,
        size_tokens: float = 3.0,
        blocks: Sequence[int] | None = None,
        seed: int = 0,
        without: Masses | None = None,
        **runner: Any,
    ) -> None:
        from visprompt.models.lvlm.vision_encoder import encoder_of

        self.model = encoder_of(model)
        self._tower = self.model.tower  # raises UnsupportedError for a model without attention
        if isinstance(images, str | bytes) or not isinstance(images, Iterable):
            raise InvalidInputError(
                f"images is a list of paths, PIL images or arrays; got {type(images).__name__}. A data set's are "
                "[data.image(i) for i in range(len(data))]."
            )
        self.images: Sequence[Any] = images if isinstance(images, Sequence) else list(images)
        if not len(self.images):
            raise InvalidInputError("gain is measured on images, and there are none.")
        if not is_number(size_tokens) or size_tokens <= 0:
            raise InvalidInputError(f"size_tokens is a number above 0; got {size_tokens!r}.")
        if blocks is not None and not (isinstance(blocks, Sequence) and len(blocks)):
            raise InvalidInputError(f"blocks is a list of blocks, or None for all; got {blocks!r}.")
        self.size_tokens, self.seed, self.blocks = size_tokens, seed, blocks
        self._options = {"progress": False, **runner}
        self._without = without
        self._places: dict[int, tuple[Box, NDArray[np.float32]]] = {}

    @property
    def without(self) -> Masses:
        """`[n, B]`: fraction of the attention on the marked tokens without a marker; measured on first access."""
        if self._without is None:
            self._without = self.masses(None)
        return self._without

    def read_blocks(self) -> tuple[int, ...]:
        """Returns the numbers of the blocks that are measured."""
        tower = self._tower
        if self.blocks is not None:
            return tuple(block_number(block, tower.num_blocks) for block in self.blocks)
        return tuple(range(tower.num_blocks))

    def place(self, number: int, wh: tuple[int, int]) -> Box:
        """Returns the marked square in an image.

        Args:
            number: index of the image.
            wh: its width and height in pixels.

        Returns:
            The square, in pixels of the image.
        """
        return self._place(number, wh)[0]

    def measure(
        self, prompter: Prompter | Sequence[Prompter], on_done: Callable[[int], None] | None = None
    ) -> GainResult:
        """Measures the gain of a marker.

        Args:
            prompter: any strategy that takes a region. Several strategies are used in turn, the first on the first
                image; the interval then includes their variation.
            on_done: called with the number of images finished since its last call.

        Returns:
            The gain per block with intervals, and the masses.
        """
        masses = self.masses(prompter, on_done)
        return GainResult(summary(masses, self.without, self.read_blocks()), masses, self.without)

    def masses(
        self, prompter: Prompter | Sequence[Prompter] | None, on_done: Callable[[int], None] | None = None
    ) -> Masses:
        """Measures the fraction of the attention over the patches that is on the marked tokens.

        Args:
            prompter: as in `measure`; None: no marker.
            on_done: as in `measure`.

        Returns:
            `[n, B]`, per image and block.

        Raises:
            InvalidInputError: if `prompter` is not a strategy or a list of strategies.
        """
        import visprompt as vp

        several = list(prompter) if isinstance(prompter, list | tuple) else [prompter]
        if not several or not all(one is None or isinstance(one, Prompter) for one in several):
            raise InvalidInputError(
                f"a marker is a strategy, vp.Prompter.from_name(…), or a list of some; got {prompter!r:.60}."
            )
        marker = _InTurn(prompter) if isinstance(prompter, Sequence) else prompter
        runner = vp.Runner(self.model, marker, **self._options)
        found: list[Masses] = []
        for start in range(0, len(self.images), _CHUNK):
            if isinstance(marker, _InTurn):
                marker.next = start
            numbers = range(start, min(start + _CHUNK, len(self.images)))
            found += self._look(runner, numbers)
            if on_done is not None:
                on_done(len(numbers))
        return np.stack(found)

    def _look(self, runner: Any, numbers: Sequence[int]) -> list[Masses]:
        requests, under = [], []
        for number in numbers:
            request = Request(self.images[number])
            box, covered = self._place(number, request.pil_image.size)
            requests.append(Request(request.pil_image, region=box))
            under.append(covered)
        # For a model with a pooling probe, blocks before it are read too: attention averaged over all patches' rows.
        maps = runner.attention(requests, self.read_blocks(), rows="summary")
        return [mass_on(item.values.float().numpy(), tokens) for item, tokens in zip(maps, under, strict=True)]

    def _place(self, number: int, wh: tuple[int, int]) -> tuple[Box, NDArray[np.float32]]:
        if number not in self._places:
            geometry = self.model.geometry(wh, self._options.get("fit", "model"))
            box = marked_square(geometry, self.size_tokens, [_SALT, self.seed, number])
            self._places[number] = box, geometry.coverage(box)
        return self._places[number]


class _InTurn(Prompter):
    """Several strategies used in turn: the first on the first image, and so on.

    Args:
        prompters: strategies of one class.
    """

    name = "in turn"

    def __init__(self, prompters: Sequence[Prompter]) -> None:
        super().__init__()
        self.prompters = list(prompters)
        self.acts_on, self.needs = self.prompters[0].acts_on, self.prompters[0].needs  # type: ignore[misc]
        #: index of the next image
        self.next = 0

    def edit_all(self, prompts: Sequence[VisualPrompt], model: Model) -> list[VisualPrompt]:
        found: dict[int, VisualPrompt] = {}
        for turn, one in enumerate(self.prompters):
            own = [index for index in range(len(prompts)) if (self.next + index) % len(self.prompters) == turn]
            if own:
                found.update(zip(own, one.edit_all([prompts[index] for index in own], model), strict=True))
        self.next += len(prompts)
        return [found[index] for index in range(len(prompts))]


@renamed_parameters(pictures="images")
def attention_gain(
    model: Model,
    prompter: Prompter,
    images: Iterable[ImageSource],
    *,
    size_tokens: float = 3.0,
    blocks: Sequence[int] | None = None,
    seed: int = 0,
    **runner: Any,
) -> GainResult:
    """Measures the gain of one marker on one square per image.

    For several markers, a `GainMeter` measures the plain images only once.

    Args:
        model, images, size_tokens, blocks, seed, **runner: as in `GainMeter`.
        prompter: any strategy that takes a region.

    Returns:
        The gain per block with intervals, and the masses.

    Raises:
        UnsupportedError: for a model without attention between its own image tokens.
        InvalidInputError: without images, or for a square larger than the model's input.
    """
    return GainMeter(model, images, size_tokens=size_tokens, blocks=blocks, seed=seed, **runner).measure(prompter)


def random_patch(patch: Any, seed: int) -> Any:
    """Returns the control of a learned patch: the same shape, size and alpha, with uniformly random colours.

    Args:
        patch: a `patch` strategy with a learned patch.
        seed: seed of the colours.

    Raises:
        InvalidInputError: if nothing was learned.
    """
    import copy

    state = patch.state() if isinstance(patch, Learned) else {}
    if "prompt.rgba" not in state:
        raise InvalidInputError("a random patch has the alpha of a learned one: load or learn one first.")
    rgba = state["prompt.rgba"]
    drawn = np.rint(random_colours(rgba.numpy() / np.float32(255), seed) * 255).astype(np.uint8)
    rgba[:3] = rgba.new_tensor(drawn[:3])
    made = copy.copy(patch)
    made.load_state({"prompt.rgba": rgba})
    made.record = {}
    return made


def marked_square(geometry: Geometry, size_tokens: float, seed: Sequence[int]) -> Box:
    """Draws the position of a square within the part of an image that the model sees.

    Args:
        geometry: how the image is mapped to the model's input.
        size_tokens: side of the square in tokens.
        seed: seed of the position, a sequence of integers.

    Returns:
        The square, in pixels of the image.

    Raises:
        InvalidInputError: if the square is larger than that part, or the model splits the image into tiles.
    """
    if len(geometry.tiles) != 1:
        raise InvalidInputError("gain is measured on models that see an image in one tile.")
    tile = geometry.tiles[0]
    x0, y0, x1, y1 = geometry.visible_xyxy()
    width, height = (size_tokens * tile.patch_hw[i] / tile.scale_xy[1 - i] for i in (1, 0))
    if width > x1 - x0 + 1e-6 or height > y1 - y0 + 1e-6:
        raise InvalidInputError(
            f"a square of {size_tokens:g} tokens is {width:.0f}×{height:.0f} pixels of an image of which the model "
            f"sees {x1 - x0:.0f}×{y1 - y0:.0f}."
        )
    across, down = np.random.default_rng(list(seed)).random(2)
    left, top = x0 + across * max(x1 - x0 - width, 0), y0 + down * max(y1 - y0 - height, 0)
    return Box(left, top, min(left + width, x1), min(top + height, y1))
