"""A learned patch: the small pattern that draws a model's attention to wherever it is pasted."""

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

#: tokens along a side of a ViT-B/16 at 224 pixels: how large a token is taken to be if nothing better is known
USUAL_GRID = 14
#: pixels along a side of a patch made for a model without tokens
USUAL_SIDE = 48


@dataclass(frozen=True)
class PatchOptions(Options):
    """Options of `patch`; the second half matters only while it is learned.

    Args:
        size: side of the patch in tokens of the model, so that one patch serves any resolution.
        size_share: instead of `size`, side as a share of the image's shorter side, on any model. None: tokens; on
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


class Patch(ImagePrompter):
    """Learned patch prompt (Rezaei et al. 2024, https://arxiv.org/abs/2406.03303): the marker a model cannot ignore.

    Without labels: images, a random place in each, the patch P pasted there, and as the loss the Kullback–Leibler
    divergence from a Gaussian around the place to the readout's attention over the tokens,
    `KL(t ‖ a) = Σ t log(t / a)`. P = sigmoid(f(z)), f a small convolutional auto-encoder with learned weights and z a
    fixed noise. Used, it is paint: 8-bit pixels in the image, before the model's own resize, so that it works on any
    model, also on one it was not learned on. Patches ship for the bundled models: `from_name("patch")` finds them by
    the model's weights.

    >>> import visprompt as vp
    >>> vp.Prompter.from_name("patch", shape="full").options.size
    3.0

    Shapes: saved as uint8 `[4, r, r]`, red, green, blue and alpha, and as `patch.png` to look at.

    Units: tokens; a mark of s tokens is s tokens of the model's input wide and high, and what that is in the image.

    Raises:
        InvalidInputError: if it was neither learned nor loaded and none ships for the model, without a region, or for
            an option out of range.
        UnsupportedError: when it is learned on a model whose attention cannot be read.
    """

    Options = PatchOptions
    needs: ClassVar[frozenset[str]] = frozenset({"training", "region"})
    neutral: ClassVar[dict[str, Any] | None] = {"opacity": 0.0}
    #: the others belong to what was learned
    free: ClassVar[frozenset[str]] = frozenset({"place", "rim_marks", "opacity", "size_share", "scale", "colours"})
    option_hint: ClassVar[str] = "scale=… pastes it larger or smaller"

    # -- using it -----------------------------------------------------------------------------------------------------

    def edit(self, prompt: VisualPrompt, model: Model) -> VisualPrompt:
        """Pastes it once per region, along the regions' rims, or at their corners."""
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

    def _side(self, spot: Pair, wh: tuple[int, int], geometry: Geometry | None) -> Pair:
        """Width and height of the patch at a place, pixels of the image."""
        options: PatchOptions = self.options
        found = None if geometry is None else square_at(geometry, spot, options.scale * options.size)
        if found is not None:
            return found
        grid = (self.backbone or {}).get("grid_hw") or (USUAL_GRID, USUAL_GRID)
        share = options.size / min(grid) if options.size_share is None else options.size_share
        side = max(options.scale * min(share, 1.0) * min(wh), 1.0)
        return (side, side)

    # -- learning it --------------------------------------------------------------------------------------------------

    def make(self, model: Model, generator: torch.Generator) -> nn.Module:
        """The prior, with its weights drawn and its patch as large as the options say."""
        import torch

        from visprompt.training.patch.pasting import side_for
        from visprompt.training.patch.priors import ConvPrior, PixelPrior

        options: PatchOptions = self.options
        tile = input_tile(model)
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

    def require_learnable(self, sweep: Mapping[str, Sequence[Any]]) -> None:
        options: PatchOptions = self.options
        if options.opacity == 0:
            raise InvalidInputError("with opacity=0 nothing is pasted, so nothing can be learned: leave it out.")
        if options.colours == "random":
            raise InvalidInputError('colours="random" is a control of what is learned: give it when that is loaded.')
        super().require_learnable(sweep)

    def about(self) -> str:
        """Shape and size, in words."""
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
