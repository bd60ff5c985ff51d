"""Runs strategies on models: makes batches, shares and caches computations, keeps the order, and halves batches when
memory runs out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from visprompt.errors import InvalidInputError
from visprompt.models.chat import FIRST_CHATS
from visprompt.models.preprocessing import ImagePixels
from visprompt.request import Request
from visprompt.runner.answers import (
    Answer,
    Unanswered,
    answers_of,
    batches_of,
    chats_of,
    raise_unanswered,
    require_one_image,
    stream_one,
)
from visprompt.runner.attention_map import AttentionMap
from visprompt.runner.batching import T, batches_by_image, in_halves, prompts_of
from visprompt.runner.progress import RunProgress
from visprompt.runner.text_embeddings import TextEmbeddings
from visprompt.visual_prompt import FITS, Fit, VisualPrompt, block_number

if TYPE_CHECKING:
    from PIL import Image

    from visprompt.models.base import Model
    from visprompt.models.encoding import Encoding
    from visprompt.prompter import Prompter
    from visprompt.runner.predictions import Prediction

#: first number of prompts per forward, by device; halved when memory runs out
FIRST_BATCH = {"cuda": 256, "mps": 128, "cpu": 64}


class Runner:
    """Runs a strategy on a model: `encode`, `score`, `attention`, `predict`, `render`; LVLMs: `generate`, `answer`,
    `attention`.

    >>> import visprompt as vp
    >>> from PIL import Image
    >>> model = vp.load_model("bundled:scenes-clip")
    >>> runner = vp.Runner(model, vp.Prompter.from_name("falip"))
    >>> request = vp.Request(Image.new("RGB", (64, 64)), region=vp.Box(8, 8, 40, 40))
    >>> runner.score([request], ["a red star", "a blue circle"]).shape
    torch.Size([1, 2])

    Args:
        model: from `load_model` or `wrap`.
        prompter: from `Prompter.from_name`; None: the model without a prompt.
        batch_size: prompts per forward; None: chosen by device. Either way it is halved when memory runs out.
        share_prefix: prompts on one image share the blocks before their first edit; False: each runs all blocks.
        fit: how images are fitted into the model's input, unless the strategy sets it: "model", "pad" or "squash".
        progress: True or False; None: a bar on standard error when a run takes longer than two seconds on a terminal.
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
        self._pixels = ImagePixels()
        self._texts = TextEmbeddings(model)

    # -- results ------------------------------------------------------------------------------------------------------

    def encode(self, requests: Request | Iterable[Request], normalize: bool = False) -> Tensor:
        """Computes image embeddings.

        Args:
            requests: one, a list or any iterable.
            normalize: scale them to unit length.

        Returns:
            `[n, d]`, one row per request and region, in order.

        Raises:
            InvalidInputError: for a request that cannot be used; the message names it.
            UnsupportedError: if the model cannot take what the strategy changes.
        """
        rows = self._run(requests, lambda prompts, encoding: list(encoding.embeddings))
        result = torch.stack(rows)
        return torch.nn.functional.normalize(result, dim=-1) if normalize else result

    def score(self, requests: Request | Iterable[Request], texts: Sequence[str]) -> Tensor:
        """Compares images with texts. A strategy's text edit is applied to the texts.

        Args:
            requests: as in `encode`.
            texts: t texts.

        Returns:
            `[n, t]` logits as the model defines them; for an LVLM the log-likelihood of every text as the answer to the
            query.

        Raises:
            UnsupportedError: for a model without a text tower.
            InvalidInputError: as in `encode`; or without texts.
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
            self._texts(texts)

        def rows(prompts: Sequence[VisualPrompt], encoding: Encoding) -> list[Tensor]:
            result: list[Tensor] = []
            for edit, group in itertools.groupby(range(len(prompts)), key=lambda i: prompts[i].text):
                wanted = texts if edit is None else [edit(text) for text in texts]
                result += self.model.logits(encoding.embeddings[list(group)], self._texts(wanted))
            return result

        return torch.stack(self._run(requests, rows))

    def attention(
        self,
        requests: Request | Iterable[Request],
        blocks: Sequence[int] | None = None,
        rows: Literal["readout", "summary"] = "readout",
    ) -> list[AttentionMap]:
        """The readout's attention over the patches after the edits.

        For an LVLM: the decoder's attention while it writes up to 20 tokens of its answer, their mean; a request with
        several images gives a map for each. `answer` gives the maps token by token.

        Args:
            requests: as in `encode`.
            blocks: block numbers, negative from the end; None: all that have the rows.
            rows: "readout": the rows from which the image embedding is made; "summary": in blocks without such rows
                (before a pooling head), the attention of all patches.

        Returns:
            One map per request and region, in order.

        Raises:
            UnsupportedError: for a model without attention.
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
        """Predicts with the head of a trained strategy: a class per request and region, or a class per pixel.

        Images are fitted as in training, unless the runner has a `fit` of its own.

        Args:
            requests: as in `encode`.

        Returns:
            One prediction per request and region, in order.

        Raises:
            InvalidInputError: for a strategy without a trained head.
            UnsupportedError: for another model than the one it was trained on.
        """
        from visprompt.runner.predictions import predict

        return predict(self, requests)

    def render(self, requests: Request | Iterable[Request]) -> list[Image.Image]:
        """Draws the prompted images, tinted where attention edits act.

        Args:
            requests: as in `encode`.

        Returns:
            One image per request and region, in order.
        """
        from visprompt.imaging.tint import rendered

        prompts = list(self._prompts(requests))
        self.index = [place for _, place in prompts]
        return [rendered(prompt, self.model) for prompt, _ in prompts]

    def generate(
        self, requests: Request | Iterable[Request], max_new_tokens: int = 64, stream: bool = False, **options: Any
    ) -> Any:
        """Generates the answers of a vision-language model.

        Args:
            requests: requests with a query.
            max_new_tokens: longest answer, in tokens.
            stream: for a single request: return an iterator over pieces of the answer while it is generated.
            **options: arguments of the model's own `generate` (`do_sample=True`, `temperature=0.7`, …); greedy without
                any.

        Returns:
            `list[str]`, one per request and region, in order; with `stream` an iterator of `str`.

        Raises:
            UnsupportedError: for an encoder.
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
        """Generates answers and reads the decoder's attention while it writes them.

        Args:
            requests: requests with a query.
            blocks: decoder blocks that are read, negative from the end; empty: only the text.
            max_new_tokens: longest answer, in tokens.
            on_answer: called with every answer when its batch is done, so that nothing is lost if a later one fails.
            **options: arguments of the model's own `generate`.

        Returns:
            One answer per request and region, in order.

        Raises:
            UnsupportedError: for an encoder, or if `blocks` of a remote model are read.
            RemoteError: if a remote model left questions unanswered, after all were sent; `done` has the answers by the
                index of their question.
        """
        self._require_writer()
        if not isinstance(blocks, Iterable):
            raise InvalidInputError(f"blocks is a list of blocks; got {blocks!r}. For one: blocks=[{blocks!r}].")
        results: dict[int, Answer] = {}
        missing: dict[int, Unanswered] = {}
        total = len(requests) if hasattr(requests, "__len__") else None  # type: ignore[arg-type]
        settings = {"max_new_tokens": max_new_tokens, "read": tuple(blocks), **options}
        with torch.no_grad(), RunProgress(total, self.progress) as progress:
            chats = chats_of(self._prompts(requests))
            for batch in batches_of(chats, lambda: self.batch_size):
                for answer in in_halves(batch, lambda part: answers_of(self.model, part, settings), self):
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
        """The scores of an LVLM: the log-likelihood of each text as the answer, `[n, t]`."""
        rows: list[Tensor] = []
        index: list[tuple[int, int]] = []
        for batch in batches_of(chats_of(self._prompts(requests)), lambda: self.batch_size):
            rows += in_halves(batch, lambda part: list(self.model.score([chat for chat, _ in part], texts)), self)
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

    # -- batches ------------------------------------------------------------------------------------------------------

    def _like(self, prompter: Prompter) -> Runner:
        other = Runner(
            self.model,
            prompter,
            batch_size=self.batch_size,
            share_prefix=self.share_prefix,
            fit=self.fit,
            progress=self.progress,
        )
        other._pixels, other._texts = self._pixels, self._texts
        return other

    def _prompts(self, requests: Request | Iterable[Request]) -> Iterator[tuple[VisualPrompt, tuple[int, int]]]:
        """Prompts with (request, region), lazily: `requests` may be an endless generator."""
        return prompts_of(requests, self.model, self.prompter, self.fit, lambda: self.batch_size)

    def _run(
        self,
        requests: Request | Iterable[Request],
        collect: Callable[[Sequence[VisualPrompt], Encoding], list[T]],
        **options: Any,
    ) -> list[T]:
        index: list[tuple[int, int]] = []
        results: list[T] = []
        total = len(requests) if hasattr(requests, "__len__") else None  # type: ignore[arg-type]
        with torch.no_grad(), RunProgress(total, self.progress) as progress:
            for batch in batches_by_image(self._prompts(requests), lambda: self.batch_size):
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
        """Runs one batch through an encoder; `options` are those of `Model.encode`."""
        require_one_image(prompts, self.model.name)

        def run(part: list[VisualPrompt]) -> list[T]:
            encoding = self.model.encode(part, share_prefix=self.share_prefix, cache=self._pixels, **options)
            return collect(part, encoding)

        return list(in_halves(prompts, run, self))
