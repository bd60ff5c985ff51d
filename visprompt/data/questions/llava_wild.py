"""LLaVA-Bench (in the wild) (https://arxiv.org/abs/2304.08485): open questions, judged by a language model.

In: `questions.jsonl`, one `{"question_id", "image", "text", "category"}` a line, and a folder of images.
Out: one `{"question_id", "prompt", "text", "answer_id", "model_id", "metadata"}` a line, as its judge takes it.
The judge drifts from version to version: always let the same one judge the baseline too.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visprompt.data.questions.question import Question, image_path, read_lines, require_keys, unique
from visprompt.utils.jsonl import write_jsonl


def read_llava_wild(path: str | Path, images: str | Path | None = None) -> list[Question]:
    """Reads `questions.jsonl`.

    Args:
        path: the file.
        images: folder of the images; by default `images` beside the file. They are not opened here.

    Raises:
        InvalidInputError: naming file and line, for anything that is not as described above.
    """
    path = Path(path)
    folder = Path(images) if images is not None else path.parent / "images"
    found = []
    for where, entry in read_lines(path):
        require_keys(entry, ("question_id", "image", "text"), where)
        found.append(
            Question(
                str(entry["question_id"]),
                (image_path(entry["image"], folder, where),),
                str(entry["text"]),
                kind=str(entry.get("category", "")),
                # The judge's script joins on the id with its type: numbers stay numbers.
                extra={"question_id": entry["question_id"]},
            )
        )
    return unique(found, str(path))


def write_llava_wild(
    path: str | Path,
    questions: Sequence[Question],
    answers: Mapping[str, str],
    model_id: str,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes answers as LLaVA's own script does, in one step; questions without an answer are left out.

    Args:
        path: the `.jsonl` file.
        questions: in the order of the input.
        answers: by question id.
        model_id: what the judge's table calls the row.
        metadata: what the answers depend on; free for use in this format.
    """
    write_jsonl(
        path,
        (
            {
                "question_id": one.extra.get("question_id", one.id),
                "prompt": one.text,
                "text": answers[one.id],
                # Their ids are drawn; ours say the same again when the file is written again.
                "answer_id": uuid.uuid5(uuid.NAMESPACE_URL, f"{model_id}/{one.id}/{answers[one.id]}").hex,
                "model_id": model_id,
                "metadata": dict(metadata or {}),
            }
            for one in questions
            if one.id in answers
        ),
    )
