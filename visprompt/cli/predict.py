"""`visprompt predict`: classifies images with the head of a learned prompt."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visprompt.cli.arguments import DeviceArg, DtypeArg, SavedArg, SavedModelArg, backbone_of, saved_of
from visprompt.errors import InvalidInputError, VispromptError
from visprompt.utils.progress import progress_bar

if TYPE_CHECKING:
    from visprompt.request import Request
    from visprompt.runner.predictions import Prediction
    from visprompt.utils.jsonl import RowLog

#: number of images read at a time
AT_ONCE = 64
ROWS = "predictions.jsonl"


def predict(
    folder: SavedArg,
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.", show_default=False)],
    model: SavedModelArg = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Append rows to this .jsonl; for class maps: the folder for their PNGs."),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="So many classes, the most probable first.")] = 3,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Leave out images that --out has already, or start over.")
    ] = True,
    device: DeviceArg = "auto",
    dtype: DtypeArg = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Classify images, or every pixel of them, with a prompt that `visprompt fit` learned."""
    from visprompt.runner.predictions import with_head
    from visprompt.runner.runner import Runner

    paths = images_of(images)
    made = saved_of(folder)
    part = with_head(made)
    dense = (part.record.get("head") or {}).get("kind") == "pup"
    log = _log(out, dense, resume)
    run = _run_of(made)
    done = {} if log is None else {row["id"]: row for row in log.rows(run)}
    loaded = backbone_of(part, model, device, dtype)
    runner = Runner(loaded, made, progress=False)
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    with progress_bar("predicting", len(paths), hidden=not as_json and out is None) as advance:
        for batch in _batches(paths, done, top, rows, problems):
            found = runner.predict([request for _, _, request in batch])
            for (path, content, request), one in zip(batch, found, strict=True):
                row = {"run": run, "id": str(path), "file": content, "wanted": top, **_row(one, top)}
                if one.mask is not None and out is not None:
                    row["mask"] = _write_mask(out, _name(path, paths), request, one)
                rows.append(row)
                if log is not None:
                    log.append([row])
                if not as_json:
                    typer.echo(_line(row))
            advance(len(batch))
    if problems:
        warnings.warn(f"{len(problems)} of {len(paths)} images left out; the first: {problems[0]}", stacklevel=1)
    if not rows:
        raise InvalidInputError("none of the images can be used.")
    if as_json:
        order = {str(path): index for index, path in enumerate(paths)}
        rows.sort(key=lambda row: order[row["id"]])
        typer.echo(json.dumps([_shown(row) for row in rows], indent=2, ensure_ascii=False))
    if out is not None:
        again = sum(1 for row in rows if row.get("again"))
        reused = f", {again} of them from before" if again else ""
        typer.echo(f"wrote {len(rows)} predictions{reused} to {out}", err=True)


def images_of(paths: Sequence[Path]) -> list[Path]:
    """Returns image files as they are, and the sorted images of folders.

    Raises:
        InvalidInputError: for a path that does not exist, or a folder without images.
    """
    from visprompt.data.labelled.items import IMAGE_SUFFIXES

    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(one for one in path.rglob("*") if one.suffix.lower() in IMAGE_SUFFIXES and one.is_file())
            if not inside:
                raise InvalidInputError(f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise InvalidInputError(f"{path}: there is no such image or folder.")
    return list(dict.fromkeys(found))


def _log(out: Path | None, dense: bool, resume: bool) -> RowLog | None:
    from visprompt.utils.files import require_file, require_folder
    from visprompt.utils.jsonl import RowLog

    if out is None:
        return None
    if not dense and out.suffix.lower() != ".jsonl":
        raise InvalidInputError(f"--out should end in .jsonl, one row per image; got {out}.")
    if dense and out.suffix:
        raise InvalidInputError(f"--out is a folder here, for a PNG of the classes per image; got {out}.")
    path = require_folder(out) / ROWS if dense else require_file(out, "--out")
    if not resume:
        path.unlink(missing_ok=True)
    return RowLog(path)


def _run_of(made: Any) -> str:
    from visprompt.utils.hashing import digest

    return digest(made.describe())


def _batches(
    paths: list[Path], done: dict[str, dict[str, Any]], top: int, rows: list[dict[str, Any]], problems: list[str]
) -> Iterator[list[tuple[Path, str, Request]]]:
    """Yields readable images that are not done yet, some at a time; the others are added to `rows` or `problems`."""
    from visprompt.request import Request
    from visprompt.utils.hashing import file_digest

    batch: list[tuple[Path, str, Request]] = []
    for path in paths:
        try:
            content = file_digest(path)
            known = done.get(str(path))
            if known is not None and known.get("file") == content and known.get("wanted", 0) >= top:
                rows.append({**known, "again": True})
                continue
            request = Request(path)
            request.units()
        except VispromptError as error:
            problems.append(str(error))
            continue
        batch.append((path, content, request))
        if len(batch) == AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _row(found: Prediction, top: int) -> dict[str, Any]:
    return {
        "label": found.label,
        "number": found.number,
        "probability": round(found.probability, 6),
        "top": {name: round(value, 6) for name, value in found.top(top).items() if value > 0},
    }


def _line(row: dict[str, Any]) -> str:
    """Formats a row for the terminal: `cat.jpg: cat 97.1 %, dog 2.0 %`."""
    return f"{row['id']}: " + ", ".join(f"{name} {100 * value:.1f} %" for name, value in row["top"].items())


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    image = {"image": row["id"]}
    return image | {key: row[key] for key in ("label", "number", "probability", "top", "mask") if key in row}


def _write_mask(out: Path, name: str, request: Request, found: Prediction) -> str:
    from visprompt.plots import base as plots
    from visprompt.plots.segmentation import class_colours, mask_figure, mask_png
    from visprompt.utils.files import write_bytes, write_text

    assert found.mask is not None
    out.mkdir(parents=True, exist_ok=True)
    legend = out / "classes.json"
    if not legend.exists():
        colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in class_colours(found.classes)]
        entries = {
            str(number): {"name": one, "colour": colour}
            for number, (one, colour) in enumerate(zip(found.classes, colours, strict=True))
        }
        write_text(legend, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
    if plots.have_matplotlib():
        look = plots.to_png(mask_figure(request.pil_image, found.mask, found.classes, name))
        write_bytes(out / f"{name}-look.png", look)
    write_bytes(out / f"{name}.png", mask_png(found.mask, found.classes))
    return f"{name}.png"


def _name(path: Path, paths: Iterable[Path]) -> str:
    """Returns a unique file name without ending, with folders and then the original ending added if names collide."""
    folders = [part for part in path.parent.parts if part not in (path.anchor, "..")]
    if sum(1 for one in paths if one.stem == path.stem) == 1:
        return path.stem
    if sum(1 for one in paths if one.with_suffix("") == path.with_suffix("")) == 1:
        return "-".join([*folders, path.stem])
    return "-".join([*folders, path.stem, path.suffix.removeprefix(".")])
