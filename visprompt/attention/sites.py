"""Where a tower's attention can be edited and read: one site per block, and one for an attention pooling head."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from visprompt.errors import InvalidInputError
from visprompt.visual_prompt import Rows

Backend = Literal["transformers", "mha", "sdpa"]
Readout = Literal["cls", "mean", "patches", "probe", "text"]
#: rows that can be read: those that can be edited, and the `"summary"` of every block: the readout's rows where it has
#: them, and where it has none (in front of a pooling probe) those of all patches; their mean, as of the readout
ReadRows = Rows | Literal["summary"]


@dataclass(frozen=True, eq=False)
class Site:
    """One attention call of a tower.

    Args:
        tower: name of the tower.
        block: block index; the pooling head counts as the block after the last.
        module: the module whose call computes the attention; sites are known by its identity.
        backend: how it is reached: `"transformers"` through the attention interface, `"mha"`
            (`nn.MultiheadAttention`) through hooks, `"sdpa"` by seeing the fused kernel's arguments (timm).
        heads: number of heads.
        prefix: key columns before the first patch.
        projection: the output projection, for the decomposition.
        is_pool: True for an attention pooling head.
        prompts: how many of the columns in `prefix`, its last ones, are prompt tokens.
        after: what the attention's output goes through behind `projection` before it joins the residual stream: an
            inner norm and its own projection (EVA-02), a LayerScale.
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
    """How the readout row x becomes the embedding: `W·LN(x)`, or `W·(x + MLP(LN(x)))`; needed to decompose it.

    Args:
        norm: the norm that x goes through, the readout in the first row of what it is given; None: none.
        projections: linear maps behind, in order: `nn.Linear`, or a matrix `[in, out]`.
        mlp: first linear map, activation and second linear map of the residual MLP, or None.
    """

    norm: nn.Module | None
    projections: tuple[Any, ...] = ()
    mlp: tuple[nn.Linear, nn.Module, nn.Linear] | None = None


@dataclass(frozen=True, eq=False)
class Tower:
    """The attention sites of one encoder and what can be shared between prompts on one image.

    Args:
        name: `"vision"` for image encoders.
        sites: one per block in order, the pooling head last.
        blocks: the blocks' modules, in order.
        readout: what the image is read through: `"cls"`, `"mean"` of the patches, all `"patches"` one by one (in an
            LVLM), a pooling `"probe"`, or the `"text"` of a decoder, whose rows and columns differ from call to call
            (`TokenPositions`).
        prefix: tokens of the model's own before the patches inside the blocks (CLS, registers).
        foldable: blocks do not care how many tokens stand in front of the patches, so several CLS copies can share
            one sequence.
        norms: the norm in front of each block's attention if the blocks are plain pre-norm ones, for the shortcut that
            computes only the readout row in the last block; empty if they are not.
        padded: patches are padded to a common length (packed images).
        shareable: blocks take the batch on their first axis, so prompts on one image can share blocks.
        readout_rows: the rows of a `"cls"` readout: CLS, and the distillation token of a distilled DeiT.
        head: from the readout row to the embedding; None where its parts are not known.
        no_tokens: why prompt tokens cannot go in; empty where they can.
        inner_bias: its attention modules make a bias over positions themselves, for the number of tokens that the
            model has without prompts (timm's BEiT).
        outlets: modules whose outputs can hold what the blocks were given (transformers' `hidden_states`).
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
        """Number of blocks, a pooling head counted as one."""
        return len(self.sites)

    def rows_of(self, site: Site, rows: Rows, num_patches: int) -> range | tuple[int, ...]:
        """The query rows that a name means at a site; empty if it means none there.

        Numbers count the model's own tokens, whether there are prompt tokens between them or not; `"all"` has these
        too.

        A decoder's rows are only known at the call: one row stands for all of them.
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
