"""Images for a report on questions: each kind's first question with its answers, and heatmaps beside one another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from visprompt.bench.accuracy.cards import Card
from visprompt.bench.report.images import boxed, data_uri, shown_as_is
from visprompt.data.questions.question import Question
from visprompt.imaging.load import load_image
from visprompt.plots import base as plots
from visprompt.tasks import Condition, Vqa
from visprompt.tasks.base import Row
from visprompt.tasks.condition import RunnerFactory
from visprompt.tasks.vqa import Asking

_COLUMNS = 6
_LINES = 4


def question_cards(
    task: Vqa,
    model: Any,
    questions: Sequence[Question],
    condition: Condition,
    answers: Sequence[Row],
    make_runner: RunnerFactory,
) -> list[Card]:
    """The answers to the first question of every kind, in the order of the data."""
    known = {question.id: question for question in questions}
    first: dict[str, dict[str, Any]] = {}
    for row in answers:
        first.setdefault(str(row["kind"]), row)
    asking = Asking(task, model, condition, make_runner)
    return [_card(asking, known[row["id"]], row) for row in first.values()]


def _card(asking: Asking, question: Question, row: dict[str, Any]) -> Card:
    request = asking.request(question, asking.regions(question) if row["pointed"] else [])
    marks = [(np.asarray(region.xyxy), plots.RIGHT, False) for region in question.targets]
    seen = None
    render = getattr(asking.runner, "render", None)
    if row["pointed"] and render is not None:
        seen = data_uri(shown_as_is(render([request])[0]))
    verdict = "right" if row["correct"] else f"wrong; right: {row['gold']}"
    return Card(
        data_uri(boxed(request.pil_image, marks)),
        seen,
        f"An image, and the question {question.text} The answer is {row['answer']}, which is {verdict}.",
        question.text,
        f"“{row['answer']}”" + ("" if row["correct"] else f" (right: {row['gold']})"),
        bool(row["correct"]),
    )


def looking_figure(
    model: Any, name: str, questions: Sequence[Question], conditions: Sequence[Condition], make_runner: RunnerFactory
) -> tuple[str, str]:
    """Where the decoder looks without and with each attention edit, and the heatmaps of strategies that have one.

    Args:
        model: an LVLM.
        name: what the report calls it.
        questions: the data; the first about one object of each kind are drawn.
        pointings: the rows; those that have neither an attention edit nor a heatmap are left out.
        make_runner: makes the runners.

    Returns:
        the figure as a data URI, and its alternative text.
    """
    chosen = _chosen(questions)
    columns = [_decoder(model, chosen, Condition("none"), make_runner)]
    members = {condition.label: (condition, condition.members()[0]) for condition in conditions}
    for condition, member in members.values():
        if member is not None and "attention" in member.acts_on and "region" in member.needs:
            columns.append(_decoder(model, chosen, condition, make_runner))
    drawn: list[Any] = []
    for label, (_, member) in members.items():
        if hasattr(member, "heatmaps") and "pixels" in member.acts_on and member.describe() not in drawn:  # type: ignore[union-attr]
            drawn.append(member.describe())  # type: ignore[union-attr]
            columns.append(_heatmaps(member, model, chosen, label))
    columns = columns[:_COLUMNS]
    figure = plots.new_figure((1.55 * (len(columns) + 1) + 0.3, 1.9 * len(chosen) + 0.3))
    grid = figure.subplots(len(chosen), len(columns) + 1, squeeze=False)
    for line, question in enumerate(chosen):
        image, box = load_image(question.pil_images[0]), question.targets[0].xyxy
        plots.show_image(grid[line, 0], image, "")
        plots.outline(grid[line, 0], box)
        grid[line, 0].set_xlabel(plots.literal(_wrapped(question.text)), fontsize=7)
        for place, (label, maps) in enumerate(columns, start=1):
            panel = grid[line, place]
            plots.draw_map(panel, image, maps[line], box)
            panel.set_title(plots.literal(label) if line == 0 else "", fontsize=8)
            share = plots.share_in_box(maps[line], image.size, box)
            panel.set_xlabel(f"{share:.0%} in the box", fontsize=7)
    shown = ", ".join(label for label, _ in columns)
    return data_uri(plots.to_png(figure)), f"Maps over {len(chosen)} images for {name}: {shown}."


def _chosen(questions: Sequence[Question]) -> list[Question]:
    first: dict[str, Question] = {}
    for question in questions:
        if len(question.targets) == 1:
            first.setdefault(question.kind, question)
    return list(first.values())[-_LINES:]  # later kinds need more looking


def _decoder(model: Any, questions: Sequence[Question], condition: Condition, make_runner: RunnerFactory) -> Any:
    asking = Asking(Vqa(), model, condition, make_runner)
    requests = [asking.request(question, asking.regions(question)) for question in questions]
    maps: Any = asking.runner.attention(requests)  # type: ignore[attr-defined]
    # All blocks: which of them looks where the question points is in the table.
    pixels = [np.mean([one.image_map(block) for block in one.blocks], axis=0) for one in maps]
    return ("decoder" if condition.strategy == "none" else f"decoder, {condition.label}"), pixels


def _heatmaps(member: Any, model: Any, questions: Sequence[Question], label: str) -> Any:
    from visprompt.request import Request

    prompts = [Request(question.pil_images[0], query=question.text).units()[0] for question in questions]
    return label, [heatmap.over_image() for heatmap in member.heatmaps(prompts, model)]


def _wrapped(text: str, width: int = 26) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width))
