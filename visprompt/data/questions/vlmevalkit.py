"""VLMEvalKit's tables (https://github.com/open-compass/VLMEvalKit): one TSV per benchmark, with images as base64.

Columns: `index`, `image` (base64, a list of them, or the index of the row that holds the image) or `image_path`,
`question`, `A`, `B`, … for multiple choice, `answer`, `category`, `hint`. Output: the same table without images and
with a column `prediction`, which its `evaluate` takes.
"""

from __future__ import annotations

import ast
import base64
import binascii
import csv
import functools
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from visprompt.data.questions.question import (
    LETTERS,
    EncodedImage,
    Question,
    image_path,
    letter_of,
    unique,
    with_options,
)
from visprompt.errors import InvalidInputError
from visprompt.utils.files import write_text

LETTER_PLEASE = "Answer with the option's letter from the given choices directly."
#: shorter cells are the index of the row that holds the image
_REFERENCE = 64
_EMPTY = ("", "nan", "NaN", "None")


def read_tsv(path: str | Path, images: str | Path | None = None) -> list[Question]:
    """Reads a TSV of VLMEvalKit.

    Args:
        path: the file.
        images: folder that `image_path` is relative to; None: the file's folder.

    Returns:
        The questions in the order of the rows.

    Raises:
        InvalidInputError: for a file in another format; the message names file and row.
    """
    path = Path(path)
    rows = _rows(path)
    cells = {row["index"]: row.get("image") or "" for row in rows}
    folder = Path(images) if images is not None else path.parent
    found = []
    for number, row in enumerate(rows, start=1):
        where = f"{path.name}, row {number}"
        options = tuple(row[letter] for letter in _letters(row))
        text = "\n".join(one for one in (_cell(row, "hint"), _cell(row, "question")) if one)
        if not text:
            raise InvalidInputError(f"{where}: no question.")
        answer = _cell(row, "answer") or None
        if options and answer is not None and answer.upper() in LETTERS[: len(options)]:
            answer = answer.upper()
        found.append(
            Question(
                row["index"],
                tuple(_images(row, cells, folder, where)),
                with_options(text, options, LETTER_PLEASE) if options else text,
                answer=answer,
                kind=_cell(row, "category") or "",
                options=options,
                chance=1 / len(options) if options else None,
                extra={"row": {key: value for key, value in row.items() if key != "image"}},
            )
        )
    return unique(found, str(path))


def write_tsv(path: str | Path, questions: Sequence[Question], answers: Mapping[str, str]) -> None:
    """Writes the rows with a column `prediction`, in one step; questions without an answer are left out.

    For multiple choice the prediction is the option's letter, or the whole answer if it names none.

    Args:
        path: the `.tsv` file.
        questions: in the order of the input.
        answers: answers by question id.
    """
    write_table(
        path,
        [{**table_row(one), "prediction": _prediction(one, answers[one.id])} for one in questions if one.id in answers],
    )


def table_row(question: Question) -> dict[str, Any]:
    """Returns a question as a row of a VLMEvalKit table, without its images.

    The text of a question from another benchmark already lists its options; they are not repeated as columns, because
    VLMEvalKit would list them again.
    """
    own = question.extra.get("row")
    if own is not None:
        return {key: value for key, value in own.items() if key != "image_path"}
    answer = question.answer if question.answer is not None else question.extra.get("reference")
    return {
        "index": question.id,
        "question": question.text,
        "answer": "" if answer is None else answer,
        "category": question.kind,
    }


def write_table(path: str | Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes a TSV in one step, with columns in the order of their first occurrence.

    Args:
        path: the file.
        rows: cells by column name.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, delimiter="\t", restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def _rows(path: Path) -> list[dict[str, str]]:
    csv.field_size_limit(sys.maxsize)  # an image in one cell is larger than the default of 128 KiB
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [{str(key): value for key, value in row.items()} for row in csv.DictReader(file, delimiter="\t")]
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror or error}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInputError(f"{path} is not a TSV in UTF-8: {error}.") from error
    if not rows:
        raise InvalidInputError(f"{path} has no rows.")
    for key in ("index", "question"):
        if key not in rows[0]:
            raise InvalidInputError(f"{path.name}: no column {key}; it has {', '.join(rows[0])}.")
    if "image" not in rows[0] and "image_path" not in rows[0]:
        raise InvalidInputError(f"{path.name}: no column image or image_path; it has {', '.join(rows[0])}.")
    for number, row in enumerate(rows, start=1):
        if None in row.values() or "None" in row:  # how csv marks missing and surplus cells
            raise InvalidInputError(f"{path.name}, row {number}: not as many cells as the header has columns.")
    return rows


def _cell(row: Mapping[str, str], key: str) -> str:
    value = (row.get(key) or "").strip()
    return "" if value in _EMPTY else value


def _letters(row: Mapping[str, str]) -> list[str]:
    found = []
    for letter in LETTERS:
        if not _cell(row, letter):
            break
        found.append(letter)
    return found if len(found) > 1 else []


def _images(row: Mapping[str, str], cells: Mapping[str, str], folder: Path, where: str) -> list[Any]:
    cell = _cell(row, "image")
    if cell and len(cell) <= _REFERENCE:
        if len(cells.get(cell, "")) <= _REFERENCE:
            raise InvalidInputError(f"{where}: image {cell!r} is no image, and no index of a row that has one.")
        cell = cells[cell]
    if cell:
        return [EncodedImage(_decoder(one, where), f"{where}: the image") for one in _listed(cell, where)]
    paths = _cell(row, "image_path")
    if not paths:
        raise InvalidInputError(f"{where}: neither image nor image_path.")
    # Paths in these tables are usually absolute and written by the user.
    return [Path(one) if Path(one).is_absolute() else image_path(one, folder, where) for one in _listed(paths, where)]


def _listed(cell: str, where: str) -> list[str]:
    if not cell.startswith("["):
        return [cell]
    try:
        found = ast.literal_eval(cell)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        found = None
    if not isinstance(found, list) or not found or not all(isinstance(one, str) for one in found):
        raise InvalidInputError(f"{where}: expected the text of a list; got {cell[:40]!r}.")
    return found


def _decoder(text: str, where: str) -> Callable[[], bytes]:
    return functools.partial(_decoded, text, where)


def _decoded(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInputError(f"{where}: the image is no base64: {error}.") from error


def _prediction(question: Question, answer: str) -> str:
    return (letter_of(answer, question.options) or answer) if question.options else answer
