"""The attention of prompt tokens, and the attention on them, for `visprompt inspect`.

`Runner.attention` reads the readout's attention over the patches, with or without tokens between them. This module
reads the tokens' own rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from visprompt.attention.engine import open_scope
from visprompt.attention.program import SiteProgram
from visprompt.attention.program_builder import compile_programs
from visprompt.attention.sites import Site, Tower
from visprompt.visual_prompt import block_number

if TYPE_CHECKING:
    from visprompt.models.base import Model
    from visprompt.visual_prompt import VisualPrompt


@dataclass(frozen=True, eq=False)
class TokenLook:
    """The attention of the prompt tokens of one prompted image in one block, means over heads.

    Args:
        block: block number.
        patches: `[m, P]` fraction of every token's attention on every patch.
        readout: fraction of the readout's attention on all tokens together.
        prompts: fraction of the tokens' attention on the tokens, their mean.
    """

    block: int
    patches: np.ndarray
    readout: float
    prompts: float


def token_looks(model: Model, prompt: VisualPrompt, blocks: Sequence[int]) -> list[TokenLook]:
    """Reads the attention of a prompt's tokens. Blocks before the tokens, and pooling heads after them, are left out.

    Args:
        model: an encoder in evaluation mode.
        prompt: a prompt; without tokens the result is empty.
        blocks: block numbers, negative from the end.

    Returns:
        One entry per block that holds the tokens.
    """
    insertion = model.insertion([prompt])
    if insertion is None:
        return []
    tower = insertion.tower
    patches = model.geometry_of(prompt).num_patches
    numbers = [block_number(block, tower.num_blocks) for block in blocks]
    sites = [tower.sites[number] for number in numbers if tower.sites[number].prompts]
    programs = compile_programs(tower, [prompt.attention], [patches])
    rows = {site: _rows(tower, site, patches) for site in sites}
    for site in sites:
        programs[site] = _reading(programs.get(site), site, sorted({*rows[site][0], *rows[site][1]}))
    inputs = model.parts.reader.inputs([(prompt.image, prompt.fit)], model, None)
    with torch.no_grad(), open_scope(tower, programs, None, model.device, tokens=insertion) as scope:
        model.parts.embed(inputs)
    return [_look(scope.attention[site][0].float().mean(0), site, patches, *rows[site]) for site in sites]


def _rows(tower: Tower, site: Site, patches: int) -> tuple[list[int], list[int]]:
    """(rows of the tokens, rows of the readout) as positions in the sequence."""
    own = site.prefix - site.prompts
    return list(range(own, site.prefix)), list(tower.rows_of(site, "readout", patches))


def _reading(program: SiteProgram | None, site: Site, rows: list[int]) -> SiteProgram:
    """The program with these rows read, one by one."""
    if program is None:
        nothing = torch.zeros(1, site.heads, len(rows), dtype=torch.bool)
        return SiteProgram(rows=torch.tensor(rows), edited=nothing, read=True, per_row=True)
    wide = program.with_rows(sorted({*program.rows.tolist(), *rows}))
    order = wide.rows.tolist()
    return replace(wide, read=True, per_row=True, read_rows=torch.tensor([order.index(row) for row in rows]))


def _look(attention: Tensor, site: Site, patches: int, tokens: list[int], readout: list[int]) -> TokenLook:
    """The result of one site from the attention `[R, K]` of its read rows, sorted by position."""
    order = sorted({*tokens, *readout})
    own, prefix = site.prefix - site.prompts, site.prefix
    of_tokens = attention[[order.index(row) for row in tokens]]
    of_readout = attention[[order.index(row) for row in readout]]
    return TokenLook(
        site.block,
        of_tokens[:, prefix : prefix + patches].cpu().numpy(),
        float(of_readout[:, own:prefix].sum(-1).mean()) if readout else float("nan"),
        float(of_tokens[:, own:prefix].sum(-1).mean()),
    )
