"""LLaVA-Bench (in the wild) (https://arxiv.org/abs/2304.08485): open questions, judged by a language model.

Input: `questions.jsonl` with one `{"question_id", "image", "text", "category"}` per line, and a folder of images.
Output: one `{"question_id", "prompt", "text", "answer_id", "model_id", "metadata"}` per line, as its judge script takes
it. Judgements differ between versions of the judge: compare results only with baselines that the same version judged.
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
        images: folder of the images; None: the folder `images` next to the file. No image is opened here.

    Returns:
        The questions in the order of the file.

    Raises:
        InvalidInputError: for a file in another format; the message names file and line.
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
                # The judge's script compares ids with their type, so numbers stay numbers.
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
    """Writes answers in the format of LLaVA's own script, in one step; questions without an answer are left out.

    Args:
        path: the `.jsonl` file.
        questions: in the order of the input.
        answers: answers by question id.
        model_id: name of the model in the judge's table.
        metadata: settings that the answers depend on; the format leaves this field free.
    """
    write_jsonl(
        path,
        (
            {
                "question_id": one.extra.get("question_id", one.id),
                "prompt": one.text,
                "text": answers[one.id],
                # LLaVA's ids are random; these are the same whenever the file is written again.
                "answer_id": uuid.uuid5(uuid.NAMESPACE_URL, f"{model_id}/{one.id}/{answers[one.id]}").hex,
                "model_id": model_id,
                "metadata": dict(metadata or {}),
            }
            for one in questions
            if one.id in answers
        ),
    )
