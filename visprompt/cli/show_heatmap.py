"""Figures of `visprompt show`: attention without and with a strategy, heatmaps of questions and answers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from visprompt.cli.arguments import waiting
from visprompt.errors import InvalidInputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from visprompt.models.base import Model
    from visprompt.plots.heatmaps import Look
    from visprompt.prompter import Prompter
    from visprompt.request import Request
    from visprompt.runner.answers import Answer
    from visprompt.visual_prompt import Fit


def before_and_after(
    model: Model, request: Request, made: Prompter | None, name: str, fit: Fit, blocks: Sequence[int] | None
) -> Figure:
    """Draws the image with the region, the encoder's input, and the readout's attention without and with the strategy.

    Args:
        model: an encoder.
        request: the image with its region.
        made: the strategy, or None.
        name: name of the strategy, for titles.
        fit: how the image is resized.
        blocks: at most one block number; None: the last block.
    """
    from visprompt.plots import base as plots
    from visprompt.runner.runner import Runner

    runner = Runner(model, made, fit=fit, progress=False)
    plain = Runner(model, None, fit=fit, progress=False)
    units = [unit.with_(fit=fit) for unit in request.units()]
    (prompt,) = units if made is None else made.edit_all(units, model)
    rendered = runner.render(request)[0]
    boxes = [one.xyxy for one in request.regions]
    inside = [one.xyxy for one in prompt.regions]
    if "attention" not in model.supports:
        return plots.image_pair(request.pil_image, rendered, boxes[0] if boxes else None, name)
    block = -1 if not blocks else _only(blocks)
    return plots.before_after(
        request.pil_image,
        rendered,
        plain.attention(request)[0].image_map(block),
        runner.attention(request)[0].image_map(block),
        boxes[0] if len(boxes) == 1 else None,
        inside[0] if len(inside) == 1 else None,
        name,
    )


def heatmap(model: Model, request: Request, made: Prompter | None, fit: Fit, blocks: Sequence[int] | None) -> Figure:
    """Draws where a text-image encoder looks for a text: API's map over the image, and the image dimmed by it.

    Args:
        model: an encoder with a text tower.
        request: the image with its question or text.
        made: the strategy `api` with its options, or None for its defaults.
        fit: how the image is resized.
        blocks: at most one block number; None: the default of `api`.

    Raises:
        InvalidInputError: if a block is given together with `api`, whose option it is.
    """
    from visprompt.plots import heatmaps as plots_heat
    from visprompt.prompter import Prompter as Maker

    if made is None:
        made = Maker.from_name("api") if not blocks else Maker.from_name("api", block=_only(blocks))
    elif blocks:
        raise InvalidInputError("with --prompter api the block is an option of it: -o block=-2.")
    units = [unit.with_(fit=fit) for unit in request.units()]
    with waiting("looking"):
        (found,) = made.heatmaps(units, model)  # type: ignore[attr-defined]  # `api` has it; the core names no strategy
        (prompt,) = made.edit_all(units, model)
    wh = request.pil_image.size
    shares = [(found.share_in(region), float(region.rasterise(wh).mean())) for region in request.regions]
    return plots_heat.question_figure(
        request.query or "",
        request.pil_image,
        prompt.image,
        found.over_image("bilinear", outside=0.0),
        [region.xyxy for region in request.regions],
        shares,
    )


def answers(
    model: Model,
    request: Request,
    made: Prompter | None,
    name: str,
    fit: Fit,
    blocks: Sequence[int] | None,
    max_new_tokens: int,
) -> Figure:
    """Draws where a model that generates text looked while it answered, without and with the strategy.

    Args:
        model: a vision-language model.
        request: the image with its question, and a region if the strategy needs one.
        made: the strategy, or None.
        name: name of the strategy, for titles.
        fit: how the image is resized.
        blocks: decoder blocks to draw; None: the middle block.
        max_new_tokens: longest answer, in tokens.

    Raises:
        InvalidInputError: without a question.
    """
    from visprompt.plots import heatmaps as plots_heat
    from visprompt.runner.runner import Runner
    from visprompt.visual_prompt import block_number

    if request.query is None:
        raise InvalidInputError(
            f"{model.name} answers questions: give one behind the image, e.g. "
            'visprompt show photo.jpg "What does the sign say?".'
        )
    count = model.tower.num_blocks
    chosen = [block_number(block, count) for block in blocks or [count // 2]]
    runs = [("plain", None)] if made is None else [("without", None), (f"with {name}", made)]
    looks = []
    for label, prompter in runs:
        runner = Runner(model, prompter, fit=fit, progress=False)
        with waiting(f"answering, {label}"):
            (answer,) = runner.answer(request, blocks=range(count), max_new_tokens=max_new_tokens)
        looks.append(_look(model, answer, label, chosen))
        if prompter is None:
            warn_of_crop(answer)
    return plots_heat.answer_figure(request.query, looks)


def warn_of_crop(answer: Answer) -> None:
    """Warns which part of the image the model saw, if its processor crops the rest."""
    for found in answer.maps:
        whole, seen = (0.0, 0.0, *map(float, found.geometry.image_wh)), found.geometry.visible_xyxy()
        if seen != whole:
            x0, y0, x1, y1 = (round(edge) for edge in seen)
            warnings.warn(
                f"of the {found.geometry.image_wh[0]}×{found.geometry.image_wh[1]} image the model saw "
                f"({x0}, {y0}, {x1}, {y1}): its processor cuts the rest off. --fit pad shows it all.",
                UserWarning,
                stacklevel=2,
            )


def _look(model: Model, answer: Answer, label: str, blocks: Sequence[int]) -> Look:
    from visprompt.imaging.tint import rendered
    from visprompt.plots.heatmaps import Look, Panel, TileMap

    (prompt,), (found,) = answer.prompts, answer.maps
    heads = found.values.mean(1)  # [B, P]
    panels = []
    for title, values in [(f"block {block}", heads[block]) for block in blocks] + [
        ("mean of all blocks", heads.mean(0))
    ]:
        on_image = float(values.sum())
        lines = [title, f"{on_image:.0%} of attention on the image"]
        if prompt.regions and on_image > 0:
            cover = np.max([found.geometry.coverage(region) for region in prompt.regions], axis=0)
            lines.append(
                f"of it {float(values.numpy() @ cover) / on_image:.0%} in the region (even: {cover.mean():.0%})"
            )
        panels.append(Panel("\n".join(lines), found.geometry.to_map(values.numpy())))
    tiles = tuple(
        TileMap(found.tile(number)[blocks[0]].mean(0).numpy(), tile.seen_xyxy)
        for number, tile in enumerate(found.geometry.tiles)
    )
    return Look(
        label,
        prompt.image,
        rendered(prompt, model),
        answer.text + ("" if answer.finished else " …"),
        tuple(panels),
        tiles if len(tiles) > 1 else (),
        tuple(region.xyxy for region in prompt.regions),
        f"block {blocks[0]}",
    )


def _only(blocks: Sequence[int]) -> int:
    if len(blocks) > 1:
        raise InvalidInputError(f"an encoder is shown at one block; got --block {' --block '.join(map(str, blocks))}.")
    return blocks[0]
