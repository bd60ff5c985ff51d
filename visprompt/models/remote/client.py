"""One server, reached through the official `openai` client: key, request rate, and error messages that say what to do.

Time-outs, retries, back-off with jitter and `Retry-After` are the client's; this module adds a limit on the request
rate and the messages. The key is read from the environment, is stored in the client only, and is removed from every
text that is passed on.
"""

from __future__ import annotations

import ipaddress
import math
import os
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.models.chat import Generation
from visprompt.models.remote.parallel import Failure, Pace

DEFAULT_BASE_URL = "https://api.openai.com/v1"
DEFAULT_KEY_ENV = "OPENAI_API_KEY"
#: sent to servers that need no key, because the client insists on one
PLACEHOLDER_KEY = "no-key"
#: time-out of connecting, seconds
CONNECT_SECONDS = 10.0
#: most characters of a server's message in an error
MAX_WORDS = 300


class Endpoint:
    """A server and the settings with which requests are sent to it.

    Args:
        model: the server's name for the model.
        base_url: address up to and including `/v1`; None: `OPENAI_BASE_URL` of the environment, else OpenAI's.
        key_env: environment variable that holds the key; None: `OPENAI_API_KEY`, if it is set.
        timeout: seconds without an answer, or without the next piece of one, after which an attempt fails.
        max_retries: further attempts after time-outs, lost connections, 408, 409, 429 and 5xx.
        requests_per_minute: attempts per minute, retries included; None: no limit.

    Raises:
        UnsupportedError: without the `openai` package.
        InvalidInputError: for an address or key that cannot be used.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None,
        key_env: str | None,
        timeout: float,
        max_retries: int,
        requests_per_minute: float | None,
    ) -> None:
        openai = import_openai()
        address = base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL
        self.model, self.timeout, self.max_retries = model, timeout, max_retries
        self.host = host_of(address)
        key, self.key_env = read_key(key_env, needed=self.host == host_of(DEFAULT_BASE_URL))
        if self.key_env is not None and urlsplit(address).scheme == "http" and not _is_loopback(address):
            warnings.warn(
                f"the key from {self.key_env} goes to {self.host} unencrypted: use https:// if the server has it.",
                UserWarning,
                stacklevel=4,
            )
        self._client = openai.OpenAI(
            api_key=key,
            base_url=address,
            max_retries=max_retries,
            timeout=openai.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS)),
            # a hook runs at every attempt; a wait around the client's call would miss its retries
            http_client=openai.DefaultHttpxClient(event_hooks={"request": [Pace(requests_per_minute)]}),
        )
        # Older servers know max_tokens only, and some new models refuse it: after a refusal the other name is used.
        self._limit_name = "max_tokens"

    def ask(
        self,
        body: Mapping[str, Any],
        max_new_tokens: int,
        piece: Callable[[str], None] | None,
        gone: threading.Event,
    ) -> Generation:
        """Sends one question.

        Args:
            body: fields of a chat completion, without the model and the limit.
            max_new_tokens: longest answer, in tokens.
            piece: called with pieces of the answer as they arrive; None: the answer arrives as a whole.
            gone: set when the answer is no longer needed.

        Returns:
            The answer.

        Raises:
            Failure: if there is no answer.
        """
        import httpx
        import openai

        failure: Failure
        try:
            return self._ask(body, max_new_tokens, piece, gone)
        except openai.OpenAIError as error:
            failure = self._failure(error)
        except (httpx.HTTPError, ValueError) as error:  # a broken stream, invalid JSON
            failure = Failure(f"{self.host} broke off its answer, or it cannot be read: {self.clean(str(error))}")
        raise failure  # outside the handlers: the client's error, which may quote the key, is not chained to it

    def _ask(
        self,
        body: Mapping[str, Any],
        max_new_tokens: int,
        piece: Callable[[str], None] | None,
        gone: threading.Event,
    ) -> Generation:
        import openai

        create = self._client.chat.completions.create
        asked = {**body, "model": self.model, "stream": piece is not None}
        used = self._limit_name
        try:
            answer = create(**asked, **{used: max_new_tokens})
        except openai.BadRequestError as error:
            if used != "max_tokens" or "max_completion_tokens" not in str(error):
                raise
            answer = create(**asked, max_completion_tokens=max_new_tokens)
            self._limit_name = "max_completion_tokens"
        return self._whole(answer) if piece is None else self._streamed(answer, piece, gone)

    # -- reading answers ----------------------------------------------------------------------------------------------

    def _whole(self, answer: Any) -> Generation:
        choices = getattr(answer, "choices", None)
        if not choices:
            payload = self.clean(answer if isinstance(answer, str) else "")
            raise Failure(
                f"{self.host} answered something that is no chat completion{': ' + payload if payload else ''}. Does "
                "base_url end where the API begins (mostly in /v1)?",
                hopeless=True,
            )
        message = choices[0].message
        refusal = getattr(message, "refusal", None)
        return self._generation(getattr(message, "content", None), choices[0].finish_reason, refusal)

    def _streamed(self, answer: Any, piece: Callable[[str], None], gone: threading.Event) -> Generation:
        pieces: list[str] = []
        refusal, reason = "", None
        for chunk in answer:
            if gone.is_set():
                answer.close()
                raise Failure("this answer is no longer needed.", hopeless=True)
            if not getattr(chunk, "choices", None):  # usage and keep-alive chunks
                continue
            choice = chunk.choices[0]
            if choice.delta.content:
                pieces.append(choice.delta.content)
                piece(choice.delta.content)
            refusal += getattr(choice.delta, "refusal", None) or ""
            reason = choice.finish_reason or reason
        if reason is None:
            raise Failure(f"{self.host} broke off the stream before the answer was finished: ask again.")
        return self._generation("".join(pieces) if pieces or reason == "stop" else None, reason, refusal)

    def _generation(self, text: str | None, reason: str | None, refusal: str | None) -> Generation:
        """Makes a `Generation`. An answer without words is valid only if the model ended it itself (`finish_reason`
        "stop").
        """
        words = (text or "").strip()
        if words or (text is not None and reason == "stop" and not refusal):
            return Generation(words, finished=reason != "length")
        if refusal:
            raise Failure(f"{self.model} refused to answer: {self.clean(refusal)}")
        if reason == "length":
            raise Failure(
                f"{self.model} used up max_new_tokens before it wrote a word (models that think first do): raise it."
            )
        if reason == "content_filter":
            raise Failure(f"the content filter of {self.host} let no answer of {self.model} through.")
        raise Failure(f"{self.host} gave an empty answer (finish_reason {reason!r}).")

    # -- error messages -----------------------------------------------------------------------------------------------

    def clean(self, text: str) -> str:
        """Shortens a server's message to one line, without the key.

        Args:
            text: the message.

        Returns:
            At most `MAX_WORDS` characters.
        """
        key = self._client.api_key
        if key and key != PLACEHOLDER_KEY:
            text = text.replace(key, "[key]")  # before the text is cut: half a key is still a secret
        line = " ".join(text.split())
        return line if len(line) <= MAX_WORDS else line[: MAX_WORDS - 1] + "…"

    def _failure(self, error: Exception) -> Failure:
        import openai

        tried = f"{self.max_retries + 1} attempts" if self.max_retries else "one attempt"
        if isinstance(error, openai.APITimeoutError):
            return Failure(
                f"{self.host} gave no answer within {self.timeout:g} s ({tried}): raise timeout=…, or lower "
                "concurrency=… if the server is busy."
            )
        if isinstance(error, openai.APIConnectionError):
            cause = self.clean(str(error.__cause__ or error))
            return Failure(
                f"{self.host} cannot be reached ({cause}; {tried}): is the server running, and is base_url right?",
                hopeless=True,
            )
        if isinstance(error, openai.APIStatusError):
            return self._refused(error.status_code, self.clean(_words(error)), tried, error.response.headers)
        return Failure(f"{self.host} reports an error: {self.clean(_words(error))}")

    def _refused(self, status: int, words: str, tried: str, headers: Mapping[str, str]) -> Failure:
        reason = f" ({status}): {words}" if words else f" ({status})"
        reason += "" if reason[-1] in ".!?…" else "."
        if status in (401, 403):
            if self.key_env is None:
                advice = f"No key was sent: put it into the environment variable {DEFAULT_KEY_ENV}, or name another "
                return Failure(f"{self.host} wants a key{reason} {advice}with key_env=….", hopeless=True)
            return Failure(
                f"{self.host} does not accept the key from {self.key_env} for {self.model}{reason}", hopeless=True
            )
        if status in (404, 405):
            advice = "Check the name, and that base_url ends where the API begins (mostly in /v1)."
            return Failure(f"{self.host} knows no model {self.model!r} at this address{reason} {advice}", hopeless=True)
        if status == 429:
            wait = headers.get("retry-after")
            advice = "" if wait is None else f" It asks to wait {self.clean(wait)} s."
            advice += " Set requests_per_minute=… to what your account allows, lower concurrency=…, or try later."
            return Failure(f"{self.host} still limits requests after {tried}{reason}{advice}", hopeless=True)
        if status == 413:
            return Failure(f"{self.host} finds the request too large{reason} Make the images smaller or fewer.")
        if status >= 500:
            return Failure(f"{self.host} failed on its side, {tried}{reason}")
        advice = ""
        if "temperature" in words:
            advice = " temperature=None leaves it out."
        elif any(word in words.lower() for word in ("too large", "too long", "context", "exceed", "maximum")):
            advice = " Make the images smaller or fewer, or the question shorter."
        return Failure(f"{self.host} does not take the request{reason}{advice}")


def import_openai() -> Any:
    """Imports the `openai` package.

    Returns:
        The package.

    Raises:
        UnsupportedError: with the command that installs it.
    """
    try:
        import openai
    except ImportError as error:
        raise UnsupportedError(
            f'remote models need the openai package ({error}): pip install "visprompt-toolkit[remote]".'
        ) from None
    return openai


def read_key(key_env: str | None, needed: bool) -> tuple[str, str | None]:
    """Reads the key from the environment.

    Args:
        key_env: the variable; None: `OPENAI_API_KEY`.
        needed: the server needs a key.

    Returns:
        The key and its variable; a placeholder and None if there is none and none is needed.

    Raises:
        InvalidInputError: if the variable is not set, or its value cannot be a key. The message never holds the value.
    """
    name = DEFAULT_KEY_ENV if key_env is None else key_env
    if not isinstance(name, str) or not name.replace("_", "a").isalnum() or not name.isascii() or name[0].isdigit():
        raise InvalidInputError("key_env is the name of an environment variable, not the key itself.")
    key = os.environ.get(name, "").strip()
    if not key:
        if key_env is None and not needed:
            return PLACEHOLDER_KEY, None
        raise InvalidInputError(
            f"the environment variable {name} holds no key: set it, or name another with key_env=…; for a server of "
            "your own give base_url=…."
        )
    # a line break inside would make a header that the client's error message then quotes
    if not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidInputError(
            f"what the environment variable {name} holds is no key: it has blanks or odd characters."
        )
    return key, name


def host_of(address: str) -> str:
    """The host and port of an address, the part of it that messages show.

    >>> host_of("http://127.0.0.1:8000/v1")
    '127.0.0.1:8000'

    Args:
        address: the address of the API.

    Returns:
        `"host:port"`, or `"host"`.

    Raises:
        InvalidInputError: if it is no web address, or holds a user name, a password or a query.
    """
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018  # raises for a port that is no number
    except (ValueError, AttributeError, TypeError):
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInputError("base_url is the address of the API, e.g. base_url='http://127.0.0.1:8000/v1'.")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise InvalidInputError(
            "base_url has neither name nor password nor query: keys come from the environment (key_env=…), further "
            "fields of a request go into extra_body=…."
        )
    return parts.netloc


def check_number(name: str, value: Any, least: float, whole: bool = False, open_end: bool = False) -> None:
    """Checks a setting that is a number.

    Args:
        name: its name for the message.
        value: its value.
        least: lower bound.
        whole: it must be an int.
        open_end: it must be above `least`.

    Raises:
        InvalidInputError: if it is not a finite number within the bound.
    """
    fits = isinstance(value, int) if whole else isinstance(value, int | float) and math.isfinite(value)
    if isinstance(value, bool) or not fits or value < least or (open_end and value == least):
        kind = "whole number" if whole else "number"
        raise InvalidInputError(
            f"{name} is a {kind} {'above' if open_end else 'of at least'} {least:g}; got {value!r}."
        )


def _is_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _words(error: Exception) -> str:
    """A server's message: `message` in OpenAI's format, `detail` in FastAPI's, else the text of the response."""
    body = getattr(error, "body", None)
    if isinstance(body, Mapping):
        for key in ("message", "detail", "error"):
            if body.get(key):
                return str(body[key])
    if body:
        return str(body)
    return str(getattr(error, "message", "") or error)
