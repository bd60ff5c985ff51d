"""Output of `visprompt fit`: before training, the comparison with other markers, and the results."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from visprompt.errors import VispromptError

if TYPE_CHECKING:
    from visprompt.data.labelled.splits import Splits
    from visprompt.learned.strategy import Learned
    from visprompt.models.base import Model
    from visprompt.persistence.model_card import Metric
    from visprompt.training.result import Fitted

#: number of optimiser steps of the bundled patches
ENOUGH_STEPS = 2400


def announce(splits: Splits, out: Path, sweep: bool) -> None:
    """Prints what is learned from, and the file in which progress can be watched."""
    from visprompt.training.progress_images import STRIP

    held = {name: len(part) for name in ("validation", "test") if (part := getattr(splits, name)) is not None}
    held_out_parts = "".join(f", {n:,} for {name}" for name, n in held.items())
    count = "1 image" if len(splits.train) == 1 else f"{len(splits.train):,} images"
    typer.echo(f"learning from {count} without labels{held_out_parts}. {splits.protocol}", err=True)
    typer.echo(f"to watch it: {out / 'sweep' / '*' / STRIP if sweep else out / STRIP}", err=True)


def say_if_short(made: Learned, given: dict[str, Any], images: int) -> None:
    """Prints a note if the number of optimiser steps is small for a patch.

    The default number of epochs suits about a thousand images; with twenty images it gives few steps.
    """
    from visprompt.registry import settings as of_strategy
    from visprompt.training.settings import settings_from

    settings = settings_from(dict(of_strategy(type(made)).get("training") or {}), given)
    an_epoch = math.ceil(images / (settings.batch_size * settings.accumulate))
    if an_epoch * settings.epochs < ENOUGH_STEPS / 2:
        epochs = math.ceil(ENOUGH_STEPS / an_epoch)
        every = max(epochs * settings.evaluate_every // settings.epochs, 1)
        typer.echo(
            f"note: {settings.epochs} epochs of so few images are {an_epoch * settings.epochs:,} steps. The patches "
            f"that ship took {ENOUGH_STEPS:,}: --epochs {epochs} --set evaluate_every={every}.",
            err=True,
        )


def compare_markers(made: Learned, model: Model, splits: Splits, out: Path) -> None:
    """Measures the gain of the patch and of controls on held-out images and saves it with the strategy."""
    from visprompt.cli.gain_table import beats_chance, compare, gains_for_card, held_out
    from visprompt.persistence.model_card import add_gains, base_name

    part, images = held_out(splits)
    if images is None:
        return
    fit = str((made.record.get("settings") or {}).get("fit") or "model")
    try:
        results = compare(made, model, images, fit)
    except VispromptError as error:
        typer.echo(f"not compared with other markers: {error}", err=True)
        return
    gains, how = gains_for_card(made, results, base_name([made], model.name), f"{len(images)} {part} images")
    add_gains(made, gains, len(images), how)
    made.save_pretrained(out)
    if not beats_chance(made, results):
        typer.echo(
            f"note: on these {len(images)} images it is not shown to draw more than random colours do. More steps "
            "(--epochs), more images, another size or shape (-o size=…, -o shape=full) may help.",
            err=True,
        )


def had_ended(out: Path) -> bool:
    """Returns True if the folder has a finished run; prints a message if it has an unfinished one, which continues.

    The library checks whether it is the same run, and refuses another.
    """
    runs = [path for path in (out / "run.json", *sorted((out / "sweep").glob("*/run.json"))) if path.is_file()]
    ended = [path for path in runs if '"finished"' in path.read_text(encoding="utf-8", errors="replace")]
    if out / "run.json" in ended:
        return True
    if runs:
        steps = [path.name.partition("-")[2] for run in runs for path in run.parent.glob("checkpoint-*")]
        at = f" from step {steps[-1]}" if steps else ""
        of_sweep = f"; runs of the sweep that have ended: {len(ended)}" if ended else ""
        typer.echo(f"{out}: going on{at}{of_sweep} (--restart: train again)", err=True)
    return False


def show(made: Learned, fitted: Fitted, out: Path, model: str, as_json: bool, seconds: float | None = None) -> None:
    """Prints the results of a run: as JSON, or as tables with the commands to run next."""
    from visprompt.persistence.model_card import figures_of

    record = {**made.record, "metric": fitted.metric, "validation": fitted.validation, "test": fitted.test}
    record.setdefault("parameters", fitted.parameters)
    figures = figures_of(record)
    if as_json:
        content = {
            "strategy": made.describe(),
            "model": model,
            "out": str(out),
            "figures": [{**dataclasses.asdict(one), "text": one.text()} for one in figures],
            "parameters": fitted.parameters,
            "backbone_parameters": record.get("backbone_parameters"),
            "epochs": fitted.epochs,
            "best_epoch": fitted.best_epoch,
            "stopped_early": fitted.stopped_early,
            "sweep": fitted.sweep,
            "gains": record.get("gains") or [],
        }
        typer.echo(json.dumps(content, indent=2, ensure_ascii=False, default=str))
        return
    _print_tables(made, fitted, record, figures, model)
    _print_next(made, fitted, out, model, record, seconds)


def _print_tables(made: Learned, fitted: Fitted, record: dict[str, Any], figures: list[Metric], model: str) -> None:
    from rich.console import Console

    from visprompt.cli.fit_tables import figures_table, sweep_table
    from visprompt.cli.gain_table import gains_table

    console = Console(emoji=False)
    if fitted.sweep:
        console.print(sweep_table(fitted.sweep))
    if figures:
        taught = ", as it was taught: at any place, also cut off by the rim" if record.get("gains") else ""
        console.print(figures_table(figures, f"{made.name} on {model}{taught}"))
    else:
        typer.echo("no images were held out, so nothing is known about how well it does", err=True)
    for table in record.get("gains") or []:
        console.print(gains_table(table))


def _print_next(
    made: Learned, fitted: Fitted, out: Path, model: str, record: dict[str, Any], seconds: float | None
) -> None:
    from visprompt.persistence.model_card import trained_text
    from visprompt.training.progress_images import STRIP
    from visprompt.utils.number_text import duration

    early = ", stopped early" if fitted.stopped_early else ""
    kept = f"epoch {fitted.best_epoch} of {fitted.epochs} kept{early}"
    took = f", {duration(seconds)}" if seconds is not None else ""
    typer.echo(f"trained: {trained_text(record)}; {kept}{took}")
    images = "".join(f", {name}" for name in ("patch.png", STRIP) if (out / name).is_file())
    typer.echo(f"wrote {out} (config.json, prompt.safetensors, README.md{images})", err=True)
    typer.echo(f"next:  visprompt inspect {out}", err=True)
    if record.get("head") or made.head is not None:
        typer.echo(f"       visprompt predict {out} photo.jpg", err=True)
    elif "region" in made.needs:
        typer.echo(f"       visprompt show photo.jpg -r 40,30,200,180 -m {model} -p {out}", err=True)
    elif any((part or {}).get("kind") == "answers" for part in (record.get("data") or {}).values()):
        typer.echo(f'       visprompt ask photo.jpg "What is this?" -m {model} -p {out}', err=True)
