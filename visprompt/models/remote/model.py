"""A model behind a chat API: it takes prompted images and questions, and gives text. There is nothing inside to edit.

`load_model("remote:NAME", base_url=…)` makes one. Pixel strategies run on it as on every model; what needs tokens or
attention is refused with the names of the strategies that do work.
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
        name: what the server calls it.
        **settings: those of `RemoteSettings`: `base_url`, `key_env`, `timeout`, …

    Raises:
        UnsupportedError: without the `openai` package (`pip install "visprompt-toolkit[remote]"`).
        InvalidInputError: for a setting that cannot be used, or a key that is not there.
    """

    #: it writes text: `Runner.generate` runs on it
    generates = True

    def __init__(self, name: str, **settings: Any) -> None:
        # Not Model.__init__: there is neither a module nor parts.
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
        self._proved, self._wrapped = True, True
        self._lock = threading.RLock()

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def supports(self) -> frozenset[str]:
        """Pixels and text: all that a chat API takes."""
        return frozenset({"pixels", "text"})

    @property
    def device(self) -> torch.device:
        """The CPU: nothing of it is anywhere else here."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """float32; what the server computes in is not known."""
        return torch.float32

    @property
    def chats_at_once(self) -> int:
        """Questions that `generate` should get in one call, so that its threads seldom wait for the last of a batch."""
        return max(16, 4 * self.concurrency)

    def geometry(self, image_wh: tuple[int, int], fit: Fit = "model", tower: str = "vision") -> Geometry:
        """The whole image as one patch: where a server's processor puts pixels is not known.

        So no region can be found cut off here, and `fit` changes nothing: the server gets the image as it is.
        """
        width, height = image_wh
        return Geometry((width, height), (Tile((1.0, 1.0), (0.0, 0.0), (height, width), (1, 1)),))

    def describe(self) -> dict[str, Any]:
        """Identity for result rows: name, host, and what answers are asked with; never the key."""
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
            # fields of one's own may say more than a result row should: names, and a hash that tells values apart
            "extra_body": f"{', '.join(sorted(extra))} ({_digest(extra)})" if extra else "",
        }

    def __repr__(self) -> str:
        return f"<RemoteModel {self.name} at {self._endpoint.host}, takes pixels, text>"

    # -- asking it ----------------------------------------------------------------------------------------------------

    def generate(
        self,
        chats: Sequence[Chat],
        *,
        max_new_tokens: int = 64,
        read: Sequence[int] = (),
        stream: Callable[[int, str], None] | None = None,
        **options: Any,
    ) -> list[Generation]:
        """Answers, in the order of the questions.

        Args:
            chats: questions with their prompted images, several per question if you like; frames of a video are sent
                as images.
            max_new_tokens: where answers are cut; those have `finished=False`.
            read: must be empty: a server shows no attention.
            stream: gets the number of a question and the next piece of its answer, in the calling thread. Pieces of
                different answers come interleaved when `concurrency` is above 1.
            **options: `temperature`, `seed`, `detail`, `extra_body` for these questions, in place of the model's.

        Raises:
            UnsupportedError: for `read`, attention edits or prompt tokens.
            InvalidInputError: for an option that cannot be used.
            RemoteError: if a question got no answer; `done` has the answers that came, `failed` the reasons. The other
                questions are asked all the same, unless they would fare no better: then it is `stopped`.
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
        """Raises UnsupportedError if a strategy changes more than pixels and text."""
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
        """Nothing that could be given.

        Raises:
            UnsupportedError: always.
        """
        self._refuse("its module is on the server, so nothing inside it can be reached")

    @property
    def parts(self) -> Any:  # type: ignore[override]
        """As `module`."""
        self._refuse("its module is on the server, so nothing inside it can be reached")

    @property
    def tower(self) -> Tower:
        """As `module`."""
        self._refuse("it has no attention that can be read or edited from here")

    def weights_hash(self) -> str:
        """As `module`."""
        self._refuse("its weights are not known")

    def unwrap(self) -> nn.Module:
        """As `module`."""
        self._refuse("there is no module to give back")

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """As `module`."""
        self._refuse("it gives no text embeddings")

    def logits(self, images: Tensor, texts: Tensor) -> Tensor:
        """As `module`."""
        self._refuse("it gives no scores")

    def score(self, chats: Sequence[Chat], texts: Sequence[str]) -> Tensor:
        """As `module`."""
        self._refuse("it does not tell how likely an answer is")

    def encode(self, prompts: Sequence[VisualPrompt], **options: Any) -> Encoding:  # type: ignore[override]
        """As `module`."""
        self._check_prompts(prompts)
        self._refuse("it gives no embeddings")

    def prompting(self, prompts: Sequence[VisualPrompt], **options: Any) -> NoReturn:  # type: ignore[override]
        """As `module`."""
        self._refuse("no gradients come back from it")

    def embed_pixels(self, pixels: Tensor, prompts: Sequence[VisualPrompt], **options: Any) -> Encoding:
        """As `module`."""
        self._refuse("no gradients come back from it")

    def verify_sites(self, prompt: VisualPrompt) -> None:
        """Nothing to verify: nothing inside it is ever edited."""

    def is_compiled(self) -> bool:
        """False: nothing of it runs here."""
        return False


def load_remote(name: str, **options: Any) -> RemoteModel:
    """`load_model("remote:NAME", …)`.

    Raises:
        UnknownNameError: for an option that does not exist.
        InvalidInputError: for a key given as an argument, and as `RemoteModel`.
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
