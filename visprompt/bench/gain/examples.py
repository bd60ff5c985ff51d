"""Images for a report on markers: a few scenes with each of them and where the model looks, and the patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from visprompt.bench.gain.markers import MarkedModel, Marker, marked_model
from visprompt.bench.kind import RunContext
from visprompt.bench.report.images import data_uri
from visprompt.errors import VispromptError
from visprompt.plots import base as plots
from visprompt.plots.gain import Marked, marked_figure, patch_figure
from visprompt.tasks.gain import mass_on


def illustrate(context: RunContext, models: Sequence[Any]) -> None:
    """Adds images of models to the examples: a data URI and alternative text by model in `images` and `patches`."""
    for spec in models if context.suite.examples > 0 else ():
        model = marked_model(context, spec)
        context.progress.starts(f"{model.name} · images for the report")
        if not plots.have_matplotlib():
            continue
        try:
            markers = _markers(model)
            context.examples["images"][model.name] = _marked_images(model, markers, context.suite.examples)
            patch = next((one for one in markers if one.own and one.patch is not None), None)
            if patch is not None:
                context.examples["patches"][model.name] = _patch_images(model, patch, markers)
        except (VispromptError, OSError) as error:
            context.problem(f"images of {model.name} are not shown: {error}")


def _marked_images(model: MarkedModel, markers: Sequence[Marker], count: int) -> tuple[str, str]:
    """The first images with every marker, and the attention of the last block."""
    count = min(count, len(model.images))
    lines = [[_marked(model, marker, number) for marker in (None, *markers)] for number in range(count)]
    shown = ", ".join(one.label for one in markers)
    alt = f"{count} images with {shown}, and where {model.name} looks in its last block."
    return data_uri(plots.to_png(marked_figure(lines))), alt


def _patch_images(model: MarkedModel, marker: Marker, markers: Sequence[Marker]) -> tuple[str, str]:
    """The model's own patch beside its random control, pixel by pixel."""
    control: Any = next((one.prompters[0] for one in markers if "random" in one.identity), None)
    noise, options = None if control is None else control.array(), marker.patch.options
    alt = f"The patch of {model.name}: {options.shape}, {options.size:g} tokens; and random colours in its place."
    return data_uri(plots.to_png(patch_figure(marker.patch.array(), noise))), alt


def _markers(model: MarkedModel) -> list[Marker]:
    found: list[Marker] = []
    for spec in model.suite.markers:
        try:
            one = model.marker(spec)
        except VispromptError:  # said where it is measured
            continue
        if all(one.identity != other.identity for other in found):
            found.append(one)
    return found


def _marked(model: MarkedModel, marker: Marker | None, number: int) -> Marked:
    from visprompt.request import Request
    from visprompt.runner.runner import Runner

    image = Request(model.images[number]).pil_image
    box = model.meter(model.own_size if marker is None else marker.size_tokens).place(number, image.size)
    prompter = None if marker is None else marker.prompters[number % len(marker.prompters)]
    request = Request(image, region=box)
    runner = Runner(model.model, prompter, progress=False, fit=model.suite.fit)  # type: ignore[arg-type]
    (found,) = runner.attention(request, [model.meter(model.own_size).read_blocks()[-1]], rows="summary")
    drawn = image if prompter is None else prompter.prompt(request, model.model)[0].image
    share = float(mass_on(found.values.float().numpy(), found.geometry.coverage(box))[-1])
    label = "no marker" if marker is None else marker.label
    return Marked(label, drawn, np.asarray(found.image_map()), box.xyxy, share)
