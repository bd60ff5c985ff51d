"""MMMU (https://arxiv.org/abs/2311.16502): college questions with one to seven images, most of them multiple choice.

Input: the data set's parquet files (one, or a folder of them, as on the hub), a folder written by
`datasets.save_to_disk`, or JSON / JSONL with image paths. Fields: `id` (`validation_Accounting_1`), `question` (with
`<image 1>`), `options` (the *text* of a Python list), `answer`, `question_type` (`multiple-choice` or `open`),
`image_1` … `image_7`; JSON may have `images: [path, …]` instead. Output: `{"validation_Accounting_1": "D", …}`.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from visprompt.data.questions.question import (
    LETTERS,
    EncodedImage,
    Question,
    image_path,
    letter_of,
    read_json,
    read_lines,
    require_keys,
    unique,
    with_options,
)
from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.utils.files import write_text
from visprompt.utils.renamed import renamed_names

MULTIPLE_CHOICE = "multiple-choice"
IMAGES = tuple(f"image_{number}" for number in range(1, 8))
LETTER_PLEASE = "Answer with the option's letter from the given choices directly."
SHORT_PLEASE = "Answer the question using a single word or phrase."


def read_mmmu(path: str | Path, images: str | Path | None = None) -> list[Question]:
    """Reads MMMU.

    The question's text keeps the markers `<image 1>`; the images are in the order of their numbers.

    Args:
        path: a `.parquet`, `.json` or `.jsonl` file, a folder of parquet files of one split, or a folder written by
            `datasets.save_to_disk`.
        images: folder that image paths in JSON are relative to; None: the file's folder.

    Returns:
        The questions in the order of the files.

    Raises:
        InvalidInputError: for a file in another format; the message names file and line or row.
        UnsupportedError: for parquet and arrow files if the packages that read them are not installed.
    """
    path = Path(path)
    if not path.exists():
        raise InvalidInputError(f"there is no file {path}.")
    folder = Path(images) if images is not None else path.parent
    found = [_question(where, entry, folder) for where, entry in _entries(path)]
    return unique(found, str(path))


def write_mmmu(path: str | Path, questions: Sequence[Question], answers: Mapping[str, str]) -> None:
    """Writes the file that MMMU's evaluator takes, in one step.

    For multiple choice it writes the option's letter, or an empty text (never right) if the answer names none; the
    authors' parser would draw a random letter. For open questions it writes the answer itself, which their script
    parses.

    Args:
        path: the `.json` file.
        questions: in the order of the input.
        answers: answers by question id.
    """
    chosen = {
        one.id: (letter_of(answers[one.id], one.options) or "") if one.options else answers[one.id]
        for one in questions
        if one.id in answers
    }
    write_text(path, json.dumps(chosen, ensure_ascii=False, indent=4) + "\n")


def subject_of(name: str) -> str:
    """Returns the subject in a question's id, as MMMU's evaluator reads it.

    >>> subject_of("validation_Art_Theory_12")
    'Art_Theory'
    """
    return "_".join(name.split("_")[1:-1])


def options_of(value: Any, where: str) -> tuple[str, ...]:
    """Returns the options of a question from a list or the text of a list.

    >>> options_of("['red', 'blue']", "here")
    ('red', 'blue')

    Args:
        value: the list, its text, or None. A text is parsed as a literal and never run.
        where: file and line, for messages.

    Raises:
        InvalidInputError: for another value, or more options than letters.
    """
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise InvalidInputError(f"{where}: options should be the text of a Python list: {value!r:.60}.") from error
    if hasattr(value, "tolist"):
        value = value.tolist()
    if not isinstance(value, list | tuple) or not all(isinstance(one, str | int | float) for one in value):
        raise InvalidInputError(f"{where}: options should be a list of texts; got {value!r:.60}.")
    if len(value) > len(LETTERS):
        raise InvalidInputError(f"{where}: {len(value)} options, and only {len(LETTERS)} letters.")
    return tuple(str(one) for one in value)


def _question(where: str, entry: dict[str, Any], folder: Path) -> Question:
    require_keys(entry, ("id", "question"), where)
    name, options = str(entry["id"]), options_of(entry.get("options"), where)
    kind = str(entry.get("question_type") or (MULTIPLE_CHOICE if options else "open"))
    if kind == MULTIPLE_CHOICE and not options:
        raise InvalidInputError(f"{where}: {name} is a multiple choice without options.")
    if kind != MULTIPLE_CHOICE:
        options = ()
    images = tuple(_image(one, folder, where, name) for one in _images(entry))
    if not images:
        raise InvalidInputError(f"{where}: {name} has no image (image_1 … image_7, or images).")
    answer = None if entry.get("answer") in (None, "", "?") else str(entry["answer"])  # "?": the test split
    if options and answer is not None and answer not in LETTERS[: len(options)]:
        raise InvalidInputError(f"{where}: answer {answer!r} of {name} is none of its {len(options)} options' letters.")
    asked = with_options(str(entry["question"]), options, LETTER_PLEASE if options else SHORT_PLEASE)
    return Question(
        name,
        images,
        asked,
        answer=answer if options else None,
        kind=subject_of(name),
        options=options,
        chance=1 / len(options) if options else None,
        extra={
            "question_type": kind,
            "reference": answer,
            # the entry without its images: an export writes it again with other images
            "entry": {key: value for key, value in entry.items() if key not in (*IMAGES, "images")},
        },
    )


def _images(entry: Mapping[str, Any]) -> Iterator[Any]:
    if isinstance(entry.get("images"), list):
        yield from entry["images"]
        return
    for key in IMAGES:
        if entry.get(key) is not None:
            yield entry[key]


def _image(value: Any, folder: Path, where: str, name: str) -> Any:
    if isinstance(value, str):
        return image_path(value, folder, where)
    if isinstance(value, dict) and value.get("bytes"):
        return EncodedImage(bytes(value["bytes"]), f"{where}: the image of {name}")
    if isinstance(value, dict) and value.get("path"):
        return image_path(value["path"], folder, where)
    if hasattr(value, "convert"):  # datasets decodes to PIL
        return value
    raise InvalidInputError(
        f"{where}: an image is a path, or what the data set's files hold; got {type(value).__name__}."
    )


def _entries(path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    if path.suffix == ".jsonl":
        return read_lines(path)
    if path.suffix == ".json":
        return _from_json(path)
    if path.suffix == ".parquet":
        return _from_parquet([path])
    if path.is_dir():
        if (path / "dataset_info.json").exists():
            return _from_arrow(path)
        files = sorted(path.rglob("*.parquet"))
        splits = sorted({file.name.partition("-")[0] for file in files})
        if len(splits) > 1:
            raise InvalidInputError(
                f"{path} holds several splits ({', '.join(splits)}): give one file, or one's folder."
            )
        if files:
            return _from_parquet(files)
    raise InvalidInputError(
        f"{path} is no .parquet, .json or .jsonl file, no folder of parquet files, and none of datasets.save_to_disk."
    )


def _from_json(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    content = read_json(path)
    if isinstance(content, dict):
        content = [{"id": key, **entry} if isinstance(entry, dict) else entry for key, entry in content.items()]
    if not isinstance(content, list):
        raise InvalidInputError(f"{path.name}: expected a list of questions, got {type(content).__name__}.")
    for number, entry in enumerate(content, start=1):
        yield f"{path.name}, entry {number}", entry


def _from_parquet(files: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from pyarrow import parquet  # not the datasets package: that would copy everything into its cache
    except ImportError:
        raise _missing("parquet") from None
    for file in files:
        try:
            rows = parquet.read_table(file).to_pylist()
        except (OSError, ValueError) as error:  # pyarrow's own errors are among these
            raise InvalidInputError(f"{file} is not a readable parquet file: {error}") from error
        for number, entry in enumerate(rows, start=1):
            yield f"{file.name}, row {number}", entry


def _from_arrow(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import datasets
    except ImportError:
        raise _missing("arrow") from None
    for number, entry in enumerate(datasets.load_from_disk(str(path)), start=1):
        yield f"{path.name}, row {number}", dict(entry)


def _missing(what: str) -> UnsupportedError:
    return UnsupportedError(
        f'{what} files need the datasets package: pip install "visprompt-toolkit[mmmu]". JSON and JSONL files with the '
        "images' paths are read without it."
    )


#: names of 0.4.0
__getattr__ = renamed_names(__name__, {"PICTURES": "IMAGES"}, globals())
