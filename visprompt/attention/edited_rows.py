"""Recomputes the edited rows of an attention call in float32 and overwrites them in the kernel's output.

All three backends (transformers, `nn.MultiheadAttention`, timm) use these functions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visprompt.attention.program import SiteProgram
from visprompt.attention.row_math import heads_like, mean_attention, row_logits
from visprompt.attention.scope import Scope
from visprompt.attention.sites import Site

#: the most logits (streams × heads × rows × keys) that are held at a time, 256 MB in float32: for the edited rows of
#: one call, and for the rows that are read in all images of a batch (a tower that is read by all its patches has many)
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
    """Recomputes some rows of an attention call with their edits, in float32 and outside autocast, and stores in the
    scope what the program reads.

    Args:
        scope: the open scope, which stores what is read.
        site: the site that is called.
        program: the edits and reads of the R rows.
        query: `[n, H, R, D]`, the queries of these rows only.
        key: `[n, H, K, D]`, or fewer heads under grouped-query attention.
        value: as `key`.
        scale: factor on the dot products.
        mask: boolean (True: attend) or additive, broadcastable to `[n, H, R, K]`; None: every key is visible.
        options: the kernel's other arguments; `softcap` and `dropout` are used.
        always: compute the outputs even if the program only reads the attention.

    Returns:
        `[n, H, R, D]` outputs, float32; None if only the attention is read and `always` is False.
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
    """Writes recomputed rows into the kernel's output; streams, heads and rows without an edit stay bit for bit.

    Args:
        own: the kernel's output, `[n, Q, H, D]` or `[n, H, Q, D]`.
        new: the recomputed rows, in the same order of axes with R in place of Q.
        program: names the rows and which of them are edited.
        row_dim: axis of the rows.
        head_dim: axis of the heads.

    Returns:
        A tensor of the shape of `own`.
    """
    if not program.edits:
        return own
    edited = program.edited if program.inject is None else torch.ones_like(program.edited)
    edited = (edited.transpose(1, 2) if row_dim < head_dim else edited)[..., None]
    new = new.to(own.dtype)
    if not edited.all():
        new = torch.where(edited, new, own.index_select(row_dim, program.rows))
    return own.index_copy(row_dim, program.rows, new)
