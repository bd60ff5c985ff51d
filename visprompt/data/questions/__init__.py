"""Questions about images: readers of published benchmarks."""

from visprompt.data.questions.question import (
    LETTERS,
    Box,
    EncodedPicture,
    Question,
    image_path,
    letter_of,
    normalised,
    read_json,
    read_lines,
    read_text,
    require_keys,
    unique,
    with_options,
)

__all__ = [
    "Box",
    "EncodedPicture",
    "LETTERS",
    "Question",
    "image_path",
    "letter_of",
    "normalised",
    "read_json",
    "read_lines",
    "read_text",
    "require_keys",
    "unique",
    "with_options",
]
