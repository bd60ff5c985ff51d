"""FALIP: foveal attention. The readout's attention is raised on the region's patches; pixels stay untouched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from visprompt.errors import InvalidInputError
from visprompt.prompter import Options, Prompter
from visprompt.visual_prompt import (
    FITS,
    AttentionEdit,
    VisualPrompt,
    check_blocks,
    checked_heads,
    checked_rows,
    is_number,
)

if TYPE_CHECKING:
    from visprompt.geometry.geometry import Geometry
    from visprompt.request import Region


DEFAULT_STRENGTH = 4.0
PAPER_SIGMA_TOKENS = 100.0


@dataclass(frozen=True)
class FalipOptions(Options):
    """Options of `falip`.

    Args:
        strength: α, in logits: how much the attention logits rise on the region (paper: 0.2). 0: the plain model.
            None: 4, unless `target_mass` is given; from the middle of the depth, 4 is where the bundled models'
            validation accuracy levels off.
        target_mass: instead of `strength`, the fraction in (0, 1) of the readout's attention that the region gets in
            every head; comparable between models.
        tower: "vision", or "decoder" for the attention from the text to the image tokens of an LVLM; None: the
            tower of the model's readout.
        first_block: first block it acts in; a float is a fraction of the depth (paper: block 8 of 12). None: the middle
            of an image tower, the first block of a decoder.
        last_block: last block, included; None: to the end.
        heads: head indices; None: all.
        rows: attention rows that are edited: "readout" (of the model's readout), "cls", "patches", "all", "answer"
            (decoders), or row numbers. The paper compares rows in its ablations; CLS alone is best.
        profile: "flat", or "foveal": the paper's Gaussian bump.
        sigma_tokens: standard deviation of the foveal bump in tokens; None: the paper's 100, which makes it a
            paraboloid.
        rounding: "coverage" weights patches by the fraction that the region covers; "touched" gives every patch that it
            touches weight 1; "paper" is the authors' rounding of boxes to tokens.
        fit: how the image is brought to the input's size; None: as the prompt says; "squash" is the paper's.
    """

    strength: float | None = None
    target_mass: float | None = None
    tower: Literal["vision", "decoder"] | None = None
    first_block: int | float | None = None
    last_block: int | None = None
    heads: tuple[int, ...] | None = None
    rows: Any = "readout"
    profile: Literal["flat", "foveal"] = "flat"
    sigma_tokens: float | None = None
    rounding: Literal["coverage", "touched", "paper"] = "coverage"
    fit: str | None = None

    def __post_init__(self) -> None:
        if self.strength is not None and not is_number(self.strength):
            raise InvalidInputError(f"strength is a finite number of logits; got {self.strength!r}.")
        if self.target_mass is not None and not (is_number(self.target_mass) and 0 < self.target_mass < 1):
            raise InvalidInputError(f"target_mass is a share strictly between 0 and 1; got {self.target_mass!r}.")
        if self.strength is not None and self.target_mass is not None:
            raise InvalidInputError("strength and target_mass are two ways of saying how much: give one of them.")
        for name, allowed in (("profile", ("flat", "foveal")), ("rounding", ("coverage", "touched", "paper"))):
            if getattr(self, name) not in allowed:
                raise InvalidInputError(f"{name} is one of {', '.join(allowed)}; got {getattr(self, name)!r}.")
        if self.tower not in (None, "vision", "decoder"):
            raise InvalidInputError(f'tower is "vision", "decoder" or None; got {self.tower!r}.')
        if self.fit is not None and self.fit not in FITS:
            raise InvalidInputError(f"fit is one of {', '.join(FITS)}; got {self.fit!r}.")
        if self.sigma_tokens is not None:
            if not (is_number(self.sigma_tokens) and self.sigma_tokens > 0):
                raise InvalidInputError(f"sigma_tokens must be a positive number; got {self.sigma_tokens!r}.")
            if self.profile == "flat":
                raise InvalidInputError('sigma_tokens shapes the foveal bump: give profile="foveal" with it.')
        object.__setattr__(self, "rows", checked_rows(self.rows))
        object.__setattr__(self, "heads", checked_heads(self.heads))
        check_blocks(self.first_block, self.last_block)


class Falip(Prompter):
    """FALIP (Zhuang et al., ECCV 2024, https://arxiv.org/abs/2407.05578): raises the attention on the region.

    In blocks ≥ `first_block` the readout row's attention logits become `s + α·m`, with m on the patches of the region:
    its coverage, or the paper's `m = minmax(exp(−½ (dist/σ)²))`. With `target_mass=t` they become `s + log m + β`,
    where β gives the region the fraction t of the row (`AttentionEdit`).

    >>> import visprompt as vp
    >>> vp.Prompter.from_name("falip", preset="paper").options.strength
    0.2

    Shapes: m is `[P]`, one number per patch, row-major. Units: logits.

    Raises:
        InvalidInputError: without a region, or if the model's centre crop removes it (use `fit="pad"` or `"squash"`).
        UnsupportedError: on a model without attention.
    """

    Options = FalipOptions
    acts_on = frozenset({"attention"})
    needs = frozenset({"region"})
    neutral: ClassVar[dict[str, Any]] = {"strength": 0.0}

    def edit(self, prompt: VisualPrompt, model: Any) -> VisualPrompt:
        """Adds the attention edit for the prompt's regions."""
        options: FalipOptions = self.options
        if options.fit is not None:
            prompt = prompt.with_(fit=options.fit)
        tower = options.tower or model.tower.name
        geometry = model.geometry_of(prompt, tower)
        first_block = options.first_block
        if first_block is None:
            first_block = 0 if tower == "decoder" else 0.5
        weights = np.zeros(geometry.num_patches, dtype=np.float32)
        for region in prompt.regions:
            geometry.require_visible(region, prompt.request)
            weights = np.maximum(weights, self._weights(geometry, region))
        where: dict[str, Any] = {
            "tower": tower,
            "first_block": first_block,
            "last_block": options.last_block,
            "heads": options.heads,
            "rows": options.rows,
        }
        if options.target_mass is not None:
            return prompt.adding(AttentionEdit(target_mass=options.target_mass, weights=weights, **where))
        strength = DEFAULT_STRENGTH if options.strength is None else options.strength
        return prompt.adding(AttentionEdit(bias=strength * weights, **where))

    def _weights(self, geometry: Geometry, region: Region) -> np.ndarray:
        options: FalipOptions = self.options
        if options.rounding == "paper":
            cover = _authors_rectangle(geometry, region)
        else:
            cover = geometry.coverage(region)
            if options.rounding == "touched":
                cover = (cover > 0).astype(np.float32)
        if options.profile == "foveal":
            sigma = PAPER_SIGMA_TOKENS if options.sigma_tokens is None else options.sigma_tokens
            parts, start = [], 0
            for rows, columns in (tile.grid_hw for tile in geometry.tiles):
                inside = cover[start : start + rows * columns].reshape(rows, columns) > 0
                parts.append(_foveal(inside, sigma).reshape(-1))
                start += rows * columns
            cover = cover * np.concatenate(parts)
        return cover


def _authors_rectangle(geometry: Geometry, region: Region) -> np.ndarray:
    """The authors' rounding: first = max(⌈x0/p⌉, 1) − 1, last = max(⌈x1/p⌉, 1) − 1, both included."""
    if len(geometry.tiles) > 1:
        raise InvalidInputError(
            f'rounding="paper" is for models that see an image in one tile, and this one sees {len(geometry.tiles)}: '
            'use rounding="coverage" or "touched".'
        )
    rows, columns = geometry.grid_hw
    height, width = geometry.tiles[0].input_hw
    x0, y0, x1, y1 = region.xyxy
    (a, b), (c, d) = geometry.to_input((x0, y0)), geometry.to_input((x1, y1))

    def token(value: float, side: int, count: int) -> int:
        # float32 as in the authors' code: another rounding would move boxes that end on a patch border.
        return min(max(int(np.ceil(np.float32(value) / np.float32(side / count))), 1), count) - 1

    result = np.zeros((rows, columns), dtype=np.float32)
    top, bottom = token(b, height, rows), token(d, height, rows)
    result[top : bottom + 1, token(a, width, columns) : token(c, width, columns) + 1] = 1.0
    return result.reshape(-1)


def _foveal(inside: np.ndarray, sigma: float) -> np.ndarray:
    """`(g − min + 1e-6) / (max + 1e-6 − min)` of a Gaussian around the middle of the touched rectangle.

    g is rounded to float32 before the min-max, as the authors do: with σ = 100 its range is about 1e-4, so that the
    rounding shows.
    """
    result = np.zeros(inside.shape, dtype=np.float32)
    if not inside.any():
        return result
    ys, xs = np.nonzero(inside)
    top, bottom, left, right = ys.min(), ys.max(), xs.min(), xs.max()
    yy, xx = np.mgrid[top : bottom + 1, left : right + 1].astype(np.float64)
    distance = (yy - (top + bottom) / 2) ** 2 + (xx - (left + right) / 2) ** 2
    bump = np.exp(-0.5 * distance / sigma**2).astype(np.float32)
    low, high, tiny = bump.min(), bump.max(), np.float32(1e-6)
    result[top : bottom + 1, left : right + 1] = (bump - low + tiny) / (high + tiny - low)
    return result
