"""The data that a strategy gives to a model: no hooks, no model classes.

A `VisualPrompt` holds the differences from a plain forward in the three places where a model can be changed: pixels,
tokens and attention. Strategies make it, models read it, and neither imports the other.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

from visprompt.errors import InvalidInputError
from visprompt.utils.renamed import renamed_attributes, renamed_parameters

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

    from visprompt.request import Region, Request

Fit = Literal["model", "pad", "squash"]
FITS: tuple[Fit, ...] = ("model", "pad", "squash")
Rows = Literal["readout", "cls", "patches", "all", "answer"] | tuple[int, ...]


def is_number(value: Any) -> bool:
    """Whether a value is a finite real number, Python's or numpy's; booleans are not."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def form_of_edit(neutral: Callable[[Any], bool], *, per_patch: bool = False) -> dict[str, Any]:
    """The metadata of a field of `AttentionEdit` that is a form of edit: exactly one of these fields is given. Its
    computation is the entry of that name in `visprompt.attention.forms.FORMS`.

    Args:
        neutral: True for a value that changes nothing; the edit is then never installed.
        per_patch: the value is an array with one number for every patch.

    Returns:
        The metadata.
    """
    return {"neutral": neutral, "per_patch": per_patch}


@dataclass(frozen=True, eq=False)
class AttentionEdit:
    """One change to the attention of one tower, in one of four forms.

    With logits `s = q kᵀ · scale` of the chosen rows and heads, in float32:

    - **temperature** τ: `s / τ`;
    - **bias** b over the patches: `s + b`;
    - **target mass** t: `s + log w + β` on the patches with weight `w > 0`, where β is the number per head and row that
      gives the region the fraction t of the row's attention: `β = logit(t) − (logsumexp(region) − logsumexp(rest))`.
      Rows that already give it t or more stay unchanged;
    - **output gain** g: the row's attention output `o` becomes `o + g · (o − o_ref)`, where `o_ref` is the output of
      the same row without the prompt (on `VisualPrompt.reference`, or on the unedited image).

    Args:
        tower: name of the tower: `"vision"`, or `"decoder"` for the language model of an LVLM.
        first_block: first block that is edited, counted from 0; a float in [0, 1) is a fraction of the depth, and
            negative numbers count from the end. An attention pooling head counts as the block after the last.
        last_block: last block (included); None: to the end.
        heads: head indices, or None for all.
        rows: query rows that are edited. `"readout"`: the rows from which the model makes the image embedding (CLS,
            probe, all patches of mean-pooled models, the text after the image in a decoder). `"answer"`: the positions
            that write a decoder's answer.
        bias: `[P]` numbers added to the logits of the P patch columns (row-major, tiles one after the other).
        target_mass: fraction of the attention in (0, 1) for the region given by `weights`.
        weights: `[P]` coverage of every patch by the region, in [0, 1]; goes with `target_mass`.
        temperature: τ > 0.
        gain: g; 0 changes nothing.
        responsive: with `gain`: only heads whose output changed by at least this fraction of its norm; None: all.

    Raises:
        InvalidInputError: if not exactly one form is given, or a number is out of range.
    """

    tower: str = "vision"
    first_block: int | float = 0
    last_block: int | None = None
    heads: tuple[int, ...] | None = None
    rows: Rows = "readout"
    bias: np.ndarray | None = field(default=None, metadata=form_of_edit(lambda bias: not bias.any(), per_patch=True))
    target_mass: float | None = field(default=None, metadata=form_of_edit(lambda _: False))
    weights: np.ndarray | None = field(default=None, metadata={"per_patch": True})
    temperature: float | torch.Tensor | None = field(
        default=None, metadata=form_of_edit(lambda value: is_number(value) and value == 1)
    )
    gain: float | None = field(default=None, metadata=form_of_edit(lambda gain: gain == 0))
    responsive: float | None = None

    def __post_init__(self) -> None:
        known = [item.name for item in fields(self) if "neutral" in item.metadata]
        forms = [name for name in known if getattr(self, name) is not None]
        if len(forms) != 1:
            raise InvalidInputError(
                f"an attention edit has exactly one of {', '.join(known[:-1])} and {known[-1]}; got {forms or 'none'}. "
                "Give several edits to combine forms."
            )
        if self.bias is not None:
            object.__setattr__(self, "bias", _vector("bias", self.bias))
        if self.target_mass is not None:
            if not is_number(self.target_mass) or not 0.0 < self.target_mass < 1.0:
                raise InvalidInputError(f"target_mass is a fraction strictly between 0 and 1; got {self.target_mass}.")
            if self.weights is None:
                raise InvalidInputError("target_mass needs weights: the coverage of every patch by the region.")
            weights = _vector("weights", self.weights)
            if (weights < 0).any():
                raise InvalidInputError("weights are coverages and cannot be negative.")
            object.__setattr__(self, "weights", weights)
        learned = hasattr(self.temperature, "requires_grad")
        if self.temperature is not None and not learned and not (is_number(self.temperature) and self.temperature > 0):
            raise InvalidInputError(f"temperature must be a positive number; got {self.temperature!r}.")
        if self.gain is not None and not is_number(self.gain):
            raise InvalidInputError(f"gain is a finite number; got {self.gain!r}.")
        object.__setattr__(self, "heads", checked_heads(self.heads))
        object.__setattr__(self, "rows", checked_rows(self.rows))

    def blocks(self, num_blocks: int) -> range:
        """The blocks that are edited.

        Args:
            num_blocks: number of blocks of the tower, a pooling head counted as one.

        Returns:
            Their indices.

        Raises:
            InvalidInputError: if the first comes after the last, or one does not exist.
        """
        start = block_number(self.first_block, num_blocks, "first_block")
        stop = num_blocks if self.last_block is None else block_number(self.last_block, num_blocks, "last_block") + 1
        if start >= stop:
            raise InvalidInputError(
                f"first_block={self.first_block} comes after last_block={self.last_block} in a tower of {num_blocks}."
            )
        return range(start, stop)

    @property
    def is_identity(self) -> bool:
        """True if it changes nothing: such an edit is never installed, so the output is bit-identical."""
        form = self.form
        neutral = next(item.metadata["neutral"] for item in fields(self) if item.name == form)
        return bool(neutral(getattr(self, form)))

    @property
    def form(self) -> str:
        """The name of its form: the one of `"bias"`, `"target_mass"`, `"temperature"` and `"gain"` that is given."""
        return next(
            item.name for item in fields(self) if "neutral" in item.metadata and getattr(self, item.name) is not None
        )

    @property
    def per_patch(self) -> dict[str, np.ndarray]:
        """Its arrays `[P]` with one number per patch, by field name; empty if it treats all patches alike."""
        names = [item.name for item in fields(self) if item.metadata.get("per_patch")]
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def columns(self) -> np.ndarray | None:
        """The first array of `per_patch`; None if there is none."""
        return next(iter(self.per_patch.values()), None)

    @property
    def has_columns(self) -> bool:
        """True if it holds arrays for the patches of one image."""
        return bool(self.per_patch)


def block_number(value: Any, num_blocks: int, name: str = "block") -> int:
    """Resolves the index of a block.

    >>> block_number(-1, 12), block_number(2 / 3, 12)
    (11, 8)

    Args:
        value: a number from 0, negative from the end, or a fraction of the depth in (0, 1).
        num_blocks: number of blocks of the tower.
        name: name of the option, for the message.

    Returns:
        An index from 0 to `num_blocks` − 1.

    Raises:
        InvalidInputError: if there is no such block.
    """
    if is_number(value):
        whole = float(value).is_integer()
        index = int(value) if whole else min(round(value * num_blocks), num_blocks - 1) if 0 < value < 1 else None
        if index is not None and -num_blocks <= index < num_blocks:
            return index % num_blocks
    raise InvalidInputError(
        f"{name}={value!r} names no block of a tower with {num_blocks} blocks: give 0 to {num_blocks - 1}, a negative "
        "number from the end, or a fraction of the depth between 0 and 1."
    )


def check_blocks(*values: Any) -> None:
    """Checks options that name a block, before a model is known.

    Args:
        values: each None, a whole number, or a fraction of the depth.

    Raises:
        InvalidInputError: naming the value that is none of these.
    """
    for value in values:
        if value is not None and not (is_number(value) and (float(value).is_integer() or 0 < value < 1)):
            raise InvalidInputError(
                "a block is a number from 0, a negative number from the end, or a fraction of the "
                f"depth; got {value!r}."
            )


def checked_heads(heads: Any) -> tuple[int, ...] | None:
    """Checks head indices: a sequence of numbers, which becomes a tuple, or None for all.

    Raises:
        InvalidInputError: for anything else, and for an empty list.
    """
    if heads is None:
        return None
    try:
        found = tuple(operator.index(head) for head in heads)
    except TypeError:
        found = ()
    if not found:
        raise InvalidInputError(f"heads is a list of one or more head numbers, or None for all; got {heads!r}.")
    return found


def checked_rows(rows: Any) -> Rows:
    """Checks the rows of an edit: a kind of rows, or a sequence of row numbers, which becomes a tuple.

    Raises:
        InvalidInputError: for anything else.
    """
    if isinstance(rows, str) and rows in ("readout", "cls", "patches", "all", "answer"):
        return rows  # type: ignore[return-value]
    try:
        found = () if isinstance(rows, str) else tuple(operator.index(row) for row in rows)
    except TypeError:
        found = ()
    if not found or min(found) < 0:
        raise InvalidInputError(
            f'rows is "readout", "cls", "patches", "all", "answer" or a list of token numbers; got {rows!r}.'
        )
    return found


def _vector(name: str, value: Any) -> np.ndarray:
    import numpy as np  # here: `visprompt --help` reads this module, and needs no arrays

    array = np.asarray(value, dtype=np.float32).reshape(-1)
    if not np.isfinite(array).all():
        raise InvalidInputError(f"{name} must be finite; it has {int((~np.isfinite(array)).sum())} NaN or infinity.")
    return array


@dataclass(frozen=True, eq=False)
class PromptTokens:
    """Learned tokens in a tower's sequence, between its prefix tokens (CLS, registers) and its patches.

    They are inserted at block b = `first_block` and stay in the sequence up to the last block; the tower's output has
    none. With gates, P the prompts before a block and P̃ those after it, the next block gets `g · P̃ + (1 − g) · P`
    with `g = sigmoid(logit)` (gated prompt tuning, arXiv 2306.05067). Without gates and with one entry this is
    VPT-shallow, with an entry for every block VPT-deep (arXiv 2203.12119).


    Args:
        tokens: `[1, m, d]` (shallow), or `[L − b, m, d]` (deep): every block from b on gets its own tokens in place of
            those of the block before. m = 0 changes nothing, bit for bit.
        gate_logits: `[L − 1 − b]`: a gate after every block from b on but the last, or None. For shallow prompts only.
        tower: name of the tower.
        first_block: b; negative numbers and fractions as in `AttentionEdit`.
        pool: for models that average their patches: `"model"`, the patches alone; `"with_prompts"`, the prompts too, as
            the authors of gated prompts do with MAE: the mean of everything after the prefix, then the model's norm.
            Every patch in the output of the last block is then this mean.

    Raises:
        InvalidInputError: for shapes that do not go together.
    """

    tokens: torch.Tensor
    gate_logits: torch.Tensor | None = None
    tower: str = "vision"
    first_block: int | float = 0
    pool: Literal["model", "with_prompts"] = "model"

    def __post_init__(self) -> None:
        shape = tuple(getattr(self.tokens, "shape", ()))
        if len(shape) != 3 or not shape[0] or not shape[2]:
            raise InvalidInputError(
                f"prompt tokens are a tensor [1, m, d], or [blocks, m, d] for deep prompts; got {list(shape)}."
            )
        if self.gate_logits is not None and self.gate_logits.ndim != 1:
            raise InvalidInputError(f"gate_logits are [blocks − 1]; got {list(self.gate_logits.shape)}.")
        if self.pool not in ("model", "with_prompts"):
            raise InvalidInputError(f'pool is "model" or "with_prompts"; got {self.pool!r}.')
        check_blocks(self.first_block)

    @property
    def count(self) -> int:
        """m, the number of tokens."""
        return int(self.tokens.shape[1])


@renamed_attributes(picture="image")
@dataclass(frozen=True, eq=False)
class VisualPrompt:
    """An image with all changes that a strategy makes to pixels, tokens and attention.

    Args:
        image: the image that the model gets, RGB.
        regions: the regions in pixels of `image` (strategies that crop map them).
        query: the question or expression, if the request had one.
        fit: how the image is fitted into the model's input: `"model"`: by its processor; `"pad"`: the whole image on a
            mean-coloured square; `"squash"`: the whole image, without keeping its aspect ratio.
        text: function from a caption that is compared with the image to the caption for this prompt (CPT's "… is in red
            color."), or None. Questions are not changed.
        tokens: learned prompt tokens, or None.
        attention: attention edits, applied together.
        reference: the image that `gain` edits compare with; None: `image`, without the other edits.
        label: the names of the strategies that made it, for reports.
        request: the request that it was made for.
        place: (index of the image in its request, number of images of the request).
    """

    image: Image.Image
    regions: tuple[Region, ...] = ()
    query: str | None = None
    fit: Fit = "model"
    text: Callable[[str], str] | None = None
    tokens: PromptTokens | None = None
    attention: tuple[AttentionEdit, ...] = ()
    reference: Image.Image | None = None
    label: str = "none"
    request: Request | None = field(default=None, repr=False)
    place: tuple[int, int] = (0, 1)

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise InvalidInputError(f"fit must be one of {', '.join(FITS)}; got {self.fit!r}.")

    @renamed_parameters(picture="image")
    def with_(self, **changes: Any) -> VisualPrompt:
        """A copy with some fields changed.

        >>> from PIL import Image
        >>> VisualPrompt(Image.new("RGB", (8, 8))).with_(fit="pad").fit
        'pad'

        Args:
            changes: new values by field name.

        Returns:
            The copy.

        Raises:
            InvalidInputError: if the image's size or fit changes under an edit with one number per patch.
        """
        changed = replace(self, **changes)
        moved = changed.image.size != self.image.size or changed.fit != self.fit
        if moved and any(edit.has_columns for edit in self.attention) and "attention" not in changes:
            raise InvalidInputError(
                f"the attention edit of {self.label!r} is tied to the patches of the image as it was, and now the "
                "image is cropped or fitted another way: put the strategy that does so first, e.g. 'crop+falip'."
            )
        return changed

    def adding(self, *edits: AttentionEdit) -> VisualPrompt:
        """A copy with further attention edits.

        Args:
            edits: those that change nothing are left out.

        Returns:
            The copy.
        """
        return replace(self, attention=self.attention + tuple(edit for edit in edits if not edit.is_identity))

    def with_text(self, text: Callable[[str], str]) -> VisualPrompt:
        """A copy with a further text edit.

        Args:
            text: function from caption to caption; it runs after the edit that is already set.

        Returns:
            The copy.
        """
        before = self.text
        return replace(self, text=text if before is None else lambda value: text(before(value)))
