"""The objective of learned patches: attention at the patch's position. It needs images and no labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.training.dataset import SEEN
from visprompt.training.objectives.base import Batch, Split
from visprompt.training.objectives.encoder import EncoderObjective, adding_type
from visprompt.training.patch.pasting import Marks, Normalisation, draw_marks, gaussian_target, overlaid, paste_batch
from visprompt.utils.statistics import ratio_interval
from visprompt.visual_prompt import block_number

if TYPE_CHECKING:
    from visprompt.data.labelled.dataset import Labelled
    from visprompt.geometry.geometry import Tile
    from visprompt.imaging.paste import Blending
    from visprompt.learned.strategy import Learned
    from visprompt.models.base import Model
    from visprompt.training.settings import FitSettings

#: part of the seed of every position in evaluation: changing it changes the metrics
_SALT = 603303


class PatchLearning(Protocol):
    """The options that decide how a patch is learned.

    Attributes:
        size: side of the patch, in tokens of the model.
        opacity: of the patch, 0 to 1.
        blending: "over" or "add".
        sigma_tokens: standard deviation of the target Gaussian of attention, in tokens.
        blocks: blocks whose attention is used; numbers from 0, negative ones from the end, or fractions of the depth.
        jitter_shift: range of the patch's distance from a token's centre, in tokens, 0 to 1.
        jitter_scale: s; the side varies by factors from 1/(1 + s) to 1 + s.
        jitter_brightness: b; the colours vary by factors from 1 − b to 1 + b.
    """

    @property
    def size(self) -> float: ...
    @property
    def opacity(self) -> float: ...
    @property
    def blending(self) -> Blending: ...
    @property
    def sigma_tokens(self) -> float: ...
    @property
    def blocks(self) -> tuple[int | float, ...]: ...
    @property
    def jitter_shift(self) -> float: ...
    @property
    def jitter_scale(self) -> float: ...
    @property
    def jitter_brightness(self) -> float: ...


class PatchStrategy(Protocol):
    """The part of a learned strategy that this objective uses."""

    @property
    def options(self) -> PatchLearning: ...

    def patch(self, device: torch.device) -> Tensor:
        """The current patch, with gradients.

        Args:
            device: where it is returned.

        Returns:
            `[4, r, r]` in [0, 1]: red, green, blue and alpha.
        """
        ...


class AttentionTarget(EncoderObjective):
    """A patch that attracts the readout's attention (arXiv 2406.03303).

    For every image a position is drawn in the part that the model sees, without padding, and the patch is pasted there.
    a is the readout's attention over the patch grid, averaged over heads and normalised to sum 1. The readout is the
    CLS row, the pooling probe, or the mean over all patches' rows, as the model reads the image out; in blocks before a
    probe, the mean over all patches' rows. t is a Gaussian over the patch grid around the position. The loss is `KL(t ‖
    a) = Σ t log(t / a)`, averaged over the chosen blocks.

    Metrics, from all images of a split with one position per image and without random scale and brightness:

    - `loss`;
    - `mass`: attention on the tokens under the patch, weighted by the fraction of each token that it covers;
    - `mass_without`: the same on the image without the patch;
    - `gain`: `(mass − mass_without) / mass_without`, of the means over all images (their Fig. 4); `gain_low` and
      `gain_high` are its 95 % interval over the images (delta method);
    - `image_gain`: the mean of the images' own gains, dominated by images with almost no attention at the position.

    See `Objective` for the arguments. The strategy is a `PatchStrategy`, with options that are `PatchLearning`.

    Raises:
        UnsupportedError: for models without attention, with padded images, or with several tiles per image.
        InvalidInputError: for a block that the model does not have, a patch larger than the input, or a head.
    """

    metric: ClassVar[str] = "gain"
    higher_is_better: ClassVar[bool] = True

    def __init__(self, model: Model, prompter: Learned, splits: dict[Split, Labelled], settings: FitSettings) -> None:
        if model.generates or model.parts.tower is None:
            raise UnsupportedError(
                f"{model.name} has no image encoder whose attention can be read here, so no patch can be learned on "
                "it: learn one on an encoder and use it on this model; a patch goes with every model."
            )
        if settings.head is not None:
            raise InvalidInputError(
                f"head={settings.head!r}: a patch is learned from attention, without labels, so there is no head to "
                "train. Leave it out."
            )
        super().__init__(model, prompter, splits, settings)
        blocks = model.num_blocks
        options: PatchLearning = prompter.options
        self.blocks = tuple(dict.fromkeys(block_number(block, blocks, "blocks") for block in options.blocks))
        rows, columns = model.geometry((256, 256), settings.fit).tiles[0].grid_hw
        if options.size > min(rows, columns):
            raise InvalidInputError(
                f"size={options.size:g}: {model.name} sees an image as {rows} × {columns} tokens, so a patch of that "
                f"side would hide all of it. Take {min(rows, columns) / 2:g} or less."
            )
        self.colours = Normalisation.of(model.parts.reader)

    def samples(self, split: Split) -> torch.utils.data.Dataset[Any]:
        """Images as the model's inputs; labels are not used."""
        return self.images(split, where=True)

    # -- training -----------------------------------------------------------------------------------------------------

    @contextmanager
    def loss(self, batch: Batch, draws: Sequence[int] | None) -> Iterator[Tensor]:
        """The divergence from the target, summed over the images; see `Objective.loss`."""
        tile, options = self.tile(batch["pixel_values"]), self.prompter.options
        seeds = self._fixed(batch) if draws is None else draws
        jitter = {} if draws is None else {"scale": options.jitter_scale, "brightness": options.jitter_brightness}
        marks = draw_marks(seeds, tile, options.size, shift=options.jitter_shift, seen=batch.get(SEEN), **jitter)
        pixels = self._pasted(batch["pixel_values"], marks)
        with self._attention(pixels) as seen:
            under = overlaid(marks, tile).to(pixels.device)
            with torch.no_grad():
                self.watched = {"mass": float(self._mass(seen, under).mean())}
            yield self._divergence(seen, marks, tile).sum()

    @contextmanager
    def _attention(self, pixels: Tensor) -> Iterator[dict[int, Tensor]]:
        """The readout's attention `[n, H, P]` for every chosen block; call `backward()` inside the scope."""
        stop = not self.settings.checkpointing  # checkpointing runs blocks again, to their end
        prompts = self._prompts(pixels)
        with self.model.prompting(prompts, read=self.blocks, read_rows="summary", stop=stop) as encode:
            yield encode(pixels.to(self.model.dtype)).attention

    def _pasted(self, pixels: Tensor, marks: Marks) -> Tensor:
        strategy = cast(PatchStrategy, self.prompter)
        options = strategy.options
        patch = strategy.patch(pixels.device)
        return paste_batch(pixels, patch, marks, self.colours, opacity=options.opacity, blending=options.blending)

    def _divergence(self, seen: dict[int, Tensor], marks: Marks, tile: Tile) -> Tensor:
        """KL from target to attention, averaged over the blocks, `[n]`."""
        target = gaussian_target(marks, tile, self.prompter.options.sigma_tokens)
        first = next(iter(seen.values()))
        target = target.to(first.device)
        entropy = torch.special.xlogy(target, target).sum(-1)
        found = [entropy - (target * spread(item).clamp(min=1e-12).log()).sum(-1) for item in seen.values()]
        return torch.stack(found).mean(0)

    # -- measuring ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Number of images, and sums of the loss, of the attention under the patch with and without it, and of their
        products.
        """
        pixels: Tensor = batch["pixel_values"]
        tile, options = self.tile(pixels), self.prompter.options
        visible = batch.get(SEEN)
        marks = draw_marks(self._fixed(batch), tile, options.size, shift=options.jitter_shift, seen=visible)
        under = overlaid(marks, tile).to(pixels.device)
        with self._attention(pixels) as plain:
            before = self._mass(plain, under)
        with self._attention(self._pasted(pixels, marks)) as seen:
            after, loss = self._mass(seen, under), self._divergence(seen, marks, tile).sum()
        adding = adding_type(pixels.device)
        after, before = after.to(adding), before.to(adding)
        return {
            "count": torch.tensor(len(pixels), device=pixels.device),
            "loss": loss.to(adding),
            "mass": after.sum(),
            "mass_without": before.sum(),
            "products": torch.stack((after * after, after * before, before * before)).sum(-1),
            "gains": ((after - before) / before.clamp(min=1e-9)).sum(),
        }

    def _mass(self, seen: dict[int, Tensor], under: Tensor) -> Tensor:
        return torch.stack([(spread(item) * under).sum(-1) for item in seen.values()]).mean(0)

    def figures(self, sums: dict[str, Tensor]) -> dict[str, float]:
        """The metrics listed at the class."""
        count = float(sums["count"])
        mass, before = float(sums["mass"]) / count, float(sums["mass_without"]) / count
        gain = (mass - before) / max(before, 1e-12)
        interval = {}
        if count > 1:
            squared, mixed, squared_before = (float(one) / count for one in sums["products"])
            low, high = ratio_interval(mass, before, squared, mixed, squared_before, int(count))
            interval = {"gain_low": low - 1, "gain_high": high - 1}
        return {
            "loss": float(sums["loss"]) / count,
            "gain": gain,
            **interval,
            "image_gain": float(sums["gains"]) / count,
            "mass": mass,
            "mass_without": before,
        }

    def describe(self) -> dict[str, Any]:
        """The task and the blocks whose attention is used."""
        return {"task": "attention", "blocks": list(self.blocks)}

    # -- helpers ------------------------------------------------------------------------------------------------------

    def tile(self, pixels: Tensor) -> Tile:
        """The model's input and patch grid for a batch.

        Args:
            pixels: `[n, 3, h, w]`.

        Returns:
            The only tile of an image of this size.

        Raises:
            UnsupportedError: for a model that cuts images into several tiles.
        """
        wh = (int(pixels.shape[-1]), int(pixels.shape[-2]))
        tiles = self.model.geometry(wh, self.settings.fit).tiles
        if len(tiles) != 1 or tiles[0].input_hw != (wh[1], wh[0]):
            raise UnsupportedError(
                f"{self.model.name} makes several tiles, or inputs of many sizes, of an image: a patch is learned on "
                "models with one input."
            )
        return tiles[0]

    def _fixed(self, batch: Batch) -> list[int]:
        """Seeds of the positions in evaluation: a function of the images' indices alone."""
        return [
            int(np.random.SeedSequence([_SALT, int(index)]).generate_state(1, np.uint64)[0]) for index in batch["index"]
        ]


def spread(attention: Tensor) -> Tensor:
    """Attention over the patch grid: averaged over heads, then normalised to sum 1.

    >>> spread(torch.tensor([[[0.2, 0.2], [0.0, 0.4]]])).tolist()
    [[0.25, 0.75]]

    Args:
        attention: `[n, H, P]`.

    Returns:
        `[n, P]`, float32.
    """
    mean = attention.float().mean(dim=1)
    return mean / mean.sum(dim=-1, keepdim=True).clamp(min=1e-12)
