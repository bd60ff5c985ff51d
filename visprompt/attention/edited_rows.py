"""What the three ways of reaching an attention call have in common: some rows are computed again in float32, with their
edits, and overwrite those of the model's own kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visprompt.attention.program import SiteProgram
from visprompt.attention.row_math import heads_like, mean_attention, row_logits
from visprompt.attention.scope import Scope
from visprompt.attention.sites import Site

#: numbers of one call's edited rows × keys that are held at a time (256 MB), and of those that are read in all the
#: images of a batch: towers read by all patches have many
MOST_LOGITS = 2**26


def run_rows(
    scope: Scope,
    site: Site,
    program: SiteProgram,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    mask: Tensor | None,
    options: dict[str, Any],
    always: bool = False,
) -> Tensor | None:
    """`[n, H, R, D]` outputs of the rows after the edits, float32, outside autocast; None if only the attention is
    read, unless they are wanted `always`. Keeps what is to be read.
    """
    at_once = max(MOST_LOGITS // max(query.shape[0] * query.shape[1] * key.shape[2], 1), 1)
    if query.shape[2] * scope.calls > at_once and program.reads_mean and not always:
        at_once = max(at_once // scope.calls, 1)
        with torch.autocast(query.device.type, enabled=False):
            mean = mean_attention(query, key, scale, mask, options.get("softcap"), at_once)
        scope.keep(site, program, None, mean, value)
        return None
    if query.shape[2] > at_once and not (program.read or program.capture_output or program.decompose):
        parts = []
        for few in torch.arange(query.shape[2], device=query.device).split(at_once):
            part = program.at_rows(few, program.rows[few], program.columns)
            seen = mask if mask is None or mask.shape[-2] == 1 else mask.index_select(-2, few)
            rows = query.index_select(2, few)
            parts.append(run_rows(scope, site, part, rows, key, value, scale, seen, options, always=True))
        return torch.cat(parts, dim=2)  # type: ignore[arg-type]
    with torch.autocast(query.device.type, enabled=False):
        logits = row_logits(query, key, scale, mask, options.get("softcap"))
        if not (program.needs_outputs or always):
            scope.keep(site, program, None, logits.softmax(-1), value)
            return None
        output, attention = program.run(logits, value, site.prefix, float(options.get("dropout") or 0.0))
        scope.keep(site, program, output, attention, heads_like(value, query) if program.decompose else value)
    return output


def overwrite(own: Tensor, new: Tensor, program: SiteProgram, row_dim: int, head_dim: int) -> Tensor:
    """Puts the new rows into the model's own output; streams, heads and rows that are not edited stay bit for bit.

    Args:
        own: four axes: n, and in either order rows and heads, then D.
        new: the same with R rows.
    """
    if not program.edits:
        return own
    edited = program.edited if program.inject is None else torch.ones_like(program.edited)
    edited = (edited.transpose(1, 2) if row_dim < head_dim else edited)[..., None]
    new = new.to(own.dtype)
    if not edited.all():
        new = torch.where(edited, new, own.index_select(row_dim, program.rows))
    return own.index_copy(row_dim, program.rows, new)
