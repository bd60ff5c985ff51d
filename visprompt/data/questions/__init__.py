"""Questions about images: readers of published LVLM benchmarks."""

from visprompt.data.questions.question import (
    LETTERS,
    Box,
    EncodedImage,
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
from visprompt.utils.renamed import renamed_names

__all__ = [
    "Box",
    "EncodedImage",
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

#: names of visprompt 0.4.0, which work with a DeprecationWarning
__getattr__ = renamed_names(__name__, {"EncodedPicture": "EncodedImage"}, globals())
