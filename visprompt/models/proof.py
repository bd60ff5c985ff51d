"""Proof that the places an edit can reach have an effect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from visprompt.attention.program import SiteProgram
from visprompt.attention.scope import Scope
from visprompt.attention.sites import Site
from visprompt.errors import SiteNotReachedError
from visprompt.visual_prompt import VisualPrompt

if TYPE_CHECKING:
    from visprompt.models.base import Model, Parts


def prove(name: str, parts: Parts, prompt: VisualPrompt, model: Model) -> None:
    """One forward with a zero added at every site's readout, and one backward: each zero must get a gradient.

    Raises:
        SiteNotReachedError: naming the sites whose edits would change nothing.
    """
    reader, tower = parts.reader, parts.tower
    assert tower is not None
    patches = reader.geometry(prompt.picture.size, prompt.fit).num_patches
    rows = {site: tower.rows_of(site, "readout", patches) for site in tower.sites}
    programs, zeros = zeros_at(tower.sites, {site: row[0] for site, row in rows.items() if len(row)}, model.device)
    with Scope(tower, programs, None, model.device):
        embedding = parts.embed(reader.inputs([(prompt.picture, prompt.fit)], model))
        weights = torch.linspace(0.5, 1.5, embedding.shape[-1], device=embedding.device)
        (embedding.float() * weights).sum().backward(inputs=list(zeros.values()))
    dead = [site for site, zero in zeros.items() if zero.grad is None or not zero.grad.any()]
    if dead:
        raise SiteNotReachedError(
            f"{name}: edits at {', '.join(map(repr, dead))} would change nothing in the embedding."
        )


def zeros_at(
    sites: Sequence[Site], rows: dict[Site, int], device: torch.device, streams: int = 1
) -> tuple[dict[Site, SiteProgram], dict[Site, Tensor]]:
    """Programs that add a zero to one row's output at every site that has one, and the zeros, which want gradients."""
    zeros = {
        site: torch.zeros(streams, site.heads, 1, 1, device=device, requires_grad=True)
        for site in sites
        if site in rows
    }
    programs = {
        site: SiteProgram(
            torch.tensor([rows[site]]), torch.zeros(streams, site.heads, 1, dtype=torch.bool), inject=zero
        )
        for site, zero in zeros.items()
    }
    return programs, zeros
