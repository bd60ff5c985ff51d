"""Opens the scope in which a model runs with attention edits: the one entry for models and runners."""

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
    """A scope with the hooks that its sites need, to be entered with `with`.

    Args:
        tower: whose sites.
        programs: what happens at each site.
        sharing: shares the blocks before the first edit between prompts on one image; None: every stream runs whole.
        device: where the programs' numbers go; None: they stay where they are.
        timeline: for a decoder, or a tower that packs images: where its rows and columns are, call by call.
        tokens: prompt tokens in the sequence; `tower` and `programs` are made for its own tower then.
        stop: raise `Enough` as soon as every site has answered: nothing after the last one is computed.

    Returns:
        The scope; what it read is on it afterwards (`attention`, `decomposition`, `outputs`, `steps`).
    """
    return Scope(tower, programs, install_hooks, sharing, device, timeline, tokens, stop)
