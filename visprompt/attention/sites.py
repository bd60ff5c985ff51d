"""The attention calls of a tower that can be edited and read: one site per block, and one for an attention pooling
head.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from visprompt.errors import InvalidInputError
from visprompt.visual_prompt import Rows

Backend = Literal["transformers", "mha", "sdpa"]
Readout = Literal["cls", "mean", "patches", "probe", "text"]
#: rows that can be read: those that can be edited, and `"summary"`: the readout's rows in blocks that have them, the
#: rows of all patches in blocks that have none (before a pooling head); as for `"readout"`, their mean is read
ReadRows = Rows | Literal["summary"]


@dataclass(frozen=True, eq=False)
class Site:
    """One attention call of a tower.

    Args:
        tower: name of the tower.
        block: block index; the pooling head counts as the block after the last.
        module: the module whose call computes the attention; a site is identified by it.
        backend: how the call is intercepted: `"transformers"` through the attention interface, `"mha"`
            (`nn.MultiheadAttention`) through hooks, `"sdpa"` (timm) through the arguments of the fused kernel.
        heads: number of heads.
        prefix: number of key columns before the first patch.
        projection: the output projection, for the decomposition.
        is_pool: True for an attention pooling head.
        prompts: how many of the columns in `prefix`, its last ones, are prompt tokens.
        after: modules between `projection` and the residual stream: an inner norm and its own projection (EVA-02), a
            LayerScale.
    """

    tower: str
    block: int
    module: nn.Module
    backend: Backend
    heads: int
    prefix: int
    projection: nn.Module | None = None
    is_pool: bool = False
    after: tuple[Any, ...] = ()
    prompts: int = 0

    def __repr__(self) -> str:
        return f"<Site {self.tower} block {self.block}{' (pool)' if self.is_pool else ''}, {self.backend}>"


@dataclass(frozen=True, eq=False)
class Head:
    """The map from the readout row x to the embedding, `W·LN(x)` or `W·(x + MLP(LN(x)))`, for decomposing the
    embedding.

    Args:
        norm: the norm applied to x, the first row of its input; None: none.
        projections: linear maps after it, in order: `nn.Linear`, or a matrix `[in, out]`.
        mlp: first linear map, activation and second linear map of the residual MLP, or None.
    """

    norm: nn.Module | None
    projections: tuple[Any, ...] = ()
    mlp: tuple[nn.Linear, nn.Module, nn.Linear] | None = None


@dataclass(frozen=True, eq=False)
class Tower:
    """The attention sites of one encoder, and the properties that decide what prompts on one image can share.

    Args:
        name: `"vision"` for image encoders.
        sites: one per block in order, the pooling head last.
        blocks: the blocks' modules, in order.
        readout: the rows from which the image embedding is made: `"cls"`, the `"mean"` of the patches, all `"patches"`
            one by one (in an LVLM), a pooling `"probe"`, or the `"text"` of a decoder, whose rows and columns differ
            from call to call (`TokenPositions`).
        prefix: number of the model's own tokens before the patches inside the blocks (CLS, registers).
        foldable: the blocks do not depend on the number of tokens before the patches, so several CLS copies can share
            one sequence.
        norms: the norm before each block's attention if the blocks are plain pre-norm blocks, so that the last block
            can compute the readout row alone; empty otherwise.
        padded: patches are padded to a common length (packed images).
        shareable: the blocks take the batch on their first axis, so prompts on one image can share blocks.
        readout_rows: the rows of a `"cls"` readout: CLS, and the distillation token of a distilled DeiT.
        head: from the readout row to the embedding; None where its modules are not known.
        no_tokens: why prompt tokens cannot be inserted; empty where they can.
        inner_bias: its attention modules make a position bias themselves, for the number of tokens without prompts
            (timm's BEiT).
        outlets: modules whose outputs can hold the blocks' inputs (transformers' `hidden_states`).
    """

    name: str
    sites: tuple[Site, ...]
    blocks: tuple[nn.Module, ...]
    readout: Readout
    prefix: int
    foldable: bool = False
    norms: tuple[nn.Module, ...] = ()
    padded: bool = False
    shareable: bool = True
    readout_rows: tuple[int, ...] = (0,)
    head: Head | None = None
    no_tokens: str = ""
    inner_bias: bool = False
    outlets: tuple[nn.Module, ...] = ()
    by_module: dict[int, Site] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.by_module.update({id(site.module): site for site in self.sites})

    @property
    def num_blocks(self) -> int:
        """Number of blocks; a pooling head counts as one."""
        return len(self.sites)

    def rows_of(self, site: Site, rows: Rows, num_patches: int) -> range | tuple[int, ...]:
        """The query rows that a kind of rows selects at a site. A decoder's rows are known only at the call: a single
        row represents them all.

        Args:
            site: a site of the tower.
            rows: a named kind, or positions among the model's own tokens, counted as if there were no prompt tokens.
                `"all"` includes the prompt tokens.
            num_patches: number of patches of the image.

        Returns:
            Row indices in the sequence; empty if the site has no such rows.

        Raises:
            InvalidInputError: for `"answer"`, a position beyond the last token, or `"cls"` in a model without CLS
                token.
        """
        if self.readout == "text":
            return (0,)
        own, prefix = site.prefix - site.prompts, site.prefix
        if rows == "answer":
            raise InvalidInputError('rows="answer": an encoder writes no answer; rows="readout" works on every model.')
        if isinstance(rows, tuple):
            if not site.is_pool and max(rows) >= own + num_patches:
                raise InvalidInputError(
                    f"rows={rows}, but there are {own + num_patches} tokens ({own} before the patches)."
                )
            return () if site.is_pool else tuple(row if row < own else row + site.prompts for row in rows)
        if rows == "readout":
            if site.is_pool or self.readout == "probe":
                return (0,) if site.is_pool else ()
            return self.readout_rows if self.readout == "cls" else range(prefix, prefix + num_patches)
        if site.is_pool:
            return ()
        if rows == "cls":
            if self.readout != "cls" and self.prefix == 0:
                raise InvalidInputError("rows='cls': this model has no CLS token; rows='readout' works on every model.")
            return (0,)
        start = prefix if rows == "patches" else 0
        return range(start, prefix + num_patches)
