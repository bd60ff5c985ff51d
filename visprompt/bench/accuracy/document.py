"""The report of a suite of tasks: what was found, examples, accuracies, differences, maps, settings."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from visprompt.bench.accuracy import document_tables as own_tables
from visprompt.bench.accuracy.findings import best_way, chart, findings
from visprompt.bench.report import images, tables
from visprompt.bench.report.document import Block, Card, Document, Fields, Figure, Fold, Gallery, Prose, Row, sections
from visprompt.bench.report.provenance import model_fields, provenance_fields
from visprompt.plots import base as plots

if TYPE_CHECKING:
    from visprompt.bench.pipeline import SuiteResult

_LEAD_CARDS = 4
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


def document(result: SuiteResult) -> Document:
    """The report of a suite of tasks.

    Args:
        result: its rows; `examples` with cards, attention figures and notes; the files "tuning" and "maps".
    """
    rows, suite, shown = result.rows, result.suite, result.examples
    asks = any(task.task.writes for task in suite.tasks)
    titles = tuple((task.key, f"{sentence(task.title)} {task.note}".rstrip()) for task in suite.tasks)
    settings = [*map(own_tables.grid_fold, result.files.get("tuning", ()))]
    return Document(
        suite.title,
        tuple(findings(rows, suite.compare_with)),
        chart(rows),
        tuple(_lead(rows, shown, asks)),
        (" ".join(suite.description.split()),),
        sections(
            {
                "Accuracy": (own_tables.summary_table(rows), Fields(titles)),
                "By kind of question": tuple(own_tables.kind_blocks(rows, suite.compare_with)),
                "Differences on the same items": own_tables.difference_tables(rows, suite.compare_with),
                "Do maps lie where the question points?": own_tables.map_blocks(result.files.get("maps", ())),
                "Published beside measured": own_tables.published_table(rows),
                "All accuracies as bars": _bars(rows),
                "Answers, right and wrong": _answers(suite, shown.cards, asks),
                "Settings": [*settings, Fold("Options of every row", (own_tables.options_table(rows),))],
                "What the results depend on": [Fields(tuple(dependencies(rows)))],
            }
        ),
        tuple(result.problems),
        tuple(dict.fromkeys([*shown.notes, *images.missing_plots()])),
        "The rows are in results.jsonl, every answer in items-*.jsonl, beside this file.",
    )


def sentence(title: str) -> str:
    """With a full stop, unless it ends as a sentence does.

    >>> sentence("Which box?"), sentence("Naming")
    ('Which box?', 'Naming.')
    """
    return title if title.endswith((".", "?", "!")) else f"{title}."


def _bars(rows: Sequence[Row]) -> Sequence[Block]:
    measured = tables.measured(rows)
    alt = "Bar chart of the accuracies in the table, one panel per task, one colour per model, with chance dotted."
    drawn = (functools.partial(plots.bar_chart, measured), alt, "Thin lines: 95 % intervals. Dotted: chance.")
    return images.plotted({"": drawn})[""] if measured else ()


def _lead(rows: Sequence[Row], shown: Any, asks: bool) -> list[Block]:
    """Answers with the best way of pointing, right and wrong ones, and where the models look."""
    best = best_way(rows)
    blocks: list[Block] = []
    wrong = False
    # Where the best way of pointing made no mistake, another one shows what a mistake looks like.
    for label in dict.fromkeys([best, *(label for by_label in shown.cards.values() for label in by_label)]):
        own = [card for by_label in shown.cards.values() for card in _first_of_each(by_label.get(label, ()))]
        mistakes = not all(card.correct for card in own)
        if own and (label == best or (mistakes and not wrong)):
            wrong = wrong or mistakes
            blocks.append(_gallery(f"Answers with {label}", sorted(own, key=lambda card: card.correct)[:_LEAD_CARDS]))
    return blocks + images.looks(shown.attention, _LOOKS_OF_ANSWERS if asks else _LOOKS)


def _first_of_each(cards: Sequence[Any]) -> list[Any]:
    """The first right and the first wrong answer."""
    return [next(card for card in cards if card.correct is one) for one in {card.correct for card in cards}]


def _answers(suite: Any, cards: Any, asks: bool) -> list[Block]:
    titles = {task.key: task.title for task in suite.tasks}
    folds = [
        Fold(f"{model}: {titles[task]}", tuple(_gallery(label, own) for label, own in by_label.items()))
        for (model, task), by_label in cards.items()
    ]
    return [Prose(_CARDS_OF_ANSWERS if asks else _CARDS), *folds] if folds else []


def _gallery(title: str, cards: Iterable[Any]) -> Gallery:
    return Gallery(title, tuple(Card(tuple(_images(one)), one.text, one.answer, one.correct) for one in cards))


def _images(card: Any) -> list[Figure]:
    seen = [Figure(card.seen, "The image as the model got it.", pixelated=True)] if card.seen else []
    return [Figure(card.question, card.alt), *seen]


def dependencies(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What the results depend on, as name and value."""
    if not rows:
        return []
    suite = f"{rows[0]['suite']} (hash {rows[0]['suite_hash']}), {own_tables.protocol(rows)}"
    fields = [("suite", suite), *model_fields(rows)]
    for task, row in {row["task"]: row for row in rows}.items():
        settings = {key: value for key, value in row["settings"].items() if key not in ("labels", "negatives", "task")}
        shown = ", ".join(f"{key} {value!r}" for key, value in settings.items())
        fields.append((f"data of {task}", tables.pairs(row["data"])))
        fields.append((f"settings of {task}", f"{shown}; n = {row['n']}, {own_tables.regions(row)}"))
    made, reused = sum(row["n"] + row["errors"] for row in rows), sum(row.get("reused") or 0 for row in rows)
    return [
        *fields,
        *provenance_fields(rows),
        ("answers", f"{tables.counted(made, 'answer')}, {reused:,} of them reused from earlier runs"),
        ("time", f"{sum(row.get('seconds', 0) for row in rows):.0f} s for the rows"),
    ]
