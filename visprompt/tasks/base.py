"""What a task is, and the loop all evaluations share: chunks of images in, rows out.

What is asked and what counts as right is a `Task`'s business; how the region is pointed out is a `Condition`'s. A run
resumes, and a bad image costs itself only.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from visprompt.errors import InvalidInputError, RegionNotVisibleError, RemoteError
from visprompt.tasks.condition import Condition, NotFiniteError, RunnerFactory, Scores, default_runner
from visprompt.tasks.fingerprint import auxiliary_weights, library_versions, strategy_code
from visprompt.utils.hashing import digest
from visprompt.utils.jsonl import RowLog
from visprompt.utils.provenance import source_digest
from visprompt.utils.renamed import renamed_in_methods, renamed_parameters, warn_renamed
from visprompt.utils.statistics import Interval, accuracy_interval

if TYPE_CHECKING:
    from visprompt.models.base import Model

Row = dict[str, Any]
#: errors that belong to one image: it is missing, damaged, its boxes are not usable, or a server refuses it
_ITEM_ERRORS = (InvalidInputError, OSError, RemoteError)


class Asker(Protocol):
    """A task, a model and a way of pointing, joined: gives rows."""

    def ask(self, samples: Sequence[Any]) -> list[Row]:
        """The rows of some images.

        Raises:
            RegionNotVisibleError: if something cannot be pointed at; `evaluate_per_region` then says what of one image.
            InvalidInputError: if an image cannot be read.
        """

    def evaluate_per_region(self, sample: Any) -> tuple[list[Row], list[str]]:
        """As `ask`, for one image in which not all can be pointed at; and why, for items of which nothing can."""


@renamed_in_methods(picture="sample", pictures="samples", pointing="condition")
@dataclass(frozen=True)
class Task:
    """What is asked about images. Sub-classes are frozen dataclasses whose fields are the task's settings.

    The data are images of one type each: `ReferringImage` for tasks that score regions, `Question` for those that
    ask a model in words. All have `id`, `image_name`, and `image` or `images`.
    """

    name: ClassVar[str] = ""
    metric: ClassVar[str] = "accuracy"
    #: True if it asks in words, so that the model must write; False if it scores texts, so that it must embed
    writes: ClassVar[bool] = False

    def prepare(self, samples: Sequence[Any]) -> Task:
        """A copy that knows what it needs of the whole data set (label set, negatives)."""
        return self

    def settings(self) -> dict[str, Any]:
        """The settings as they go into every row."""
        return {"task": self.name, **dataclasses.asdict(self)}

    def refusal(self, model: Any) -> str | None:
        """Why a model cannot do this task at all; None if it can."""
        if self.writes and not getattr(model, "generates", False):
            return f"{getattr(model, 'name', model)} writes no text, and {self.name} asks in words."
        return None

    def questions(self, sample: Any) -> list[str]:
        """The ids of the items that an image holds."""
        raise TypeError(f"{type(self).__name__} does not define questions().")

    def chance(self, sample: Any) -> list[float]:
        """For every item the probability that a random answer is right."""
        raise TypeError(f"{type(self).__name__} does not define chance().")

    def asker(self, model: Any, condition: Condition, make_runner: RunnerFactory) -> Asker:
        """What asks a model, pointing in one way."""
        raise TypeError(f"{type(self).__name__} does not define asker().")


@dataclass(frozen=True, eq=False)
class Outcome:
    """One row of a table, with the items it was made from.

    Attributes:
        rows: the answered items.
        errors: items that could not be asked, each with `id` and `error`.
        chance: expected accuracy of a random answer.
        seconds: time spent, without what was already there.
        reused: items taken from an earlier run.
        run: hash of everything that decides the rows but the images' files, whose stamps are in the rows (`file`);
            rows with the same hash and stamp are interchangeable.
    """

    rows: list[Row]
    errors: list[Row]
    chance: float
    seconds: float
    reused: int
    run: str

    @property
    def accuracy(self) -> float:
        """Share of items answered right; NaN without items."""
        return float(np.mean([row["correct"] for row in self.rows])) if self.rows else float("nan")

    @property
    def unpointable(self) -> int:
        """Items of which at least one candidate lies outside the image, or is cropped away, and cannot be chosen."""
        return sum(bool(row.get("unpointable")) for row in self.rows)

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the accuracy; None without items."""
        if not self.rows:
            return None
        return accuracy_interval([row["correct"] for row in self.rows], [row["image"] for row in self.rows])


@renamed_parameters(pointing="condition")
def run_hash(task: Task, identity: Any, condition: Condition, data: Any) -> str:
    """The hash that ties a row to model, strategy, task, data and code, plug-ins and libraries included."""
    identity = None if condition.strategy == "random" else identity
    members = condition.members()
    parts = {
        "task": task.settings(),
        "model": identity,
        "pointing": condition.describe(),
        "data": data,
        "code": source_digest(),
        "strategies": strategy_code(members),
        "libraries": library_versions(),
    }
    weights = auxiliary_weights(members)
    return digest({**parts, "auxiliary": weights} if weights else parts)


@renamed_parameters(pictures="samples", pointing="condition")
def evaluate(
    task: Task,
    model: Model | Any,
    condition: Condition,
    samples: Sequence[Any],
    *,
    data: Any = None,
    identity: Any = None,
    log: RowLog | None = None,
    limit: int | None = None,
    chunk: int = 64,
    progress: Callable[[int], None] | None = None,
    make_runner: RunnerFactory = default_runner,
) -> Outcome:
    """Runs one task with one way of pointing.

    Args:
        task: what is asked.
        model: as `load_model` gives it.
        pointing: how the region is pointed out.
        images: the data, of the type that the task takes.
        data: identity of the data (hash, split, …), part of the run's hash.
        identity: what `model.describe()` says, for those who have it already (it hashes all weights).
        log: where rows are kept; rows of the same run are not made again. None: nothing is written.
        limit: only the first so many images.
        chunk: images that go to the runner in one call, and are lost at most when the process is killed.
        progress: called with the number of images done since the last call.
        make_runner: see `Scorer`.

    Raises:
        InvalidInputError: if two items have one id, or not one of the items of the first chunk could be asked.
        UnsupportedError: if the model cannot run the strategy.
    """
    task = task.prepare(samples)
    samples = list(samples[:limit])
    run = run_hash(task, model.describe() if identity is None and model is not None else identity, condition, data)
    wanted, stamps = _numbered(task, samples), _stamps(task, samples)
    kept = kept_answers(task, samples, log, run)
    todo = [sample for sample in samples if any(item not in kept for item in task.questions(sample))]
    tell = progress or (lambda _: None)
    tell(len(samples) - len(todo))
    started = time.perf_counter()
    made: dict[str, Row] = {}
    asker = task.asker(model, condition, make_runner) if todo else None
    for count, rows in _asked(task, asker, todo, chunk, can_be_none=bool(kept)):
        new = [{"run": run, **row, **_file(stamps[row["id"]])} for row in rows]
        if log:
            log.append(new)
        made.update((row["id"], row) for row in new)
        tell(count)
    everything = sorted({**kept, **made}.values(), key=lambda row: wanted[row["id"]])
    return Outcome(
        rows=[row for row in everything if "error" not in row],
        errors=[row for row in everything if "error" in row],
        chance=_chance(task, samples),
        seconds=time.perf_counter() - started,
        reused=len(kept),
        run=run,
    )


def kept_answers(task: Task, samples: Sequence[Any], log: RowLog | None, run: str) -> dict[str, Row]:
    """The answers of a run that need not be asked for again, by item: their images' files have not changed since."""
    stamps = _stamps(task, samples)
    rows = log.rows(run) if log else []
    return {
        row["id"]: row
        for row in rows
        if row["id"] in stamps and "error" not in row and row.get("file") == stamps[row["id"]]
    }


def _asked(
    task: Task, asker: Any, samples: list[Any], chunk: int, can_be_none: bool
) -> Iterator[tuple[int, list[Row]]]:
    """Rows of `chunk` images at a time, with the number of these images.

    Raises:
        InvalidInputError: if not one item of the first images could be asked, unless `can_be_none`: then the folder
            or the options are wrong, not an image.
    """
    for start in range(0, len(samples), chunk):
        part = samples[start : start + chunk]
        rows, blame = _chunk(task, asker, part)
        if blame and len(blame) == len(rows) and not can_be_none:
            raise InvalidInputError(f"none of the first {len(rows)} items could be asked: {blame[0]}")
        can_be_none = can_be_none or bool(rows)
        yield len(part), rows


def _chance(task: Task, samples: Sequence[Any]) -> float:
    """Mean accuracy of guessing; NaN if the task says nothing of it."""
    chances = [value for sample in samples for value in task.chance(sample)]
    return float(np.mean(chances)) if chances else float("nan")


def _stamps(task: Task, samples: Sequence[Any]) -> dict[str, list[Any] | None]:
    return {item: stamp for sample in samples for stamp in [stamp_of(sample)] for item in task.questions(sample)}


def _numbered(task: Task, samples: Sequence[Any]) -> dict[str, int]:
    """For every item the number of its image."""
    items = [(item, number) for number, sample in enumerate(samples) for item in task.questions(sample)]
    twice = [item for item, count in Counter(item for item, _ in items).items() if count > 1]
    if twice:
        raise InvalidInputError(
            f"{len(twice)} of the items' ids occur more than once, the first: {twice[0]!r}. Answers are kept by id, "
            "so every expression of the data needs one of its own."
        )
    return dict(items)


@renamed_parameters(picture="sample")
def stamp_of(sample: Any) -> list[Any] | None:
    """Name, bytes and time of an image's file (of several, in order); None without files, or if one is gone."""
    found: list[Any] = []
    for image in getattr(sample, "images", None) or (sample.image,):
        if not isinstance(image, Path):
            continue
        try:
            stat = image.stat()
        except OSError:
            return None
        found += [image.name, stat.st_size, stat.st_mtime_ns]
    return found or None


def _file(stamp: list[Any] | None) -> Row:
    return {} if stamp is None else {"file": stamp}


def _chunk(task: Task, asker: Asker, samples: list[Any]) -> tuple[list[Row], list[str]]:
    """The rows, and for every item that no place in its image could be pointed at for why that is so."""
    try:
        return asker.ask(samples), []
    except _ITEM_ERRORS as error:
        _require_going_on(error)
    # One of them is bad; asked one by one, the others still get their answer.
    rows: list[Row] = []
    blame: list[str] = []
    for sample in samples:
        try:
            try:
                rows += asker.ask([sample])
            except RegionNotVisibleError:
                new, why = _per_region(asker)(sample)
                rows += new
                blame += why
        except _ITEM_ERRORS as error:
            _require_going_on(error)
            failure = {"image": sample.image_name, "error": str(error)}
            new = [{"id": item, **failure} for item in task.questions(sample)]
            rows += new
            # That numbers overflow is a result of the row, not a mistake of who asked.
            blame += [] if isinstance(error, NotFiniteError) else [row["error"] for row in new]
    return rows, blame


def _per_region(asker: Any) -> Callable[[Any], tuple[list[Row], list[str]]]:
    """`evaluate_per_region` of an asker; one that was written for 0.4.0 calls it `ask_apart`."""
    if hasattr(asker, "evaluate_per_region"):
        return asker.evaluate_per_region  # type: ignore[no-any-return]
    warn_renamed(f"{type(asker).__name__}: the method", "ask_apart", "evaluate_per_region")
    return asker.ask_apart  # type: ignore[no-any-return]


def _require_going_on(error: Exception) -> None:
    """A server that is gone, or a key that is wrong, is nobody's image: what was answered before is kept."""
    if isinstance(error, RemoteError) and error.stopped:
        raise error


def softmax(values: Scores) -> Scores:
    """Softmax over the last axis, safe for large logits; −inf gets nothing, unless there is nothing else.

    >>> softmax(np.array([[-np.inf, 0.0, 0.0], [-np.inf, -np.inf, -np.inf]])).round(2).tolist()
    [[0.0, 0.5, 0.5], [0.33, 0.33, 0.33]]
    """
    highest = values.max(axis=-1, keepdims=True)
    shifted = np.exp(np.where(np.isneginf(highest), 0.0, values - np.where(np.isneginf(highest), 0.0, highest)))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def pick(scores: Scores, rng: np.random.Generator) -> int:
    """Index of the highest score; exact ties are broken by chance, because the first place means something in files."""
    best = np.flatnonzero(scores == scores.max())
    return int(best[0]) if len(best) == 1 else int(best[int(rng.integers(len(best)))])


def rounded(values: Scores, digits: int = 5) -> list[float | None]:
    """Numbers as they go into a row; −inf, which JSON does not have, becomes None."""
    return [round(float(value), digits) if np.isfinite(value) else None for value in values]
