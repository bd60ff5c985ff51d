"""Models behind an OpenAI-compatible chat API."""

from visprompt.models.remote.model import (
    ANSWER_OPTIONS,
    RemoteModel,
    load_remote,
)

__all__ = ["ANSWER_OPTIONS", "RemoteModel", "load_remote"]
