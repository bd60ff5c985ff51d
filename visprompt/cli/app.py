"""The command line: `visprompt list | show | score | ask | answer | export | fit | predict | inspect | bench`.

This module imports only typer; commands import what needs torch when they run, so that `--help` is fast.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import warnings
from typing import Annotated, Any

import typer

import visprompt
from visprompt.cli.answer_export import answer, export
from visprompt.cli.arguments import is_first_process
from visprompt.cli.ask import ask
from visprompt.cli.bench import bench
from visprompt.cli.fit import fit
from visprompt.cli.flags import with_flags
from visprompt.cli.inspect import inspect
from visprompt.cli.predict import predict
from visprompt.cli.show_score import score, show
from visprompt.errors import VispromptError, unknown_name

_EPILOG = "Example: visprompt show photo.jpg --region 40,30,200,180 --prompter falip --out shown.png"
app = typer.Typer(
    name="visprompt",
    help="Make a vision model look where you want, without touching its weights.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_debug = False


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"visprompt {visprompt.__version__}")
        raise typer.Exit()


@app.callback()
def _settings(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    global _debug
    _debug = debug


@app.command("list", epilog="Example: visprompt list strategies --json")
def list_(
    what: Annotated[str, typer.Argument(help="strategies, models or suites.")] = "strategies",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the strategies that are installed, the models that ship with visprompt, or the suites."""
    known = {"strategies": _strategies, "models": _models, "suites": _suites}
    if what not in known:
        raise unknown_name("list", what, known)
    rows = known[what]()
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False, default=str))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=what, title_justify="left")
    shown = [key for key in rows[0] if key != "options"] if rows else []
    for key in shown:
        table.add_column(
            key.replace("_", " "),
            style="bold" if key == "name" else "",
            no_wrap=key in ("name", "needs", "origin"),
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(escape(_short(key, row[key])) for key in shown))
    console = Console(emoji=False)
    console.print(table)
    if what == "strategies":
        console.print("Join with + (one after the other) or | (sum of scores): circle+falip, crop|falip.", style="dim")
    if what == "models":
        console.print(
            "Also: any transformers hub id or folder, open_clip:NAME/TAG, timm:NAME, remote:NAME. A patch is a learned "
            "prompt: -p patch finds it on its model, -p bundled:patch-… takes it to any other.",
            style="dim",
        )


def _strategies() -> list[dict[str, Any]]:
    from visprompt.registry import list_strategies

    order = ("name", "summary", "acts_on", "needs", "presets", "origin", "options")
    found = [dataclasses.asdict(info) for info in list_strategies()]
    return [{key: row[key] for key in order} for row in found]


def _models() -> list[dict[str, Any]]:
    # Not through visprompt.models: that would import torch for a list of names.
    from visprompt import bundled

    return [
        {
            "name": f"bundled:{name}",
            "patch": bundled.patch_of(name),
            "folder": str(bundled.path(name)),
        }
        for name in bundled.names()
    ]


def _suites() -> list[dict[str, Any]]:
    from visprompt.bench.suite import list_suites, load_suite

    found = [load_suite(name) for name in list_suites()]
    return [{"name": one.name, "title": one.title, "tasks": [task.key for task in one.tasks]} for one in found]


def _short(key: str, value: Any) -> str:
    """Returns a cell of the table: "built in" for visprompt's own strategies; `--json` has their version."""
    from visprompt.registry import OWN_DISTRIBUTION

    own = key == "origin" and str(value).partition(" ")[0] == OWN_DISTRIBUTION
    return "built in" if own else _text(value)


def _text(value: Any) -> str:
    return ", ".join(str(one) for one in value) if isinstance(value, list | tuple) else str(value)


#: commands with their own module and their example, in the order of `--help`
_COMMANDS = (
    (show, "visprompt show cat.jpg --region 40,30,200,180 -p circle+falip -o strength=2 --out cat.png"),
    (score, 'visprompt score cat.jpg "a cat" "a dog" --region 40,30,200,180 -p falip --json'),
    (ask, 'visprompt ask cat.jpg "What is it doing?" --region 40,30,200,180 -p circle --save asked.png'),
    (answer, "visprompt answer mm-vet.json -b mm-vet -m llava-hf/llava-1.5-7b-hf -p api --out out.json"),
    (export, "visprompt export mm-vet.json -b mm-vet -p api -m openai/clip-vit-base-patch16 --out out"),
    (fit, "visprompt fit gated -m bundled:scenes-clip --data scenes:count --epochs 20 --out runs/count"),
    (predict, "visprompt predict runs/count photo.jpg more/ --top 3 --out labels.jsonl"),
    (inspect, "visprompt inspect runs/count --image photo.jpg --block 5 --block -1"),
    (bench, "visprompt bench scenes --limit 100 --out runs/first"),
)
for _command, _example in _COMMANDS:
    app.command(_command.__name__, epilog=f"Example: {_example}")(with_flags(_command))


def main() -> None:
    """Runs the command line; errors that visprompt raises become one line on standard error and exit code 2."""
    warnings.showwarning = _warn
    # Before torch is imported: threads that wait by spinning make small models five times slower as soon as anything
    # else wants a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        app()
    except VispromptError as error:
        if _debug:
            raise
        _say("red", "error", error)
        sys.exit(2)
    except OSError as error:  # for example a full disk, or a deleted folder
        if _debug:
            raise
        _say("red", "error", f"{error.filename or type(error).__name__}: {error.strerror or error}")
        sys.exit(2)


def _warn(message: Any, category: Any, *_: Any, **__: Any) -> None:
    hidden = (DeprecationWarning, FutureWarning, PendingDeprecationWarning)
    if is_first_process() and not issubclass(category, hidden):
        _say("yellow", "warning", message)


def _say(colour: str, kind: str, message: Any) -> None:
    # Processes of one run mostly fail for the same reason, but one that fails alone must still be reported.
    of = "" if is_first_process() else " in another process"
    typer.secho(f"{kind}{of}: {' '.join(str(message).split())}", fg=colour, err=True)


if __name__ == "__main__":
    main()
