"""A model behind a chat API: it takes prompted images and questions and gives text. Nothing inside it can be edited.

`load_model("remote:NAME", base_url=…)` makes one. Pixel strategies run on it as on every model; strategies that need
tokens or attention are refused with the names of those that work.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from visprompt.attention.sites import Tower
from visprompt.errors import InvalidInputError, UnsupportedError, unknown_name
from visprompt.geometry.geometry import Geometry, Tile
from visprompt.models.base import Model
from visprompt.models.chat import Chat, Generation
from visprompt.models.encoding import Encoding
from visprompt.models.remote.client import Endpoint, check_number
from visprompt.models.remote.messages import messages_of
from visprompt.models.remote.parallel import Failure, ask_all
from visprompt.models.remote.settings import ANSWER_OPTIONS, RemoteSettings, checked_answer_options
from visprompt.visual_prompt import Fit, VisualPrompt


class RemoteModel(Model):
    """A model of an OpenAI-compatible server.

    Args:
        name: the server's name for the model.
        **settings: those of `RemoteSettings`: `base_url`, `key_env`, `timeout`, …

    Raises:
        UnsupportedError: without the `openai` package (`pip install "visprompt-toolkit[remote]"`).
        InvalidInputError: for a setting that cannot be used, or a missing key.
    """

    #: it writes text: `Runner.generate` runs on it
    generates = True

    def __init__(self, name: str, **settings: Any) -> None:
        # Model.__init__ is not called: there are neither a module nor parts.
        if not isinstance(name, str) or not name.strip():
            raise InvalidInputError('"remote:" is followed by the name that the server knows the model by.')
        chosen = RemoteSettings(**settings)
        self.name, self.concurrency, self.max_image_bytes = (
            f"remote:{name}",
            chosen.concurrency,
            chosen.max_image_bytes,
        )
        self.options = chosen.answer_options()
        self._endpoint = Endpoint(
            name, chosen.base_url, chosen.key_env, chosen.timeout, chosen.max_retries, chosen.requests_per_minute
        )
        self._verified, self._wrapped = True, True
        self._lock = threading.RLock()

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def supports(self) -> frozenset[str]:
        """Pixels and text."""
        return frozenset({"pixels", "text"})

    @property
    def device(self) -> torch.device:
        """Always the CPU; no tensors are held locally."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Always float32; the server's type is unknown."""
        return torch.float32

    @property
    def chats_at_once(self) -> int:
        """The number of chats per call of `generate` with which its threads seldom wait for the last one of a batch."""
        return max(16, 4 * self.concurrency)

    def geometry(self, image_wh: tuple[int, int], fit: Fit = "model", tower: str = "vision") -> Geometry:
        """The whole image as one patch, since the server's preprocessing is unknown.

        So no region can be found to be cropped away, and `fit` has no effect: the server gets the image as it is.

        Args:
            image_wh: width and height of the image, pixels.
            fit: not used.
            tower: not used.

        Returns:
            A geometry with one patch.
        """
        width, height = image_wh
        return Geometry((width, height), (Tile((1.0, 1.0), (0.0, 0.0), (height, width), (1, 1)),))

    def describe(self) -> dict[str, Any]:
        """The model's identity for result rows: name, host, and the options of its answers; never the key.

        Returns:
            Ready for JSON.
        """
        extra = self.options["extra_body"]
        return {
            "name": self.name,
            "class": type(self).__name__,
            "backend": "remote",
            "host": self._endpoint.host,
            "dtype": "unknown",
            "device": "remote",
            "weights": "",
            **{key: self.options[key] for key in ANSWER_OPTIONS if key != "extra_body"},
            # own fields may hold private values: result rows get their names, and a hash of the values
            "extra_body": f"{', '.join(sorted(extra))} ({_digest(extra)})" if extra else "",
        }

    def __repr__(self) -> str:
        return f"<RemoteModel {self.name} at {self._endpoint.host}, takes pixels, text>"

    # -- running it ---------------------------------------------------------------------------------------------------

    def generate(
        self,
        chats: Sequence[Chat],
        *,
        max_new_tokens: int = 64,
        read: Sequence[int] = (),
        stream: Callable[[int, str], None] | None = None,
        **options: Any,
    ) -> list[Generation]:
        """Sends the questions and collects the answers.

        Args:
            chats: n questions with their prompted images; frames of a video are sent as images.
            max_new_tokens: longest answer, in tokens; cut answers have `finished=False`.
            read: must be empty: attention cannot be read.
            stream: called with (index of the question, new text), in the calling thread. With `concurrency` above 1
                pieces of different answers are interleaved.
            **options: `temperature`, `seed`, `detail`, `extra_body` for these questions, in place of the model's.

        Returns:
            n answers, in order.

        Raises:
            UnsupportedError: for `read`, attention edits or prompt tokens.
            InvalidInputError: for an option that cannot be used.
            RemoteError: if a question was not answered; `done` has the answers, `failed` the reasons. The other
                questions are still sent, unless they would fail too: then `stopped` is True.
        """
        chats = list(chats)
        check_number("max_new_tokens", max_new_tokens, 1, whole=True)
        for key in options:
            if key not in ANSWER_OPTIONS:
                raise unknown_name("option of a remote model's answers", key, ANSWER_OPTIONS)
        if "extra_body" in options:
            options["extra_body"] = dict(options["extra_body"] or {})
        chosen = checked_answer_options({**self.options, **options})
        if len(read):
            self._refuse("its attention cannot be read")
        for chat in chats:
            self._check_prompts(chat.prompts)
        fields = {key: chosen[key] for key in ("temperature", "seed") if chosen[key] is not None}
        if chosen["extra_body"]:
            fields["extra_body"] = chosen["extra_body"]

        def ask(number: int, piece: Callable[[str], None], gone: threading.Event) -> Generation:
            try:
                messages = messages_of(chats[number], chosen["detail"], self.max_image_bytes)
            except InvalidInputError as error:
                raise Failure(str(error)) from None
            body = {"messages": messages, **fields}
            return self._endpoint.ask(body, max_new_tokens, None if stream is None else piece, gone)

        return ask_all(len(chats), ask, self.concurrency, stream)

    def require(self, acts_on: frozenset[str], strategy: str) -> None:
        """Checks that a strategy changes pixels and text only.

        Args:
            acts_on: as in `Model.require`.
            strategy: its name for the message.

        Raises:
            UnsupportedError: if it changes more.
        """
        if missing := acts_on - self.supports:
            self._refuse(f"strategy {strategy!r} acts on {' and '.join(sorted(missing))}, which it does not offer")

    def _check_prompts(self, prompts: Sequence[VisualPrompt]) -> None:
        for prompt in prompts:
            if prompt.attention:
                self.require(frozenset({"attention"}), prompt.label)
            if prompt.tokens is not None:
                self.require(frozenset({"tokens"}), prompt.label)

    # -- what it cannot do --------------------------------------------------------------------------------------------

    def _refuse(self, what: str) -> NoReturn:
        raise UnsupportedError(
            f"{self.name} is a remote model: {what}. It answers questions (Runner.generate).", model=self
        )

    @property
    def module(self) -> nn.Module:  # type: ignore[override]
        """Not available for remote models.

        Raises:
            UnsupportedError: always.
        """
        self._refuse("its module is on the server, so nothing inside it can be reached")

    @property
    def parts(self) -> Any:  # type: ignore[override]
        """Not available for remote models; raises `UnsupportedError`."""
        self._refuse("its module is on the server, so nothing inside it can be reached")

    @property
    def tower(self) -> Tower:
        """Not available for remote models; raises `UnsupportedError`."""
        self._refuse("it has no attention that can be read or edited from here")

    def weights_hash(self) -> str:
        """Not available for remote models; raises `UnsupportedError`."""
        self._refuse("its weights are not known")

    def unwrap(self) -> nn.Module:
        """Not available for remote models; raises `UnsupportedError`."""
        self._refuse("there is no module to give back")

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Not available for remote models; raises `UnsupportedError`."""
        self._refuse("it gives no text embeddings")

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """Not available for remote models; raises `UnsupportedError`."""
        self._refuse("it gives no scores")

    def score(self, chats: Sequence[Chat], texts: Sequence[str]) -> Tensor:
        """Not available for remote models; raises `UnsupportedError`."""
        self._refuse("it does not tell how likely an answer is")

    def encode(self, prompts: Sequence[VisualPrompt], **options: Any) -> Encoding:  # type: ignore[override]
        """Not available for remote models; raises `UnsupportedError`."""
        self._check_prompts(prompts)
        self._refuse("it gives no embeddings")

    def prompting(self, prompts: Sequence[VisualPrompt], **options: Any) -> NoReturn:  # type: ignore[override]
        """Not available for remote models; raises `UnsupportedError`."""
        self._refuse("no gradients come back from it")

    def embed_pixels(self, pixels: Tensor, prompts: Sequence[VisualPrompt], **options: Any) -> Encoding:
        """Not available for remote models; raises `UnsupportedError`."""
        self._refuse("no gradients come back from it")

    def verify_sites(self, prompt: VisualPrompt) -> None:
        """Does nothing: a remote model is never edited inside."""

    def is_compiled(self) -> bool:
        """Whether compiled code runs in this process.

        Returns:
            Always False.
        """
        return False


def load_remote(name: str, **options: Any) -> RemoteModel:
    """`load_model("remote:NAME", …)`.

    Args:
        name: the server's name for the model.
        options: settings of `RemoteModel`.

    Returns:
        The model.

    Raises:
        UnknownNameError: for an option that does not exist.
        InvalidInputError: for a key given as an argument, and as in `RemoteModel`.
    """
    known = [item.name for item in dataclasses.fields(RemoteSettings)]
    for key in options:
        if key in ("api_key", "key", "token"):
            raise InvalidInputError(
                f"{key}: a key is never an argument, where logs and tracebacks would find it. Put it into the "
                "environment variable OPENAI_API_KEY, or into another one that key_env='NAME' names."
            )
        if key not in known:
            raise unknown_name("option of a remote model", key, known)
    return RemoteModel(name, **options)


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
