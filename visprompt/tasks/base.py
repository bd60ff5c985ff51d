"""The interface of a task, and the evaluation loop that all tasks share.

A `Task` defines what is asked and which answers are right; a `Condition` defines how the region is pointed out to the
model. A run can be resumed, and an image that cannot be read loses its own items only.
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
#: errors of a single image: it is missing or damaged, its boxes are not usable, or a server refuses it
_ITEM_ERRORS = (InvalidInputError, OSError, RemoteError)


class Asker(Protocol):
    """A task joined with a model and a condition: turns images into result rows."""

    def ask(self, samples: Sequence[Any]) -> list[Row]:
        """Evaluates some images.

        Args:
            samples: images of the type that the task takes.

        Returns:
            One row per item.

        Raises:
            RegionNotVisibleError: if a region cannot be pointed at; `evaluate_per_region` then evaluates the other
                regions.
            InvalidInputError: if an image cannot be read.
        """

    def evaluate_per_region(self, sample: Any) -> tuple[list[Row], list[str]]:
        """Evaluates one image of which some regions cannot be pointed at.

        Returns:
            The rows, and one message for every item none of whose regions can be pointed at.
        """


@renamed_in_methods(picture="sample", pictures="samples", pointing="condition")
@dataclass(frozen=True)
class Task:
    """What is asked about images. Sub-classes are frozen dataclasses whose fields are the task's settings.

    A data set consists of images of one type: `ReferringImage` for tasks that score regions, `Question` for tasks that
    a model answers in words. All types have `id`, `image_name`, and `image` or `images`.
    """

    name: ClassVar[str] = ""
    metric: ClassVar[str] = "accuracy"
    #: True if the model must generate text; False if the task scores texts, so that the model must embed them
    writes: ClassVar[bool] = False

    def prepare(self, samples: Sequence[Any]) -> Task:
        """Returns a copy with the settings that depend on the whole data set (label set, negatives)."""
        return self

    def settings(self) -> dict[str, Any]:
        """Returns the settings as they are written into every row."""
        return {"task": self.name, **dataclasses.asdict(self)}

    def refusal(self, model: Any) -> str | None:
        """Returns the reason why a model cannot do this task, or None if it can."""
        if self.writes and not getattr(model, "generates", False):
            return f"{getattr(model, 'name', model)} writes no text, and {self.name} asks in words."
        return None

    def questions(self, sample: Any) -> list[str]:
        """Returns the ids of an image's items.

        Raises:
            TypeError: if the sub-class does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not define questions().")

    def chance(self, sample: Any) -> list[float]:
        """Returns, for every item of an image, the probability that a random answer is right.

        Raises:
            TypeError: if the sub-class does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not define chance().")

    def asker(self, model: Any, condition: Condition, make_runner: RunnerFactory) -> Asker:
        """Joins the task with a model and a condition.

        Args:
            model: as `load_model` returns it.
            condition: how regions are pointed out.
            make_runner: makes the runner; see `Scorer`.

        Raises:
            TypeError: if the sub-class does not define it.
        """
        raise TypeError(f"{type(self).__name__} does not define asker().")


@dataclass(frozen=True, eq=False)
class Outcome:
    """One row of a results table, with the items behind it.

    Attributes:
        rows: the rows of the answered items.
        errors: items that could not be evaluated, each with `id` and `error`.
        chance: expected accuracy of random answers, in [0, 1].
        seconds: time spent in this run, without reused items.
        reused: number of items taken from an earlier run.
        run: hash of everything that determines the rows, except the image files, whose stamps are in the rows (`file`).
            Rows with the same hash and stamp are interchangeable.
    """

    rows: list[Row]
    errors: list[Row]
    chance: float
    seconds: float
    reused: int
    run: str

    @property
    def accuracy(self) -> float:
        """Fraction of items answered right, in [0, 1]; NaN without items."""
        return float(np.mean([row["correct"] for row in self.rows])) if self.rows else float("nan")

    @property
    def unpointable(self) -> int:
        """Number of items with a candidate outside the image or cropped away, which cannot be chosen."""
        return sum(bool(row.get("unpointable")) for row in self.rows)

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the accuracy; None without items."""
        if not self.rows:
            return None
        return accuracy_interval([row["correct"] for row in self.rows], [row["image"] for row in self.rows])


@renamed_parameters(pointing="condition")
def run_hash(task: Task, identity: Any, condition: Condition, data: Any) -> str:
    """Returns the hash of everything that determines a row: model, strategy, task, data, code, plug-ins and libraries.

    Args:
        task: the task.
        identity: what `model.describe()` returns.
        condition: how regions are pointed out.
        data: identity of the data.
    """
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
    """Evaluates one task under one condition.

    Args:
        task: what is asked.
        model: as `load_model` returns it.
        condition: how regions are pointed out.
        samples: the data, of the type that the task takes.
        data: identity of the data (hash, split, …), a part of the run's hash.
        identity: what `model.describe()` returned, if known; computing it hashes all weights.
        log: file of rows. Rows of the same run in it are reused. None: nothing is written.
        limit: number of images to use, from the first; None: all.
        chunk: number of images per call of the runner; at most so many are lost when the process is killed.
        progress: called with the number of images finished since its last call.
        make_runner: see `Scorer`.

    Returns:
        The rows with accuracy and interval.

    Raises:
        InvalidInputError: if two items have the same id, or no item of the first chunk could be evaluated.
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
    """Returns the reusable rows of a run by item id: those whose image files have not changed.

    Args:
        task: the task.
        samples: the data.
        log: file of rows, or None.
        run: hash of the run, from `run_hash`.
    """
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
    """Yields the rows of `chunk` images at a time, with the number of these images.

    Raises:
        InvalidInputError: if no item of the first images could be evaluated, unless `can_be_none`: then the folder or
            the options are wrong, not an image.
    """
    for start in range(0, len(samples), chunk):
        part = samples[start : start + chunk]
        rows, blame = _chunk(task, asker, part)
        if blame and len(blame) == len(rows) and not can_be_none:
            raise InvalidInputError(f"none of the first {len(rows)} items could be asked: {blame[0]}")
        can_be_none = can_be_none or bool(rows)
        yield len(part), rows


def _chance(task: Task, samples: Sequence[Any]) -> float:
    """Returns the mean accuracy of random answers; NaN if the task does not define it."""
    chances = [value for sample in samples for value in task.chance(sample)]
    return float(np.mean(chances)) if chances else float("nan")


def _stamps(task: Task, samples: Sequence[Any]) -> dict[str, list[Any] | None]:
    return {item: stamp for sample in samples for stamp in [stamp_of(sample)] for item in task.questions(sample)}


def _numbered(task: Task, samples: Sequence[Any]) -> dict[str, int]:
    """Returns the index of the image of every item."""
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
    """Returns name, size in bytes and time of change of an image's files, in order.

    It is None if the image is not a file, or a file is missing.
    """
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
    """Returns the rows, and a message for every item none of whose regions can be pointed at."""
    try:
        return asker.ask(samples), []
    except _ITEM_ERRORS as error:
        _require_going_on(error)
    # One image is bad: evaluating the images one by one still gives rows for the others.
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
            # Overflowing numbers are a result, not a wrong argument, so the run goes on.
            blame += [] if isinstance(error, NotFiniteError) else [row["error"] for row in new]
    return rows, blame


def _per_region(asker: Any) -> Callable[[Any], tuple[list[Row], list[str]]]:
    """`evaluate_per_region` of an asker; one that was written for 0.4.0 calls it `ask_apart`."""
    if hasattr(asker, "evaluate_per_region"):
        return asker.evaluate_per_region  # type: ignore[no-any-return]
    warn_renamed(f"{type(asker).__name__}: the method", "ask_apart", "evaluate_per_region")
    return asker.ask_apart  # type: ignore[no-any-return]


def _require_going_on(error: Exception) -> None:
    """Raises errors that concern all images, such as a lost server or a wrong key; rows made before are kept."""
    if isinstance(error, RemoteError) and error.stopped:
        raise error


def softmax(values: Scores) -> Scores:
    """Softmax over the last axis, safe for large logits.

    Logits of −inf get probability 0, unless all logits are −inf.

    >>> softmax(np.array([[-np.inf, 0.0, 0.0], [-np.inf, -np.inf, -np.inf]])).round(2).tolist()
    [[0.0, 0.5, 0.5], [0.33, 0.33, 0.33]]
    """
    highest = values.max(axis=-1, keepdims=True)
    shifted = np.exp(np.where(np.isneginf(highest), 0.0, values - np.where(np.isneginf(highest), 0.0, highest)))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def pick(scores: Scores, rng: np.random.Generator) -> int:
    """Returns the index of the highest score; ties are broken at random, because the order in files is not random."""
    best = np.flatnonzero(scores == scores.max())
    return int(best[0]) if len(best) == 1 else int(best[int(rng.integers(len(best)))])


def rounded(values: Scores, digits: int = 5) -> list[float | None]:
    """Rounds numbers for a row; −inf, which JSON does not have, becomes None."""
    return [round(float(value), digits) if np.isfinite(value) else None for value in values]
