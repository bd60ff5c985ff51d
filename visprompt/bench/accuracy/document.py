"""The report of a suite of tasks: what was found, examples, accuracies, differences, maps, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from visprompt.bench.accuracy.document_tables import (
    difference_tables,
    grid_fold,
    kind_blocks,
    map_blocks,
    options_table,
    protocol,
    published_table,
    regions,
    summary_table,
)
from visprompt.bench.accuracy.findings import best_way, chart, findings
from visprompt.bench.report.document import (
    Block,
    Card,
    Document,
    Fields,
    Figure,
    Fold,
    Gallery,
    Prose,
    Result,
    Row,
    sections,
)
from visprompt.bench.report.images import NO_PLOTS, data_uri, looks
from visprompt.bench.report.provenance import identity, provenance_fields
from visprompt.bench.report.tables import counted, pairs
from visprompt.plots import base as plots

_LEAD_CARDS = 4


def document(result: Result) -> Document:
    """The report of a suite of tasks.

    Args:
        result: its rows; `examples` with cards, attention figures and notes; the files "tuning" and "maps".
    """
    rows, suite, shown = result.rows, result.suite, result.examples
    notes = [*shown.notes, *([] if plots.have_matplotlib() else [NO_PLOTS])]
    tuned, maps = result.files.get("tuning", ()), result.files.get("maps", ())
    asks = any(task.task.writes for task in suite.tasks)
    parts: list[tuple[str, Sequence[Block]]] = [
        ("Accuracy", _accuracy(suite, rows)),
        ("By kind of question", kind_blocks(rows, suite.compare_with)),
        ("Differences on the same items", difference_tables(rows, suite.compare_with)),
        ("Do maps lie where the question points?", map_blocks(maps)),
        ("Published beside measured", published_table(rows)),
        ("All accuracies as bars", _bars(rows)),
        ("Answers, right and wrong", _answers(suite, shown.cards, asks)),
        ("Settings", [*map(grid_fold, tuned), Fold("Options of every row", (options_table(rows),))]),
        ("What the results depend on", [Fields(tuple(dependencies(rows)))]),
    ]
    return Document(
        suite.title,
        tuple(findings(rows, suite.compare_with)),
        chart(rows),
        tuple(_lead(rows, shown, asks)),
        (" ".join(suite.description.split()),),
        sections(*parts),
        tuple(result.problems),
        tuple(dict.fromkeys(notes)),
        "The rows are in results.jsonl, every answer in items-*.jsonl, beside this file.",
    )


def _bars(rows: Sequence[Row]) -> list[Block]:
    measured = [row for row in rows if row["value"] is not None]
    if not measured or not plots.have_matplotlib():
        return []
    alt = "Bar chart of the accuracies in the table, one panel per task, one colour per model, with chance dotted."
    uri = data_uri(plots.to_png(plots.bar_chart(measured)))
    return [Figure(uri, alt, caption="Thin lines: 95 % intervals. Dotted: chance.")]


def _accuracy(suite: Any, rows: Sequence[Row]) -> tuple[Block, ...]:
    tasks = [(task.key, f"{sentence(task.title)}{' ' + task.note if task.note else ''}") for task in suite.tasks]
    return summary_table(rows), Fields(tuple(tasks))


def sentence(title: str) -> str:
    """With a full stop, unless it ends as a sentence does.

    >>> sentence("Which box?"), sentence("Naming")
    ('Which box?', 'Naming.')
    """
    return title if title.endswith((".", "?", "!")) else f"{title}."


def _lead(rows: Sequence[Row], shown: Any, asks: bool) -> list[Block]:
    """Answers with the best way of pointing, right and wrong ones, and where the models look."""
    best = best_way(rows)
    blocks: list[Block] = []
    wrong = False
    # Where the best way of pointing made no mistake, another one shows what a mistake looks like.
    for label in dict.fromkeys([best, *(label for by_label in shown.cards.values() for label in by_label)]):
        own = [card for by_label in shown.cards.values() for card in _first_of_each(by_label.get(label, ()))]
        if label == best or (not wrong and not all(card.correct for card in own)):
            chosen = sorted(own, key=lambda card: card.correct)[:_LEAD_CARDS]
            wrong = wrong or not all(card.correct for card in chosen)
            blocks += [Gallery(f"Answers with {label}", tuple(_card(card) for card in chosen))] if chosen else []
    return blocks + looks(shown.attention, _LOOKS_OF_ANSWERS if asks else _LOOKS)


def _first_of_each(cards: Sequence[Any]) -> list[Any]:
    """The first right and the first wrong answer."""
    return [next(card for card in cards if card.correct is one) for one in {card.correct for card in cards}]


_LOOKS = (
    "Readout attention of the last block, mean over heads, over the original image (in grey). The white frame is the "
    "region that was pointed at; below each map stands how much of the attention lies in it."
)
_LOOKS_OF_ANSWERS = (
    "Over the image (in grey): the decoder's attention while it answers, or the heatmap that a strategy works with. "
    "The white frame is what the question is about; below each map stands how much of the map lies in it."
)
_CARDS = (
    "Left: the question with all candidates; the right answer is framed in green (dashed where it was missed), a wrong "
    "answer in orange. Right: the image as the model got it for the box it chose; prompts that act on the attention "
    "are tinted over it. These are the first right and wrong answers in the order of the data."
)
_CARDS_OF_ANSWERS = (
    "The first question of each kind, the same for every way of pointing. Left: the image, with what the question is "
    "about framed in green. Right: the image as the model got it; prompts that act on the attention are tinted over it."
)


def _answers(suite: Any, cards: Mapping[tuple[str, str], Mapping[str, Sequence[Any]]], asks: bool) -> list[Block]:
    titles = {task.key: task.title for task in suite.tasks}
    folds: list[Block] = [
        Fold(
            f"{model}: {titles[task]}",
            tuple(Gallery(label, tuple(_card(one) for one in own)) for label, own in by_label.items()),
        )
        for (model, task), by_label in cards.items()
    ]
    return [Prose(_CARDS_OF_ANSWERS if asks else _CARDS), *folds] if folds else []


def _card(one: Any) -> Card:
    images = [Figure(one.question, one.alt)]
    if one.seen:
        images.append(Figure(one.seen, "The image as the model got it.", pixelated=True))
    return Card(tuple(images), one.text, one.answer, one.correct)


def dependencies(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What the results depend on, as name and value."""
    if not rows:
        return []
    fields = [("suite", f"{rows[0]['suite']} (hash {rows[0]['suite_hash']}), {protocol(rows)}")]
    fields += [("model", identity(one)) for one in {row["model"]: row["model_identity"] for row in rows}.values()]
    for task, row in {row["task"]: row for row in rows}.items():
        fields.append((f"data of {task}", pairs(row["data"])))
        settings = {key: value for key, value in row["settings"].items() if key not in ("labels", "negatives", "task")}
        shown = ", ".join(f"{key} {value!r}" for key, value in settings.items())
        fields.append((f"settings of {task}", f"{shown}; n = {row['n']}, {regions(row)}"))
    fields += provenance_fields(rows)
    made, reused = sum(row["n"] + row["errors"] for row in rows), sum(row.get("reused") or 0 for row in rows)
    fields.append(("answers", f"{counted(made, 'answer')}, {reused:,} of them reused from earlier runs"))
    fields.append(("time", f"{sum(row.get('seconds', 0) for row in rows):.0f} s for the rows"))
    return fields
