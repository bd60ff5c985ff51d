"""What an encoder's heads give without the prompt: what output gains compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from visprompt.attention.engine import open_scope
from visprompt.attention.program import SiteProgram
from visprompt.attention.sites import Site, Tower
from visprompt.visual_prompt import Fit, VisualPrompt

if TYPE_CHECKING:
    from visprompt.models.base import Model


def with_references(
    model: Model, prompts: Sequence[VisualPrompt], gains: dict[Site, SiteProgram], tower: Tower
) -> dict[Site, SiteProgram]:
    """Runs the images without the prompt (but for its tokens: they are part of the model that is edited) and hands
    its row outputs to the gain edits.

    Args:
        model: the encoder.
        prompts: one per stream.
        gains: the programs with a gain.
        tower: the model's own, or with the prompts' tokens in it.
    """
    plain = [(prompt.reference or prompt.image, prompt.fit) for prompt in prompts]
    places: dict[tuple[int, Fit, int], int] = {}
    keys = [(id(item), fit, id(prompt.tokens)) for (item, fit), prompt in zip(plain, prompts, strict=True)]
    which = [places.setdefault(key, len(places)) for key in keys]
    once = [plain[which.index(place)] for place in range(len(places))]
    tokens = model.insertion([prompts[which.index(place)] for place in range(len(places))])
    watch = {
        site: SiteProgram(
            rows=item.rows,
            edited=torch.zeros(len(once), *item.edited.shape[1:], dtype=torch.bool),
            capture_output=True,
        )
        for site, item in gains.items()
    }
    order = model.parts.timeline(len(once), model.device)
    with torch.no_grad(), open_scope(tower, watch, None, model.device, order, tokens) as scope:
        model.parts.embed(model.parts.reader.inputs(once, model))
    index = torch.tensor(which, device=model.device)
    return {site: replace(item, reference=scope.outputs[site][index]) for site, item in gains.items()}
