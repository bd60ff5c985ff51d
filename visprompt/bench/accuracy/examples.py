"""Images for a report: answers right and wrong as the model got them, and where it looked.

Taken while a model is in memory; kept as files' bytes, so that a report needs neither the model nor the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from visprompt.bench.accuracy.cards import Card
from visprompt.bench.kind import RunContext
from visprompt.bench.report.images import boxed, data_uri, shown_as_is
from visprompt.errors import VispromptError
from visprompt.plots import base as plots
from visprompt.tasks import Condition, Task, Vqa
from visprompt.tasks.base import Row
from visprompt.tasks.condition import CONTROLS, RunnerFactory, Sample, Scorer

_ATTENTION_IMAGES = 3
_ATTENTION_COLUMNS = 7


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

    def add_answers(
        self,
        model: Any,
        name: str,
        key: str,
        task: Task,
        samples: Sequence[Any],
        answered: Sequence[tuple[Condition, Sequence[Row]]],
        count: int,
        make_runner: RunnerFactory,
    ) -> None:
        """Shows for every strategy the first `count` right and wrong answers, in the order of the data; of
        questions, the first of each kind.

        Args:
            model: the model that answered.
            name: what the report calls it.
            key: the task's key.
            task: the task.
            images: the data.
            answered: how the region was pointed out, and the answers.
            count: right ones, and as many wrong ones.
            make_runner: makes the runner that renders what the model got.
        """
        shown = self.cards.setdefault((name, key), {})
        for condition, answers in answered:
            # Of questions there is one card a kind for every row: controls would double the page.
            if condition.strategy == "random" or not count or (isinstance(task, Vqa) and condition.region in CONTROLS):
                continue
            try:
                if isinstance(task, Vqa):
                    from visprompt.bench.accuracy.examples_vqa import question_cards

                    shown[condition.label] = question_cards(task, model, samples, condition, answers, make_runner)
                else:
                    shown[condition.label] = _cards(
                        task, Scorer(model, condition, make_runner), samples, answers, count
                    )
            except VispromptError as error:
                self.notes.append(f"No examples of {condition.label} on {name}, {key}: {error}")

    def add_attention(
        self,
        model: Any,
        name: str,
        task: Task,
        samples: Sequence[Any],
        conditions: Sequence[Condition],
        make_runner: RunnerFactory,
    ) -> None:
        """Draws the last block's readout attention, plain and with each strategy that keeps the image whole."""
        if "attention" not in model.supports:
            self.notes.append(f"{name} has no attention to show.")
            return
        if not plots.have_matplotlib():
            self.notes.append('Figures need matplotlib: pip install "visprompt-toolkit[plots]".')
            return
        chosen = [one for one in conditions if not one.is_control and len(one.members()) == 1]
        chosen = [one for one in chosen if "crop" not in one.strategy][:_ATTENTION_COLUMNS]
        try:
            if isinstance(task, Vqa):
                from visprompt.bench.accuracy.examples_vqa import looking_figure

                whole = [one for one in conditions if not one.is_control and len(one.members()) == 1]
                self.attention[name] = looking_figure(model, name, samples, whole, make_runner)
                return
            self.attention[name] = _attention_figure(model, name, samples[:_ATTENTION_IMAGES], chosen, make_runner)
        except VispromptError as error:
            self.notes.append(f"No attention maps of {name}: {error}")


def illustrate(context: RunContext, spec: Any) -> None:
    """Adds one model's examples: answers to every task, and attention on the first."""
    from visprompt.bench.accuracy.answers import answers, load
    from visprompt.bench.accuracy.unit import opened

    suite, found = context.suite, opened(context, spec)
    model, exhibits = context.model(spec), context.examples
    asked = [(unit.what, row) for unit, row in context.results_of("rows") if unit.what.name == found.name]
    for task in suite.tasks:
        own = [(ask.condition, answers(context, row)) for ask, row in asked if ask.task == task.key]
        own = [(condition, items) for condition, items in own if items]
        if not own:
            continue
        context.progress.starts(f"{found.name} · {task.key} · images for the report")
        images = load(context, task.data).images[: context.settings.limit]
        how = context.make_runner
        exhibits.add_answers(model, found.name, task.key, task.task, images, own, suite.examples, how)
        if found.name not in exhibits.attention and task is suite.tasks[0]:
            exhibits.add_attention(model, found.name, task.task, images, [condition for condition, _ in own], how)


def _cards(task: Task, scorer: Scorer, samples: Sequence[Sample], answers: Sequence[Row], count: int) -> list[Card]:
    items = {item: sample for sample in samples for item in task.questions(sample)}
    right = [row for row in answers if row["correct"] and row["pred"] is not None][:count]
    wrong = [row for row in answers if not row["correct"] and row["pred"] is not None][:count]
    return [_card(scorer, items[row["id"]], row) for row in right + wrong]


def _card(scorer: Scorer, sample: Sample, row: Row) -> Card:
    naming = "answer" in row
    pred, gold = row["pred"], row["gold_index"]
    boxes = sample.candidates_xyxy
    pointed = gold if naming else pred
    plain = scorer.condition.strategy == "none"
    request = scorer.request(sample, None if plain else boxes[[pointed]])
    image = request.pil_image
    marks = [(box, plots.OTHER, False) for i, box in enumerate(boxes) if naming or i not in (pred, gold)]
    if not naming and gold is not None and gold != pred:
        marks.append((boxes[gold], plots.RIGHT, True))
    marks.append((boxes[pointed], plots.RIGHT if row["correct"] else plots.WRONG, False))
    seen = None
    render = getattr(scorer.runners[0], "render", None)
    if not plain and render is not None:
        rendered = render([request])[0].convert("RGB")
        seen = data_uri(shown_as_is(rendered))
    if naming:
        text = f"the marked {row['text']}"
        answer = f"“{row['answer']}”, p = {row['top'][0][1]:.2f}"
        alt = f"An image with a {row['text']} marked; the answer is {row['answer']}."
    else:
        text = f"“{row['text']}”"
        answer = f"box {pred + 1} of {len(boxes)}, p = {row['probs'][pred]:.2f}"
        alt = f"{len(boxes)} boxes on an image; asked for {row['text']}, box {pred + 1} was chosen, "
        alt += "which is right." if row["correct"] else "which is wrong."
    return Card(data_uri(boxed(image, marks)), seen, alt, text, answer, bool(row["correct"]))


def _attention_figure(
    model: Any,
    name: str,
    samples: Sequence[Sample],
    conditions: Sequence[Condition],
    make_runner: RunnerFactory,
) -> tuple[str, str]:
    columns: list[tuple[str, list[Any]]] = []
    plain = Scorer(model, Condition("none", fit=conditions[0].fit if conditions else "model"), make_runner)
    scorers = [Scorer(model, condition, make_runner) for condition in conditions]
    marked = [_gold(sample) for sample in samples]
    for scorer in (plain, *scorers):
        none = scorer is plain
        requests = [
            scorer.request(sample, None if none else box[None]) for sample, box in zip(samples, marked, strict=True)
        ]
        maps: Any = scorer.runners[0].attention(requests)  # type: ignore[attr-defined]
        columns.append((scorer.condition.label, [np.asarray(one.image_map()) for one in maps]))
    images = [plain.request(sample, None).pil_image for sample in samples]
    figure = plots.new_figure((1.3 * (len(columns) + 1) + 0.8, 1.56 * len(samples) + 0.3))
    grid = figure.subplots(len(samples), len(columns) + 1, squeeze=False)
    for line, (sample, image, box) in enumerate(zip(samples, images, marked, strict=True)):
        plots.show_image(grid[line, 0], image, "image, region" if line == 0 else "")
        plots.outline(grid[line, 0], box)
        grid[line, 0].set_xlabel(plots.literal(sample.expressions[0].text), fontsize=8)
        top = max(float(maps[line].max()) for _, maps in columns)
        for place, (label, maps) in enumerate(columns, start=1):
            panel = grid[line, place]
            drawn = plots.draw_map(panel, image, maps[line], box, top)
            panel.set_title(plots.literal(label) if line == 0 else "", fontsize=9)
            panel.set_xlabel(f"{plots.share_in_box(maps[line], image.size, box):.0%} on the region", fontsize=8)
        figure.colorbar(drawn, ax=list(grid[line, 1:]), shrink=0.8, aspect=12, pad=0.01).ax.tick_params(labelsize=7)
    shown = ", ".join(label for label, _ in columns)
    alt = f"Readout attention of {name} in its last block over {len(samples)} images, for {shown}."
    return data_uri(plots.to_png(figure)), alt


def _gold(sample: Sample) -> Any:
    return sample.expressions[0].gold_xyxy[0]
