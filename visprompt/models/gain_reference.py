"""The outputs of an encoder's heads without the prompt, with which output gains compare."""

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
    """Runs the images without the prompt and stores the rows' outputs in the programs. Prompt tokens stay, since gains
    edit the model with its tokens.

    Args:
        model: the encoder.
        prompts: one per stream.
        gains: the programs with a gain.
        tower: the model's own tower, or the one with the prompts' tokens.

    Returns:
        The programs with `reference` set.
    """
    plain = [(prompt.reference or prompt.image, prompt.fit) for prompt in prompts]
    numbers: dict[tuple[int, Fit, int], int] = {}
    keys = [(id(item), fit, id(prompt.tokens)) for (item, fit), prompt in zip(plain, prompts, strict=True)]
    which = [numbers.setdefault(key, len(numbers)) for key in keys]
    once = [plain[which.index(number)] for number in range(len(numbers))]
    tokens = model.insertion([prompts[which.index(number)] for number in range(len(numbers))])
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
