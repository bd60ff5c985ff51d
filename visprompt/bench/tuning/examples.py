"""Test images for a report on tuned prompts: what each method said, and where the model looks with and without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from visprompt.bench.kind import RunContext
from visprompt.bench.report.images import data_uri
from visprompt.bench.rows import Row
from visprompt.bench.tuning.spec import SetSpec
from visprompt.bench.tuning.unit import present, prompt_folder, splits_of
from visprompt.errors import VispromptError
from visprompt.plots import base as plots
from visprompt.plots.tuning import Shown, images_figure

if TYPE_CHECKING:
    from visprompt.models.base import Model
    from visprompt.prompter import Prompter

#: kept beside the runs, so that a report can be made again without the model
FOLDER = "images"


def illustrate(context: RunContext, models: Sequence[Any]) -> None:
    """A figure per set of classes: the first test images on which two methods differ, then the first ones.

    `context.examples` gets its data URI and alternative text by set; what cannot be shown is a problem.
    """
    if not context.settings.whole.examples:
        return
    runs, context.examples = present(context), {}
    for one in context.settings.whole.sets if plots.have_matplotlib() else ():
        drawn = _drawn(context, one, runs)
        if drawn is None:
            continue
        file = context.store.out / FOLDER / f"{one.key}-{drawn['key']}.png"
        alt = (
            f"Test images of {one.key} with the right answer and what each method said; where the readout looks "
            f"without and with {drawn['method']}, and where its tokens look."
        )
        try:
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(_figure(context, one, drawn, _first_seed(runs, one)))
            context.examples[one.key] = data_uri(file.read_bytes()), alt
        except (VispromptError, OSError) as error:
            context.problem(f"images of {one.key} are not shown: {error}")


def _drawn(context: RunContext, one: SetSpec, runs: Sequence[Row]) -> Row | None:
    """The run whose attention is shown: the last strategy of the table with tokens, of the first seed."""
    tables = [method.label for method in context.settings.whole.methods if method.table and method.how == "prompt"]
    by_method = {row["method"]: row for row in reversed(_first_seed(runs, one)) if _has_tokens(context, row)}
    return next((by_method[label] for label in reversed(tables) if label in by_method), None)


def _has_tokens(context: RunContext, row: Row) -> bool:
    return bool(row.get("options", {}).get("prompts", 1)) and prompt_folder(context.store.out, row).exists()


def _first_seed(runs: Sequence[Row], one: SetSpec) -> list[Row]:
    own = [row for row in runs if row["stage"] == "report" and row["set"] == one.key and row.get("right")]
    return [row for row in own if row["seed"] == own[0]["seed"]]


def _figure(context: RunContext, one: SetSpec, drawn: Row, beside: Sequence[Row]) -> bytes:
    from visprompt.prompter import Prompter
    from visprompt.request import Request
    from visprompt.runner.runner import Runner

    data, count = splits_of(context, one).test, context.settings.whole.examples
    assert data is not None
    model = context.model(context.settings.models[0])
    methods = [method.label for method in context.settings.whole.methods if method.table and not method.control]
    said = {row["method"]: row for row in beside if row["method"] in methods}
    places = _places([row["right"] for row in said.values()], count)
    images = [data.image(place) for place in places]
    guesses: list[dict[str, tuple[str, bool]]] = [{} for _ in places]
    for label, row in said.items():
        folder = prompt_folder(context.store.out, row)
        names = [""] * len(places)
        if row.get("blocks") is not None and folder.exists():
            runner = Runner(model, Prompter.from_pretrained(folder), progress=False)
            names = [found.label for found in runner.predict([Request(image) for image in images])]
        for place, (number, name) in enumerate(zip(places, names, strict=True)):
            guesses[place][label] = name, row["right"][number] == "1"
    prompter = Prompter.from_pretrained(prompt_folder(context.store.out, drawn))
    shown = []
    for number, image, told in zip(places, images, guesses, strict=True):
        label = data.label(number)
        assert isinstance(label, int)
        shown.append(Shown(image, data.classes[label], told, *_looks(model, prompter, image)))
    return plots.to_png(images_figure(shown, str(drawn["method"])))


def _looks(model: Model, prompter: Prompter, image: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Where the readout looks without and with the prompt, and its tokens: the last block, mean over heads."""
    from visprompt.request import Request
    from visprompt.runner.runner import Runner
    from visprompt.runner.token_attention import token_looks
    from visprompt.visual_prompt import VisualPrompt

    before, after = (
        Runner(model, one, progress=False)
        .attention(Request(image), blocks=[-1])[0]
        .maps.float()
        .mean(dim=(0, 1))
        .numpy()
        for one in (None, prompter)
    )
    (prompt,) = prompter.edit_all([VisualPrompt(image)], model)
    found = token_looks(model, prompt, [-1])
    if not found:
        return before, after, None
    tokens = np.mean([look.patches.mean(axis=0) for look in found], axis=0).reshape(before.shape)
    return before, after, tokens


def _places(right: Sequence[str], count: int) -> list[int]:
    """Images on which methods differ, and in between those on which they agree: the first of each, not the nicest."""
    every = range(len(right[0]))
    differ = [place for place in every if len({marks[place] for marks in right}) > 1]
    agree = [place for place in every if place not in set(differ)]
    half = (count + 1) // 2
    chosen = differ[:half] + agree[: count - len(differ[:half])]
    return sorted(chosen)[:count]
