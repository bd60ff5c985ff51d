"""Images for a report: answers right and wrong as the model got them, and where it looked.

Taken while a model is in memory; kept as files' bytes, so that a report needs neither the model nor the data.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from visprompt.bench.accuracy.answers import answers, images
from visprompt.bench.kind import Opened, RunContext
from visprompt.bench.report.images import boxed, data_uri, shown_as_is
from visprompt.bench.rows import Row
from visprompt.data.questions.question import Question
from visprompt.errors import VispromptError
from visprompt.imaging.load import load_image
from visprompt.plots import base as plots
from visprompt.tasks import Condition, Vqa
from visprompt.tasks.condition import CONTROLS, RunnerFactory, Sample, Scorer
from visprompt.tasks.vqa import Asking

#: of the figure on regions, and of that on questions
_LINES, _COLUMNS = 3, 7
_LINES_VQA, _COLUMNS_VQA = 4, 6


@dataclass(frozen=True)
class Card:
    """One answer of a model, as a report shows it: the question with its boxes, and what the model got.

    Attributes:
        question, seen: images as data URIs; `seen` is None where nothing was pointed at.
        alt: what the image shows, for those who do not see it.
        text: what was asked.
        answer: what came out.
    """

    question: str
    seen: str | None
    alt: str
    text: str
    answer: str
    correct: bool


@dataclass
class ReportExamples:
    """Everything a report shows besides figures.

    Attributes:
        cards: by (model, task): for every strategy its cards, right ones first.
        attention: by model: a figure as a data URI, and its alternative text.
        notes: why something is not shown.
    """

    cards: dict[tuple[str, str], dict[str, list[Card]]] = field(default_factory=dict)
    attention: dict[str, tuple[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def illustrate(context: RunContext, models: Sequence[Any]) -> None:
    """Adds examples: for every strategy its first right and wrong answers to every task, in the order of the data (of
    questions, the first of each kind), and where the model looks on the first task."""
    for model in map(context.opened, models):
        asked = [(unit.what, row) for unit, row in context.results_of("rows") if unit.what.name == model.name]
        for task in context.suite.tasks:
            own = [(ask.condition, answers(context, row)) for ask, row in asked if ask.task == task.key]
            own = [(condition, items) for condition, items in own if items]
            if not own:
                continue
            context.progress.starts(f"{model.name} · {task.key} · images for the report")
            _add_cards(context, model, task, own)
            if task is context.suite.tasks[0]:
                _add_attention(context, model, task, [condition for condition, _ in own])


def _add_cards(
    context: RunContext, model: Opened, task: Any, answered: Sequence[tuple[Condition, Sequence[Row]]]
) -> None:
    samples, count = images(context, task.data), context.suite.examples
    shown = context.examples.cards.setdefault((model.name, task.key), {})
    asks = isinstance(task.task, Vqa)
    for condition, items in answered:
        # Of questions there is one card a kind for every row: controls would double the page.
        if condition.strategy == "random" or not count or (asks and condition.region in CONTROLS):
            continue
        try:
            how = (context.model(model.spec), condition, context.make_runner)
            if asks:
                shown[condition.label] = _question_cards(task.task, samples, items, *how)
            else:
                by_item = {item: sample for sample in samples for item in task.task.questions(sample)}
                scorer, chosen = Scorer(*how), [row for row in items if row["pred"] is not None]
                right = [row for row in chosen if row["correct"]][:count]
                wrong = [row for row in chosen if not row["correct"]][:count]
                shown[condition.label] = [_card(scorer, by_item[row["id"]], row) for row in right + wrong]
        except VispromptError as error:
            context.examples.notes.append(f"No examples of {condition.label} on {model.name}, {task.key}: {error}")


def _card(scorer: Scorer, sample: Sample, row: Row) -> Card:
    naming = "answer" in row
    pred, gold = row["pred"], row["gold_index"]
    boxes = sample.candidates_xyxy
    pointed = gold if naming else pred
    plain = scorer.condition.strategy == "none"
    request = scorer.request(sample, None if plain else boxes[[pointed]])
    marks = [(box, plots.OTHER, False) for i, box in enumerate(boxes) if naming or i not in (pred, gold)]
    if not naming and gold is not None and gold != pred:
        marks.append((boxes[gold], plots.RIGHT, True))
    marks.append((boxes[pointed], plots.RIGHT if row["correct"] else plots.WRONG, False))
    if naming:
        text = f"the marked {row['text']}"
        answer = f"“{row['answer']}”, p = {row['top'][0][1]:.2f}"
        alt = f"An image with a {row['text']} marked; the answer is {row['answer']}."
    else:
        text = f"“{row['text']}”"
        answer = f"box {pred + 1} of {len(boxes)}, p = {row['probs'][pred]:.2f}"
        alt = f"{len(boxes)} boxes on an image; asked for {row['text']}, box {pred + 1} was chosen, "
        alt += "which is right." if row["correct"] else "which is wrong."
    seen = None if plain else _seen_by(scorer.runners[0], request)
    return Card(data_uri(boxed(request.pil_image, marks)), seen, alt, text, answer, bool(row["correct"]))


def _question_cards(
    task: Vqa,
    questions: Sequence[Question],
    answers: Sequence[Row],
    model: Any,
    condition: Condition,
    make_runner: RunnerFactory,
) -> list[Card]:
    """The answers to the first question of every kind, in the order of the data."""
    known = {question.id: question for question in questions}
    first: dict[str, Row] = {}
    for row in answers:
        first.setdefault(str(row["kind"]), row)
    asking = Asking(task, model, condition, make_runner)
    return [_question_card(asking, known[row["id"]], row) for row in first.values()]


def _question_card(asking: Asking, question: Question, row: Row) -> Card:
    request = asking.request(question, asking.regions(question) if row["pointed"] else [])
    marks = [(np.asarray(region.xyxy), plots.RIGHT, False) for region in question.targets]
    verdict = "right" if row["correct"] else f"wrong; right: {row['gold']}"
    return Card(
        data_uri(boxed(request.pil_image, marks)),
        _seen_by(asking.runner, request) if row["pointed"] else None,
        f"An image, and the question {question.text} The answer is {row['answer']}, which is {verdict}.",
        question.text,
        f"“{row['answer']}”" + ("" if row["correct"] else f" (right: {row['gold']})"),
        bool(row["correct"]),
    )


def _seen_by(runner: Any, request: Any) -> str | None:
    """The image that a model gets, as a data URI; None from a runner that renders nothing."""
    render = getattr(runner, "render", None)
    return None if render is None else data_uri(shown_as_is(render([request])[0].convert("RGB")))


# -- where a model looks ----------------------------------------------------------------------------------------------


def _add_attention(context: RunContext, model: Opened, task: Any, conditions: Sequence[Condition]) -> None:
    """Draws the last block's readout attention, plain and with each strategy that keeps the image whole."""
    examples, loaded = context.examples, context.model(model.spec)
    if model.name in examples.attention:
        return
    if "attention" not in loaded.supports:
        examples.notes.append(f"{model.name} has no attention to show.")
        return
    if not plots.have_matplotlib():  # the report says so
        return
    samples = images(context, task.data)
    chosen = [one for one in conditions if not one.is_control and len(one.members()) == 1]
    draw = _looking_figure if isinstance(task.task, Vqa) else _attention_figure
    try:
        examples.attention[model.name] = draw(model.name, samples, chosen, loaded, context.make_runner)
    except VispromptError as error:
        examples.notes.append(f"No attention maps of {model.name}: {error}")


def _attention_figure(
    name: str, samples: Sequence[Sample], conditions: Sequence[Condition], model: Any, make_runner: RunnerFactory
) -> tuple[str, str]:
    samples = samples[:_LINES]
    conditions = [one for one in conditions if "crop" not in one.strategy][:_COLUMNS]
    plain = Scorer(model, Condition("none", fit=conditions[0].fit if conditions else "model"), make_runner)
    marked = [sample.expressions[0].gold_xyxy[0] for sample in samples]
    columns: list[tuple[str, list[Any]]] = []
    for scorer in (plain, *(Scorer(model, condition, make_runner) for condition in conditions)):
        boxes = [None if scorer is plain else box[None] for box in marked]
        requests = [scorer.request(sample, box) for sample, box in zip(samples, boxes, strict=True)]
        maps: Any = scorer.runners[0].attention(requests)  # type: ignore[attr-defined]
        columns.append((scorer.condition.label, [np.asarray(one.image_map()) for one in maps]))
    rows = [
        (plain.request(sample, None).pil_image, box, sample.expressions[0].text)
        for sample, box in zip(samples, marked, strict=True)
    ]
    shown = ", ".join(label for label, _ in columns)
    alt = f"Readout attention of {name} in its last block over {len(samples)} images, for {shown}."
    return _maps_figure(rows, columns, "on the region", one_scale=True), alt


def _maps_figure(
    rows: Sequence[tuple[Any, Any, str]], columns: Sequence[tuple[str, Sequence[Any]]], where: str, one_scale: bool
) -> str:
    """Images with their regions, and beside each the maps over it with what falls into the region.

    Args:
        rows: images, boxes in pixels (x0, y0, x1, y1), and texts.
        columns: titles, and a map for every row.
        where: what is said after the percentage.
        one_scale: the maps of a row have one scale, which is shown; or else each its own.

    Returns:
        A data URI.
    """
    width, height, more, font = (1.3, 1.56, 0.8, 8) if one_scale else (1.55, 1.9, 0.3, 7)
    figure = plots.new_figure((width * (len(columns) + 1) + more, height * len(rows) + 0.3))
    grid = figure.subplots(len(rows), len(columns) + 1, squeeze=False)
    for line, (image, box, text) in enumerate(rows):
        plots.show_image(grid[line, 0], image, "image, region" if one_scale and line == 0 else "")
        plots.outline(grid[line, 0], box)
        grid[line, 0].set_xlabel(plots.literal(text), fontsize=font)
        top = max(float(maps[line].max()) for _, maps in columns) if one_scale else None
        for panel, (label, maps) in zip(grid[line, 1:], columns, strict=True):
            drawn = plots.draw_map(panel, image, maps[line], box, top)
            panel.set_title(plots.literal(label) if line == 0 else "", fontsize=font + 1)
            panel.set_xlabel(f"{plots.share_in_box(maps[line], image.size, box):.0%} {where}", fontsize=font)
        if one_scale:
            figure.colorbar(drawn, ax=list(grid[line, 1:]), shrink=0.8, aspect=12, pad=0.01).ax.tick_params(labelsize=7)
    return data_uri(plots.to_png(figure))


def _looking_figure(
    name: str, questions: Sequence[Question], conditions: Sequence[Condition], model: Any, make_runner: RunnerFactory
) -> tuple[str, str]:
    """Where the decoder of an LVLM looks without and with each attention edit, and the heatmaps of strategies that have
    one, on the first question about one object of each kind: a data URI and its alternative text.
    """
    first: dict[str, Question] = {}
    for question in questions:
        if len(question.targets) == 1:
            first.setdefault(question.kind, question)
    chosen = list(first.values())[-_LINES_VQA:]  # later kinds need more looking
    columns = [_decoder(model, chosen, Condition("none"), make_runner)]
    members = [(condition, condition.members()[0]) for condition in conditions]
    for condition, member in members:
        if member is not None and "attention" in member.acts_on and "region" in member.needs:
            columns.append(_decoder(model, chosen, condition, make_runner))
    drawn: list[Any] = []
    for condition, member in members:
        made: Any = member
        if hasattr(made, "heatmaps") and "pixels" in made.acts_on and made.describe() not in drawn:
            drawn.append(made.describe())
            columns.append((condition.label, _heatmaps(made, model, chosen)))
    columns = columns[:_COLUMNS_VQA]
    rows = [
        (load_image(one.pil_images[0]), one.targets[0].xyxy, "\n".join(textwrap.wrap(one.text, 26))) for one in chosen
    ]
    shown = ", ".join(label for label, _ in columns)
    figure = _maps_figure(rows, columns, "in the box", one_scale=False)
    return figure, f"Maps over {len(chosen)} images for {name}: {shown}."


def _decoder(
    model: Any, questions: Sequence[Question], condition: Condition, make_runner: RunnerFactory
) -> tuple[str, list[Any]]:
    asking = Asking(Vqa(), model, condition, make_runner)
    requests = [asking.request(question, asking.regions(question)) for question in questions]
    maps: Any = asking.runner.attention(requests)  # type: ignore[attr-defined]
    # All blocks: which of them looks where the question points is in the table.
    pixels = [np.mean([one.image_map(block) for block in one.blocks], axis=0) for one in maps]
    return ("decoder" if condition.strategy == "none" else f"decoder, {condition.label}"), pixels


def _heatmaps(member: Any, model: Any, questions: Sequence[Question]) -> list[Any]:
    from visprompt.request import Request

    prompts = [Request(question.pil_images[0], query=question.text).units()[0] for question in questions]
    return [heatmap.over_image() for heatmap in member.heatmaps(prompts, model)]
