"""LVLM benchmarks by name: their readers, the files of their evaluators, and answering with scores for known answers.

>>> sorted(BENCHMARKS)
['llava-wild', 'mm-vet', 'mmmu', 'vlmevalkit']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from visprompt.data.questions.llava_wild import read_llava_wild, write_llava_wild
from visprompt.data.questions.mm_vet import read_mm_vet, write_mm_vet
from visprompt.data.questions.mmmu import read_mmmu, write_mmmu
from visprompt.data.questions.question import Question
from visprompt.data.questions.vlmevalkit import read_tsv, write_tsv
from visprompt.errors import unknown_name
from visprompt.tasks.base import Outcome, Row, evaluate
from visprompt.tasks.condition import Condition, RunnerFactory, default_runner
from visprompt.tasks.vqa import Vqa
from visprompt.utils.jsonl import RowLog
from visprompt.utils.renamed import renamed_in_methods, renamed_parameters
from visprompt.utils.statistics import accuracy_interval

#: number of questions per call of the model; at most so many are lost when the process is killed
CHUNK = 16


class _Reader(Protocol):
    def __call__(self, path: str | Path, images: str | Path | None = None) -> list[Question]: ...


@dataclass(frozen=True)
class Benchmark:
    """Reader and writer of a benchmark's files.

    Attributes:
        name: name on the command line.
        read: reads the questions.
        write: writes the file for the benchmark's evaluator, from (path, questions, answers by id, model id, settings
            that the answers depend on).
        suffix: suffix of that file.
        evaluator: description of the evaluator, for messages.
    """

    name: str
    read: _Reader
    write: Callable[[Path, Sequence[Question], Mapping[str, str], str, Mapping[str, Any]], None]
    suffix: str
    evaluator: str


BENCHMARKS: dict[str, Benchmark] = {
    one.name: one
    for one in (
        Benchmark(
            "mm-vet",
            read_mm_vet,
            lambda path, questions, answers, model, metadata: write_mm_vet(path, questions, answers),
            ".json",
            "MM-Vet's online evaluator",
        ),
        Benchmark(
            "llava-wild", read_llava_wild, write_llava_wild, ".jsonl", "LLaVA's judge script (eval_gpt_review_bench)"
        ),
        Benchmark(
            "mmmu",
            read_mmmu,
            lambda path, questions, answers, model, metadata: write_mmmu(path, questions, answers),
            ".json",
            "MMMU's main_eval_only.py",
        ),
        Benchmark(
            "vlmevalkit",
            read_tsv,
            lambda path, questions, answers, model, metadata: write_tsv(path, questions, answers),
            ".tsv",
            "VLMEvalKit's dataset.evaluate(file)",
        ),
    )
}


def benchmark(name: str) -> Benchmark:
    """Returns the benchmark of a name.

    Raises:
        UnknownNameError: if there is none.
    """
    if name not in BENCHMARKS:
        raise unknown_name("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name]


@renamed_in_methods(pictures="images")
@dataclass(frozen=True)
class Answering(Vqa):
    """Asks all questions and keeps the whole answers; questions without a known answer get `correct: null`."""

    name: ClassVar[str] = "answer"
    plain_without_place: ClassVar[bool] = False

    max_new_tokens: int = 64

    def prepare(self, images: Sequence[Question]) -> Answering:
        return self

    def row(self, question: Question, answer: str, regions: Sequence[Any], pointed: bool) -> Row:
        known = question.answer is not None
        row = self.judged(question, answer) if known else {"correct": None}
        return {
            "id": question.id,
            "image": question.image_name,
            "kind": question.kind,
            "text": question.text,
            "gold": question.answer,
            "answer": answer,
            **row,
        }


@renamed_parameters(pointing="condition")
def answer_all(
    questions: Sequence[Question],
    model: Any,
    condition: Condition,
    log: RowLog,
    *,
    data: Any = None,
    max_new_tokens: int = 64,
    limit: int | None = None,
    progress: Callable[[int], None] | None = None,
    make_runner: RunnerFactory = default_runner,
) -> Outcome:
    """Answers questions and appends every answer to a log; answers that are in the log already are reused.

    Args:
        questions: questions of any benchmark.
        model: a model that generates text.
        condition: the strategy; `Condition("none")`: the plain model.
        log: file of answers.
        data: identity of the data, a part of the run's hash.
        max_new_tokens: longest answer, in tokens.
        limit: number of questions to use, from the first; None: all.
        progress: called with the number of questions finished since its last call.
        make_runner: see `visprompt.tasks.condition.Scorer`.

    Returns:
        The answers, old and new.

    Raises:
        UnsupportedError: if the model does not generate text, or cannot run the strategy.
        InvalidInputError: if none of the first questions could be asked.
    """
    return evaluate(
        Answering(max_new_tokens=max_new_tokens),
        model,
        condition,
        questions,
        data=data,
        log=log,
        limit=limit,
        chunk=CHUNK,
        progress=progress,
        make_runner=make_runner,
    )


def scores(rows: Sequence[Row]) -> list[Row]:
    """Computes exact-match accuracy per kind and overall, over the answers whose right answer is known.

    Args:
        rows: rows of `answer_all`.

    Returns:
        Rows with `kind` ("overall" last), `n`, `correct`, `accuracy` and `ci95` (Wilson's interval, or a bootstrap over
            images if images have several questions); empty if no right answer is known.
    """
    known = [row for row in rows if row.get("correct") is not None]
    if not known:
        return []
    groups = {
        kind: [row for row in known if row["kind"] == kind] for kind in dict.fromkeys(row["kind"] for row in known)
    }
    named = {kind or "–": group for kind, group in sorted(groups.items())} if len(groups) > 1 else {}
    found = []
    for kind, group in [*named.items(), ("overall", known)]:
        interval = accuracy_interval([bool(row["correct"]) for row in group], [row["image"] for row in group])
        right = sum(bool(row["correct"]) for row in group)
        found.append(
            {
                "kind": kind,
                "n": len(group),
                "correct": right,
                "accuracy": right / len(group),
                "ci95": [interval.low, interval.high],
                "ci_method": interval.method,
            }
        )
    return found
