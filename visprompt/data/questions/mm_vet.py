"""MM-Vet (https://arxiv.org/abs/2308.02490): open questions, judged by its online evaluator.

Input: `mm-vet.json`, `{"v1_0": {"imagename": …, "question": …, "answer": …, "capability": […]}}`, and a folder of
images. Output: `{"v1_0": "answer", …}`, the file that the evaluator takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from visprompt.data.questions.question import Question, image_path, read_json, require_keys, unique
from visprompt.errors import InvalidInputError
from visprompt.utils.files import write_text


def read_mm_vet(path: str | Path, images: str | Path | None = None) -> list[Question]:
    """Reads `mm-vet.json`.

    Args:
        path: the file.
        images: folder of the images; None: the folder `images` next to the file. No image is opened here.

    Returns:
        The questions in the order of the file.

    Raises:
        InvalidInputError: for a file in another format; the message names file and entry.
    """
    path = Path(path)
    content = read_json(path)
    if not isinstance(content, dict):
        raise InvalidInputError(f"{path.name}: expected an object of questions by id, got {type(content).__name__}.")
    folder = Path(images) if images is not None else path.parent / "images"
    found = []
    for name, entry in content.items():
        where = f"{path.name}, entry {name!r}"
        require_keys(entry, ("imagename", "question"), where)
        abilities = entry.get("capability") or []
        if not isinstance(abilities, list):
            raise InvalidInputError(f"{where}: capability is a list; got {abilities!r:.60}.")
        found.append(
            Question(
                str(name),
                (image_path(entry["imagename"], folder, where),),
                str(entry["question"]),
                # Answers contain "<AND>" and "<OR>" for the judge, so texts cannot be compared.
                kind=", ".join(str(one) for one in abilities),
                extra={"reference": entry.get("answer")},
            )
        )
    return unique(found, str(path))


def write_mm_vet(path: str | Path, questions: Sequence[Question], answers: Mapping[str, str]) -> None:
    """Writes the file that MM-Vet's evaluator takes, in one step; questions without an answer are left out.

    Args:
        path: the `.json` file.
        questions: in the order of the input.
        answers: answers by question id.
    """
    chosen = {one.id: answers[one.id] for one in questions if one.id in answers}
    write_text(path, json.dumps(chosen, ensure_ascii=False, indent=2) + "\n")
