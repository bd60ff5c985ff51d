"""A learned patch: a small pattern that attracts a model's attention to the point where it is pasted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from visprompt.errors import InvalidInputError
from visprompt.imaging.paste import BLENDINGS, PLACES, SHAPES, paste_all, paste_boxes, random_colours, shape_alpha
from visprompt.learned.image_prompt import ImagePrompter
from visprompt.learned.token_sizes import input_tile, square_at, vision_geometry
from visprompt.prompter import Options
from visprompt.utils.renamed import renamed_names
from visprompt.visual_prompt import VisualPrompt, check_blocks, is_number

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from visprompt.data.labelled.dataset import Labelled
    from visprompt.geometry.geometry import Geometry
    from visprompt.models.base import Model
    from visprompt.regions.shapes import Pair
    from visprompt.training.objectives.base import Objective

#: assumed tokens along a side of the input if the patch grid is unknown: those of a ViT-B/16 at 224 pixels
USUAL_GRID = 14
#: pixels along a side of a patch made for a model without tokens
USUAL_SIDE = 48


@dataclass(frozen=True)
class PatchOptions(Options):
    """Options of `patch`; those from `prior` on affect only its training.

    Args:
        size: side of the patch in tokens of the model, so that one patch serves any resolution.
        size_share: instead of `size`, side as a fraction of the image's shorter side, on any model. None: tokens; on
            models whose tokens are not known (remote ones) the fraction that `size` tokens have of the input of the
            model it was learned on.
        shape: the part of the patch that is pasted: "circle", a ring; "square", a frame; "full", all of it.
        ratio: λ, size of the hole of a ring or frame over its own size, 0 to below 1.
        opacity: 0 (nothing is pasted) to 1.
        blending: "over": the patch covers what is below it; "add": it lightens and darkens it.
        place: position: "centre" of a box (of a mask: its deepest pixel), or the point; "rim": several patches along
            the outline; "corners": four patches that touch the corners of the region's box from outside.
        rim_marks: number of patches on a rim, evenly spaced from the middle of the top on; a point gets one.
        scale: a factor on the side in use, 0.05 to 20.
        colours: "learned", or "random": uniformly random colours instead, as a control.
        prior: "conv": in training a small convolutional network computes the patch from fixed noise (Deep Image
            Prior); "none": its pixels are parameters.
        pixels: of the patch along a side; None: the resolution of the model's input, 8 to 128.
        sigma_tokens: standard deviation of the target Gaussian of attention, tokens.
        blocks: blocks whose attention is trained; numbers from 0, negative ones from the end, or fractions of the
            depth.
        jitter_shift: range of the distance from a token's centre in training; 1: any position, 0: centres only.
        jitter_scale: s: the side varies by factors from 1/(1 + s) to 1 + s.
        jitter_brightness: b: the colours vary by factors from 1 − b to 1 + b.
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


class Patch(ImagePrompter):
    """Learned patch prompt (Rezaei et al. 2024, https://arxiv.org/abs/2406.03303): a pattern that attracts attention.

    It is trained without labels: the patch P is pasted at a random position in each image, and the loss is the
    Kullback–Leibler divergence from a Gaussian t around the position to the readout's attention a over the tokens,
    `KL(t ‖ a) = Σ t log(t / a)`. P = sigmoid(f(z)), with f a small convolutional network with trained weights and z a
    fixed noise. In use, its 8-bit pixels are pasted into the image before the model's resize, so that it works on any
    model, also on one it was not learned on. The package has patches for the bundled models: `from_name("patch")`
    finds them by the model's weights.

    >>> import visprompt as vp
    >>> vp.Prompter.from_name("patch", shape="full").options.size
    3.0

    Shapes: saved as uint8 `[4, r, r]`, red, green, blue and alpha, and as the image `patch.png`.

    Units: tokens; a patch of size s covers s × s tokens of the model's input, converted to pixels of the image.

    Raises:
        InvalidInputError: if it is untrained and the package has none for the model, without a region, or for an option
            out of range.
        UnsupportedError: in training, on a model whose attention cannot be read.
    """

    Options = PatchOptions
    needs: ClassVar[frozenset[str]] = frozenset({"training", "region"})
    neutral: ClassVar[dict[str, Any] | None] = {"opacity": 0.0}
    #: the other options affect training
    free: ClassVar[frozenset[str]] = frozenset({"place", "rim_marks", "opacity", "size_share", "scale", "colours"})
    option_hint: ClassVar[str] = "scale=… pastes it larger or smaller"

    # -- using it -----------------------------------------------------------------------------------------------------

    def edit(self, prompt: VisualPrompt, model: Model) -> VisualPrompt:
        """Pastes the patch at the region's centre, along its outline, or at its corners, as `place` says."""
        options: PatchOptions = self.options
        if options.opacity == 0:
            return prompt
        image = prompt.image
        regions = tuple(region.clip(image.size) for region in prompt.regions)
        patch = self.array()
        if options.colours == "random":
            patch = random_colours(patch)
        geometry = vision_geometry(prompt, model)
        sides = partial(self._side, wh=image.size, geometry=geometry if options.size_share is None else None)
        marks = paste_boxes(regions, options.place, options.rim_marks, image.size, sides, geometry.visible_xyxy())
        pasted = paste_all(image, patch, marks, opacity=options.opacity, blending=options.blending)
        return prompt if pasted is image else prompt.with_(image=pasted)

    def _side(self, center: Pair, wh: tuple[int, int], geometry: Geometry | None) -> Pair:
        """Width and height of the patch at a point, pixels of the image."""
        options: PatchOptions = self.options
        found = None if geometry is None else square_at(geometry, center, options.scale * options.size)
        if found is not None:
            return found
        grid = (self.backbone or {}).get("grid_hw") or (USUAL_GRID, USUAL_GRID)
        share = options.size / min(grid) if options.size_share is None else options.size_share
        side = max(options.scale * min(share, 1.0) * min(wh), 1.0)
        return (side, side)

    # -- learning it --------------------------------------------------------------------------------------------------

    def make(self, model: Model, generator: torch.Generator) -> nn.Module:
        """The prior with initial weights, at the resolution that the options give."""
        import torch

        from visprompt.training.patch.pasting import side_for
        from visprompt.training.patch.priors import ConvPrior, PixelPrior

        options: PatchOptions = self.options
        tile = input_tile(model)
        side = options.pixels or (USUAL_SIDE if tile is None else side_for(options.size, tile))
        alpha = torch.from_numpy(shape_alpha(options.shape, options.ratio, side))
        return (ConvPrior if options.prior == "conv" else PixelPrior)(alpha, generator)

    def patch(self, device: torch.device) -> Tensor:
        """The current patch, `[4, r, r]` in [0, 1], with gradients unless its colours are random."""
        import torch

        source: Any = self.parameters
        found: Tensor = source.patch()
        if self.options.colours == "random":
            found = torch.from_numpy(random_colours(self.array()))
        return found.to(device)

    def objective(self, model: Model, data: Labelled) -> type[Objective]:
        """Always `AttentionTarget`; labels are not used."""
        from visprompt.training.objectives.patch_attention import AttentionTarget

        return AttentionTarget

    def require_learnable(self, sweep: Mapping[str, Sequence[Any]]) -> None:
        """As `LearnedFromImages.require_learnable`, and checks the options.

        Raises:
            InvalidInputError: also for options with which the patch has no pixels or no gradients.
        """
        options: PatchOptions = self.options
        if options.opacity == 0:
            raise InvalidInputError("with opacity=0 nothing is pasted, so nothing can be learned: leave it out.")
        if options.colours == "random":
            raise InvalidInputError('colours="random" is a control of what is learned: give it when that is loaded.')
        super().require_learnable(sweep)

    def about(self) -> str:
        """Shape and size of the patch in a sentence."""
        if self.parameters is None:
            return ""
        options: PatchOptions = self.options
        side = int(self.baked().rgba.shape[-1])
        hollow = {"circle": "ring", "square": "frame", "full": "square"}
        shape = hollow[options.shape] if options.ratio else {"circle": "disc"}.get(options.shape, "square")
        hole = f" with a hole of {options.ratio * 100:g} % of its size" if shape in ("ring", "frame") else ""
        wide = f"{options.size:g} tokens of the model's input"
        if options.size_share is not None:
            wide = f"{options.size_share:.0%} of the image's shorter side"
        return f"A {shape}{hole}, {side} × {side} pixels, pasted so that it is {wide} wide."


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"PNG": "training.progress_images.IMAGE"}, globals())
