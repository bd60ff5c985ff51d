"""Writes prompted images to files, for evaluation tools that run models themselves (lmms-eval, VLMEvalKit).

A folder contains `images/*.png`, `manifest.jsonl` (one line per question: its images, its text, the edits made),
`vlmevalkit.tsv`, and the benchmark's own question file with the new images. The format is PNG because JPEG would change
the prompt.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visprompt.data.questions.question import Question, read_lines, require_keys
from visprompt.data.questions.vlmevalkit import table_row, write_table
from visprompt.errors import InvalidInputError, UnsupportedError, VispromptError
from visprompt.learned.strategy import learned_parts
from visprompt.tasks.base import Row, stamp_of
from visprompt.tasks.fingerprint import auxiliary_weights, library_versions, strategy_code
from visprompt.utils.files import replacing, write_text
from visprompt.utils.hashing import digest, file_digest
from visprompt.utils.jsonl import RowLog, write_jsonl
from visprompt.utils.provenance import source_digest

if TYPE_CHECKING:
    from visprompt.prompter import Prompter
    from visprompt.visual_prompt import VisualPrompt

MANIFEST, TABLE, IMAGES = "manifest.jsonl", "vlmevalkit.tsv", "images"
_VISIBLE = frozenset({"pixels", "text"})
_CHUNK = 16


def export(
    questions: Sequence[Question],
    prompter: Prompter | None,
    model: Any,
    out: str | Path,
    *,
    benchmark: str = "",
    limit: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[Row], list[Row]]:
    """Prompts the images of all questions and writes the folder; files that exist and match are not made again.

    Args:
        questions: questions of any benchmark.
        prompter: a strategy that edits pixels (and text); None: the images unchanged, for a baseline.
        model: the model that the strategy may need for its edit; drawn markers do not use it.
        out: the folder.
        benchmark: name of the benchmark whose own question file is written too.
        limit: number of questions to use, from the first; None: all.
        progress: called with the number of questions finished since its last call.

    Returns:
        The rows of the manifest, and one row with `error` for every question that could not be prompted.

    Raises:
        UnsupportedError: for a strategy that edits attention or tokens, which an image cannot show.
        InvalidInputError: if no question could be prompted.
    """
    _require_visible(prompter)
    out, asked = Path(out), list(questions[:limit])
    log, run = RowLog(out / MANIFEST), _run(prompter, model)
    kept = {row["id"]: row for row in log.rows(run) if _still_there(out, row)}
    names = _names(questions)
    rows: dict[str, Row] = {}
    errors: list[Row] = []
    for start in range(0, len(asked), _CHUNK):
        part = asked[start : start + _CHUNK]
        todo = [one for one in part if one.id not in kept or kept[one.id].get("file") != stamp_of(one)]
        made, failed = _chunk(todo, prompter, model, out, names)
        log.append({"run": run, **row} for row in made)
        rows.update((row["id"], row) for row in (*(kept[one.id] for one in part if one not in todo), *made))
        errors += failed
        if progress:
            progress(len(part))
    if not rows and errors:
        raise InvalidInputError(f"none of the {len(errors)} questions could be prompted: {errors[0]['error']}")
    chosen = [one for one in asked if one.id in rows]
    _write_tables(out, chosen, rows, benchmark)
    return [rows[one.id] for one in chosen], errors


def exported(folder: str | Path) -> dict[str, Row]:
    """Reads the manifest of an export, for adapters in other tools.

    Args:
        folder: the folder that `export` wrote.

    Returns:
        The manifest's rows by question id, with absolute image paths.

    Raises:
        InvalidInputError: if there is no manifest, or it is damaged.
    """
    folder = Path(folder).resolve()
    found = {}
    for where, row in read_lines(folder / MANIFEST):
        require_keys(row, ("id", "images", "text"), where)
        found[str(row["id"])] = {**row, "images": [str(folder / name) for name in row["images"]]}
    return found


def _require_visible(prompter: Prompter | None) -> None:
    hidden = sorted(prompter.acts_on - _VISIBLE) if prompter is not None else []
    if prompter is not None and hasattr(prompter, "members"):
        raise UnsupportedError(f"{prompter.name!r} is an ensemble of several images each: export its members.")
    if prompter is not None and hidden:
        from visprompt.registry import list_strategies

        works = ", ".join(info.name for info in list_strategies() if set(info.acts_on) <= _VISIBLE)
        raise UnsupportedError(
            f"strategy {prompter.name!r} acts on {' and '.join(hidden)}, which no image shows: run it here with "
            f"`visprompt answer`. Strategies that can be exported: {works}."
        )


def _run(prompter: Prompter | None, model: Any) -> str:
    members = [prompter]
    looks = prompter is not None and (
        ("map" in prompter.needs and not auxiliary_weights(members))
        or bool(learned_parts(prompter))  # learned parts depend on the model
    )
    return digest(
        {
            "prompter": None if prompter is None else prompter.describe(),
            "model": model.describe() if looks else None,
            "auxiliary": auxiliary_weights(members),
            "code": source_digest(),
            "strategies": strategy_code(members),
            "libraries": library_versions(),
        }
    )


def _chunk(
    questions: Sequence[Question], prompter: Prompter | None, model: Any, out: Path, names: Mapping[str, str]
) -> tuple[list[Row], list[Row]]:
    if not questions:
        return [], []
    try:
        return _made(questions, prompter, model, out, names), []
    except (InvalidInputError, OSError):
        pass
    rows: list[Row] = []
    errors: list[Row] = []
    for question in questions:  # one question is bad: the others are still made
        try:
            rows += _made([question], prompter, model, out, names)
        except (InvalidInputError, OSError) as error:
            if isinstance(error, OSError) and error.filename and str(out) in str(error.filename):
                raise  # a full disk concerns all images
            errors.append({"id": question.id, "image": question.image_name, "error": str(error)})
    return rows, errors


def _made(
    questions: Sequence[Question], prompter: Prompter | None, model: Any, out: Path, names: Mapping[str, str]
) -> list[Row]:
    from visprompt.request import Request

    prompts: list[VisualPrompt] = []
    counts = []
    for question in questions:
        images: Any = question.pil_images
        request = Request(
            images if len(images) > 1 else images[0],
            region=list(question.targets) or None if len(images) == 1 else None,
            query=question.text,
            regions_as="together",
            id=question.id,
        )
        units = request.units()
        counts.append(len(units))
        prompts += units
    if prompter is not None:
        prompts = prompter.edit_all(prompts, model)
    rows: list[Row] = []
    for question in questions:
        own, prompts = prompts[: counts[len(rows)]], prompts[counts[len(rows)] :]
        rows.append(_written(question, own, out, names[question.id]))
    return rows


def _written(question: Question, prompts: Sequence[VisualPrompt], out: Path, name: str) -> Row:
    images = []
    for number, prompt in enumerate(prompts, start=1):
        relative = f"{IMAGES}/{name}.png" if len(prompts) == 1 else f"{IMAGES}/{name}_{number}.png"
        path = out / relative
        with replacing(path) as partial:
            prompt.image.save(partial, format="PNG")
        images.append(relative)
    first = prompts[0]
    stamp = stamp_of(question)
    return {
        "id": question.id,
        "images": images,
        "text": question.text,  # text edits of strategies are for captions, not for questions
        "prompter": first.label,
        "fit": first.fit,
        "sizes_wh": [list(prompt.image.size) for prompt in prompts],
        "hashes": [file_digest(out / image) for image in images],
        **({} if stamp is None else {"file": stamp}),
    }


def _still_there(out: Path, row: Row) -> bool:
    try:
        return [file_digest(out / name) for name in row["images"]] == row["hashes"]
    except (VispromptError, KeyError, TypeError):
        return False


def _names(questions: Sequence[Question]) -> dict[str, str]:
    """Returns a unique file name for every id, whatever characters the ids have."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for question in questions:
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", question.id).strip(".-")[:100] or "question"
        # Some file systems do not distinguish upper and lower case.
        if name != question.id or name.lower() in taken:
            name = f"{name}-{digest(question.id)[:6]}"
        taken.add(name.lower())
        found[question.id] = name
    return found


def _write_tables(out: Path, questions: Sequence[Question], rows: Mapping[str, Row], benchmark: str) -> None:
    table = []
    for question in questions:
        paths = [str((out / name).resolve()) for name in rows[question.id]["images"]]
        line = table_row(question)
        if question.extra.get("row") is None:
            line["question"] = rows[question.id]["text"]
        table.append({**line, "image_path": paths[0] if len(paths) == 1 else str(paths)})
    write_table(out / TABLE, table)
    if benchmark == "mm-vet":
        content = {
            one.id: {
                "imagename": Path(rows[one.id]["images"][0]).name,
                "question": rows[one.id]["text"],
                "answer": one.extra.get("reference"),
                "capability": one.kind.split(", ") if one.kind else [],
            }
            for one in questions
        }
        write_text(out / "mm-vet.json", json.dumps(content, ensure_ascii=False, indent=2) + "\n")
    elif benchmark == "llava-wild":
        lines = (
            {
                "question_id": one.extra.get("question_id", one.id),
                "image": Path(rows[one.id]["images"][0]).name,
                "text": rows[one.id]["text"],
                "category": one.kind,
            }
            for one in questions
        )
        write_jsonl(out / "questions.jsonl", lines)
    elif benchmark == "mmmu":
        lines = ({**one.extra["entry"], "images": rows[one.id]["images"]} for one in questions)
        write_jsonl(out / "mmmu.jsonl", lines)
