"""Arguments that several commands share: images, regions, a model, a strategy and its options."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visprompt.errors import InvalidInputError, VispromptError, unknown_name

if TYPE_CHECKING:
    from visprompt.learned.strategy import Learned
    from visprompt.models.base import Model
    from visprompt.prompter import Prompter
    from visprompt.request import Region, Request
    from visprompt.visual_prompt import Fit

FORMATS = ("xyxy", "xywh", "normalised", "qwen")
DEFAULT_MODEL = "bundled:scenes-clip"
#: environment variables in which launchers give the rank of the process
_RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")

ImageArg = Annotated[Path, typer.Argument(help="The image.", show_default=False)]
RegionArg = Annotated[
    list[str] | None,
    typer.Option("--region", "-r", help="Four numbers, e.g. 40,30,200,180. May be given several times."),
]
FormatArg = Annotated[
    str,
    typer.Option(
        "--format", help="Coordinates of --region: xyxy or xywh in pixels, normalised (0–1, xyxy), qwen (0–1000, xyxy)."
    ),
]
PointArg = Annotated[list[str] | None, typer.Option("--point", help="x,y or x,y,radius in pixels.")]
MaskArg = Annotated[
    list[Path] | None, typer.Option("--mask", help="A mask image of the image's size; the region is bright.")
]
ModelArg = Annotated[str, typer.Option("--model", "-m", help="Model, as in vp.load_model.")]
SavedPrompterArg = Annotated[
    str,
    typer.Option(
        "--prompter",
        "-p",
        help="A strategy, a+b or a|b, none (see `visprompt list`), a folder of a saved one, or bundled:patch-….",
    ),
]
PresetArg = Annotated[str | None, typer.Option("--preset", help="Named settings of the strategy, e.g. paper.")]
OptionArg = Annotated[list[str] | None, typer.Option("--option", "-o", help="key=value, e.g. -o strength=0.5.")]
FitArg = Annotated[
    str, typer.Option("--fit", help="How the image is resized: model (its own crop), pad or squash (the whole image).")
]
DeviceArg = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps.")]
DtypeArg = Annotated[str, typer.Option("--dtype", help="auto, float32, bfloat16, float16.")]
BaseUrlArg = Annotated[
    str | None,
    typer.Option("--base-url", help="Address of the server of a remote: model, e.g. http://localhost:8000/v1."),
]
SavedArg = Annotated[
    str, typer.Argument(metavar="FOLDER", help="What `visprompt fit` wrote, or a hub id.", show_default=False)
]
SavedModelArg = Annotated[
    str | None, typer.Option("--model", "-m", help="Model, as in vp.load_model; default: the model it was learned on.")
]
TokensArg = Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer, in tokens.")]


def options_of(pairs: list[str] | None) -> dict[str, Any]:
    """Parses `["strength=0.5", "heads=[0, 1]"]` into a dict; values are read as YAML.

    >>> options_of(["strength=0.5", "fit=pad", "last_block=null"])
    {'strength': 0.5, 'fit': 'pad', 'last_block': None}

    Raises:
        InvalidInputError: for a text that is not key=value.
    """
    import yaml

    found: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise InvalidInputError(f"an option is key=value, e.g. -o strength=0.5; got {pair!r}.")
        try:
            found[key.strip()] = _as_meant(yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise InvalidInputError(f"option {key.strip()}: {text!r} is not readable YAML.") from error
    return found


def grid_of(pairs: list[str] | None) -> dict[str, list[Any]]:
    """Parses the values of `--sweep` into lists; each value is read as YAML.

    >>> grid_of(["lr=0.1,1,1e1", "optimizer=sgd,adamw"])
    {'lr': [0.1, 1, 10.0], 'optimizer': ['sgd', 'adamw']}

    Raises:
        InvalidInputError: for a text that is not name=value,value, or a name that is given twice.
    """
    found: dict[str, list[Any]] = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip() or not text.strip():
            raise InvalidInputError(f"a sweep is name=value,value, e.g. --sweep lr=0.1,1,10; got {pair!r}.")
        if key.strip() in found:
            raise InvalidInputError(f"--sweep {key.strip()}=… is given twice: put all values into one.")
        (values,) = options_of([f"{key}=[{text}]"]).values()
        found[key.strip()] = list(values)
    return found


def _as_meant(value: Any) -> Any:
    # YAML 1.1 reads 1e-3 as a text; here it is a number.
    if isinstance(value, list):
        return [_as_meant(item) for item in value]
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


def numbers_of(text: str, counts: tuple[int, ...], what: str) -> list[float]:
    """Parses numbers separated by commas or spaces, such as `"1,2,3,4"`.

    Args:
        text: the numbers.
        counts: allowed numbers of numbers.
        what: name of the option, for the message.

    Raises:
        InvalidInputError: if the text is not numbers, or not as many as allowed.
    """
    try:
        values = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        values = []
    if len(values) not in counts:
        wanted = " or ".join(str(count) for count in counts)
        raise InvalidInputError(f"{what} takes {wanted} numbers, e.g. {what} 40,30,200,180; got {text!r}.")
    return values


def regions_of(
    image: Path, boxes: list[str] | None, layout: str, points: list[str] | None, masks: list[Path] | None
) -> list[Region]:
    """Returns the regions given by `--region`, `--point` and `--mask`, in this order.

    Args:
        image: path of the image, opened if its size is needed.
        boxes: values of `--region`, four numbers each.
        layout: format of the boxes.
        points: values of `--point`, in pixels.
        masks: paths of mask images.

    Returns:
        Regions in pixels of the image.

    Raises:
        InvalidInputError: for numbers that are not a region, or masks that cannot be read.
        UnknownNameError: for a format that does not exist.
    """
    from visprompt.imaging.load import load_image
    from visprompt.request import Box, Mask, Point

    if layout not in FORMATS:
        raise unknown_name("format", layout, FORMATS)
    parsed = [numbers_of(text, (4,), "--region") for text in boxes or []]
    found: list[Region] = []
    # The image is opened only if its size is needed; the request opens it later in any case.
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


def request_of(image: Path, regions: list[Region], query: str | None, together: bool = False) -> Request:
    """Returns the request, with its image read.

    Args:
        image: path of the image.
        regions: regions in pixels of the image.
        query: the question or text, or None.
        together: True: all regions belong to one prompt; False: one prompt per region.

    Raises:
        InvalidInputError: for an image or region that cannot be used, before a model is loaded.
    """
    from visprompt.request import Request

    request = Request(image, region=regions or None, query=query, regions_as="together" if together else "each")
    _ = request.regions if regions else request.pil_image
    return request


def checked_fit(name: str) -> Fit:
    """Returns the value of `--fit` if it exists.

    Raises:
        UnknownNameError: if it does not.
    """
    from visprompt.visual_prompt import FITS

    for fit in FITS:
        if fit == name:
            return fit
    raise unknown_name("fit", name, FITS)


def prompter_of(name: str, preset: str | None, option: list[str] | None, saved: bool = False) -> Prompter | None:
    """Returns the strategy with its options; None for `none`.

    Args:
        name: name of a strategy, or several joined with `+` or `|`.
        preset: named settings of the strategy.
        option: texts `key=value`.
        saved: True: `name` or its parts may also be folders of saved strategies or bundled learned ones.

    Raises:
        UnknownNameError: for a strategy, preset or option that does not exist.
        InvalidInputError: for an option that cannot be used.
    """
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
        if not saved:
            return Maker.from_name(name, preset=preset, **options)
        from visprompt.prompter import prompter_named

        return prompter_named(name, preset, **options)
    except VispromptError:
        raise
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"the options {options} of {name!r} cannot be used: {error}.") from error


def saved_of(folder: str) -> Prompter:
    """Loads a saved strategy from a folder or the hub.

    Raises:
        InvalidInputError: if there is none.
    """
    from visprompt.prompter import Prompter as Maker

    # OWNER/NAME may be a hub id, but if a folder OWNER exists, a typing error is likelier.
    path = Path(folder).expanduser()
    named = path.exists() or folder.startswith("bundled:")
    if not named and (folder.count("/") != 1 or path.parent.is_dir()):
        there = [one.name for one in path.parent.iterdir() if one.is_dir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, there, 1)
        meant = f" Did you mean {str(path.parent / near[0])!r}?" if near else ""
        raise InvalidInputError(
            f"there is no folder {folder!r}: give the --out of `visprompt fit`, or a hub id (OWNER/NAME).{meant}"
        )
    return Maker.from_pretrained(folder)


def backbone_of(made: Learned, model: str | None, device: str, dtype: str = "auto") -> Model:
    """Loads the model that a prompt was learned on, or the model that the user names; a different model is refused.

    Args:
        made: the learned strategy.
        model: the user's model, or None.
        device: where the model is loaded.
        dtype: number type of the weights.

    Raises:
        InvalidInputError: if the model is not known or cannot be loaded.
        UnsupportedError: if it is another model than the prompt was learned on.
    """
    name = model or str((made.backbone or {}).get("name") or "")
    if not name:
        raise InvalidInputError(f"{made.name!r} does not say which model it was learned on: name it with --model.")
    try:
        loaded = model_of(name, device, dtype)
    except VispromptError as error:
        if model is not None:
            raise
        raise InvalidInputError(
            f"the prompt was learned on {name!r}, which cannot be loaded here: {error} If the model lies elsewhere, "
            "give its path with --model."
        ) from error
    made.check_backbone(loaded)
    return loaded


def model_of(spec: str, device: str, dtype: str = "auto", base_url: str | None = None) -> Model:
    """Loads a model while a spinner is shown.

    Args:
        spec: the model, as in `load_model`.
        device: where the model is loaded.
        dtype: number type of the weights.
        base_url: address of the server of a `remote:` model.

    Raises:
        UnknownNameError: if there is no model of that name.
        InvalidInputError: for a server address with a model that is not remote.
    """
    if base_url is not None and not spec.startswith("remote:"):
        raise InvalidInputError(f"--base-url is where a server listens: give --model remote:NAME with it, not {spec}.")
    quiet()
    from visprompt.models import load_model

    with waiting(f"loading {spec}"):
        if base_url is not None:
            return load_model(spec, base_url=base_url)
        return load_model(spec, device=device, dtype=dtype)


def is_first_process() -> bool:
    """True for the process that prints: rank 0 if torchrun, accelerate or MPI started several; imports no torch."""
    ranks = (os.environ.get(name, "") for name in _RANKS)
    return next((rank for rank in ranks if rank), "0") == "0"


def own_device(device: str) -> str:
    """Returns the device of this process: its own if a launcher started several, otherwise the user's choice."""
    from visprompt.training import distributed as processes

    return device if processes.launched() == 1 else str(processes.device())


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows a spinner on standard error, if that is a terminal, during work without known progress."""
    if not sys.stderr.isatty() or not is_first_process():
        yield
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(escape(what) + " …"):
        yield


def quiet() -> None:
    """Turns off the libraries' own progress bars."""
    from transformers.utils import logging

    logging.disable_progress_bar()
