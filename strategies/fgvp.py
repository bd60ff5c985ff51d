"""Fine-grained visual prompting: blurs everything outside the object's outline."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from visprompt.strategies import _draw

from visprompt.errors import InvalidInputError
from visprompt.prompter import Options, Prompter
from visprompt.regions.shapes import Mask
from visprompt.utils.renamed import renamed_parameters
from visprompt.visual_prompt import FITS, VisualPrompt

if TYPE_CHECKING:
    from PIL import Image

    from visprompt.regions.shapes import Region

MASKS = ("grabcut", "given")
#: longer side of GrabCut's input, pixels; larger inputs take longer and give no better outlines
GRABCUT_SIDE_PX = 256
GRABCUT_ROUNDS = 5
#: a mask with a smaller fraction of its box counts as a failure
MIN_SHARE_OF_BOX = 0.05


@dataclass(frozen=True)
class FgvpOptions(Options):
    """Options of `fgvp`.

    Args:
        sigma: standard deviation of the Gaussian as a fraction of the image's side. 0: no blur.
        sigma_px: the same in pixels of the image; replaces `sigma` if given. 0: no blur.
        per: the side that `sigma` is a fraction of, `"longer"` or `"shorter"`.
        mask: for regions that are no mask: `"grabcut"` segments the object in the box (or a point's disc); `"given"`
            raises an error. Masks are always used unchanged.
        fit: how the image is brought to the input's size; None: as the prompt says; `"squash"` is the paper's.
    """

    sigma: float = 0.1
    sigma_px: float | None = None
    per: str = "longer"
    mask: str = "grabcut"
    fit: str | None = None

    def __post_init__(self) -> None:
        _draw.check_sigma(self.sigma, self.sigma_px)
        _draw.check_choice("per", self.per, ("longer", "shorter"))
        _draw.check_choice("mask", self.mask, MASKS)
        if self.fit is not None:
            _draw.check_choice("fit", self.fit, FITS)


class Fgvp(Prompter):
    """FGVP (Yang et al., NeurIPS 2023, https://arxiv.org/abs/2306.04356): blurs outside a fine mask.

    With m the mask, 1 on the object's pixels: `m · image + (1 − m) · (image ∗ Gaussian(σ))`. The authors take m from
    Segment Anything, prompted with the box. Give a mask as `vp.Mask`; for a box, m is computed by GrabCut (Rother et
    al., SIGGRAPH 2004) on the box and its surroundings, which works if object and background differ in colour.

    >>> import numpy as np
    >>> from PIL import Image
    >>> from visprompt import Box, VisualPrompt
    >>> pixels = np.random.default_rng(0).integers(0, 90, (64, 64, 3), dtype=np.uint8)
    >>> pixels[24:40, 24:40] += 160  # a bright square in a larger box
    >>> prompt = VisualPrompt(Image.fromarray(pixels), regions=(Box(16, 16, 48, 48),))
    >>> edited = np.asarray(Fgvp(FgvpOptions(sigma_px=9)).edit(prompt, model=None).image)
    >>> bool((edited[24:40, 24:40] == pixels[24:40, 24:40]).all()), bool((edited[18, 18:46] == pixels[18, 18:46]).all())
    (True, False)

    Units: pixels of the image that the request gives, or fractions of its side. Deterministic: GrabCut runs on a fixed
    seed of OpenCV's generator, which is set on the calling thread.

    Raises:
        InvalidInputError: without a region, for a region that is no mask with `mask="given"`, or for an option out of
            range.
    """

    Options = FgvpOptions
    acts_on = frozenset({"pixels"})
    needs = frozenset({"region"})
    neutral: ClassVar[dict[str, Any]] = {"sigma": 0.0, "sigma_px": None, "fit": None}

    def edit(self, prompt: VisualPrompt, model: Any) -> VisualPrompt:
        """Blurs the image outside the masks of all regions."""
        options: FgvpOptions = self.options
        regions, image = _draw.placed(prompt), prompt.image
        if options.fit is not None:
            prompt = prompt.with_(fit=options.fit)
        side = max(image.size) if options.per == "longer" else min(image.size)
        sigma = options.sigma * side if options.sigma_px is None else options.sigma_px
        if sigma == 0:
            return prompt
        inside = _draw.inside_share([self._fine(region, image) for region in regions], image.size, "mask")
        return prompt.with_(image=_draw.blurred_outside(image, inside, sigma))

    def _fine(self, region: Region, image: Image.Image) -> Region:
        if isinstance(region, Mask):
            return region
        if self.options.mask == "given":
            raise InvalidInputError(
                f'{region!r} is no fine mask, and mask="given" takes nothing else: give vp.Mask(array), use '
                "mask=\"grabcut\" to have the object cut out of it, or strategy 'blur' to blur outside the box."
            )
        found = cut_out(image, region)
        if found is None:
            warnings.warn(
                "GrabCut found no object in a region that is no mask, and the region itself stays sharp; for a fine "
                "prompt give vp.Mask(array).",
                UserWarning,
                stacklevel=2,
            )
        return region if found is None else found


@renamed_parameters(picture="image")
def cut_out(image: Image.Image, region: Region) -> Mask | None:
    """Segments the object in a box or disc by GrabCut, from the colours inside and around the region.

    Args:
        image: RGB.
        region: the mask lies inside it.

    Returns:
        The mask, as large as the image; None if nothing surrounds the region, or if less than 5 % of the region is
            left.
    """
    import cv2

    wh = image.size
    x0, y0, x1, y1 = region.xyxy
    # Half the region's size on every side, from which GrabCut learns the background's colours.
    grown = _draw.padded((x0, y0, x1, y1), max(8.0, (x1 - x0) / 2, (y1 - y0) / 2))
    left, top = (max(int(value), 0) for value in grown[:2])
    right, bottom = (min(int(np.ceil(value)), side) for value, side in zip(grown[2:], wh, strict=True))
    window = (slice(top, bottom), slice(left, right))
    inside = region.rasterise(wh)[window] > 0.5
    pixels = np.ascontiguousarray(np.asarray(image)[window])
    scale = min(1.0, GRABCUT_SIDE_PX / max(inside.shape))
    size = tuple(max(1, round(side * scale)) for side in inside.shape[::-1])
    allowed = cv2.resize(inside.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    if not allowed.any() or allowed.all():
        return None
    labels = np.where(allowed > 0, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    cv2.setRNGSeed(0)
    cv2.grabCut(small, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), GRABCUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    cut = _without_specks(_without_specks(labels == cv2.GC_PR_FGD, allowed.sum()) ^ True, allowed.sum()) ^ True
    smooth = cv2.resize(cut.astype(np.float32), inside.shape[::-1], interpolation=cv2.INTER_LINEAR)
    kept = (smooth > 0.5) & inside
    if kept.sum() < MIN_SHARE_OF_BOX * inside.sum():
        return None
    whole = np.zeros((wh[1], wh[0]), dtype=bool)
    whole[window] = kept
    return Mask(whole)


def _without_specks(mask: np.ndarray, area: int) -> np.ndarray:
    """Removes connected parts below 1 % of an area; the authors remove islands and fill holes below 400 pixels."""
    import cv2

    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    return mask & (stats[:, cv2.CC_STAT_AREA] >= 0.01 * area)[parts]
