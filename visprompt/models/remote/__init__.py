"""Models behind an OpenAI-compatible chat API."""

from visprompt.models.remote.model import RemoteModel, load_remote
from visprompt.models.remote.settings import ANSWER_OPTIONS, RemoteSettings

__all__ = ["ANSWER_OPTIONS", "RemoteModel", "RemoteSettings", "load_remote"]
