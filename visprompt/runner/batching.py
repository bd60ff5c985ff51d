"""Makes prompts from requests, in batches that fit into memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from visprompt.errors import InvalidInputError
from visprompt.request import Request
from visprompt.visual_prompt import Fit, VisualPrompt

if TYPE_CHECKING:
    from visprompt.models.base import Model
    from visprompt.prompter import Prompter

S = TypeVar("S")
T = TypeVar("T")

#: a prompt with (index of its request, index of its region)
Numbered = tuple[VisualPrompt, tuple[int, int]]


def prompts_of(
    requests: Request | Iterable[Request], model: Model, prompter: Prompter | None, fit: Fit, at_once: Callable[[], int]
) -> Iterator[Numbered]:
    """Makes prompts lazily: `requests` may be an endless generator.

    Args:
        requests: one, or any iterable of them.
        model: the model that will run the prompts.
        prompter: the strategy that edits them; None: no edits.
        fit: how images are fitted into the model's input, unless the strategy sets it.
        at_once: gives the number of requests that are edited together, called for every batch.

    Yields:
        Prompts with (request, region).

    Raises:
        InvalidInputError: for anything that is no request, and for requests that the strategy cannot use.
        RegionNotVisibleError: for a region that the model's crop removes.
    """
    if not isinstance(requests, Request | Iterable) or isinstance(requests, str):
        raise InvalidInputError(f"requests is a vp.Request, or several; got {requests!r:.80}.")
    items: Iterable[Request] = [requests] if isinstance(requests, Request) else requests
    numbered = enumerate(items)
    while chunk := list(itertools.islice(numbered, at_once())):
        units: list[VisualPrompt] = []
        numbers: list[tuple[int, int]] = []
        for number, request in chunk:
            if not isinstance(request, Request):
                raise InvalidInputError(
                    f"request {number} is a {type(request).__name__}; expected vp.Request(image, region=…)."
                )
            for region, unit in enumerate(request.units()):
                units.append(unit if fit == "model" else unit.with_(fit=fit))
                numbers.append((number, region))
        if prompter is not None:
            units = prompter.edit_all(units, model)
            require_visible(units, model)
        yield from zip(units, numbers, strict=True)


def require_visible(prompts: Sequence[VisualPrompt], model: Model) -> None:
    """Refuses prompts with a region that the model's crop removes: a marker on it would have no effect.

    It is called after the last strategy of a composition, because each of them may change the fit or the region.

    Args:
        prompts: edited prompts.
        model: the model that will run them.

    Raises:
        RegionNotVisibleError: naming the request.
    """
    for prompt in prompts:
        if prompt.regions:
            geometry = model.geometry_of(prompt)
            for region in prompt.regions:
                geometry.require_visible(region, prompt.request)


def batches_by_image(prompts: Iterable[Numbered], size: Callable[[], int]) -> Iterator[list[Numbered]]:
    """Groups prompts into batches and keeps the prompts of one image together where they fit.

    Args:
        prompts: prompts with (request, region).
        size: gives the largest batch size, called for every batch.

    Yields:
        Batches, in order.
    """
    batch: list[Numbered] = []
    for _, group in itertools.groupby(prompts, key=lambda item: (id(item[0].image), item[0].fit)):
        members = list(group)
        if batch and len(batch) + len(members) > size():
            yield batch
            batch = []
        batch += members
        while len(batch) >= (limit := size()):
            yield batch[:limit]
            batch = batch[limit:]
    if batch:
        yield batch


class HasBatchSize(Protocol):
    """An object with a batch size, which `in_halves` reduces."""

    batch_size: int


def in_halves(items: list[S], run: Callable[[list[S]], list[T]], owner: HasBatchSize) -> Iterator[T]:
    """Runs one batch, in halves if memory runs out; results computed before are kept.

    Args:
        items: the batch.
        run: computes the results of a part of it.
        owner: its `batch_size` is the largest size of a part; it is halved when memory runs out, and stays so.

    Yields:
        The results, in order.
    """
    from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

    start = 0
    while start < len(items):
        part = items[start : start + owner.batch_size]
        try:
            found = run(part)
        except (RuntimeError, MemoryError) as error:
            if owner.batch_size == 1 or not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
                raise
            owner.batch_size //= 2
            while owner.batch_size >= len(part) > 1:
                owner.batch_size //= 2
            clear_device_cache(garbage_collection=True)
            continue
        yield from found
        start += len(part)
