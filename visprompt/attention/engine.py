"""Opens the scope in which a model runs with attention edits: the entry point for models and runners."""

from __future__ import annotations

from typing import Any

import torch

from visprompt.attention.decoder_positions import TokenPositions
from visprompt.attention.hooks import install_hooks
from visprompt.attention.packed_positions import PackedPositions
from visprompt.attention.program import SiteProgram
from visprompt.attention.prompt_tokens import Insertion
from visprompt.attention.scope import Scope
from visprompt.attention.sites import Site, Tower


def open_scope(
    tower: Tower,
    programs: dict[Site, SiteProgram],
    sharing: Any = None,
    device: torch.device | None = None,
    timeline: TokenPositions | PackedPositions | None = None,
    tokens: Insertion | None = None,
    stop: bool = False,
) -> Scope:
    """Makes a scope with the hooks that its sites need; enter it with `with`.

    Args:
        tower: the tower whose sites are edited or read.
        programs: per site, what is edited and read.
        sharing: runs the blocks before the first edit once per image instead of once per prompt; None: every stream
            runs all blocks.
        device: device for the programs' tensors; None: they stay where they are.
        timeline: for decoders, and for towers that pack images into one sequence: the positions of rows and columns,
            call by call.
        tokens: prompt tokens in the sequence; `tower` and `programs` then belong to the tower `tokens.tower`.
        stop: raise `Enough` once every site has run, so that later blocks are not computed.

    Returns:
        The scope; what it read is in its attributes afterwards (`attention`, `decomposition`, `outputs`, `steps`).
    """
    return Scope(tower, programs, install_hooks, sharing, device, timeline, tokens, stop)
