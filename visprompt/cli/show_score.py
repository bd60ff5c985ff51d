"""`visprompt show` and `visprompt score`: one image, one region or question, one strategy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from visprompt.cli.arguments import (
    DEFAULT_MODEL,
    DeviceArg,
    FitArg,
    ImageArg,
    ModelArg,
    SavedPrompterArg,
    TokensArg,
    checked_fit,
    model_of,
    prompter_of,
    request_of,
)
from visprompt.cli.flags import InputFlags, RegionFlags, StrategyFlags
from visprompt.errors import InvalidInputError


def show(
    image: ImageArg,
    question: Annotated[
        str | None, typer.Argument(help="A question or text: where does the model look for it?", show_default=False)
    ] = None,
    *,
    regions: RegionFlags,
    model: ModelArg = DEFAULT_MODEL,
    prompter: Annotated[
        str | None,
        typer.Option(
            "--prompter",
            "-p",
            help="A strategy, a+b, none (see `visprompt list`), or a folder of a saved one. "
            "[default: falip; none with a question]",
            show_default=False,
        ),
    ] = None,
    options: StrategyFlags,
    query: Annotated[str | None, typer.Option("--query", "-q", help="The question, as an option.")] = None,
    block: Annotated[
        list[int] | None,
        typer.Option(
            "--block",
            help="Block whose attention is shown; negative from the end. Several for models that write. "
            "[default: the last; half-way and the mean of all for models that write]",
            show_default=False,
        ),
    ] = None,
    max_new_tokens: TokensArg = 20,
    out: Annotated[Path, typer.Option("--out", help="The PNG to write.")] = Path("visprompt.png"),
    loading: InputFlags,
) -> None:
    """Save a figure of where a model looks: for a question, or at a region without and with a strategy."""
    from visprompt.cli import show_heatmap as cli_heat
    from visprompt.plots import base as plots
    from visprompt.utils.files import require_file

    if not plots.have_matplotlib():
        plots.new_figure((1.0, 1.0))  # raises an error if plots cannot be drawn, before a model is loaded
    if out.suffix.lower() != ".png":
        raise InvalidInputError(f"--out should end in .png; got {out}.")
    text = _one_of(question, query)
    require_file(out, "--out")
    # The request comes first, so that a bad image or region is reported before the model is loaded.
    request = request_of(image, regions.of(image), text, together=True)
    name = prompter or ("falip" if text is None else "none")
    made = prompter_of(name, options.preset, options.option, saved=True)
    chosen = checked_fit(loading.fit)
    loaded = model_of(model, loading.device, loading.dtype)
    if loaded.generates:
        figure = cli_heat.answers(loaded, request, made, name, chosen, block, max_new_tokens)
    elif text is not None and (made is None or hasattr(made, "heatmaps")):
        figure = cli_heat.heatmap(loaded, request, made, chosen, block)
    else:
        figure = cli_heat.before_and_after(loaded, request, made, name, chosen, block)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(plots.to_png(figure))
    typer.echo(f"wrote {out}", err=True)


def _one_of(question: str | None, query: str | None) -> str | None:
    if question is not None and query is not None:
        raise InvalidInputError("the question is given twice: behind the image, and as --query.")
    return question if query is None else query


def score(
    image: ImageArg,
    texts: Annotated[list[str], typer.Argument(help="The texts to score.", show_default=False)],
    *,
    regions: RegionFlags,
    model: ModelArg = DEFAULT_MODEL,
    prompter: SavedPrompterArg = "none",
    options: StrategyFlags,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    fit: FitArg = "model",
    device: DeviceArg = "auto",
) -> None:
    """Score texts against an image, or against regions of it."""
    from visprompt.runner.runner import Runner

    request = request_of(image, regions.of(image), None)
    made = prompter_of(prompter, options.preset, options.option, saved=True)
    if made is None and regions:
        raise InvalidInputError("a region without a strategy changes nothing: name one with --prompter, e.g. falip.")
    chosen = checked_fit(fit)
    scores = Runner(model_of(model, device), made, fit=chosen, progress=False).score(request, texts).float()
    probs = scores.softmax(dim=-1)
    names = [repr(one) for one in request.regions] or ["whole image"]
    rows = [
        {
            "region": name,
            "scores": dict(zip(texts, line.tolist(), strict=True)),
            "probs": dict(zip(texts, share.tolist(), strict=True)),
        }
        for name, line, share in zip(names, scores, probs, strict=True)
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    _print_scores(f"{model}, {prompter}", texts, names, scores.tolist(), probs.tolist())


def _print_scores(
    title: str, texts: list[str], names: list[str], scores: list[list[float]], probs: list[list[float]]
) -> None:
    """Prints a table with one row per region: logits, and their softmax over the texts."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"{title}: logits (softmax over the texts)"), title_justify="left")
    table.add_column("region")
    for text in texts:
        table.add_column(escape(text), justify="right")
    for name, line, share in zip(names, scores, probs, strict=True):
        best = max(line)
        cells = [f"{value:.2f} ({part:.0%})" for value, part in zip(line, share, strict=True)]
        table.add_row(
            escape(name),
            *(f"[bold]{cell}[/bold]" if value == best else cell for cell, value in zip(cells, line, strict=True)),
        )
    Console(emoji=False).print(table)
