"""A small chat server on the loopback interface, for tests of remote models: it gives set replies and records
requests.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

from PIL import Image

from visprompt.utils.renamed import renamed_names

Body: TypeAlias = dict[str, Any]
#: status, headers, and the content: anything for JSON, a string for a web page
Reply: TypeAlias = tuple[int, dict[str, str], Any]


def completion(text: str | None, reason: str = "stop", **message: Any) -> Reply:
    """The reply with an answer.

    Args:
        text: the answer.
        reason: why it ended: `"stop"`, `"length"`, `"content_filter"`.
        **message: further fields of the message.
    """
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text, **message}}
    return 200, {}, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def refusal(status: int, message: str, **headers: str) -> Reply:
    """The reply with an error.

    Args:
        status: HTTP status.
        message: text of the error.
        **headers: HTTP headers; `Retry_After="2"` becomes `Retry-After: 2`.
    """
    return status, {key.replace("_", "-"): value for key, value in headers.items()}, {"error": {"message": message}}


def chunk(text: str | None, reason: str | None = None) -> str:
    """One event of a streamed answer.

    Args:
        text: the next part of the answer.
        reason: why the answer ended, in the last event.
    """
    choice = {"index": 0, "finish_reason": reason, "delta": {"content": text}}
    content = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(content)}\n\n"


def question(body: Body) -> str:
    """The question of a request."""
    return str(body["messages"][-1]["content"][-1]["text"])


def images(body: Body) -> list[Image.Image]:
    """The images of a request, opened with Pillow (`.format` is the file format)."""
    parts = body["messages"][-1]["content"]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


class ChatServer:
    """A server that answers every request with `reply(body, number of the request)`: a `Reply`, or the events of a
    stream.

    >>> with ChatServer() as server:
    ...     server.reply = lambda body, number: completion("red")
    ...     server.base_url.startswith("http://127.0.0.1:")
    True

    Attributes:
        reply: computes the reply to a request.
        bodies: the content of every request.
        headers: the HTTP headers of every request.
        times: when every request arrived, seconds of a monotonic clock.
        most_at_once: the largest number of requests at the same time.
    """

    def __init__(self) -> None:
        self.reply: Callable[[Body, int], Reply | list[str]] = lambda body, number: completion("red")
        #: what came, request by request: content, headers, and when (seconds of a monotonic clock)
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        #: the most requests that were under way together
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer._handle(self)

            def log_message(self, *_: Any) -> None:
                """Logs nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.base_url = f"http://{self.host}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops the server; further connections are refused."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> ChatServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.headers.append(dict(handler.headers))
            self.times.append(time.monotonic())
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            reply = self.reply(body, number)
        finally:
            with self._lock:
                self._at_once -= 1
        with contextlib.suppress(OSError):  # the client has disconnected, as in tests of time-outs
            _send(handler, reply)


def _send(handler: BaseHTTPRequestHandler, reply: Reply | list[str]) -> None:
    if isinstance(reply, list):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        for part in reply:
            handler.wfile.write(part.encode())
            handler.wfile.flush()
        return
    status, headers, content = reply
    is_page = isinstance(content, str)
    data = (content if is_page else json.dumps(content)).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "text/html" if is_page else "application/json")
    handler.send_header("Content-Length", str(len(data)))
    for key, value in headers.items():
        handler.send_header(key, value)
    handler.end_headers()
    handler.wfile.write(data)


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"pictures": "images"}, globals())
