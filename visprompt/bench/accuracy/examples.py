"""Pictures for a report: answers right and wrong as the model got them, and where it looked.

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
from visprompt.tasks import Pointing, Task, Vqa
from visprompt.tasks.base import Row
from visprompt.tasks.condition import CONTROLS, Pictured, Pointer, RunnerFactory

_ATTENTION_PICTURES = 3
_ATTENTION_COLUMNS = 7


@dataclass
class Exhibits:
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
        pictures: Sequence[Any],
        answered: Sequence[tuple[Pointing, Sequence[Row]]],
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
            pictures: the data.
            answered: how the region was pointed out, and the answers.
            count: right ones, and as many wrong ones.
            make_runner: makes the runner that renders what the model got.
        """
        shown = self.cards.setdefault((name, key), {})
        for pointing, answers in answered:
            # Of questions there is one card a kind for every row: controls would double the page.
            if pointing.strategy == "random" or not count or (isinstance(task, Vqa) and pointing.region in CONTROLS):
                continue
            try:
                if isinstance(task, Vqa):
                    from visprompt.bench.accuracy.examples_vqa import question_cards

                    shown[pointing.label] = question_cards(task, model, pictures, pointing, answers, make_runner)
                else:
                    shown[pointing.label] = _cards(
                        task, Pointer(model, pointing, make_runner), pictures, answers, count
                    )
            except VispromptError as error:
                self.notes.append(f"No examples of {pointing.label} on {name}, {key}: {error}")

    def add_attention(
        self,
        model: Any,
        name: str,
        task: Task,
        pictures: Sequence[Any],
        pointings: Sequence[Pointing],
        make_runner: RunnerFactory,
    ) -> None:
        """Draws the last block's readout attention, plain and with each strategy that keeps the picture whole."""
        if "attention" not in model.supports:
            self.notes.append(f"{name} has no attention to show.")
            return
        if not plots.have_matplotlib():
            self.notes.append('Figures need matplotlib: pip install "visprompt-toolkit[plots]".')
            return
        chosen = [one for one in pointings if not one.is_control and len(one.members()) == 1]
        chosen = [one for one in chosen if "crop" not in one.strategy][:_ATTENTION_COLUMNS]
        try:
            if isinstance(task, Vqa):
                from visprompt.bench.accuracy.examples_vqa import looking_figure

                whole = [one for one in pointings if not one.is_control and len(one.members()) == 1]
                self.attention[name] = looking_figure(model, name, pictures, whole, make_runner)
                return
            self.attention[name] = _attention_figure(model, name, pictures[:_ATTENTION_PICTURES], chosen, make_runner)
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
        own = [(ask.pointing, answers(context, row)) for ask, row in asked if ask.task == task.key]
        own = [(pointing, items) for pointing, items in own if items]
        if not own:
            continue
        context.progress.starts(f"{found.name} · {task.key} · images for the report")
        images = load(context, task.data).pictures[: context.settings.limit]
        how = context.make_runner
        exhibits.add_answers(model, found.name, task.key, task.task, images, own, suite.examples, how)
        if found.name not in exhibits.attention and task is suite.tasks[0]:
            exhibits.add_attention(model, found.name, task.task, images, [pointing for pointing, _ in own], how)


def _cards(
    task: Task, pointer: Pointer, pictures: Sequence[Pictured], answers: Sequence[Row], count: int
) -> list[Card]:
    items = {item: picture for picture in pictures for item in task.questions(picture)}
    right = [row for row in answers if row["correct"] and row["pred"] is not None][:count]
    wrong = [row for row in answers if not row["correct"] and row["pred"] is not None][:count]
    return [_card(pointer, items[row["id"]], row) for row in right + wrong]


def _card(pointer: Pointer, picture: Pictured, row: Row) -> Card:
    naming = "answer" in row
    pred, gold = row["pred"], row["gold_index"]
    boxes = picture.candidates_xyxy
    pointed = gold if naming else pred
    plain = pointer.pointing.strategy == "none"
    request = pointer.request(picture, None if plain else boxes[[pointed]])
    image = request.picture
    marks = [(box, plots.OTHER, False) for i, box in enumerate(boxes) if naming or i not in (pred, gold)]
    if not naming and gold is not None and gold != pred:
        marks.append((boxes[gold], plots.RIGHT, True))
    marks.append((boxes[pointed], plots.RIGHT if row["correct"] else plots.WRONG, False))
    seen = None
    render = getattr(pointer.runners[0], "render", None)
    if not plain and render is not None:
        rendered = render([request])[0].convert("RGB")
        seen = data_uri(shown_as_is(rendered))
    if naming:
        text = f"the marked {row['text']}"
        answer = f"“{row['answer']}”, p = {row['top'][0][1]:.2f}"
        alt = f"A picture with a {row['text']} marked; the answer is {row['answer']}."
    else:
        text = f"“{row['text']}”"
        answer = f"box {pred + 1} of {len(boxes)}, p = {row['probs'][pred]:.2f}"
        alt = f"{len(boxes)} boxes on a picture; asked for {row['text']}, box {pred + 1} was chosen, "
        alt += "which is right." if row["correct"] else "which is wrong."
    return Card(data_uri(boxed(image, marks)), seen, alt, text, answer, bool(row["correct"]))


def _attention_figure(
    model: Any,
    name: str,
    pictures: Sequence[Pictured],
    pointings: Sequence[Pointing],
    make_runner: RunnerFactory,
) -> tuple[str, str]:
    columns: list[tuple[str, list[Any]]] = []
    plain = Pointer(model, Pointing("none", fit=pointings[0].fit if pointings else "model"), make_runner)
    pointers = [Pointer(model, pointing, make_runner) for pointing in pointings]
    marked = [_gold(picture) for picture in pictures]
    for pointer in (plain, *pointers):
        none = pointer is plain
        requests = [
            pointer.request(picture, None if none else box[None]) for picture, box in zip(pictures, marked, strict=True)
        ]
        maps: Any = pointer.runners[0].attention(requests)  # type: ignore[attr-defined]
        columns.append((pointer.pointing.label, [np.asarray(one.image_map()) for one in maps]))
    images = [plain.request(picture, None).picture for picture in pictures]
    figure = plots.new_figure((1.3 * (len(columns) + 1) + 0.8, 1.56 * len(pictures) + 0.3))
    grid = figure.subplots(len(pictures), len(columns) + 1, squeeze=False)
    for line, (picture, image, box) in enumerate(zip(pictures, images, marked, strict=True)):
        plots.show_picture(grid[line, 0], image, "picture, region" if line == 0 else "")
        plots.outline(grid[line, 0], box)
        grid[line, 0].set_xlabel(plots.literal(picture.expressions[0].text), fontsize=8)
        top = max(float(maps[line].max()) for _, maps in columns)
        for place, (label, maps) in enumerate(columns, start=1):
            panel = grid[line, place]
            drawn = plots.draw_map(panel, image, maps[line], box, top)
            panel.set_title(plots.literal(label) if line == 0 else "", fontsize=9)
            panel.set_xlabel(f"{plots.share_in_box(maps[line], image.size, box):.0%} on the region", fontsize=8)
        figure.colorbar(drawn, ax=list(grid[line, 1:]), shrink=0.8, aspect=12, pad=0.01).ax.tick_params(labelsize=7)
    shown = ", ".join(label for label, _ in columns)
    alt = f"Readout attention of {name} in its last block over {len(pictures)} pictures, for {shown}."
    return data_uri(plots.to_png(figure)), alt


def _gold(picture: Pictured) -> Any:
    return picture.expressions[0].gold_xyxy[0]
