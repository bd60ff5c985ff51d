"""`visprompt inspect`: shows the parameters of a learned prompt, its effect on attention, and its training curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visprompt.cli.arguments import DeviceArg, DtypeArg, SavedArg, SavedModelArg, numbers_of, saved_of
from visprompt.cli.inspect_attention import attention_figures, opened
from visprompt.errors import InvalidInputError
from visprompt.persistence.prompt_image import HasImage
from visprompt.training.progress_images import IMAGE, enlarged, png_of

if TYPE_CHECKING:
    from visprompt.learned.strategy import Learned

#: side in pixels of an enlarged patch
PATCH_PX = 480


def inspect(
    folder: SavedArg,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            "--image",
            help="An image to look at, or a folder of them; several. Default: scenes, for a bundled model or a patch.",
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
    """Draw what was learned: a patch, gates, temperatures and tokens per block, attention before and after, curves."""
    from visprompt.learned.strategy import learned_parts
    from visprompt.plots import base as plots
    from visprompt.request import Box
    from visprompt.utils.files import require_folder

    if not plots.have_matplotlib():
        plots.new_figure((1.0, 1.0))  # raises an error that says what to install
    boxes: list[Any] = [Box(*numbers_of(text, (4,), "--region")) for text in region or []]
    shown, all_of_them = opened(image or [], boxes)
    made = saved_of(folder)
    parts = learned_parts(made)
    if not parts:
        raise InvalidInputError(f"{made.name!r} in {folder} has learned nothing, so there is nothing to look into.")
    out = _folder_for(folder) if out is None else out
    require_folder(out)
    found = [_facts(part) for part in parts]
    figures: dict[str, Any] = {}
    for part, facts in zip(parts, found, strict=True):
        prefix = f"{part.name}-" if len(parts) > 1 else ""
        figures |= {f"{prefix}{name}": figure for name, figure in _own_figures(part, facts, folder).items()}
    looks, gains = attention_figures(made, parts[0], model, shown, all_of_them, block, device, dtype)
    figures |= looks
    if gains:
        found[0]["gain_by_block"] = gains
    written = _write(figures, out)
    _print(parts, found, written, as_json)


def _print(parts: list[Learned], found: list[dict[str, Any]], written: list[Path], as_json: bool) -> None:
    """Prints the facts about every part, as JSON or as tables, and the files written."""
    if as_json:
        content = [{**one, "figures_written": [str(path) for path in written]} for one in found]
        typer.echo(json.dumps(content if len(content) > 1 else content[0], indent=2, ensure_ascii=False, default=str))
    else:
        for part, one in zip(parts, found, strict=True):
            _show(part, one)
    for path in written:
        typer.echo(f"wrote {path}", err=True)


def _folder_for(folder: str) -> Path:
    """Returns the default folder of the figures: in the prompt's folder, or `inspect` for a prompt from the hub."""
    if Path(folder).is_dir():
        return Path(folder) / "inspect"
    return Path("inspect") / folder.replace("/", "-").replace(":", "-")


def _write(figures: dict[str, Any], out: Path) -> list[Path]:
    """Writes figures as PNG files and returns their paths."""
    from visprompt.plots.base import to_png

    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in figures.items():
        written.append(out / f"{name}.png")
        written[-1].write_bytes(figure if isinstance(figure, bytes) else to_png(figure))
    return written


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

    from visprompt.cli.fit_tables import figures_table, sweep_table
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
    if head or "pixels" not in part.acts_on:  # a strategy that edits pixels has no head
        rows.append(("head", ", ".join(f"{key} {value}" for key, value in head.items()) or "none"))
    rows.append(("trained", trained_text(part.record)))
    for split in ("train", "validation", "test"):
        data = (found["data"] or {}).get(split)
        if data:
            classes = f", {data['classes']} classes" if (data.get("classes") or 0) > 1 else ""
            what = f"items{classes}, {data.get('kind')}"
            what = "images without labels" if data.get("kind") == "images" else what
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

    from visprompt.persistence.model_card import Metric

    table = Table(title=f"attention gain by block, n = {rows[0]['n']}: gain, 95 %", title_justify="left")
    table.add_column("block", justify="right")
    for row in rows:
        table.add_column(escape(row["marker"]), justify="right")
    for cells in zip(*(row["blocks"] for row in rows), strict=True):
        figures = [Metric("", "gain", one["gain"], interval=(one["low"], one["high"])) for one in cells]
        words = [f"{one.text()}  {one.interval_text()}" for one in figures]
        table.add_row(str(cells[0]["block"]), *words)
    return table


# -- figures ----------------------------------------------------------------------------------------------------------


def _own_figures(part: Learned, found: dict[str, Any], folder: str) -> dict[str, Any]:
    """Makes the figures that need no model."""
    from visprompt.plots.learned import blocks_figure, tokens_figure
    from visprompt.plots.training_curve import curve_figure, curve_of

    name = f"{part.name} on {(part.backbone or {}).get('name')}"
    made: dict[str, Any] = {"blocks": blocks_figure(found["blocks"], f"{name}: block by block")}
    if isinstance(part, HasImage):
        made[Path(IMAGE).stem] = png_of(enlarged(part.image(), PATCH_PX))
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
    """Returns the metrics of the run that was kept: of the folder, or of the sweep's run with the same settings."""
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
