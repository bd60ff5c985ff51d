"""`visprompt fit`: learns a prompt for a frozen model from images, with or without labels."""

from __future__ import annotations

import dataclasses
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from visprompt.cli.arguments import grid_of, is_first_process, model_of, options_of, own_device, prompter_of, waiting
from visprompt.cli.fit_output import announce, compare_markers, had_ended, say_if_short, show
from visprompt.cli.flags import DeviceFlags, SettingsOf, StrategyFlags, settings_of
from visprompt.errors import InvalidInputError, UnsupportedError, unknown_name
from visprompt.training.settings import CHOOSING, TRAINING, FitSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from visprompt.data.labelled.splits import Splits
    from visprompt.learned.strategy import Learned
    from visprompt.models.base import Model

#: fraction of the training images that is split off for validation
SHARE = 0.2
_DATA, _TRAINING, _CHOOSING = "Data", "Training (default: what the strategy's authors used)", "Choosing and resuming"


@dataclass(frozen=True)
class DataFlags:
    """Flags of `fit` for the training data."""

    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="A folder, a .csv or .jsonl file, scenes:NAME, hf:NAME; for patch images alone are enough, and "
            "without --data it learns on generated scenes.",
            rich_help_panel=_DATA,
        ),
    ] = None
    format: Annotated[
        str | None,
        typer.Option(
            "--format", help="folder, csv, jsonl, vtab, fgvc, ade20k, hf, scenes or images.", rich_help_panel=_DATA
        ),
    ] = None
    data_option: Annotated[
        list[str] | None,
        typer.Option("--data-option", help="key=value for the format's reader.", rich_help_panel=_DATA),
    ] = None
    validation: Annotated[
        float,
        typer.Option(
            "--validation", help="Fraction split off if the data have no validation part.", rich_help_panel=_DATA
        ),
    ] = SHARE
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most N images of every part.", rich_help_panel=_DATA)
    ] = None
    on_bad: Annotated[
        str | None,
        typer.Option(
            "--on-bad",
            help="Bad images: refuse, or skip with a warning. [default: refuse; skip without labels]",
            rich_help_panel=_DATA,
            show_default=False,
        ),
    ] = None
    check: Annotated[
        bool, typer.Option("--check", help="Open every image before training starts.", rich_help_panel=_DATA)
    ] = False

    def require(self, made: Learned, out: Path) -> None:
        """Checks, before a model is loaded, that the flags fit together and fit the strategy.

        Args:
            made: the strategy.
            out: folder of the run.

        Raises:
            InvalidInputError: if they do not.
            UnknownNameError: for a value of `--on-bad` that does not exist.
        """
        if self.data is not None and Path(self.data).expanduser().resolve() == out.expanduser().resolve():
            raise InvalidInputError(f"--out {out} is the folder of the data: give the run a folder of its own.")
        if self.on_bad not in (None, "refuse", "skip"):
            raise unknown_name("way of --on-bad", self.on_bad, ("refuse", "skip"))
        if self.data is None and not _learns_without_labels(made):
            raise InvalidInputError(f"{made.name!r} learns from labelled images: give them with --data.")
        if self.data is None and (self.data_option or self.format or self.on_bad or self.validation != SHARE):
            raise InvalidInputError(
                "--format, --data-option, --on-bad and --validation go with --data; without it, scenes are generated."
            )

    def read(self, seed: int, labels: bool) -> Splits | None:
        """Reads the data of `--data`; returns None without `--data`.

        Args:
            seed: seed of splits and limits.
            labels: False: only images are read.

        Raises:
            InvalidInputError: if the data cannot be read, or `--data-option` sets something that has its own flag.
        """
        from visprompt.data.labelled.splits import load_splits

        options = options_of(self.data_option)
        for name in ("where", "format", "validation", "on_bad", "seed", "limit", "labels"):
            if name in options:
                raise InvalidInputError(
                    f"--data-option {name}=…: that has an option of its own, see visprompt fit --help."
                )
        if self.data is None:
            return None
        common: dict[str, Any] = {
            "validation": self.validation,
            "on_bad": self.on_bad or ("refuse" if labels else "skip"),
            "seed": seed,
            "limit": self.limit,
            "labels": labels,
        }
        with waiting(f"reading {self.data}"):
            return load_splits(self.data, self.format, **common, **options)


@dataclass(frozen=True)
class ChoosingFlags:
    """Flags of `fit` for the sweep, and for resuming a run."""

    sweep: Annotated[
        list[str] | None,
        typer.Option(
            "--sweep",
            help="name=value,value: train all, keep the best on validation; settings and options of the strategy. "
            "Several: every combination.",
            rich_help_panel=_CHOOSING,
        ),
    ] = None
    final: Annotated[
        bool,
        typer.Option(
            "--final", help="After choosing, train on train and validation together.", rich_help_panel=_CHOOSING
        ),
    ] = False
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Start again; by default a stopped run continues.", rich_help_panel=_CHOOSING),
    ] = False


def fit(
    strategy: Annotated[str, typer.Argument(help="A strategy that learns: gated, vpt, patch, …", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder for checkpoints, figures and the prompt.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Model, as in vp.load_model; its weights do not change.")],
    source: DataFlags,
    options: StrategyFlags,
    given: Annotated[dict[str, Any], SettingsOf(FitSettings, {TRAINING: _TRAINING, CHOOSING: _CHOOSING})],
    choosing: ChoosingFlags,
    loading: DeviceFlags,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="name=value, any other setting: --set momentum=0.8 --set tensorboard=true.",
            rich_help_panel=_TRAINING,
            show_default=False,
        ),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare/--no-compare", help="At the end, measure a patch, a red circle and random colours."),
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Learn a prompt (and a head) for a frozen model; the same command continues a run that was stopped."""
    from visprompt.utils.files import require_folder

    made = _learned(strategy, options)
    settings, grid = settings_of(given, setting), grid_of(choosing.sweep)
    seed = _checked(made, settings, grid)
    require_folder(out)
    source.require(made, out)
    loaded, splits = _loaded(made, model, source, loading, seed)
    first = is_first_process()
    if first and not quiet and _learns_without_labels(made):
        announce(splits, out, bool(grid))
        if not {"epochs", "max_steps"} & {*settings, *grid}:
            say_if_short(made, settings, len(splits.train))
    ended = first and not choosing.restart and had_ended(out)
    started = time.monotonic()
    how: dict[str, Any] = {"sweep": grid or None, "final": choosing.final, "restart": choosing.restart}
    with _interruptible(first):
        fitted = made.fit(loaded, splits, out=out, progress=not quiet, **how, **settings)
    seconds = time.monotonic() - started
    if not first:
        return
    if ended:
        typer.echo(f"{out}: this run had ended before; its results follow (--restart: train again)", err=True)
    if compare and _learns_without_labels(made) and not made.record.get("gains"):
        with waiting("comparing it with a red circle and random colours"):
            compare_markers(made, loaded, splits, out)
    show(made, fitted, out, model, as_json, None if ended else seconds)


def _loaded(made: Learned, model: str, source: DataFlags, loading: DeviceFlags, seed: int) -> tuple[Model, Splits]:
    """Loads the data, then the model, so that errors in the data are reported first."""
    splits = source.read(seed, labels=not _learns_without_labels(made))
    loaded = model_of(model, own_device(loading.device), loading.dtype)
    if splits is None:
        # A strategy that learns without labels needs no data: scenes of the model's input size are generated.
        splits = made.splits(loaded, None, seed=seed).limited(source.limit, seed)  # type: ignore[attr-defined]
    if source.check:
        with waiting("opening every image"):
            splits = splits.check()
    return loaded, splits


def _learns_without_labels(made: Learned) -> bool:
    return getattr(made, "splits", None) is not None


def _learned(name: str, options: StrategyFlags) -> Learned:
    """Returns the strategy, which must have learnable parts."""
    from visprompt.learned.strategy import Learned
    from visprompt.registry import list_strategies

    made = prompter_of(name, options.preset, options.option)
    if not isinstance(made, Learned):
        known = ", ".join(sorted(one.name for one in list_strategies() if "training" in one.needs))
        several = " Learn one, and join it with others when it is used." if "+" in name or "|" in name else ""
        raise UnsupportedError(f"{name!r} has nothing to learn. Strategies that learn: {known}.{several}")
    return made


def _checked(made: Learned, given: dict[str, Any], grid: dict[str, list[Any]]) -> int:
    """Checks, before data and model are loaded, that settings and sweep can be used; returns the seed.

    Raises:
        UnknownNameError: for a setting or option that does not exist.
        InvalidInputError: for a value that it cannot have.
    """
    from visprompt.registry import checked_options
    from visprompt.registry import settings as of_strategy
    from visprompt.training.settings import settings_from

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


@contextmanager
def _interruptible(first: bool) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if first:
            typer.echo("stopped; the same command goes on from the last checkpoint", err=True)
        raise
