"""Joins a model and a strategy: batches, shares, caches, keeps order, gets out of the way when memory runs out."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

from visprompt.errors import InvalidInputError
from visprompt.models.chat import FIRST_CHATS
from visprompt.models.preprocessing import PicturePixels
from visprompt.request import Request
from visprompt.runner.answers import (
    Answer,
    Unanswered,
    answers_of,
    batches_of,
    chats_of,
    raise_unanswered,
    require_one_picture,
    stream_one,
)
from visprompt.runner.attention_map import AttentionMap
from visprompt.visual_prompt import FITS, Fit, VisualPrompt, block_number

if TYPE_CHECKING:
    from PIL import Image

    from visprompt.models.base import Model
    from visprompt.models.encoding import Encoding
    from visprompt.prompter import Prompter
    from visprompt.runner.predictions import Prediction

S = TypeVar("S")
T = TypeVar("T")

#: prompts per forward to start with; halved when memory runs out
FIRST_BATCH = {"cuda": 256, "mps": 128, "cpu": 64}
#: a progress bar appears after this many seconds
PATIENCE_SECONDS = 2.0


class Runner:
    """Runs a strategy on a model: `encode`, `score`, `attention`, `predict`, `render`; LVLMs: `generate`, `answer`,
    `attention`.

    Args:
        model: from `load_model` or `wrap`.
        prompter: from `Prompter.from_name`; None: the plain model, the baseline of everything.
        batch_size: prompts per forward; None: found automatically. Either way it is halved when memory runs out.
        share_prefix: prompts on one picture share the blocks before their first edit; False runs each on its own.
        fit: how pictures are brought into the model, unless the strategy says otherwise: "model", "pad" or "squash".
        progress: True or False; None: a bar on standard error when a run takes longer than two seconds on a terminal.

    >>> import visprompt as vp
    >>> from PIL import Image
    >>> model = vp.load_model("bundled:scenes-clip")
    >>> runner = vp.Runner(model, vp.Prompter.from_name("falip"))
    >>> request = vp.Request(Image.new("RGB", (64, 64)), region=vp.Box(8, 8, 40, 40))
    >>> runner.score([request], ["a red star", "a blue circle"]).shape
    torch.Size([1, 2])
    """

    def __init__(
        self,
        model: Model,
        prompter: Prompter | None = None,
        *,
        batch_size: int | None = None,
        share_prefix: bool = True,
        fit: Fit = "model",
        progress: bool | None = None,
    ) -> None:
        from visprompt.models.base import Model as ModelType
        from visprompt.prompter import Prompter as PrompterType

        if not isinstance(model, ModelType):
            raise InvalidInputError(f"Runner takes a model from vp.load_model or vp.wrap; got {model!r:.80}.")
        if prompter is not None and not isinstance(prompter, PrompterType):
            raise InvalidInputError(
                f"Runner takes vp.Prompter.from_name({prompter!r:.40}), not {prompter!r:.40} itself."
            )
        if fit not in FITS:
            raise InvalidInputError(f"fit is one of {', '.join(FITS)}; got {fit!r}.")
        if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
            raise InvalidInputError(f"batch_size is a positive number or None; got {batch_size!r}.")
        self.model, self.prompter, self.share_prefix, self.fit, self.progress = (
            model,
            prompter,
            share_prefix,
            fit,
            progress,
        )
        first = (FIRST_CHATS if model.generates else FIRST_BATCH).get(model.device.type, 64)
        self.batch_size: int = batch_size or int(getattr(model, "chats_at_once", first))
        #: (request, region) of every row of the last result
        self.index: list[tuple[int, int]] = []
        self._pixels = PicturePixels()
        self._texts: dict[str, Tensor] = {}
        self._text_version: tuple[int, ...] = ()

    # -- results ------------------------------------------------------------------------------------------------------

    def encode(self, requests: Request | Iterable[Request], normalize: bool = False) -> Tensor:
        """`[n, d]` image embeddings as the model gives them, one row per request and region, in order.

        Args:
            requests: one, a list or any iterable.
            normalize: to unit length.

        Raises:
            InvalidInputError: for a request that cannot be used; the message names it.
            UnsupportedError: if the model cannot take in what the strategy changes.
        """
        rows = self._run(requests, lambda prompts, encoding: list(encoding.embeddings))
        result = torch.stack(rows)
        return torch.nn.functional.normalize(result, dim=-1) if normalize else result

    def score(self, requests: Request | Iterable[Request], texts: Sequence[str]) -> Tensor:
        """`[n, len(texts)]` logits as the model defines them. A strategy's text edit is applied to the texts.

        On an LVLM: the log-likelihood of every text as the answer to the request's query.

        Raises:
            UnsupportedError: on a model without a text tower.
            InvalidInputError: as `encode`; or without texts.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not texts or not all(isinstance(text, str) for text in texts):
            raise InvalidInputError(f"texts is a list of one or more strings; got {texts!r}.")
        members = getattr(self.prompter, "members", None)
        if members is not None:
            items = [requests] if isinstance(requests, Request) else list(requests)
            runners = [self._like(member) for member in members]
            scores = torch.stack([runner.score(items, texts) for runner in runners]).sum(0)
            self.index = runners[0].index
            return scores
        if self.model.generates:
            return self._likelihoods(requests, texts)
        with torch.no_grad():
            self._embed_texts(texts)

        def rows(prompts: Sequence[VisualPrompt], encoding: Encoding) -> list[Tensor]:
            result: list[Tensor] = []
            for edit, group in itertools.groupby(range(len(prompts)), key=lambda i: prompts[i].text):
                wanted = texts if edit is None else [edit(text) for text in texts]
                result += self.model.logits(encoding.embeddings[list(group)], self._embed_texts(wanted))
            return result

        return torch.stack(self._run(requests, rows))

    def attention(
        self,
        requests: Request | Iterable[Request],
        blocks: Sequence[int] | None = None,
        rows: Literal["readout", "summary"] = "readout",
    ) -> list[AttentionMap]:
        """The readout's attention over the patches after the edits, for every request and region.

        On an LVLM: where the decoder looks while it writes up to 20 tokens of its answer, their mean; a request with
        several pictures gives a map for each. `answer` gives more.

        Args:
            requests: as in `encode`.
            blocks: block numbers, negative from the end; None: all that have the rows.
            rows: "readout": what the picture is read through; "summary": of blocks in front of a pooling probe, which
                have no row of it, what patches get from all patches.

        Raises:
            UnsupportedError: on a model without attention.
            InvalidInputError: for other rows, or blocks without them.
        """
        tower = self.model.tower
        if rows not in ("readout", "summary"):
            raise InvalidInputError(f'rows is "readout" or "summary"; got {rows!r}.')
        if self.model.generates:
            answers = self.answer(requests, blocks=range(tower.num_blocks) if blocks is None else blocks)
            return [item for answer in answers for item in answer.maps]
        if blocks is None:
            pool = [site.block for site in tower.sites if site.is_pool]
            read = pool if tower.readout == "probe" and rows == "readout" else list(range(tower.num_blocks))
        else:
            read = [block_number(block, tower.num_blocks) for block in blocks]

        def maps(prompts: Sequence[VisualPrompt], encoding: Encoding) -> list[AttentionMap]:
            result = []
            stacked = torch.stack([encoding.attention[block] for block in read], dim=1)  # [n, B, H, P]
            for prompt, item in zip(prompts, stacked, strict=True):
                geometry = self.model.geometry_of(prompt)
                values = item[..., : geometry.num_patches].float().clone()
                result.append(AttentionMap(values, tuple(read), geometry, (0, 0), prompt.regions))
            return result

        found = self._run(requests, maps, read=read, read_rows=rows)
        return [replace(item, index=place) for item, place in zip(found, self.index, strict=True)]

    def predict(self, requests: Request | Iterable[Request]) -> list[Prediction]:
        """What the head of a trained strategy says about every request and region: its class, or a class per pixel.

        Pictures are brought into the model as in training, unless the runner's `fit` says otherwise.

        Args:
            requests: as in `encode`.

        Raises:
            InvalidInputError: for a strategy without a trained head.
            UnsupportedError: on another model than the one it was trained on.
        """
        from visprompt.runner.predictions import predict

        return predict(self, requests)

    def render(self, requests: Request | Iterable[Request]) -> list[Image.Image]:
        """What the strategy did, to look at: the prompted pictures, with attention edits tinted over them."""
        from visprompt.imaging.tint import rendered

        prompts = list(self._prompts(requests))
        self.index = [place for _, place in prompts]
        return [rendered(prompt, self.model) for prompt, _ in prompts]

    def generate(
        self, requests: Request | Iterable[Request], max_new_tokens: int = 64, stream: bool = False, **options: Any
    ) -> Any:
        """What a vision-language model answers to each request's query.

        Args:
            requests: with a query each.
            max_new_tokens: longest answer, in tokens.
            stream: for one request: gives an iterator of pieces of the answer as they are written.
            **options: for the model's own `generate` (`do_sample=True`, `temperature=0.7`, …); greedy without any.

        Returns:
            `list[str]`, one per request and region, in order; with `stream` an iterator of `str`.

        Raises:
            UnsupportedError: on an encoder.
            InvalidInputError: for a request without a query; the message names it.
        """
        if stream:
            return self._stream(requests, max_new_tokens, options)
        return [item.text for item in self.answer(requests, max_new_tokens=max_new_tokens, blocks=(), **options)]

    def answer(
        self,
        requests: Request | Iterable[Request],
        blocks: Sequence[int] = (),
        max_new_tokens: int = 20,
        on_answer: Callable[[Answer], None] | None = None,
        **options: Any,
    ) -> list[Answer]:
        """Answers with where the decoder looked while it wrote them.

        Args:
            requests: with a query each.
            blocks: decoder blocks that are read, negative from the end; none: only the text.
            max_new_tokens: longest answer, in tokens.
            on_answer: called with every answer as soon as its batch is through, so that nothing is lost if a later
                one fails.
            **options: for the model's own `generate`.

        Raises:
            UnsupportedError: on an encoder, or for maps of a model whose attention is out of reach.
            RemoteError: if a remote model left questions unanswered, after all have been asked; `done` has the answers
                by the position of their question.
        """
        self._require_writer()
        if not isinstance(blocks, Iterable):
            raise InvalidInputError(f"blocks is a list of blocks; got {blocks!r}. For one: blocks=[{blocks!r}].")
        results: dict[int, Answer] = {}
        missing: dict[int, Unanswered] = {}
        total = len(requests) if hasattr(requests, "__len__") else None  # type: ignore[arg-type]
        settings = {"max_new_tokens": max_new_tokens, "read": tuple(blocks), **options}
        with torch.no_grad(), _Progress(total, self.progress) as progress:
            chats = chats_of(self._prompts(requests))
            for batch in batches_of(chats, lambda: self.batch_size):
                for answer in self._in_halves(batch, lambda part: answers_of(self.model, part, settings)):
                    number = len(results) + len(missing)
                    if isinstance(answer, Unanswered):
                        missing[number] = answer
                        continue
                    results[number] = answer
                    if on_answer is not None:
                        on_answer(answer)
                progress.update(batch[-1][1][0] + 1)
                if any(item.stopped for item in missing.values()):
                    break
        raise_unanswered(results, missing)
        if not results:
            raise InvalidInputError("there are no requests.")
        self.index = [answer.index for answer in results.values()]
        return list(results.values())

    def _likelihoods(self, requests: Request | Iterable[Request], texts: Sequence[str]) -> Tensor:
        """An LVLM's scores: how likely each text is as the answer."""
        rows: list[Tensor] = []
        index: list[tuple[int, int]] = []
        for batch in batches_of(chats_of(self._prompts(requests)), lambda: self.batch_size):
            rows += self._in_halves(batch, lambda part: list(self.model.score([chat for chat, _ in part], texts)))
            index += [place for _, place in batch]
        if not rows:
            raise InvalidInputError("there are no requests.")
        self.index = index
        return torch.stack(rows)

    def _require_writer(self) -> None:
        if not self.model.generates:
            self.model.generate([])

    def _stream(
        self, requests: Request | Iterable[Request], max_new_tokens: int, options: dict[str, Any]
    ) -> Iterator[str]:
        self._require_writer()
        chats = list(chats_of(self._prompts(requests)))
        if len(chats) != 1:
            raise InvalidInputError(f"stream=True writes one answer at a time; there are {len(chats)}.")
        self.index = [chats[0][1]]
        return stream_one(self.model, chats[0][0], max_new_tokens=max_new_tokens, **options)

    # -- how ----------------------------------------------------------------------------------------------------------

    def _like(self, prompter: Prompter) -> Runner:
        other = Runner(
            self.model,
            prompter,
            batch_size=self.batch_size,
            share_prefix=self.share_prefix,
            fit=self.fit,
            progress=self.progress,
        )
        other._pixels, other._texts, other._text_version = self._pixels, self._texts, self._text_version
        return other

    def _prompts(self, requests: Request | Iterable[Request]) -> Iterator[tuple[VisualPrompt, tuple[int, int]]]:
        """Prompts with their place, lazily: requests may be an endless generator of pictures."""
        if not isinstance(requests, Request | Iterable) or isinstance(requests, str):
            raise InvalidInputError(f"requests is a vp.Request, or several; got {requests!r:.80}.")
        items: Iterable[Request] = [requests] if isinstance(requests, Request) else requests
        numbered = enumerate(items)
        while chunk := list(itertools.islice(numbered, self.batch_size)):
            units: list[VisualPrompt] = []
            places: list[tuple[int, int]] = []
            for number, request in chunk:
                if not isinstance(request, Request):
                    raise InvalidInputError(
                        f"request {number} is a {type(request).__name__}; expected vp.Request(image, region=…)."
                    )
                for region, unit in enumerate(request.units()):
                    units.append(unit if self.fit == "model" else unit.with_(fit=self.fit))
                    places.append((number, region))
            if self.prompter is not None:
                units = self.prompter.edit_all(units, self.model)
                self._require_visible(units)
            yield from zip(units, places, strict=True)

    def _require_visible(self, prompts: Sequence[VisualPrompt]) -> None:
        """A marker on a region that the model's crop removes would do nothing: an error that says what to do.

        Checked here, after the last strategy of a composition, because any of them may change the fit or the region.
        """
        for prompt in prompts:
            geometry = self.model.geometry_of(prompt) if prompt.regions else None
            for region in prompt.regions:
                geometry.require_visible(region, repr(prompt.request))  # type: ignore[union-attr]

    def _batches(
        self, prompts: Iterable[tuple[VisualPrompt, tuple[int, int]]]
    ) -> Iterator[list[tuple[VisualPrompt, tuple[int, int]]]]:
        """Batches of at most `batch_size` that do not part the prompts of one picture if they need not."""
        batch: list[tuple[VisualPrompt, tuple[int, int]]] = []
        for _, group in itertools.groupby(prompts, key=lambda item: (id(item[0].picture), item[0].fit)):
            members = list(group)
            if batch and len(batch) + len(members) > self.batch_size:
                yield batch
                batch = []
            batch += members
            while len(batch) >= self.batch_size:
                yield batch[: self.batch_size]
                batch = batch[self.batch_size :]
        if batch:
            yield batch

    def _run(
        self,
        requests: Request | Iterable[Request],
        collect: Callable[[Sequence[VisualPrompt], Encoding], list[T]],
        **options: Any,
    ) -> list[T]:
        index: list[tuple[int, int]] = []
        results: list[T] = []
        total = len(requests) if hasattr(requests, "__len__") else None  # type: ignore[arg-type]
        with torch.no_grad(), _Progress(total, self.progress) as progress:
            for batch in self._batches(self._prompts(requests)):
                results += self._forward([prompt for prompt, _ in batch], collect, options)
                index += [place for _, place in batch]
                progress.update(batch[-1][1][0] + 1)
        if not results:
            raise InvalidInputError("there are no requests.")
        self.index = index
        return results

    def _forward(
        self,
        prompts: list[VisualPrompt],
        collect: Callable[[Sequence[VisualPrompt], Encoding], list[T]],
        options: dict[str, Any],
    ) -> list[T]:
        """One batch through an encoder; options are those of `Model.encode`."""
        require_one_picture(prompts, self.model.name)

        def run(part: list[VisualPrompt]) -> list[T]:
            encoding = self.model.encode(part, share_prefix=self.share_prefix, cache=self._pixels, **options)
            return collect(part, encoding)

        return list(self._in_halves(prompts, run))

    def _in_halves(self, items: list[S], run: Callable[[list[S]], list[T]]) -> Iterator[T]:
        """Runs one batch, in halves if memory runs out; what was computed before is kept."""
        from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

        start = 0
        while start < len(items):
            part = items[start : start + self.batch_size]
            try:
                found = run(part)
            except (RuntimeError, MemoryError) as error:
                if self.batch_size == 1 or not (isinstance(error, MemoryError) or should_reduce_batch_size(error)):
                    raise
                self.batch_size //= 2
                while self.batch_size >= len(part) > 1:
                    self.batch_size //= 2
                clear_device_cache(garbage_collection=True)
                continue
            yield from found
            start += len(part)

    def _embed_texts(self, texts: Sequence[str]) -> Tensor:
        """`[t, d]` text embeddings; each text is embedded once while the weights stay as they are."""
        parameters = list(self.model.module.parameters())
        # Tensors made in inference mode cannot change and count no versions.
        version = tuple(0 if item.is_inference() else item._version for item in parameters)
        if version != self._text_version:
            self._texts.clear()
            self._text_version = version
        fresh = [text for text in dict.fromkeys(texts) if text not in self._texts]
        for start in range(0, len(fresh), 256):
            part = fresh[start : start + 256]
            self._texts.update(zip(part, self.model.embed_text(part), strict=True))
        return torch.stack([self._texts[text] for text in texts])


class _Progress:
    """A progress bar that appears only when a run takes long."""

    def __init__(self, total: int | None, wanted: bool | None) -> None:
        import sys

        self.total = total
        self.after = 0.0 if wanted else PATIENCE_SECONDS
        self.wanted = wanted if wanted is not None else sys.stderr.isatty()
        self.started = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> _Progress:
        return self

    def update(self, done: int) -> None:
        """`done` requests are through."""
        if not self.wanted or time.monotonic() - self.started < self.after:
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress

            self._bar = Progress(console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("requests", total=self.total)
        self._bar.update(self._task, completed=done)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
