"""Settings of a remote model: its server, and the options of its answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from visprompt.errors import InvalidInputError
from visprompt.models.remote.client import check_number
from visprompt.models.remote.messages import DETAILS

#: options of answers, set for the model or per call
ANSWER_OPTIONS = ("temperature", "seed", "detail", "extra_body")


@dataclass(frozen=True)
class RemoteSettings:
    """The settings of a `RemoteModel`.

    Args:
        base_url: address of the API, usually ending in `/v1`; None: `OPENAI_BASE_URL`, else OpenAI's own.
        key_env: name of the environment variable that holds the key; None: `OPENAI_API_KEY` if it is set, otherwise no
            key, for your own servers. The key itself is never an argument.
        timeout: seconds without an answer, or without its next piece, after which an attempt fails.
        max_retries: further attempts after time-outs, lost connections and responses 408, 409, 429 and 5xx: after 0.5
            s, 1 s, 2 s, … at most 8 s, with jitter, or after the time in the server's `Retry-After` (up to 2 minutes).
        concurrency: number of requests at the same time.
        requests_per_minute: attempts per minute, evenly spaced, retries included; None: no limit.
        temperature: 0 for the most likely answer; None: the server's default.
        seed: for servers that support one.
        detail: `"auto"`, `"low"` or `"high"`, for servers that read images at several resolutions; None leaves it out.
        extra_body: further fields of the request, named as in the server's documentation.
        max_image_bytes: largest PNG that is sent, in bytes; None: no limit. Images are not resized.

    Raises:
        InvalidInputError: for a setting that cannot be used.
    """

    base_url: str | None = None
    key_env: str | None = None
    timeout: float = 120.0
    max_retries: int = 4
    concurrency: int = 4
    requests_per_minute: float | None = None
    temperature: float | None = 0.0
    seed: int | None = None
    detail: str | None = None
    extra_body: Mapping[str, Any] | None = None
    max_image_bytes: int | None = 20 * 2**20

    def __post_init__(self) -> None:
        check_number("timeout", self.timeout, 0, open_end=True)
        check_number("max_retries", self.max_retries, 0, whole=True)
        check_number("concurrency", self.concurrency, 1, whole=True)
        if self.requests_per_minute is not None:
            check_number("requests_per_minute", self.requests_per_minute, 0, open_end=True)
        if self.max_image_bytes is not None:
            check_number("max_image_bytes", self.max_image_bytes, 1, whole=True)
        self.answer_options()

    def answer_options(self) -> dict[str, Any]:
        """The options of answers.

        Returns:
            Values by the names in `ANSWER_OPTIONS`.

        Raises:
            InvalidInputError: as in `checked_answer_options`.
        """
        options = {name: getattr(self, name) for name in ANSWER_OPTIONS}
        return checked_answer_options({**options, "extra_body": dict(self.extra_body or {})})


def checked_answer_options(options: dict[str, Any]) -> dict[str, Any]:
    """Checks the options of answers.

    Args:
        options: values by the names in `ANSWER_OPTIONS`.

    Returns:
        The same.

    Raises:
        InvalidInputError: naming the option that cannot be used.
    """
    if options["temperature"] is not None:
        check_number("temperature", options["temperature"], 0)
    if options["seed"] is not None and (not isinstance(options["seed"], int) or isinstance(options["seed"], bool)):
        raise InvalidInputError(f"seed is a whole number or None; got {options['seed']!r}.")
    if options["detail"] is not None and options["detail"] not in DETAILS:
        raise InvalidInputError(f"detail is one of {', '.join(DETAILS)}, or None; got {options['detail']!r}.")
    try:
        json.dumps(options["extra_body"])
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"extra_body holds what JSON can hold: {error}.") from None
    return options
