"""Questions about images: the data type that all readers of LVLM benchmarks return and all question tasks take.

Coordinates are pixels of the original image. This module imports no models or strategies. Images are opened when a task
needs them: until then, paths stay paths and encoded bytes stay bytes.
"""

from __future__ import annotations

import io
import json
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visprompt.errors import InvalidInputError
from visprompt.utils.renamed import renamed_attributes, renamed_names

if TYPE_CHECKING:
    from PIL.Image import Image

    from visprompt.regions.shapes import Region

Box = tuple[float, float, float, float]
LETTERS = string.ascii_uppercase


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """An image inside another file (a cell of a parquet file, base64 in a TSV), decoded when needed.

    Attributes:
        content: the bytes of an image file, or a function that returns them.
        name: description of the image for messages.
    """

    content: bytes | Callable[[], bytes] = field(repr=False)
    name: str

    def open(self) -> Image:
        """Decodes the image and returns it as upright RGB.

        Raises:
            InvalidInputError: if the bytes are not an image; the message names it.
        """
        from PIL import Image as pil_image

        from visprompt.imaging.load import load_image

        content = self.content if isinstance(self.content, bytes) else self.content()
        try:
            with pil_image.open(io.BytesIO(content)) as image:
                image.load()
                return load_image(image)
        except Exception as error:  # Pillow's decoders raise errors of many types
            raise InvalidInputError(f"{self.name} is not an image that Pillow reads: {error}") from None


@renamed_attributes(pictures="pil_images")
@dataclass(frozen=True, eq=False)
class Question:
    """A question about one or several images.

    Attributes:
        id: unique within the data set.
        images: paths, PIL images, or images inside another file; at least one, in the order in which the text names
            them.
        text: the whole question, with options and instructions.
        answer: the right answer (for multiple choice its letter), or None if it is not published.
        kind: group of the question in tables of results: type of question, capability, subject.
        options: options of a multiple choice, A first; empty for open questions.
        targets: regions (boxes or masks) of the objects that the question is about; empty if there are none or they are
            unknown.
        outlines: `targets` as masks, if the data set has them.
        wrong: regions of other objects; the control "other" points at them.
        objects: regions of all objects in the image, in an order that does not tell which one is asked about.
        chance: probability that a random answer is right, or None if unknown.
        extra: further fields of the data set, which are written into rows of answers.
    """

    id: str
    images: tuple[Path | Image | EncodedImage, ...]
    text: str
    answer: str | None = None
    kind: str = ""
    options: tuple[str, ...] = ()
    targets: tuple[Region, ...] = ()
    outlines: tuple[Region, ...] = ()
    wrong: tuple[Region, ...] = ()
    objects: tuple[Region, ...] = ()
    chance: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.images:
            raise InvalidInputError(f"question {self.id} has no image.")

    @cached_property
    def image_name(self) -> str:
        """File name of the first image, or `id` if it is not a file; confidence intervals group questions by it."""
        first = self.images[0]
        return first.name if isinstance(first, Path) else self.id

    @property
    def pil_images(self) -> list[Path | Image]:
        """The images in the form that `visprompt.Request` takes."""
        return [one.open() if isinstance(one, EncodedImage) else one for one in self.images]

    @property
    def letters(self) -> str:
        """The letters of the options.

        >>> Question("q", (Path("a.png"),), "which?", options=("red", "blue")).letters
        'AB'
        """
        return LETTERS[: len(self.options)]


def unique(questions: Sequence[Question], where: str) -> list[Question]:
    """Checks that there are questions and that their ids are unique.

    Args:
        questions: all questions of a file.
        where: name of the file, for messages.

    Returns:
        The questions as a list.

    Raises:
        InvalidInputError: if there are none, or an id occurs twice; the message names the file.
    """
    if not questions:
        raise InvalidInputError(f"{where} has no questions.")
    twice = [name for name, count in Counter(one.id for one in questions).items() if count > 1]
    if twice:
        raise InvalidInputError(f"{where}: {len(twice)} ids occur more than once, the first: {twice[0]!r}.")
    return list(questions)


def read_text(path: str | Path) -> str:
    """Reads a text file in UTF-8.

    Raises:
        InvalidInputError: if the file cannot be read or is not UTF-8; the message names it.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not UTF-8 text: {error.reason}.") from error


def read_json(path: str | Path) -> Any:
    """Reads a JSON file.

    Raises:
        InvalidInputError: if the file cannot be read or is not JSON; the message names file and line.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InvalidInputError(f"{Path(path).name}, line {error.lineno}: not JSON: {error.msg}.") from error


def read_lines(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the objects of a JSON-lines file, each with file and line for messages: `"questions.jsonl, line 3"`.

    Raises:
        InvalidInputError: for a line that is not a JSON object; the message names file and line.
    """
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{Path(path).name}, line {number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise InvalidInputError(f"{where}: not JSON: {error}. Is the file cut off?") from error
        if not isinstance(entry, dict):
            raise InvalidInputError(f"{where}: expected an object, got {type(entry).__name__}.")
        yield where, entry


def require_keys(entry: Any, keys: Iterable[str], where: str) -> None:
    """Checks that a JSON object has certain keys, and that their values are not empty texts.

    Args:
        entry: the object.
        keys: keys that it must have.
        where: file and line, for messages.

    Raises:
        InvalidInputError: if the entry is not an object or keys are missing; the message lists the missing and the
            present keys.
    """
    if not isinstance(entry, dict):
        raise InvalidInputError(f"{where}: expected an object, got {type(entry).__name__}.")
    missing = [key for key in keys if entry.get(key) is None or entry[key] == ""]
    if missing:
        there = ", ".join(sorted(map(str, entry))) or "nothing"
        raise InvalidInputError(f"{where}: no {', '.join(missing)}; it has {there}.")


def image_path(name: Any, images: str | Path | None, where: str) -> Path:
    """Returns the path of an image named in a file; the image is not opened.

    Args:
        name: the path as written.
        images: folder that the path is relative to; None: the path is used as it is.
        where: file and line, for messages.

    Raises:
        InvalidInputError: if the name is not a text, or the path leads out of the folder.
    """
    if not isinstance(name, str) or not name.strip():
        raise InvalidInputError(f"{where}: an image is a file name; got {name!r:.60}.")
    if images is None:
        return Path(name)
    # Files of others should not be able to name /etc/passwd as their image.
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise InvalidInputError(f"{where}: image {name!r} leads out of the folder of images.")
    return Path(images) / name


def with_options(text: str, options: Sequence[str], instruction: str) -> str:
    """Returns the text of a multiple-choice question: question, lettered options and instruction, one per line.

    >>> print(with_options("What is it?", ["a cat", "a dog"], "Answer with the option's letter."))
    What is it?
    (A) a cat
    (B) a dog
    Answer with the option's letter.
    """
    listed = [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([text.strip(), *listed, instruction]).strip()


# -- answers --------------------------------------------------------------------------------------------------------

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ALONE = re.compile(r"[\s*_`\"'(\[{]*([A-Za-z])[\s*_`\"')\]}]*(?:[.:,;)]|$)")
_SAID = re.compile(  # a capital that is no word, or a small letter that ends the sentence: "the answer is a cat"
    r"(?i:\banswer\b)\W*(?i:is|would be|should be)?[\s*_`\"':(\[]*"
    r"((?![AI]\s[a-z])[A-Z](?![A-Za-z'])|[a-z](?=[)\].,*]|\s*$))"
)
_BRACKETED = re.compile(r"[(\[]([A-Z])[)\]]")
_STANDING = re.compile(r"(?<![\w'])([A-Z])(?![\w'])")


def normalised(answer: str) -> str:
    """Normalises an answer for exact match: lower case, without articles, punctuation and surplus spaces.

    >>> normalised(" The Red-star. ")
    'red star'
    """
    plain = re.sub(r"[^\w\s]|_", " ", answer.lower())
    return " ".join(_ARTICLES.sub(" ", plain).split())


def letter_of(answer: str, options: Sequence[str]) -> str | None:
    """Returns the letter of the option that an answer to a multiple-choice question names; None if it names none.

    The first rule that applies decides: the answer says "the answer is B" (the last occurrence counts, because models
    reason before they answer); it begins with a letter that stands alone ("B", "(B) a dog", "b."); exactly one option's
    letter is in brackets; exactly one stands alone; the answer equals one option's text; it contains exactly one
    option's text that is not part of another's.

    >>> [letter_of(text, ["a cat", "a dog"]) for text in ("B", "(a)", "I think the answer is B.", "It is a dog", "hm")]
    ['B', 'A', 'B', 'B', None]

    Args:
        answer: the model's answer.
        options: texts of the options, A first.
    """
    letters = LETTERS[: len(options)]
    text = answer.strip()
    letters_named = [found.upper() for found in _SAID.findall(text) if found.upper() in letters]
    if letters_named:
        return letters_named[-1]
    first = _ALONE.match(text)
    # "A cat" begins with an article; "A. cat", "A" and "(A) cat" with a letter.
    if first and first.group(1).upper() in letters:
        return first.group(1).upper()
    for pattern in (_BRACKETED, _STANDING):
        found = {
            match.group(1)
            for match in pattern.finditer(text)
            if match.group(1) in letters
            and not (match.group(1) == "A" and re.match(r"A\s+(?!or\b|and\b|is\b)[a-z]", text[match.start() :]))
        }
        if len(found) == 1:
            return found.pop()
    return _by_text(normalised(text), [normalised(option) for option in options])


def _by_text(answer: str, options: Sequence[str]) -> str | None:
    same = [number for number, option in enumerate(options) if option and option == answer]
    if len(same) == 1:
        return LETTERS[same[0]]
    held = [number for number, option in enumerate(options) if option and f" {option} " in f" {answer} "]
    held = [
        number
        for number in held
        if not any(other != number and f" {options[number]} " in f" {options[other]} " for other in held)
    ]
    return LETTERS[held[0]] if len(held) == 1 else None


#: names of visprompt 0.4.0, which work with a DeprecationWarning
__getattr__ = renamed_names(__name__, {"EncodedPicture": "EncodedImage"}, globals())
