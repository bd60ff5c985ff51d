"""`visprompt fit`: learn a prompt for a frozen model from pictures, with labels or without."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visprompt.cli.arguments import (
    DeviceArg,
    DtypeArg,
    OptionArg,
    PresetArg,
    grid_of,
    is_first_process,
    model_of,
    options_of,
    own_device,
    prompter_of,
    waiting,
)
from visprompt.errors import InvalidInputError, UnsupportedError, VispromptError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from visprompt.data.labelled.splits import Splits
    from visprompt.learned.strategy import Learned
    from visprompt.models.base import Model
    from visprompt.persistence.model_card import Figure
    from visprompt.training.result import Fitted

#: of the training pictures, split off for validation
SHARE = 0.2
#: what the patches that ship took
ENOUGH_STEPS = 2400
_DATA, _TRAINING, _CHOOSING = "Data", "Training (default: what the strategy's authors used)", "Choosing and going on"


def _setting(flag: str, words: str, **more: Any) -> Any:
    return typer.Option(flag, help=words, rich_help_panel=_TRAINING, show_default=False, **more)


def fit(
    strategy: Annotated[str, typer.Argument(help="A strategy that learns: gated, vpt, patch, …", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder for checkpoints, figures and the prompt.")],
    model: Annotated[str, typer.Option("--model", "-m", help="As in load_model; its weights stay as they are.")],
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="A folder, a .csv or .jsonl file, scenes:NAME, hf:NAME; for patch pictures alone are enough, and "
            "without --data it learns on generated scenes.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            "--format", help="folder, csv, jsonl, vtab, fgvc, ade20k, hf, scenes or pictures.", rich_help_panel=_DATA
        ),
    ] = None,
    data_option: Annotated[
        list[str] | None,
        typer.Option("--data-option", help="key=value for the format's reader.", rich_help_panel=_DATA),
    ] = None,
    validation: Annotated[
        float,
        typer.Option("--validation", help="Share split off where data have no validation part.", rich_help_panel=_DATA),
    ] = SHARE,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most N pictures of every part.", rich_help_panel=_DATA)
    ] = None,
    on_bad: Annotated[
        str | None,
        typer.Option(
            "--on-bad",
            help="Bad pictures: refuse, or skip with a warning. [default: refuse; skip without labels]",
            rich_help_panel=_DATA,
            show_default=False,
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Open every picture before training starts.", rich_help_panel=_DATA)
    ] = False,
    option: OptionArg = None,
    preset: PresetArg = None,
    epochs: Annotated[int | None, _setting("--epochs", "Passes over the training pictures.")] = None,
    max_steps: Annotated[int | None, _setting("--max-steps", "End after so many optimiser steps.")] = None,
    batch_size: Annotated[int | None, _setting("--batch-size", "Pictures per forward and process.")] = None,
    accumulate: Annotated[int | None, _setting("--accumulate", "Forwards per optimiser step.")] = None,
    optimizer: Annotated[str | None, _setting("--optimizer", "sgd or adamw.")] = None,
    base_lr: Annotated[float | None, _setting("--base-lr", "Learning rate for 256 pictures a step.")] = None,
    lr: Annotated[float | None, _setting("--lr", "The learning rate itself.")] = None,
    weight_decay: Annotated[float | None, _setting("--weight-decay", "Weight decay.")] = None,
    warmup_epochs: Annotated[float | None, _setting("--warmup-epochs", "Epochs over which the rate rises.")] = None,
    precision: Annotated[str | None, _setting("--precision", "no, bf16 or fp16.")] = None,
    checkpointing: Annotated[
        bool | None, _setting("--checkpointing/--no-checkpointing", "Less memory, more time: recompute blocks.")
    ] = None,
    head: Annotated[str | None, _setting("--head", "linear, mlp or zero-shot.")] = None,
    augment: Annotated[str | None, _setting("--augment", "none, flip or crop.")] = None,
    workers: Annotated[int | None, _setting("--workers", "Processes that prepare pictures.")] = None,
    seed: Annotated[int | None, _setting("--seed", "Of splits, initialisation, order, dropout.")] = None,
    setting: Annotated[
        list[str] | None, _setting("--set", "name=value, any other setting: --set momentum=0.8 --set tensorboard=true.")
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            help="name=value,value: train all, keep the best on validation; settings and options of the strategy. "
            "Several: every combination.",
            rich_help_panel=_CHOOSING,
        ),
    ] = None,
    final: Annotated[
        bool,
        typer.Option(
            "--final", help="After choosing, train on train and validation together.", rich_help_panel=_CHOOSING
        ),
    ] = False,
    patience: Annotated[
        int | None,
        typer.Option("--patience", help="Stop after N evaluations without a better one.", rich_help_panel=_CHOOSING),
    ] = None,
    keep: Annotated[
        str | None, typer.Option("--keep", help="Weights that are kept: best or last.", rich_help_panel=_CHOOSING)
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start anew; by default a run goes on.", rich_help_panel=_CHOOSING)
    ] = False,
    device: DeviceArg = "auto",
    dtype: DtypeArg = "auto",
    compare: Annotated[
        bool,
        typer.Option(
            "--compare/--no-compare", help="Measure a patch beside a red circle and random colours at the end."
        ),
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Learn a prompt (and a head) for a frozen model; the same command goes on with a run that was stopped."""
    from visprompt.utils.files import require_folder

    common = {
        "epochs": epochs,
        "max_steps": max_steps,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "optimizer": optimizer,
        "base_lr": base_lr,
        "lr": lr,
        "weight_decay": weight_decay,
        "warmup_epochs": warmup_epochs,
        "precision": precision,
        "checkpointing": checkpointing,
        "head": head,
        "augment": augment,
        "workers": workers,
        "seed": seed,
        "patience": patience,
        "keep": keep,
    }
    made = _learned(strategy, preset, option)
    settings = settings_of(common, setting)
    grid = grid_of(sweep)
    chosen_seed = _checked(made, settings, grid)
    require_folder(out)
    if data is not None and Path(data).expanduser().resolve() == out.expanduser().resolve():
        raise InvalidInputError(f"--out {out} is the folder of the data: give the run a folder of its own.")
    if on_bad not in (None, "refuse", "skip"):
        raise unknown_name("way of --on-bad", on_bad, ("refuse", "skip"))
    # A strategy that learns without labels needs no data: scenes are drawn to the model's measure.
    own = getattr(made, "splits", None)
    reader = options_of(data_option)
    if data is None and own is None:
        raise InvalidInputError(f"{made.name!r} learns from labelled pictures: say where they are with --data.")
    if data is None and (reader or format or on_bad or validation != SHARE):
        raise InvalidInputError(
            "--format, --data-option, --on-bad and --validation go with --data; without it, scenes are generated."
        )
    bad = on_bad or ("refuse" if own is None else "skip")
    splits = None
    if data is not None:
        splits = _splits(data, format, reader, validation, bad, chosen_seed, limit, labels=own is None)
    loaded = model_of(model, own_device(device), dtype)
    if splits is None:
        splits = own(loaded, None, seed=chosen_seed).limited(limit, chosen_seed)  # type: ignore[misc]
    if check:
        with waiting("opening every picture"):
            splits = splits.check()
    first = is_first_process()
    if own is not None and first and not quiet:
        _announce(splits, out, bool(grid))
        if not {"epochs", "max_steps"} & {*settings, *grid}:
            _say_if_short(made, settings, len(splits.train))
    ended = first and not restart and _had_ended(out)
    started = time.monotonic()
    with _interruptible(first):
        fitted = made.fit(
            loaded, splits, out=out, sweep=grid or None, final=final, restart=restart, progress=not quiet, **settings
        )
    seconds = time.monotonic() - started
    if not first:
        return
    if ended:
        typer.echo(f"{out}: this run had ended before; what it gave follows (--restart: train anew)", err=True)
    if own is not None and compare and not made.record.get("gains"):
        with waiting("comparing it with a red circle and random colours"):
            _compare(made, loaded, splits, out)
    _show(made, fitted, out, model, as_json, None if ended else seconds)


def settings_of(common: dict[str, Any], pairs: list[str] | None) -> dict[str, Any]:
    """Settings that were given, as options of their own or with `--set`.

    >>> settings_of({"epochs": 2, "lr": None}, ["momentum=0.8"])
    {'epochs': 2, 'momentum': 0.8}

    Raises:
        InvalidInputError: for one that is given both ways.
    """
    found = {name: value for name, value in common.items() if value is not None}
    for name, value in options_of(pairs).items():
        if name in found:
            raise InvalidInputError(f"{name} is given twice: as --{name.replace('_', '-')} and with --set.")
        found[name] = tuple(value) if isinstance(value, list) else value
    return found


def _learned(name: str, preset: str | None, option: list[str] | None) -> Learned:
    """The strategy, if there is something to learn about it."""
    from visprompt.learned.strategy import Learned
    from visprompt.registry import list_strategies

    made = prompter_of(name, preset, option)
    if not isinstance(made, Learned):
        known = ", ".join(sorted(one.name for one in list_strategies() if "training" in one.needs))
        several = " Learn one, and join it with others when it is used." if "+" in name or "|" in name else ""
        raise UnsupportedError(f"{name!r} has nothing to learn. Strategies that learn: {known}.{several}")
    return made


def _checked(made: Learned, given: dict[str, Any], grid: dict[str, list[Any]]) -> int:
    """Makes sure, before data and model are loaded, that settings and sweep can be used; gives the seed.

    Raises:
        UnknownNameError: for a setting or option that does not exist.
        InvalidInputError: for a value it cannot have.
    """
    from visprompt.registry import checked_options
    from visprompt.registry import settings as of_strategy
    from visprompt.training.settings import FitSettings, settings_from

    defaults = dict(of_strategy(type(made)).get("training") or {})
    settings = [item.name for item in dataclasses.fields(FitSettings)]
    options = [item.name for item in dataclasses.fields(type(made.options))]
    for name, values in grid.items():
        if name not in settings and name not in options:
            raise unknown_name("setting or option to sweep", name, [*settings, *options])
        for value in values:
            if name in options:
                checked_options(type(made.options), made.name, {**dataclasses.asdict(made.options), name: value})
            else:
                settings_from({**defaults, **given}, {name: value})
    return settings_from(defaults, given).seed


def _splits(
    where: str,
    format: str | None,
    options: dict[str, Any],
    validation: float,
    on_bad: Any,
    seed: int,
    limit: int | None,
    labels: bool = True,
) -> Splits:
    from visprompt.data.labelled.dataset import load_splits

    for name in ("where", "format", "validation", "on_bad", "seed", "limit", "labels"):
        if name in options:
            raise InvalidInputError(f"--data-option {name}=…: that has an option of its own, see visprompt fit --help.")
    with waiting(f"reading {where}"):
        return load_splits(
            where, format, validation=validation, on_bad=on_bad, seed=seed, limit=limit, labels=labels, **options
        )


def _announce(splits: Splits, out: Path, sweep: bool) -> None:
    """Says what is learned from, and where it can be watched."""
    from visprompt.training.progress_images import STRIP

    held = {name: len(part) for name in ("validation", "test") if (part := getattr(splits, name)) is not None}
    beside = "".join(f", {n:,} for {name}" for name, n in held.items())
    count = "1 picture" if len(splits.train) == 1 else f"{len(splits.train):,} pictures"
    typer.echo(f"learning from {count} without labels{beside}. {splits.protocol}", err=True)
    typer.echo(f"to watch it: {out / 'sweep' / '*' / STRIP if sweep else out / STRIP}", err=True)


def _say_if_short(made: Learned, given: dict[str, Any], pictures: int) -> None:
    """A patch takes many steps; the epochs that are enough for a thousand pictures are few for twenty."""
    from visprompt.registry import settings as of_strategy
    from visprompt.training.settings import settings_from

    settings = settings_from(dict(of_strategy(type(made)).get("training") or {}), given)
    an_epoch = math.ceil(pictures / (settings.batch_size * settings.accumulate))
    if an_epoch * settings.epochs < ENOUGH_STEPS / 2:
        epochs = math.ceil(ENOUGH_STEPS / an_epoch)
        every = max(epochs * settings.evaluate_every // settings.epochs, 1)
        typer.echo(
            f"note: {settings.epochs} epochs of so few pictures are {an_epoch * settings.epochs:,} steps. The patches "
            f"that ship took {ENOUGH_STEPS:,}: --epochs {epochs} --set evaluate_every={every}.",
            err=True,
        )


def _compare(made: Learned, model: Model, splits: Splits, out: Path) -> None:
    """Measures gain as it is used, beside controls, on held-out pictures; saves it with the rest."""
    from visprompt.cli.gain_table import beats_chance, compare, held_out, told
    from visprompt.persistence.model_card import add_gains, base_name

    part, pictures = held_out(splits)
    if pictures is None:
        return
    fit = str((made.record.get("settings") or {}).get("fit") or "model")
    try:
        results = compare(made, model, pictures, fit)
    except VispromptError as error:
        typer.echo(f"not compared with other markers: {error}", err=True)
        return
    gains, how = told(made, results, base_name([made], model.name), f"{len(pictures)} {part} pictures")
    add_gains(made, gains, len(pictures), how)
    made.save_pretrained(out)
    if not beats_chance(made, results):
        typer.echo(
            f"note: on these {len(pictures)} pictures it is not shown to draw more than random colours do. More steps "
            "(--epochs), more pictures, another size or shape (-o size=…, -o shape=full) may help.",
            err=True,
        )


def _had_ended(out: Path) -> bool:
    """True if a run in the folder has ended; of one that has not, says that it goes on. Whether it is the same run is
    decided by the library, which refuses another."""
    runs = [path for path in (out / "run.json", *sorted((out / "sweep").glob("*/run.json"))) if path.is_file()]
    ended = [path for path in runs if '"finished"' in path.read_text(encoding="utf-8", errors="replace")]
    if out / "run.json" in ended:
        return True
    if runs:
        steps = [path.name.partition("-")[2] for run in runs for path in run.parent.glob("checkpoint-*")]
        at = f" from step {steps[-1]}" if steps else ""
        of_sweep = f"; runs of the sweep that have ended: {len(ended)}" if ended else ""
        typer.echo(f"{out}: going on{at}{of_sweep} (--restart: train anew)", err=True)
    return False


@contextmanager
def _interruptible(first: bool) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if first:
            typer.echo("stopped; the same command goes on from the last checkpoint", err=True)
        raise


# -- what it gave -----------------------------------------------------------------------------------------------------


def _show(made: Learned, fitted: Fitted, out: Path, model: str, as_json: bool, seconds: float | None = None) -> None:
    from visprompt.persistence.model_card import figures_of, trained_text
    from visprompt.training.progress_images import STRIP
    from visprompt.utils.number_text import duration

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
    from rich.console import Console

    from visprompt.cli.gain_table import gains_table

    console = Console(emoji=False)
    if fitted.sweep:
        console.print(sweep_table(fitted.sweep))
    if figures:
        taught = ", as it was taught: at any place, also cut off by the rim" if record.get("gains") else ""
        console.print(figures_table(figures, f"{made.name} on {model}{taught}"))
    else:
        typer.echo("no pictures were held out, so nothing is known about how well it does", err=True)
    for table in record.get("gains") or []:
        console.print(gains_table(table))
    early = ", stopped early" if fitted.stopped_early else ""
    kept = f"epoch {fitted.best_epoch} of {fitted.epochs} kept{early}"
    took = f", {duration(seconds)}" if seconds is not None else ""
    typer.echo(f"trained: {trained_text(record)}; {kept}{took}")
    pictures = "".join(f", {name}" for name in ("patch.png", STRIP) if (out / name).is_file())
    typer.echo(f"wrote {out} (config.json, prompt.safetensors, README.md{pictures})", err=True)
    typer.echo(f"next:  visprompt inspect {out}", err=True)
    if record.get("head") or made.head is not None:
        typer.echo(f"       visprompt predict {out} photo.jpg", err=True)
    elif "region" in made.needs:
        typer.echo(f"       visprompt show photo.jpg -r 40,30,200,180 -m {model} -p {out}", err=True)
    elif any((part or {}).get("kind") == "answers" for part in (record.get("data") or {}).values()):
        typer.echo(f'       visprompt ask photo.jpg "What is this?" -m {model} -p {out}', err=True)


def figures_table(figures: list[Figure], title: str) -> Any:
    """Figures with their intervals, for a terminal."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left")
    for name, side in (("split", "left"), ("figure", "left"), ("value", "right"), ("95 %", "right"), ("n", "right")):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for one in figures:
        cells = (one.split, escape(one.metric.replace("_", " ")), one.text(), one.interval_text(), str(one.n or "–"))
        table.add_row(*cells, style="bold" if one.chosen else "")
    return table


def sweep_table(rows: list[dict[str, Any]]) -> Any:
    """The settings that were tried, best first."""
    from rich.markup import escape
    from rich.table import Table

    from visprompt.persistence.model_card import is_shown

    table = Table(title="sweep, best on validation first", title_justify="left")
    names = list(dict.fromkeys(name for row in rows for name in row if is_shown(name, row)))
    for name in names:
        table.add_column(escape(name), justify="right")
    for row in rows:
        table.add_row(*(escape(_cell(name, row.get(name))) for name in names))
    return table


def _cell(name: str, value: Any) -> str:
    from visprompt.utils.number_text import is_share, shown

    if value is None:
        return "–"
    if isinstance(value, float):
        return shown(name, value) if is_share(name) else f"{value:.4g}"
    return str(value)
