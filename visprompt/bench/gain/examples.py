"""Images for a report on markers: a few scenes with each of them and where the model looks, and the patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from visprompt.bench.gain.markers import marked_model
from visprompt.bench.kind import RunContext
from visprompt.bench.report.images import data_uri
from visprompt.errors import VispromptError
from visprompt.plots import base as plots
from visprompt.plots.gain import Marked, marked_figure, patch_figure
from visprompt.tasks.gain import mass_on

if TYPE_CHECKING:
    from visprompt.bench.gain.markers import MarkedModel, Marker


def illustrate(context: RunContext, spec: Any) -> None:
    """Adds images of one model to the examples: its data URI and alternative text in `images` and `patches`."""
    suite = context.suite
    if suite.examples <= 0:
        return
    model = marked_model(context, spec)
    context.progress.starts(f"{model.name} · images for the report")
    try:
        found = marked_images(model, suite.examples)
        if found is not None:
            context.examples["images"][model.name] = found
        context.examples["patches"].update(patch_images(model))
    except (VispromptError, OSError) as error:
        context.problem(f"images of {model.name} are not shown: {error}")


def marked_images(model: MarkedModel, count: int) -> tuple[str, str] | None:
    """The first images with every marker, and the attention of the last block; data URI and alternative text.

    Returns:
        None without matplotlib.
    """
    if not plots.have_matplotlib():
        return None
    markers = _markers(model)
    count = min(count, len(model.images))
    lines = [[_marked(model, marker, number) for marker in (None, *markers)] for number in range(count)]
    shown = ", ".join(one.label for one in markers)
    alt = f"{count} images with {shown}, and where {model.name} looks in its last block."
    return data_uri(plots.to_png(marked_figure(lines))), alt


def patch_images(model: MarkedModel) -> dict[str, tuple[str, str]]:
    """The model's own patch beside its random control, pixel by pixel."""
    if not plots.have_matplotlib():
        return {}
    for marker in _markers(model):
        if marker.own and marker.patch is not None:
            control = next((one for one in _markers(model) if "random" in one.identity), None)
            noise = control.prompters[0].array() if control is not None else None  # type: ignore[attr-defined]
            options = marker.patch.options
            alt = (
                f"The patch of {model.name}: {options.shape}, {options.size:g} tokens; and random colours in its place."
            )
            return {model.name: (data_uri(plots.to_png(patch_figure(marker.patch.array(), noise))), alt)}
    return {}


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
    attention = np.asarray(found.image_map())
    drawn = image if prompter is None else prompter.prompt(request, model.model)[0].image
    share = float(mass_on(found.values.float().numpy(), found.geometry.coverage(box))[-1])
    return Marked("no marker" if marker is None else marker.label, drawn, attention, box.xyxy, share)
