"""Answers of vision-language models: makes chats from prompts, batches them and collects answers with their attention
maps.
"""

from __future__ import annotations

import contextvars
import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from visprompt.errors import InvalidInputError, RemoteError
from visprompt.models.chat import Chat, Generation
from visprompt.runner.attention_map import AttentionMap
from visprompt.utils.renamed import renamed_names
from visprompt.visual_prompt import VisualPrompt

if TYPE_CHECKING:
    from visprompt.models.base import Model

#: (index of the request, index of its region)
Place = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer of an LVLM, with its attention maps.

    Args:
        text: the answer.
        tokens: the text of every token of it.
        index: (request, region) that it belongs to.
        maps: one `AttentionMap` per image (per group of frames of a video): the mean over the answer's tokens.
        token_maps: for every image `[T, B, H, P]` float32: the attention per token; the last step is the one that ended
            the answer.
        prompts: the prompted images.
        finished: False if the answer was cut at `max_new_tokens`.
    """

    text: str
    tokens: tuple[str, ...]
    index: tuple[int, int]
    maps: tuple[AttentionMap, ...] = ()
    token_maps: tuple[Tensor, ...] = ()
    prompts: tuple[VisualPrompt, ...] = ()
    finished: bool = True


def chats_of(prompts: Iterable[tuple[VisualPrompt, Place]]) -> Iterator[tuple[Chat, Place]]:
    """Makes chats, lazily.

    Args:
        prompts: prompts with (request, region); the images of one request follow one another.

    Yields:
        One chat per prompt, or per request with several images, with (request, region).

    Raises:
        InvalidInputError: for a request without a query.
    """
    stream = iter(prompts)
    for prompt, (number, region) in stream:
        rest = [item for item, _ in itertools.islice(stream, prompt.place[1] - 1)]
        video = prompt.request is not None and prompt.request.video
        yield Chat((prompt, *rest), prompt.query or "", video=video), (number, 0 if rest else region)


def batches_of(chats: Iterable[tuple[Chat, Place]], size: Callable[[], int]) -> Iterator[list[tuple[Chat, Place]]]:
    """Groups chats into batches. Videos and images are not mixed, nor are videos of different lengths.

    Args:
        chats: chats with (request, region).
        size: gives the largest batch size, called for every batch.

    Yields:
        Batches, in order.
    """

    def kind(item: tuple[Chat, Place]) -> int:
        return len(item[0].prompts) if item[0].video else 0

    for _, group in itertools.groupby(chats, key=kind):
        while batch := list(itertools.islice(group, size())):
            yield batch


@dataclass(frozen=True)
class Unanswered:
    """A question that a remote model did not answer.

    Args:
        why: the reason; empty if it was not sent because sending had been stopped.
        stopped: sending was stopped with its batch.
    """

    why: str
    stopped: bool


def answers_of(
    model: Model, batch: Sequence[tuple[Chat, Place]], settings: dict[str, Any]
) -> list[Answer | Unanswered]:
    """Runs one batch of chats. If a remote model fails on some questions, the answers to the others are kept.

    Args:
        model: a model that writes text.
        batch: chats with (request, region).
        settings: arguments of `Model.generate`.

    Returns:
        One entry per chat, in order.
    """
    chats = [chat for chat, _ in batch]
    try:
        items: list[Any] = model.generate(chats, **settings)
    except RemoteError as error:
        items = [
            error.done.get(number) or Unanswered(error.failed.get(number, ""), error.stopped)
            for number in range(len(batch))
        ]
    return [
        item if isinstance(item, Unanswered) else _answer(chat, place, item)
        for (chat, place), item in zip(batch, items, strict=True)
    ]


def raise_unanswered(done: dict[int, Answer], missing: dict[int, Unanswered]) -> None:
    """Raises an error if a question was not answered.

    Args:
        done: answers by the index of their question.
        missing: the other questions.

    Raises:
        RemoteError: with both.
    """
    failed = {number: item.why for number, item in missing.items() if item.why}
    if failed:
        from visprompt.models.remote.parallel import summary

        stopped = any(item.stopped for item in missing.values())
        raise RemoteError(summary(done, failed, stopped and len(done) + len(missing) > 1), done, failed, stopped)


def _answer(chat: Chat, place: Place, item: Generation) -> Answer:
    maps = []
    for number, steps in enumerate(item.attention):
        shared = -(-len(chat.prompts) // len(item.attention))  # number of frames per map
        prompts = chat.prompts[number * shared : (number + 1) * shared]
        regions = tuple(region for prompt in prompts for region in prompt.regions)
        maps.append(AttentionMap(steps.mean(0), item.blocks, item.geometries[number], place, regions, number))
    return Answer(item.text, item.tokens, place, tuple(maps), item.attention, chat.prompts, item.finished)


class Stopped(Exception):
    """Ends a generation whose reader has closed the iterator."""


def stream_one(model: Model, chat: Chat, **settings: Any) -> Iterator[str]:
    """Yields the text of one answer while it is generated.

    The model runs in its own thread with a copy of the caller's context, so that scopes that the caller opened apply.
    Closing the iterator ends the generation.

    Args:
        model: a model that writes text.
        chat: the question.
        **settings: arguments of `Model.generate`.

    Yields:
        Pieces of text.

    Raises:
        BaseException: the error of the generation, if it fails.
    """
    pieces: queue.Queue[str | BaseException | None] = queue.Queue()
    stop = threading.Event()

    def put(_: int, text: str) -> None:
        if stop.is_set():
            raise Stopped
        pieces.put(text)

    def work() -> None:
        try:
            with torch.no_grad():
                model.generate([chat], stream=put, **settings)
            pieces.put(None)
        except Stopped:
            pieces.put(None)
        except BaseException as error:
            pieces.put(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
    thread.start()
    try:
        while (piece := pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            yield piece
    finally:
        stop.set()
        thread.join()


def require_one_image(prompts: Sequence[VisualPrompt], name: str) -> None:
    """Refuses requests with several images, which encoders cannot take.

    Args:
        prompts: the prompts.
        name: the model's name for the message.

    Raises:
        InvalidInputError: naming the request.
    """
    for prompt in prompts:
        if prompt.place[1] > 1:
            raise InvalidInputError(
                f"{prompt.request!r} has {prompt.place[1]} images; {name} is an encoder and takes one per request."
            )


#: names of 0.4.0
__getattr__ = renamed_names(
    __name__, {"FIRST_CHATS": "models.chat.FIRST_CHATS", "require_one_picture": "require_one_image"}, globals()
)
