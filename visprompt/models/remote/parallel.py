"""Sends many questions in parallel, up to a limit; answers keep their order, and one failure does not lose other
answers.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from visprompt.errors import RemoteError

T = TypeVar("T")

#: number of consecutive failures after which no further questions are sent
STOP_AFTER = 5


class Failure(Exception):
    """A question that was not answered.

    Args:
        message: the reason, for users.
        hopeless: the next question would fail too (a wrong key, no server): no further questions are sent.
    """

    def __init__(self, message: str, hopeless: bool = False) -> None:
        super().__init__(message)
        self.hopeless = hopeless


class Pace:
    """Limits the rate of calls and spaces them evenly, because servers limit bursts as well as minutes.

    Args:
        per_minute: calls per minute; None: no limit.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 0.0 if per_minute is None else 60.0 / per_minute
        self._next = 0.0
        self._lock = threading.Lock()

    def __call__(self, *_: object) -> None:
        """Waits until the next call is allowed."""
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._gap
        if turn > now:
            time.sleep(turn - now)


def ask_all(
    count: int,
    ask: Callable[[int, Callable[[str], None], threading.Event], T],
    concurrency: int,
    stream: Callable[[int, str], None] | None = None,
) -> list[T]:
    """Calls `ask(0 … count − 1)` in threads and collects the answers.

    Args:
        count: number of questions.
        ask: called with the index of the question, a function for pieces of its answer, and an event that is set when
            the answer is no longer needed. Raises `Failure`.
        concurrency: largest number of questions at the same time.
        stream: called with the index and the next piece of an answer, in the thread that called `ask_all`.

    Returns:
        The answers, in order.

    Raises:
        RemoteError: if a question failed, after all running ones have ended. Further questions are still sent, unless
            the failure is hopeless or `STOP_AFTER` failures followed one another. Its `done` holds the answers.
    """
    events: queue.SimpleQueue[tuple[int, object] | None] = queue.SimpleQueue()
    numbers = iter(range(count))
    enough = threading.Event()  # start nothing new
    gone = threading.Event()  # answers are no longer needed
    lock = threading.Lock()

    def work() -> None:
        while not enough.is_set():
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            try:
                events.put((number, _Answer(ask(number, lambda piece, at=number: events.put((at, piece)), gone))))  # type: ignore[misc]
            except BaseException as error:
                if not isinstance(error, Failure) or error.hopeless:
                    enough.set()
                events.put((number, error))
        events.put(None)

    # Daemon threads: Ctrl-C must not wait for a slow server or a retry.
    workers = [
        threading.Thread(target=work, name="visprompt-remote", daemon=True) for _ in range(min(concurrency, count))
    ]
    for worker in workers:
        worker.start()
    try:
        return _collected(count, events, len(workers), enough, stream)
    finally:
        enough.set()
        gone.set()


class _Answer:
    def __init__(self, value: object) -> None:
        self.value = value


def _collected(
    count: int,
    events: queue.SimpleQueue[tuple[int, object] | None],
    running: int,
    enough: threading.Event,
    stream: Callable[[int, str], None] | None,
) -> list[T]:
    done: dict[int, T] = {}
    failed: dict[int, str] = {}
    in_a_row = 0
    broken: BaseException | None = None
    while running:
        event = events.get()
        if event is None:
            running -= 1
            continue
        number, what = event
        if isinstance(what, str):
            if stream is not None:
                stream(number, what)
        elif isinstance(what, _Answer):
            done[number] = what.value  # type: ignore[assignment]
            in_a_row = 0
        elif isinstance(what, Failure):
            failed[number] = str(what)
            in_a_row += 1
            if in_a_row >= STOP_AFTER:
                enough.set()
        else:
            broken = what  # type: ignore[assignment]
    if broken is not None:
        raise broken
    if failed:
        done, failed = dict(sorted(done.items())), dict(sorted(failed.items()))
        # with a single question nothing was left to send
        stopped = enough.is_set() and count > 1
        raise RemoteError(summary(done, failed, stopped), done, failed, enough.is_set())
    return [done[number] for number in range(count)]


def summary(done: Mapping[int, object], failed: Mapping[int, str], stopped: bool) -> str:
    """The message of a `RemoteError`.

    Args:
        done: answers by the index of their question.
        failed: reasons by the index of their question; at least one.
        stopped: further questions were not sent.

    Returns:
        The message.
    """
    first = min(failed)
    if not done and len(failed) == 1 and not stopped:
        return failed[first]
    asked = f"{len(failed)} of {len(done) + len(failed)} questions got no answer"
    if stopped:
        asked += " and nothing more was asked"
    which = "" if len(set(failed.values())) == 1 else f" (question {first}; the others are in error.failed)"
    return f"{asked}; the {len(done)} answers that came are in error.done. {failed[first]}{which}"
