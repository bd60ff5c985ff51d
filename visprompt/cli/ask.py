"""`visprompt ask`: asks a model a question about one or several images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visprompt.cli.arguments import (
    BaseUrlArg,
    SavedPrompterArg,
    TokensArg,
    checked_fit,
    model_of,
    prompter_of,
    waiting,
)
from visprompt.cli.flags import InputFlags, RegionFlags, StrategyFlags
from visprompt.errors import InvalidInputError

if TYPE_CHECKING:
    from visprompt.request import Request
    from visprompt.runner.answers import Answer
    from visprompt.runner.runner import Runner

DEFAULT_MODEL = "bundled:scenes-llava"


def ask(
    words: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE… QUESTION", help="One or several images, and the question.", show_default=False),
    ],
    *,
    regions: RegionFlags,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model, as in vp.load_model; remote:NAME for a server.")
    ] = DEFAULT_MODEL,
    base_url: BaseUrlArg = None,
    prompter: SavedPrompterArg = "none",
    options: StrategyFlags,
    max_new_tokens: TokensArg = 64,
    save: Annotated[
        Path | None, typer.Option("--save", help="Write the prompted image to this PNG (several: NAME-1.png, …).")
    ] = None,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--no-stream", help="Print words as they come. [default: on a terminal]", show_default=False
        ),
    ] = None,
    video: Annotated[bool, typer.Option("--video", help="The images are frames of one video, in order.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    loading: InputFlags,
) -> None:
    """Ask a question about an image, with or without a strategy; the answer is printed to standard output."""
    from visprompt.runner.runner import Runner
    from visprompt.utils.files import require_file

    if as_json and stream:
        raise InvalidInputError("--json prints everything at the end, and --stream as it comes: give one of them.")
    images, question = images_and_question(words)
    if save is not None:
        if save.suffix.lower() != ".png":
            raise InvalidInputError(f"--save should end in .png, which keeps every pixel; got {save}.")
        require_file(save, "--save")
    request = _request(images, question, regions, video)
    made = prompter_of(prompter, options.preset, options.option, saved=True)
    if made is None and _has_regions(request):
        raise InvalidInputError("a region without a strategy changes nothing: name one with --prompter, e.g. falip.")
    chosen = checked_fit(loading.fit)
    loaded = model_of(model, loading.device, loading.dtype, base_url)
    runner = Runner(loaded, made, fit=chosen, progress=False)
    live = sys.stdout.isatty() and not as_json if stream is None else stream
    answer = _asked(runner, request, max_new_tokens, live)
    if as_json:
        row = {"answer": answer.text, "tokens": list(answer.tokens), "finished": answer.finished}
        typer.echo(json.dumps({"question": question, **row}, indent=2, ensure_ascii=False))
    elif not live:
        typer.echo(answer.text)
    if not answer.finished:
        typer.echo(f"cut at {max_new_tokens} tokens; --max-new-tokens gives it more", err=True)
    if save is not None:
        _save(save, answer, runner)


def images_and_question(words: list[str]) -> tuple[list[Path], str]:
    """Splits the arguments: the last one is the question, the others are image paths.

    >>> images_and_question(["one.jpg", "two.jpg", "What is different?"])[1]
    'What is different?'

    Raises:
        InvalidInputError: without an image or without a question.
    """
    *images, question = words
    if not images or not question.strip() or Path(question).is_file():
        raise InvalidInputError(
            'a question comes after the images: visprompt ask photo.jpg "What does the sign say?"; '
            f"got {', '.join(map(repr, words))}."
        )
    return [Path(one) for one in images], question


def _request(paths: list[Path], question: str, flags: RegionFlags, video: bool) -> Request:
    from visprompt.request import Request

    several = len(paths) > 1 or video
    if several and flags:
        raise InvalidInputError(
            "regions go with one image here; for several, say in Python which image each belongs to: "
            "vp.Request([first, second], region=[box, None])."
        )
    regions = flags.of(paths[0])
    images: Any = paths if several else paths[0]
    request = Request(images, region=regions or None, query=question, regions_as="together", video=video)
    request.units()  # reports a bad image or region before the model is loaded
    return request


def _has_regions(request: Request) -> bool:
    """True if the request has a region."""
    return any(prompt.regions for prompt in request.units())


def _asked(runner: Runner, request: Request, max_new_tokens: int, live: bool) -> Answer:
    """Returns the answer, and prints it piece by piece if `live`."""
    if not live:
        with waiting("answering"):
            return runner.answer(request, max_new_tokens=max_new_tokens)[0]
    begun = False

    def piece(_: int, text: str) -> None:
        nonlocal begun
        typer.echo(text if begun else text.lstrip(), nl=False)
        begun = begun or bool(text.strip())

    answer = runner.answer(request, max_new_tokens=max_new_tokens, stream=piece)[0]
    typer.echo()
    return answer


def _save(path: Path, answer: Answer, runner: Runner) -> None:
    from visprompt.imaging.tint import rendered

    path.parent.mkdir(parents=True, exist_ok=True)
    for number, prompt in enumerate(answer.prompts, 1):
        name = path if len(answer.prompts) == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        rendered(prompt, runner.model).save(name)
        typer.echo(f"wrote {name}", err=True)
