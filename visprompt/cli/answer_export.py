"""`visprompt answer` and `visprompt export`: answer a benchmark's questions, or write its prompted images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visprompt.cli.arguments import (
    DEFAULT_MODEL,
    BaseUrlArg,
    ModelArg,
    SavedPrompterArg,
    TokensArg,
    checked_fit,
    model_of,
    options_of,
    prompter_of,
)
from visprompt.cli.flags import DeviceFlags, InputFlags, StrategyFlags
from visprompt.errors import InvalidInputError, UnsupportedError
from visprompt.utils.progress import progress_bar

if TYPE_CHECKING:
    from visprompt.data.questions.question import Question
    from visprompt.tasks.base import Row
    from visprompt.tasks.lvlm_benchmarks import Benchmark

_File = Annotated[Path, typer.Argument(help="The benchmark's question file (MMMU: or folder).", show_default=False)]
_Name = Annotated[str, typer.Option("--benchmark", "-b", help="mm-vet, llava-wild, mmmu or vlmevalkit (a TSV).")]
_Images = Annotated[
    Path | None, typer.Option("--images", help="Folder of the images; default: the folder images next to the file.")
]
_Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N questions.")]
_Resume = Annotated[bool, typer.Option("--resume/--fresh", help="Reuse results that exist, or start over.")]


def answer(
    questions: _File,
    benchmark: _Name,
    out: Annotated[Path, typer.Option("--out", help="The file for the benchmark's evaluator.")],
    images: _Images = None,
    *,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model, as in vp.load_model; remote:NAME for a server.")
    ] = ("bundled:scenes-llava"),
    base_url: BaseUrlArg = None,
    prompter: SavedPrompterArg = "none",
    options: StrategyFlags,
    max_new_tokens: TokensArg = 64,
    limit: _Limit = None,
    resume: _Resume = True,
    loading: InputFlags,
) -> None:
    """Answer a benchmark's questions and write the file for its evaluator; a run that was stopped continues."""
    from visprompt.utils.files import require_file
    from visprompt.utils.hashing import file_digest
    from visprompt.utils.jsonl import RowLog

    known, asked = _asked(benchmark, questions, images)
    require_file(out, "--out")
    if out.resolve() == questions.resolve():
        raise InvalidInputError(f"--out {out} is the question file itself, and would be overwritten: name another.")
    if out.suffix != known.suffix:
        raise InvalidInputError(f"--out {out}: {benchmark}'s evaluator takes a {known.suffix} file.")
    prompter_of(
        prompter, options.preset, options.option, saved=True
    )  # reports a wrong option before the model is loaded
    chosen_fit = checked_fit(loading.fit)
    loaded = model_of(model, loading.device, loading.dtype, base_url)
    if not loaded.generates:
        raise UnsupportedError(f"{loaded.name} is an encoder and writes no answers: name a model that does.")

    from visprompt.tasks.condition import Condition
    from visprompt.tasks.lvlm_benchmarks import answer_all, scores

    condition = Condition(prompter, options_of(options.option), preset=options.preset, fit=chosen_fit)
    log = RowLog(out.with_name(out.stem + ".items.jsonl"))
    if not resume:
        log.path.unlink(missing_ok=True)
    data = {"benchmark": benchmark, "file": file_digest(questions) if questions.is_file() else str(questions.resolve())}
    with progress_bar(f"{loaded.name} · {condition.label}", len(asked[:limit])) as step:
        outcome = answer_all(
            asked,
            loaded,
            condition,
            log,
            data=data,
            max_new_tokens=max_new_tokens,
            limit=limit,
            progress=step,
        )
    answers = {row["id"]: str(row["answer"]) for row in outcome.rows}
    label = loaded.name if condition.strategy == "none" else f"{loaded.name} + {condition.label}"
    known.write(out, asked, answers, label, {"run": outcome.run, "prompter": condition.describe()})
    _warn_about(outcome.errors, len(outcome.rows) + len(outcome.errors), "asked")
    again = f", {outcome.reused} of them from before" if outcome.reused else ""
    written = f"wrote {len(answers)} answers{again} to {out} (for {known.evaluator}); every answer: {log.path}"
    typer.echo(written, err=True)
    _show_scores(scores(outcome.rows), len(outcome.rows))


def export(
    questions: _File,
    benchmark: _Name,
    out: Annotated[Path, typer.Option("--out", help="The folder to write.")],
    images: _Images = None,
    *,
    prompter: SavedPrompterArg = "api",
    options: StrategyFlags,
    model: ModelArg = DEFAULT_MODEL,
    limit: _Limit = None,
    resume: _Resume = True,
    loading: DeviceFlags,
) -> None:
    """Write prompted images of a benchmark as PNG, for lmms-eval and VLMEvalKit (docs/export.md says how)."""
    from visprompt.utils.files import require_folder

    _known, asked = _asked(benchmark, questions, images)
    require_folder(out)
    _require_apart(out, questions, asked)
    made = prompter_of(prompter, options.preset, options.option, saved=True)

    from visprompt.tasks import export as exporting

    # Drawn markers need no model, but a composition does not tell which parts need one.
    loaded = None if made is None else model_of(model, loading.device, loading.dtype)
    if not resume:
        (out / exporting.MANIFEST).unlink(missing_ok=True)
    with progress_bar(f"exporting · {prompter}", len(asked[:limit])) as step:
        rows, errors = exporting.export(asked, made, loaded, out, benchmark=benchmark, limit=limit, progress=step)
    _warn_about(errors, len(rows) + len(errors), "prompted")
    count = sum(len(row["images"]) for row in rows)
    typer.echo(f"wrote {count} images, {exporting.MANIFEST} and {exporting.TABLE} into {out}", err=True)


def _asked(name: str, path: Path, images: Path | None) -> tuple[Benchmark, list[Question]]:
    from visprompt.tasks.lvlm_benchmarks import benchmark

    known = benchmark(name)
    if images is not None and not images.is_dir():
        raise InvalidInputError(f"--images {images}: there is no such folder.")
    return known, known.read(path, images)


def _require_apart(out: Path, questions: Path, asked: list[Question]) -> None:
    """Checks that an export overwrites neither the questions nor the images that it is made from.

    Raises:
        InvalidInputError: if it would.
    """
    from visprompt.tasks.export import IMAGES, MANIFEST, TABLE

    target = out.resolve()
    holders = {one.resolve().parent for question in asked for one in question.images if isinstance(one, Path)}
    written = {target / name for name in ("mm-vet.json", "questions.jsonl", "mmmu.jsonl", MANIFEST, TABLE)}
    if questions.resolve() in written or target / IMAGES in holders:
        raise InvalidInputError(
            f"--out {out} holds the benchmark itself, and would be overwritten: name another folder."
        )


def _warn_about(errors: list[Row], total: int, done: str) -> None:
    if errors:
        first = errors[0]
        count = f"{len(errors)} of {total} questions could not be {done}"
        typer.secho(f"warning: {count}; the first, {first['id']}: {first['error']}", fg="yellow", err=True)


def _show_scores(found: list[dict[str, Any]], total: int) -> None:
    if not found:
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    known = found[-1]["n"]
    title = "exact match" + ("" if known == total else f"; {total - known} answers have nothing to compare with here")
    table = Table(title=title, title_justify="left")
    for name, side in (("", "left"), ("n", "right"), ("right", "right"), ("accuracy, %", "right"), ("95 %", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for row in found:
        low, high = row["ci95"]
        table.add_row(
            escape(row["kind"]),
            str(row["n"]),
            str(row["correct"]),
            f"{100 * row['accuracy']:.1f}",
            f"{100 * low:.1f}–{100 * high:.1f}",
        )
    Console(emoji=False).print(table)
