"""`visprompt inspect`: what is in a learned prompt, where it makes a model look, and how it was trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from visprompt.cli.arguments import (
    DeviceArg,
    DtypeArg,
    SavedArg,
    SavedModelArg,
    backbone_of,
    checked_fit,
    numbers_of,
    saved_of,
    waiting,
)
from visprompt.errors import InvalidInputError, VispromptError
from visprompt.training.progress_images import HasImage, enlarged

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from visprompt.data.labelled.dataset import Labelled
    from visprompt.geometry.geometry import Geometry
    from visprompt.learned.strategy import Learned
    from visprompt.models.base import Model
    from visprompt.plots.learned import BlockLooks, Look
    from visprompt.prompter import Prompter
    from visprompt.request import Region

    #: a name, a picture, and the region that a strategy gets
    _Shown: TypeAlias = tuple[str, Image, Region | None]

#: pictures and blocks that are shown where nothing is asked for
PICTURES, BLOCKS = 2, 4
#: longer side of a map, at least
MAP_PX = 400
#: pictures on which a patch's gain is measured, at most and at least, and the seed of scenes for it
GAINS, FEWEST, SEED = 64, 8, 1
#: side of a patch that is enlarged, pixels
PATCH_PX = 480


def inspect(
    folder: SavedArg,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            "--image",
            help="A picture to look at, or a folder of them; several. Default: scenes, for a bundled model or a patch.",
        ),
    ] = None,
    region: Annotated[
        list[str] | None,
        typer.Option(
            "--region", "-r", help="x0,y0,x1,y1 in pixels, for a strategy that needs one: one for every --image."
        ),
    ] = None,
    model: SavedModelArg = None,
    block: Annotated[
        list[int] | None,
        typer.Option(
            "--block", help="Block whose attention is shown; negative from the end; several. [default: four of them]"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the figures. [default: FOLDER/inspect]")] = None,
    device: DeviceArg = "auto",
    dtype: DtypeArg = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Draw what was learned: a patch, gates, temperatures and tokens by block, attention before and after, curves."""
    from visprompt.learned.strategy import learned_parts
    from visprompt.plots import base as plots
    from visprompt.request import Box
    from visprompt.utils.files import require_folder

    if not plots.have_matplotlib():
        plots.new_figure((1.0, 1.0))  # says what to install
    boxes: list[Any] = [Box(*numbers_of(text, (4,), "--region")) for text in region or []]
    shown, all_of_them = _pictures(image or [], boxes)
    made = saved_of(folder)
    parts = learned_parts(made)
    if not parts:
        raise InvalidInputError(f"{made.name!r} in {folder} has learned nothing, so there is nothing to look into.")
    if out is None:
        named = folder.replace("/", "-").replace(":", "-")
        out = Path(folder) / "inspect" if Path(folder).is_dir() else Path("inspect") / named
    require_folder(out)
    found = [_facts(part) for part in parts]
    figures: dict[str, Any] = {}
    for number, part in enumerate(parts):
        prefix = f"{part.name}-" if len(parts) > 1 else ""
        figures |= {f"{prefix}{name}": figure for name, figure in _own_figures(part, found[number], folder).items()}
    looks, gains = _attention(made, parts[0], model, shown, all_of_them, block, device, dtype)
    figures |= looks
    if gains:
        found[0]["gain_by_block"] = gains
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in figures.items():
        written.append(out / f"{name}.png")
        written[-1].write_bytes(figure if isinstance(figure, bytes) else plots.to_png(figure))
    if as_json:
        content = [{**one, "figures_written": [str(path) for path in written]} for one in found]
        typer.echo(json.dumps(content if len(content) > 1 else content[0], indent=2, ensure_ascii=False, default=str))
    else:
        for part, one in zip(parts, found, strict=True):
            _show(part, one)
    for path in written:
        typer.echo(f"wrote {path}", err=True)


# -- what is known ----------------------------------------------------------------------------------------------------


def _facts(part: Learned) -> dict[str, Any]:
    import dataclasses

    from visprompt.persistence.model_card import figures_of
    from visprompt.plots.learned import HasBlocks

    record = part.record
    blocks = part.blocks_table() if isinstance(part, HasBlocks) else []
    values = [value for row in blocks for name, value in row.items() if name != "block"]
    return {
        "strategy": part.name,
        "options": dataclasses.asdict(part.options),
        "backbone": part.backbone,
        "head": record.get("head"),
        "data": record.get("data"),
        "protocol": record.get("protocol"),
        "parameters": record.get("parameters"),
        "backbone_parameters": record.get("backbone_parameters"),
        "figures": [{**dataclasses.asdict(one), "text": one.text()} for one in figures_of(record)],
        "epochs": record.get("epochs"),
        "best_epoch": record.get("best_epoch"),
        "sweep": record.get("sweep"),
        "gains": record.get("gains") or [],
        "blocks": blocks if any(value is not None for value in values) else [],
    }


def _show(part: Learned, found: dict[str, Any]) -> None:
    from rich.console import Console

    from visprompt.cli.fit import figures_table, sweep_table
    from visprompt.cli.gain_table import gains_table
    from visprompt.models.identity import describe
    from visprompt.persistence.model_card import figures_of, trained_text

    console = Console(emoji=False)
    rows = [("strategy", part.name + _options_text(found["options"])), ("what it is", part.about())]
    if part.backbone:
        blocks, width = part.backbone.get("blocks"), part.backbone.get("width")
        shape = f", {blocks} blocks of width {width}" if blocks and width else ""
        rows.append(("backbone", f"{describe(part.backbone)}{shape}"))
    head = found["head"] or {}
    if head or "pixels" not in part.acts_on:  # nothing reads what paint does
        rows.append(("head", ", ".join(f"{key} {value}" for key, value in head.items()) or "none"))
    rows.append(("trained", trained_text(part.record)))
    for split in ("train", "validation", "test"):
        data = (found["data"] or {}).get(split)
        if data:
            classes = f", {data['classes']} classes" if (data.get("classes") or 0) > 1 else ""
            what = f"items{classes}, {data.get('kind')}"
            what = "pictures without labels" if data.get("kind") == "pictures" else what
            rows.append((split, f"{data.get('name')}: {data.get('n')} {what}"))
    rows.append(("protocol", found["protocol"] or ""))
    if found["epochs"]:
        rows.append(("kept", f"epoch {found['best_epoch']} of {found['epochs']}"))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        if text:
            typer.echo(f"{name:<{width}}  {text}")
    if found["blocks"]:
        console.print(_blocks_table(found["blocks"]))
    if found["sweep"]:
        console.print(sweep_table(found["sweep"]))
    figures = figures_of(part.record)
    if figures:
        console.print(figures_table(figures, "measured"))
    for table in found["gains"]:
        console.print(gains_table(table))
    if found.get("gain_by_block"):
        console.print(_gain_by_block(found["gain_by_block"]))


def _options_text(options: dict[str, Any]) -> str:
    return " (" + ", ".join(f"{key}={value}" for key, value in options.items()) + ")" if options else ""


def _blocks_table(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    from visprompt.plots.learned import COLUMNS, short

    table = Table(title="block by block", title_justify="left")
    shown = [column for column in COLUMNS if any(row.get(column.key) is not None for row in rows)]
    table.add_column("block", justify="right")
    for column in shown:
        table.add_column(column.axis, justify="right")
    for row in rows:
        cells = ["–" if row.get(column.key) is None else short(row[column.key]) for column in shown]
        table.add_row("tokens" if row["block"] < 0 else str(row["block"]), *cells)
    return table


def _gain_by_block(rows: list[dict[str, Any]]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    from visprompt.persistence.model_card import Figure

    table = Table(title=f"attention gain by block, n = {rows[0]['n']}: gain, 95 %", title_justify="left")
    table.add_column("block", justify="right")
    for row in rows:
        table.add_column(escape(row["marker"]), justify="right")
    for cells in zip(*(row["blocks"] for row in rows), strict=True):
        figures = [Figure("", "gain", one["gain"], interval=(one["low"], one["high"])) for one in cells]
        words = [f"{one.text()}  {one.interval_text()}" for one in figures]
        table.add_row(str(cells[0]["block"]), *words)
    return table


# -- figures ----------------------------------------------------------------------------------------------------------


def _own_figures(part: Learned, found: dict[str, Any], folder: str) -> dict[str, Any]:
    """Figures that need no model."""
    from visprompt.plots.learned import blocks_figure, curve_figure, curve_of, tokens_figure

    name = f"{part.name} on {(part.backbone or {}).get('name')}"
    made: dict[str, Any] = {"blocks": blocks_figure(found["blocks"], f"{name}: block by block")}
    if isinstance(part, HasImage):
        content = BytesIO()
        enlarged(part.image(), PATCH_PX).save(content, "PNG")
        made["patch"] = content.getvalue()
    tokens = part.state().get("prompt.tokens")
    if tokens is not None and tokens.ndim == 3 and tokens.shape[1]:
        norms = tokens.float().norm(dim=-1).numpy()
        first = next((row["block"] for row in found["blocks"] if row.get("tokens") is not None), 0)
        made["tokens"] = tokens_figure(norms, first, f"{name}: norms of the prompt tokens")
    rows = _metrics(part, folder)
    if rows:
        made["training"] = curve_figure(curve_of(rows, part.record.get("metric")), f"{name}: training")
    return {key: figure for key, figure in made.items() if figure is not None}


def _metrics(part: Learned, folder: str) -> list[dict[str, Any]]:
    """The rows of the run that was kept: the folder's own, or those of the run of a sweep with the same settings."""
    from visprompt.training.metrics_log import read

    rows = read(folder)
    if rows:
        return rows
    import dataclasses

    wanted = json.loads(json.dumps([dataclasses.asdict(part.options), part.record.get("settings")]))
    for config in sorted(Path(folder).glob("sweep/*/config.json")):
        try:
            entry = json.loads(config.read_text(encoding="utf-8"))["parts"][0]
            if [entry["options"], entry["record"].get("settings")] == wanted:
                return read(config.parent)
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return []


def _attention(
    made: Prompter,
    part: Learned,
    model: str | None,
    shown: list[_Shown],
    data: Labelled | None,
    blocks: list[int] | None,
    device: str,
    dtype: str,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Figures of attention without and with the prompt, and of a patch its gain in every block, with its rows; nothing
    where no picture was given and none is at hand."""
    name = model or str((part.backbone or {}).get("name") or "")
    is_patch = isinstance(part, HasImage) and made is part
    if not shown and not is_patch and not name.startswith("bundled:"):
        typer.echo("no attention maps: give pictures with --image", err=True)
        return {}, []
    loaded = backbone_of(part, model, device, dtype)
    if is_patch:
        from visprompt.models.lvlm.vision_encoder import encoder_of

        loaded = encoder_of(loaded)  # of a language model, its vision tower
    if loaded.generates:
        typer.echo(f"no attention maps: {loaded.name} answers in words; visprompt show draws where it looks", err=True)
        return {}, []
    if not shown and not is_patch:
        from visprompt.data.scenes.world import scenes
        from visprompt.request import Box

        found = list(enumerate(scenes(PICTURES, hard=True), 1))
        shown = [(f"scene-{number}", one.pil, Box(*one.objects[one.target].box_xyxy)) for number, one in found]
    figures, rows = _gains(part, loaded, name, data) if is_patch else ({}, [])
    if is_patch:
        shown = _with_places(part, loaded, shown)
    return {**figures, **_maps(made, loaded, name, shown, blocks)}, rows


def _gains(
    part: Learned, model: Model, name: str, data: Labelled | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Gain in every block beside a circle's and random colours', on pictures that were given or on generated scenes."""
    from visprompt.cli.gain_table import Opened, compare, gain_rows
    from visprompt.plots.gain import gain_figure

    pictures = Opened(data or _scenes(model), GAINS)
    if len(pictures) < FEWEST:
        typer.echo(f"no gains: they need {FEWEST} pictures, better 50 (--image FOLDER)", err=True)
        return {}, []
    fit = checked_fit(str(_mapping(part.record.get("settings")).get("fit") or "model"))
    try:
        with waiting("measuring gains"):
            rows = gain_rows(compare(part, model, pictures, fit), name)
    except VispromptError as error:
        typer.echo(f"no gains: {error}", err=True)
        return {}, []
    return {"gain": gain_figure([{**row, "row": row["marker"]} for row in rows])}, rows


def _scenes(model: Model) -> Labelled:
    """Generated scenes as large as the model's input, of a seed that no training has by itself."""
    from visprompt.data.labelled.unlabelled import generated

    height, width = model.geometry((256, 256)).tiles[0].input_hw
    made = generated((width, height), seed=SEED, sizes={"train": 1, "validation": 0, "test": GAINS}).test
    assert made is not None
    return made


def _with_places(part: Learned, model: Model, shown: list[_Shown]) -> list[_Shown]:
    """The same pictures with a place for the patch where none was given; scenes where there are no pictures."""
    from visprompt.tasks.gain import GainMeter

    if not shown:
        scenes = _scenes(model)
        shown = [(f"scene-{number + 1}", scenes.picture(number), None) for number in range(PICTURES)]
    options: Any = part.options
    meter = GainMeter(model, [picture for _, picture, _ in shown], size_tokens=options.size)
    try:
        return [
            (label, picture, region or meter.place(number, picture.size))
            for number, (label, picture, region) in enumerate(shown)
        ]
    except VispromptError:  # larger than the input, as the gains have said
        return shown


def _maps(made: Prompter, model: Model, name: str, shown: list[_Shown], blocks: list[int] | None) -> dict[str, Any]:
    from visprompt.plots.learned import attention_figure

    figures = {}
    for label, picture, region in shown:
        region = region if "region" in made.needs else None
        with waiting(f"looking at {label}"):
            try:
                looks, prompted = looks_of(model, made, picture, blocks, region)
            except VispromptError as error:
                if blocks:
                    raise
                typer.echo(f"no attention maps of {label}: {error}", err=True)
                continue
        title = f"{label}: {made.name} on {name}"
        box = None if region is None else region.xyxy
        figures[f"attention-{label}"] = attention_figure(picture, looks, made.name, title, box, prompted)
    return figures


def _pictures(paths: Sequence[Path], boxes: Sequence[Region]) -> tuple[list[_Shown], Labelled | None]:
    """Pictures to draw maps of, with their regions, and all that were given; of a folder the first ones are drawn."""
    from visprompt.data.labelled.unlabelled import read_pictures, unlabelled
    from visprompt.imaging.load import load_image

    folders = [path for path in paths if path.is_dir()]
    if boxes and (folders or len(boxes) != len(paths)):
        raise InvalidInputError(
            f"--region goes with --image, one for each file; got {len(boxes)} for {len(paths)}"
            f"{', folders among them' if folders else ''}."
        )
    if not paths:
        return [], None
    all_of_them: list[str] = []
    shown: list[_Shown] = []
    for number, path in enumerate(paths):
        if path in folders:
            inner = read_pictures(path, validation=0, on_bad="skip").train.files()
            all_of_them += inner
            shown += [(Path(one).stem, load_image(one), None) for one in inner[:PICTURES]]
        else:
            all_of_them.append(str(path))
            shown.append((path.stem, load_image(path), boxes[number] if boxes else None))
    return shown, unlabelled(all_of_them, on_bad="skip")


def looks_of(
    model: Model,
    made: Prompter,
    picture: Image,
    blocks: Sequence[int] | None = None,
    region: Region | None = None,
) -> tuple[list[BlockLooks], Image]:
    """Attention without and with a prompt in some blocks, and the picture as the prompt has it.

    Args:
        model: the backbone.
        made: the strategy.
        picture: what is looked at.
        blocks: numbers, negative from the end; None: four spread over the depth, the last among them, or the pooling
            head where the model is read through one.
        region: for a strategy that needs one.
    """
    from visprompt.learned.strategy import learned_parts
    from visprompt.plots.learned import BlockLooks
    from visprompt.request import Request
    from visprompt.runner.runner import Runner
    from visprompt.runner.token_attention import token_looks

    request = Request(picture, region=region)
    tower = model.tower
    if blocks is None and tower.readout != "probe":
        count = min(tower.num_blocks, BLOCKS)
        blocks = sorted({round((place + 1) * tower.num_blocks / count) - 1 for place in range(count)})
    # Pictures come into the model as they did in training.
    settings = [_mapping(part.record.get("settings")) for part in learned_parts(made)]
    fit = checked_fit(next((str(one["fit"]) for one in settings if one.get("fit")), "model"))
    (before,) = Runner(model, None, fit=fit, progress=False).attention(Request(picture), blocks)
    (after,) = Runner(model, made, fit=fit, progress=False).attention(request, blocks)
    (prompt,) = made.edit_all([unit.with_(fit=fit) for unit in request.units()], model)
    tokens = {look.block: look for look in token_looks(model, prompt, before.blocks)}
    looks = [
        BlockLooks(
            number,
            _look(before.values[place].mean(0).cpu().numpy(), before.geometry),
            _look(after.values[place].mean(0).cpu().numpy(), after.geometry),
            _look(tokens[number].patches.mean(0), after.geometry) if number in tokens else None,
            tokens[number].readout if number in tokens else None,
        )
        for place, number in enumerate(before.blocks)
    ]
    return looks, prompt.picture


def _look(shares: np.ndarray, geometry: Geometry) -> Look:
    """`[P]` shares of attention as a map over the picture."""
    from visprompt.plots.learned import Look

    total = float(shares.sum())
    # Whole patches: nobody should read more into a map than the model has.
    values = geometry.to_map(shares * (shares.size / total if total > 0 else 1.0), "nearest", outside=float("nan"))
    step = max(1, max(values.shape) // MAP_PX)
    return Look(values[::step, ::step], total)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
