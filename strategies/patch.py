"""A learned patch: the small pattern that draws a model's attention to wherever it is pasted."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.imaging.paste import BLENDINGS, PLACES, SHAPES, marks_of, paste_all, random_colours, shape_alpha, to_rgba
from visprompt.learned.strategy import Learned
from visprompt.prompter import Options, Prompter
from visprompt.registry import defaults_of
from visprompt.visual_prompt import VisualPrompt, check_blocks, is_number

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor, nn

    from visprompt.data.labelled.dataset import Labelled, Splits
    from visprompt.geometry.geometry import Geometry, Tile
    from visprompt.models.base import Model
    from visprompt.regions.shapes import Pair
    from visprompt.training.objectives.base import Objective
    from visprompt.training.patch.priors import Baked
    from visprompt.training.result import Fitted

PNG = "patch.png"
#: tokens along a side of a ViT-B/16 at 224 pixels: how large a token is taken to be if nothing better is known
USUAL_GRID = 14
#: pixels along a side of a patch made for a model without tokens
USUAL_SIDE = 48


@dataclass(frozen=True)
class PatchOptions(Options):
    """Options of `patch`; the second half matters only while it is learned.

    Args:
        size: side of the patch in tokens of the model, so that one patch serves any resolution.
        size_share: instead of `size`, side as a share of the picture's shorter side, on any model. None: tokens; on
            models whose tokens are not known (remote ones) the share that `size` tokens had of the input of the model
            it was learned on.
        shape: what of the patch is pasted: "circle", a ring; "square", a frame; "full", all of it.
        ratio: λ, size of the hole of a ring or frame over its own size, 0 to below 1.
        opacity: 0 (nothing is pasted) to 1.
        blending: "over": the patch covers what is below it; "add": it lightens and darkens it.
        place: where it goes: "centre" of a box or mask (of a mask: where it is deepest), or where a point is; "rim":
            several along the outline; "corners": four that touch the corners of the region's box from outside, which
            hide nothing of it.
        rim_marks: how many on a rim, evenly spaced from the middle of the top on; a point has no rim and gets one.
        scale: a factor on its side where it is used, 0.05 to 20.
        colours: "learned", or "random": colours drawn uniformly in their place, the control.
        prior: "conv": while it is learned the patch is what a small convolutional auto-encoder makes of fixed noise
            (Deep Image Prior); "none": its pixels are learned directly.
        pixels: of the patch along a side; None: as many as the model's input has there, 8 to 128.
        sigma_tokens: standard deviation of the Gaussian that attention is to follow.
        blocks: whose attention; numbers from 0, negative ones from the end, or fractions of the depth.
        jitter_shift: how far from a token's centre the patch may be put, 1: anywhere, 0: on centres only.
        jitter_scale: s: its side varies by factors of 1/(1 + s) to 1 + s.
        jitter_brightness: b: its colours vary by factors of 1 − b to 1 + b.
    """

    size: float = 3.0
    size_share: float | None = None
    shape: Literal["circle", "square", "full"] = "circle"
    ratio: float = 0.3
    opacity: float = 1.0
    blending: Literal["over", "add"] = "over"
    place: Literal["centre", "rim", "corners"] = "centre"
    rim_marks: int = 4
    scale: float = 1.0
    colours: Literal["learned", "random"] = "learned"
    prior: Literal["conv", "none"] = "conv"
    pixels: int | None = None
    sigma_tokens: float = 0.7
    blocks: tuple[int | float, ...] = (-1,)
    jitter_shift: float = 1.0
    jitter_scale: float = 0.1
    jitter_brightness: float = 0.1

    def __post_init__(self) -> None:
        choices = {
            "shape": SHAPES, "blending": BLENDINGS, "place": PLACES, "prior": ("conv", "none"),
            "colours": ("learned", "random"),
        }  # fmt: skip
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise InvalidInputError(f"{name} is one of {', '.join(allowed)}; got {getattr(self, name)!r}.")
        for name, low, high in (
            ("size", 0.25, 64.0), ("size_share", 0.01, 1.0), ("scale", 0.05, 20.0), ("ratio", 0.0, 0.99),
            ("opacity", 0.0, 1.0), ("sigma_tokens", 0.05, 64.0), ("jitter_shift", 0.0, 1.0),
            ("jitter_scale", 0.0, 1.0), ("jitter_brightness", 0.0, 1.0),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is None and name == "size_share":
                continue
            if not is_number(value) or not low <= value <= high:
                raise InvalidInputError(f"{name} is a number from {low:g} to {high:g}; got {value!r}.")
        for name, least, most in (("rim_marks", 1, 64), ("pixels", 8, 512)):
            value = getattr(self, name)
            if value is None and name == "pixels":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise InvalidInputError(f"{name} is a whole number from {least} to {most}; got {value!r}.")
        blocks = self.blocks if isinstance(self.blocks, list | tuple) else (self.blocks,)
        if not blocks or any(block is None for block in blocks):
            raise InvalidInputError(f"blocks is one block or several; got {self.blocks!r}.")
        check_blocks(*blocks)
        object.__setattr__(self, "blocks", tuple(blocks))


class Patch(Learned):
    """Learned patch prompt (Rezaei et al. 2024, https://arxiv.org/abs/2406.03303): the marker a model cannot ignore.

    Without labels: pictures, a random place in each, the patch P pasted there, and as the loss the Kullback–Leibler
    divergence from a Gaussian around the place to the readout's attention over the tokens,
    `KL(t ‖ a) = Σ t log(t / a)`. P = sigmoid(f(z)), f a small convolutional auto-encoder with learned weights and z a
    fixed noise. Used, it is paint: 8-bit pixels in the picture, before the model's own resize, so that it works on any
    model, also on one it was not learned on. Patches ship for the bundled models: `from_name("patch")` finds them by
    the model's weights.

    >>> import visprompt as vp
    >>> vp.Prompter.from_name("patch", shape="full").options.size
    3.0

    Shapes: saved as uint8 `[4, r, r]`, red, green, blue and alpha, and as `patch.png` to look at.

    Units: tokens; a mark of s tokens is s tokens of the model's input wide and high, and what that is in the picture.

    Raises:
        InvalidInputError: if it was neither learned nor loaded and none ships for the model, without a region, or for
            an option out of range.
        UnsupportedError: when it is learned on a model whose attention cannot be read.
    """

    Options = PatchOptions
    acts_on: ClassVar[frozenset[str]] = frozenset({"pixels"})
    needs: ClassVar[frozenset[str]] = frozenset({"training", "region"})
    neutral: ClassVar[dict[str, Any] | None] = {"opacity": 0.0}
    #: it may be used on other models than the one it was learned on
    transferable: ClassVar[bool] = True
    #: the others belong to what was learned
    free: ClassVar[frozenset[str]] = frozenset({"place", "rim_marks", "opacity", "size_share", "scale", "colours"})

    # -- what ships -------------------------------------------------------------------------------------------------

    def on(self, model: Model) -> Patch:
        """Itself; where it has learned nothing, the patch that ships for the model, used as this one is to be.

        Raises:
            InvalidInputError: if an option was given that is another than what that patch was learned with.
        """
        if self.parameters is not None or self.options.opacity == 0:
            return self
        from visprompt.learned.bundled_patches import patch_of

        found = patch_of(model)
        return self if found is None else self._using(found)

    def _using(self, found: Patch) -> Patch:
        usual = (PatchOptions(), defaults_of(self.name or "patch", type(self)))
        free: dict[str, Any] = {}
        wrong = []
        for item in dataclasses.fields(PatchOptions):
            own, there = getattr(self.options, item.name), getattr(found.options, item.name)
            if own == there or not (item.name in self.given or all(own != getattr(one, item.name) for one in usual)):
                continue  # the same, or not asked for
            if item.name in self.free:
                free[item.name] = own
            else:
                wrong.append(f"{item.name}={there!r}, and {item.name}={own!r} is asked for")
        if wrong:
            raise InvalidInputError(
                f"the patch that ships for {(found.backbone or {}).get('name')} was learned with {'; '.join(wrong)}. "
                "Leave that out (scale=… pastes it larger or smaller), or learn another one: prompter.fit(model), "
                "'visprompt fit patch …'."
            )
        made = type(self)(dataclasses.replace(found.options, **free))
        made.name, made.parameters = self.name, found.parameters
        made.backbone, made.record = found.backbone, found.record
        return made

    def check(self, prompts: Sequence[VisualPrompt], model: Model) -> None:
        if self.parameters is None and self.options.opacity == 0:
            Prompter.check(self, prompts, model)  # it is switched off, whatever it would be
        else:
            super().check(prompts, model)

    def nothing_learned(self, model: Model) -> str:
        from visprompt import bundled

        learn = "learn one on it (prompter.fit(model), 'visprompt fit patch …'), or " * model.has_tower("vision")
        return (
            f"{self.name!r} has learned nothing yet, and none ships for {model.name}: {learn}take one that was learned "
            'on another model, vp.Prompter.from_pretrained("bundled:patch-scenes-clip") or a folder. With the package '
            f"come {', '.join(f'bundled:{one}' for one in bundled.patches())}."
        )

    def describe(self) -> dict[str, Any]:
        """As of every learned strategy; without anything learned, which patches may be used instead."""
        found = super().describe()
        if self.parameters is None:
            from visprompt.learned.bundled_patches import patch_digests

            found["bundled"] = patch_digests()
        return found

    # -- using it -----------------------------------------------------------------------------------------------------

    def edit(self, prompt: VisualPrompt, model: Model) -> VisualPrompt:
        """Pastes it once per region, along the regions' rims, or at their corners."""
        options: PatchOptions = self.options
        if options.opacity == 0:
            return prompt
        picture = prompt.picture
        wh = picture.size
        regions = tuple(region.clip(wh) for region in prompt.regions)
        patch = self.array()
        if options.colours == "random":
            patch = random_colours(patch)
        geometry = _geometry(prompt, model)
        sides = partial(self._side, wh=wh, geometry=geometry if options.size_share is None else None)
        marks = marks_of(regions, options.place, options.rim_marks, wh, sides, geometry.visible_xyxy())
        picture = paste_all(picture, patch, marks, opacity=options.opacity, blending=options.blending)
        return prompt if picture is prompt.picture else prompt.with_(picture=picture)

    def _side(self, spot: Pair, wh: tuple[int, int], geometry: Geometry | None) -> Pair:
        """Width and height of the patch at a place, pixels of the picture."""
        options: PatchOptions = self.options
        tile = None if geometry is None or geometry.num_patches == 1 else _tile_at(geometry, spot)
        if tile is not None:
            width = options.scale * options.size * tile.patch_hw[1] / tile.scale_xy[0]
            height = options.scale * options.size * tile.patch_hw[0] / tile.scale_xy[1]
            return (max(width, 1.0), max(height, 1.0))
        grid = (self.backbone or {}).get("grid_hw") or (USUAL_GRID, USUAL_GRID)
        share = options.size / min(grid) if options.size_share is None else options.size_share
        side = max(options.scale * min(share, 1.0) * min(wh), 1.0)
        return (side, side)

    def array(self) -> np.ndarray:
        """The patch in 8 bits, float32 `[4, r, r]` in [0, 1].

        Raises:
            InvalidInputError: if nothing was learned.
        """
        if self.parameters is None:
            raise InvalidInputError(
                f"{self.name!r} has learned nothing yet; what ships for a model is prompter.on(model)."
            )
        found: np.ndarray = self._baked().patch().cpu().numpy()
        return found

    def image(self) -> Image.Image:
        """The patch to look at, RGBA."""
        return to_rgba(self.array())

    # -- learning it --------------------------------------------------------------------------------------------------

    def build(self, model: Model, seed: int = 0) -> None:
        """Makes a patch for a model, untrained; also for models without attention, since any can look at it."""
        import torch

        model.require(self.acts_on, self.name)
        self.parameters = self.make(model, torch.Generator().manual_seed(seed)).to(model.device)
        self.backbone = _backbone(model)
        self.head, self.record = None, {}

    def make(self, model: Model, generator: torch.Generator) -> nn.Module:
        """The prior, with its weights drawn and its patch as large as the options say."""
        import torch

        from visprompt.training.patch.pasting import side_for
        from visprompt.training.patch.priors import ConvPrior, PixelPrior

        options: PatchOptions = self.options
        tile = _vision_tile(model)
        side = options.pixels or (USUAL_SIDE if tile is None else side_for(options.size, tile))
        alpha = torch.from_numpy(shape_alpha(options.shape, options.ratio, side))
        return (ConvPrior if options.prior == "conv" else PixelPrior)(alpha, generator)

    def patch(self, device: torch.device) -> Tensor:
        """The patch as it is learned, `[4, r, r]` in [0, 1], with gradients; without any if its colours are random."""
        import torch

        source: Any = self.parameters
        found: Tensor = source.patch()
        if self.options.colours == "random":
            found = torch.from_numpy(random_colours(self.array()))
        return found.to(device)

    def objective(self, model: Model, data: Labelled) -> type[Objective]:
        from visprompt.training.objectives.patch_attention import AttentionTarget

        return AttentionTarget

    def fit(
        self, model: Model, data: Splits | Labelled | str | os.PathLike[str] | None = None, **options: Any
    ) -> Fitted:
        """Learns the patch; see `Learned.fit`.

        Args:
            model: an image encoder, or a vision-language model, on whose vision tower it is learned; it stays as it
                was.
            data: pictures: a folder (all pictures below it) or anything else that `load_splits` reads, paths or
                pictures in a list, labelled pictures, whose labels are not looked at, or their splits. None: generated
                scenes.
            **options: of `Learned.fit`.

        Raises:
            UnsupportedError: if the model's attention cannot be read.
            InvalidInputError: for data without pictures, for options with which nothing is learned, and as
                `Learned.fit`.
        """
        from visprompt.models.lvlm.vision_encoder import encoder_of

        self._require_learnable(options.get("sweep") or {})
        seed = options.get("seed", 0)
        # Seeds that are none are refused with the other settings.
        splits = self.splits(model, data, seed=seed if isinstance(seed, int) and seed >= 0 else 0)
        fitted = super().fit(encoder_of(model), splits, **options)
        self.parameters = self._baked().to(model.device)
        return fitted

    def _require_learnable(self, sweep: Mapping[str, Sequence[Any]]) -> None:
        options: PatchOptions = self.options
        if options.opacity == 0:
            raise InvalidInputError("with opacity=0 nothing is pasted, so nothing can be learned: leave it out.")
        if options.colours == "random":
            raise InvalidInputError('colours="random" is a control of what is learned: give it when that is loaded.')
        of_use = sorted((self.free - {"opacity"}) & set(sweep))
        if of_use:
            raise InvalidInputError(f"{', '.join(of_use)} says how a patch is used; every value would learn the same.")

    def evaluate(
        self, model: Model, data: Labelled | Splits | str | os.PathLike[str] | None = None, **settings: Any
    ) -> dict[str, float]:
        """How much attention it, or what ships for the model, gets on a model: any, not only where it was learned.

        It is put once into each picture, as large as it was learned; of the options of use `opacity` and `colours`
        count.

        Args:
            model: an image encoder.
            data: pictures, as in `fit`; of splits the test part, or what there is. None: generated scenes.
            **settings: as in `Learned.evaluate`.
        """
        from visprompt.data.labelled.dataset import Labelled
        from visprompt.data.labelled.unlabelled import without_labels
        from visprompt.models.lvlm.vision_encoder import encoder_of

        encoder, used = encoder_of(model), self.on(model)
        if used is not self:
            return used.evaluate(model, data, **settings)
        if isinstance(data, Labelled):
            return super().evaluate(encoder, without_labels(data), **settings)
        splits = self.splits(encoder, data)
        return super().evaluate(encoder, splits.test or splits.validation or splits.train, **settings)

    def splits(self, model: Model, data: Any, seed: int = 0) -> Splits:
        """Pictures to learn from, without labels, in their parts."""
        from visprompt.data.labelled.dataset import Labelled, Splits
        from visprompt.data.labelled.splits import load_splits, without_validation
        from visprompt.data.labelled.unlabelled import splits_without_labels, unlabelled, without_labels
        from visprompt.data.scenes.unlabelled import generated

        if data is None:
            from visprompt.models.lvlm.vision_encoder import encoder_of

            tile = _vision_tile(encoder_of(model))
            hw = (64, 64) if tile is None else tile.input_hw
            return generated((hw[1], hw[0]), seed=seed)
        if isinstance(data, Splits):
            return splits_without_labels(data)
        if isinstance(data, str | os.PathLike):
            return load_splits(os.fspath(data), labels=False, seed=seed)
        if not isinstance(data, Labelled | Sequence):
            raise InvalidInputError(
                f"data is a folder, a list of pictures, Splits or Labelled, or None for generated scenes; got "
                f"{type(data).__name__}."
            )
        pictures = without_labels(data) if isinstance(data, Labelled) else unlabelled(data, name="pictures")
        return without_validation(pictures, None, 0.2, seed, "pictures from Python")

    # -- what is saved ------------------------------------------------------------------------------------------------

    def _baked(self) -> Baked:
        """The patch without what made it."""
        from visprompt.training.patch.priors import Baked, bake

        source: Any = self.parameters
        return source if isinstance(source, Baked) else bake(source)

    def state(self) -> dict[str, Tensor]:
        """The patch in 8 bits: what made it is not kept."""
        return {} if self.parameters is None else {"prompt.rgba": self._baked().rgba.cpu().clone()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Puts a patch in the place of what there is.

        Raises:
            InvalidInputError: if it is none.
        """
        import torch

        from visprompt.training.patch.priors import Baked

        rgba = state.get("prompt.rgba")
        fits = rgba is not None and rgba.dtype == torch.uint8 and rgba.ndim == 3
        fits = fits and rgba is not None and rgba.shape[0] == 4 and rgba.shape[1] == rgba.shape[2] > 0
        if rgba is None or not fits or set(state) != {"prompt.rgba"}:
            found = ", ".join(f"{name} {list(item.shape)}" for name, item in state.items()) or "nothing"
            raise InvalidInputError(f"a patch is one tensor, prompt.rgba, uint8 [4, r, r]; got {found}.")
        self.parameters = Baked(rgba.clone())

    def remake(self, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
        import torch

        from visprompt.training.patch.priors import Baked

        return Baked(torch.zeros(shapes.get("rgba", (4, 1, 1)), dtype=torch.uint8))

    def about(self) -> str:
        """Shape and size, in words."""
        if self.parameters is None:
            return ""
        options: PatchOptions = self.options
        side = int(self._baked().rgba.shape[-1])
        hollow = {"circle": "ring", "square": "frame", "full": "square"}
        shape = hollow[options.shape] if options.ratio else {"circle": "disc"}.get(options.shape, "square")
        hole = f" with a hole of {options.ratio * 100:g} % of its size" if shape in ("ring", "frame") else ""
        wide = f"{options.size:g} tokens of the model's input"
        if options.size_share is not None:
            wide = f"{options.size_share:.0%} of the picture's shorter side"
        return f"A {shape}{hole}, {side} × {side} pixels, pasted so that it is {wide} wide."

    def sketch(self, folder: Path, number: int = 0) -> None:
        """Writes the patch as it is now as a picture, into a folder that exists."""
        from io import BytesIO

        from visprompt.utils.files import write_bytes

        content = BytesIO()
        self.image().save(content, "PNG")
        write_bytes(folder / (f"{number}-{PNG}" if number else PNG), content.getvalue())


# -- geometry ---------------------------------------------------------------------------------------------------------


def _geometry(prompt: VisualPrompt, model: Model) -> Geometry:
    """Where the vision tower's tokens lie in a prompt's picture; where they cannot be told, those of whatever the model
    is read through.
    """
    if model.has_tower("vision"):
        try:
            return model.geometry_of(prompt, tower="vision")
        except UnsupportedError:  # a tower whose layout is not known for such a picture
            pass
    return model.geometry_of(prompt)


def _tile_at(geometry: Geometry, spot: Pair) -> Tile:
    """Of the tiles that show a place, the one with the coarsest tokens: the mark is then large enough in all of
    them.
    """

    def shows(tile: Tile) -> bool:
        x0, y0, x1, y1 = tile.seen_xyxy
        return x0 <= spot[0] <= x1 and y0 <= spot[1] <= y1

    showing = [tile for tile in geometry.tiles if shows(tile)] or list(geometry.tiles)
    return max(showing, key=lambda tile: tile.patch_hw[0] / tile.scale_xy[1] * tile.patch_hw[1] / tile.scale_xy[0])


def _vision_tile(model: Model) -> Tile | None:
    """The input of an encoder for a square picture; None where there are no tokens."""
    if model.generates or not model.has_tower("vision"):
        return None
    return model.geometry((256, 256)).tiles[0]


def _backbone(model: Model) -> dict[str, Any]:
    """What a patch remembers of the model it was made for: `identity` where there is a tower, and the grid."""
    from visprompt.models.identity import identity
    from visprompt.models.lvlm.vision_encoder import VISION

    # The tower of a language model is loaded by that model's name.
    name, tile = model.name.removesuffix(VISION), _vision_tile(model)
    if tile is not None:
        return {**identity(model), "name": name, "grid_hw": list(tile.grid_hw)}
    if model.name.startswith("remote:"):
        return {"name": name, "class": type(model).__name__, "backend": "remote"}
    return {"name": name, "class": type(model.module).__name__, "backend": model.parts.backend}
