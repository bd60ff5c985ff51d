"""Converts a `Chat` to the messages of a chat completion. Images are sent as PNG: a lossy format would change the
prompt.

The module uses no server and no client.
"""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

from visprompt.errors import InvalidInputError
from visprompt.models.chat import Chat
from visprompt.utils.renamed import renamed_parameters

#: values of the API's `detail`, the resolution at which a server reads an image
DETAILS = ("auto", "low", "high")


@renamed_parameters(picture="image")
def png_bytes(image: Image.Image) -> bytes:
    """Encodes an image as a PNG file: 8-bit RGB, every pixel exact, without metadata; equal images give equal bytes.

    >>> Image.open(io.BytesIO(png_bytes(Image.new("RGB", (2, 1), (7, 8, 9))))).getpixel((1, 0))
    (7, 8, 9)

    Args:
        image: any mode.

    Returns:
        The file's content.
    """
    plain = image.convert("RGB") if image.mode != "RGB" else image.copy()
    # A colour profile would be written into the file, and some servers would change the pixels by it.
    plain.info = {}
    buffer = io.BytesIO()
    plain.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


@renamed_parameters(picture="image")
def data_url(image: Image.Image, max_bytes: int | None = None) -> str:
    """Encodes an image as a `data:` address.

    Args:
        image: any size; it is not resized.
        max_bytes: size limit of the PNG file; None: no limit.

    Returns:
        The address.

    Raises:
        InvalidInputError: for an image above the limit.
    """
    content = png_bytes(image)
    if max_bytes is not None and len(content) > max_bytes:
        raise InvalidInputError(
            f"the image of {image.width}×{image.height} pixels is {len(content) / 2**20:.1f} MiB as PNG, above "
            f"max_image_bytes ({max_bytes / 2**20:.1f} MiB): make it smaller first (its regions with it), or raise "
            "max_image_bytes=… if the server takes more."
        )
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def messages_of(chat: Chat, detail: str | None = None, max_bytes: int | None = None) -> list[dict[str, Any]]:
    """Makes the messages: the system message if there is one, then one user message with the images in order and the
    question.

    Args:
        chat: a chat without attention edits and prompt tokens. Frames of a video become images.
        detail: `"auto"`, `"low"`, `"high"`; None leaves it out.
        max_bytes: as in `data_url`.

    Returns:
        Messages of a chat completion.

    Raises:
        InvalidInputError: for an image above the limit, naming it.
    """
    urls: dict[int, str] = {}
    content: list[dict[str, Any]] = []
    for number, prompt in enumerate(chat.prompts):
        key = id(prompt.image)
        if key not in urls:  # an image that occurs several times is encoded once
            try:
                urls[key] = data_url(prompt.image, max_bytes)
            except InvalidInputError as error:
                name = repr(prompt.request) if prompt.request is not None else f"image {number}"
                raise InvalidInputError(f"{name}: {error}") from None
        image: dict[str, str] = {"url": urls[key]}
        if detail is not None:
            image["detail"] = detail
        content.append({"type": "image_url", "image_url": image})
    content.append({"type": "text", "text": chat.text})
    system = [] if chat.system is None else [{"role": "system", "content": chat.system}]
    return [*system, {"role": "user", "content": content}]
