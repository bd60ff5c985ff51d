"""`visprompt show` and `visprompt score`: one picture, one place, one strategy."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visprompt.errors import InvalidInputError, VispromptError, unknown_name

if TYPE_CHECKING:
    from visprompt.models.base import Model
    from visprompt.prompter import Prompter
    from visprompt.request import Region, Request
    from visprompt.visual_prompt import Fit

FORMATS = ("xyxy", "xywh", "normalised", "qwen")
DEFAULT_MODEL = "bundled:scenes-clip"
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")

_Image = Annotated[Path, typer.Argument(help="The picture.", show_default=False)]
_Regions = Annotated[
    list[str] | None,
    typer.Option("--region", "-r", help="Four numbers, e.g. 40,30,200,180. May be given several times."),
]
_Format = Annotated[
    str,
    typer.Option(
        "--format", help="What they are: xyxy or xywh in pixels, normalised (0–1, xyxy), qwen (0–1000, xyxy)."
    ),
]
_Points = Annotated[list[str] | None, typer.Option("--point", help="x,y or x,y,radius in pixels.")]
_Masks = Annotated[
    list[Path] | None, typer.Option("--mask", help="A picture as large as the image: bright is the region.")
]
_Model = Annotated[str, typer.Option("--model", "-m", help="As in load_model.")]
_Prompter = Annotated[
    str, typer.Option("--prompter", "-p", help="A strategy, a+b or a|b, or none; see `visprompt list`.")
]
_Preset = Annotated[str | None, typer.Option("--preset", help="Named settings of the strategy, e.g. paper.")]
_Options = Annotated[list[str] | None, typer.Option("--option", "-o", help="key=value, e.g. -o strength=0.5.")]
_Fit = Annotated[str, typer.Option("--fit", help="model (its own crop), pad or squash (the whole picture).")]
_Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps.")]


def show(
    image: _Image,
    region: _Regions = None,
    format: _Format = "xyxy",
    point: _Points = None,
    mask: _Masks = None,
    model: _Model = DEFAULT_MODEL,
    prompter: _Prompter = "falip",
    preset: _Preset = None,
    option: _Options = None,
    query: Annotated[str | None, typer.Option("--query", "-q", help="For strategies that need a text.")] = None,
    block: Annotated[int, typer.Option("--block", help="Block whose attention is shown; negative from the end.")] = -1,
    out: Annotated[Path, typer.Option("--out", help="The PNG to write.")] = Path("visprompt.png"),
    fit: _Fit = "model",
    device: _Device = "auto",
) -> None:
    """Save what a strategy does: the prompted picture, and where the model looks without and with it."""
    from visprompt import plots
    from visprompt.results import require_file
    from visprompt.runner import Runner

    if not plots.have_matplotlib():
        plots.new_figure((1.0, 1.0))  # says what to install, before a model is loaded for nothing
    if out.suffix.lower() != ".png":
        raise InvalidInputError(f"--out should end in .png; got {out}.")
    require_file(out, "--out")
    # The request first: a bad picture or region should not wait for a model.
    request = _request(image, _regions(image, region, format, point, mask), query, together=True)
    made = _prompter(prompter, preset, option)
    chosen = _checked_fit(fit)
    loaded = _model(model, device)
    runner = Runner(loaded, made, fit=chosen, progress=False)
    plain = Runner(loaded, None, fit=chosen, progress=False)
    units = [unit.with_(fit=chosen) for unit in request.units()]
    (prompt,) = units if made is None else made.edit_all(units, loaded)
    rendered = runner.render(request)[0]
    boxes = [one.xyxy for one in request.regions]
    inside = [one.xyxy for one in prompt.regions]
    if "attention" not in loaded.supports:
        figure = plots.picture_pair(request.picture, rendered, boxes[0] if boxes else None, prompter)
    else:
        before = plain.attention(request)[0].image_map(block)
        after = runner.attention(request)[0].image_map(block)
        figure = plots.before_after(
            request.picture,
            rendered,
            before,
            after,
            boxes[0] if len(boxes) == 1 else None,
            inside[0] if len(inside) == 1 else None,
            prompter,
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(plots.to_png(figure))
    typer.echo(f"wrote {out}", err=True)


def score(
    image: _Image,
    texts: Annotated[list[str], typer.Argument(help="The texts to score.", show_default=False)],
    region: _Regions = None,
    format: _Format = "xyxy",
    point: _Points = None,
    mask: _Masks = None,
    model: _Model = DEFAULT_MODEL,
    prompter: Annotated[str, typer.Option("--prompter", "-p", help="A strategy, or none.")] = "none",
    preset: _Preset = None,
    option: _Options = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    fit: _Fit = "model",
    device: _Device = "auto",
) -> None:
    """Score texts against a picture, or against regions of it."""
    from visprompt.runner import Runner

    regions = _regions(image, region, format, point, mask)
    request = _request(image, regions, None)
    made = _prompter(prompter, preset, option)
    if made is None and regions:
        raise InvalidInputError("a region without a strategy changes nothing: name one with --prompter, e.g. falip.")
    chosen = _checked_fit(fit)
    scores = Runner(_model(model, device), made, fit=chosen, progress=False).score(request, texts).float()
    probs = scores.softmax(dim=-1)
    names = [repr(one) for one in request.regions] or ["whole picture"]
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
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    title = escape(f"{model}, {prompter}: logits (softmax over the texts)")
    table = Table(title=title, title_justify="left")
    table.add_column("region")
    for text in texts:
        table.add_column(escape(text), justify="right")
    for name, line, share in zip(names, scores.tolist(), probs.tolist(), strict=True):
        best = max(line)
        cells = [f"{value:.2f} ({part:.0%})" for value, part in zip(line, share, strict=True)]
        table.add_row(
            escape(name),
            *(f"[bold]{cell}[/bold]" if value == best else cell for cell, value in zip(cells, line, strict=True)),
        )
    Console(emoji=False).print(table)


def options_of(pairs: list[str] | None) -> dict[str, Any]:
    """`["strength=0.5", "heads=[0, 1]"]` as a dict; values are read as YAML.

    >>> options_of(["strength=0.5", "fit=pad", "last_block=null"])
    {'strength': 0.5, 'fit': 'pad', 'last_block': None}

    Raises:
        InvalidInputError: for anything that is not key=value.
    """
    import yaml

    found: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise InvalidInputError(f"an option is key=value, e.g. -o strength=0.5; got {pair!r}.")
        try:
            value = yaml.safe_load(text)
            # YAML 1.1 takes 1e-3 for a text; people do not.
            found[key.strip()] = float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value
        except yaml.YAMLError as error:
            raise InvalidInputError(f"option {key.strip()}: {text!r} is not readable YAML.") from error
    return found


def numbers_of(text: str, counts: tuple[int, ...], what: str) -> list[float]:
    """`"1,2,3,4"` (or with spaces) as numbers.

    Raises:
        InvalidInputError: if they are not numbers, or not as many as asked for.
    """
    try:
        values = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        values = []
    if len(values) not in counts:
        wanted = " or ".join(str(count) for count in counts)
        raise InvalidInputError(f"{what} takes {wanted} numbers, e.g. {what} 40,30,200,180; got {text!r}.")
    return values


def _regions(
    image: Path, boxes: list[str] | None, layout: str, points: list[str] | None, masks: list[Path] | None
) -> list[Region]:
    from visprompt.images import load_image
    from visprompt.request import Box, Mask, Point

    if layout not in FORMATS:
        raise unknown_name("format", layout, FORMATS)
    parsed = [numbers_of(text, (4,), "--region") for text in boxes or []]
    found: list[Region] = []
    # Opened only for those that need its size; the request opens it in any case.
    size = load_image(image).size if layout in ("normalised", "qwen") and parsed else (0, 0)
    for x, y, third, fourth in parsed:
        if layout == "xyxy":
            found.append(Box(x, y, third, fourth))
        elif layout == "xywh":
            found.append(Box.from_xywh(x, y, third, fourth))
        elif layout == "normalised":
            found.append(Box.from_normalised(x, y, third, fourth, size))
        else:
            found.append(Box.from_qwen(x, y, third, fourth, size))
    for text in points or []:
        values = numbers_of(text, (2, 3), "--point")
        found.append(Point(*values))
    for path in masks or []:
        import numpy as np

        found.append(Mask(np.asarray(load_image(path).convert("L")) > 127))
    return found


def _request(image: Path, regions: list[Region], query: str | None, together: bool = False) -> Request:
    from visprompt.request import Request

    request = Request(image, region=regions or None, query=query, regions_as="together" if together else "each")
    # Reading it now gives the error about the picture or region before a model is loaded.
    _ = request.regions if regions else request.picture
    return request


def _checked_fit(name: str) -> Fit:
    from visprompt.visual_prompt import FITS

    for fit in FITS:
        if fit == name:
            return fit
    raise unknown_name("fit", name, FITS)


def _prompter(name: str, preset: str | None, option: list[str] | None) -> Prompter | None:
    from visprompt.prompter import Prompter as Maker

    if name == "none":
        if preset or option:
            raise InvalidInputError("--preset and --option belong to a strategy: name it with --prompter.")
        return None
    options = options_of(option)
    for taken in ("name", "preset"):
        if taken in options:
            raise InvalidInputError(f"-o {taken}=…: that is no option of {name!r}; there is --prompter and --preset.")
    try:
        return Maker.from_name(name, preset=preset, **options)
    except VispromptError:
        raise
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"the options {options} of {name!r} cannot be used: {error}.") from error


def _model(spec: str, device: str) -> Model:
    quiet()
    from visprompt.models import load_model

    return load_model(spec, device=device)


def quiet() -> None:
    """Keeps the libraries' own progress bars off the terminal."""
    from transformers.utils import logging

    logging.disable_progress_bar()
