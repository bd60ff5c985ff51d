"""``python -m zoo``: trains the bundled models and writes them into the package.

    python -m zoo                                  # all, into visprompt/bundled: what `make zoo` does
    python -m zoo scenes-clip --into /somewhere    # one, elsewhere
    python -m zoo patches                          # the learned patches of all of them; patch-scenes-clip: of one
    python -m zoo --export-only                    # exports the current checkpoints, also during training

After a kill, the same command resumes from the last checkpoint in ``--work``. ``make bench`` evaluates the result.
The LVLM starts from the vision tower of scenes-clip in visprompt/bundled, and patches are learned on the models there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from visprompt import bundled
from zoo.export import export
from zoo.llava_export import export_llava
from zoo.llava_train import LLAVA_RECIPES, train_llava
from zoo.mae_export import export_mae
from zoo.mae_train import MAE_RECIPES, train_mae
from zoo.patches import PATCH_RECIPES, make_patch
from zoo.train import RECIPES, train


def main(arguments: list[str] | None = None) -> None:
    """Trains and exports models.

    Args:
        arguments: the command line; None: that of the process.
    """
    known = [*RECIPES, *LLAVA_RECIPES, *MAE_RECIPES, *PATCH_RECIPES]
    parser = argparse.ArgumentParser(prog="python -m zoo", description="Train the bundled models and patches.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(known)} or patches; default: all, in this order"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("build/zoo"), help="checkpoints and logs (default: build/zoo)"
    )
    parser.add_argument("--into", type=Path, help="folder for the model folders (default: visprompt/bundled)")
    parser.add_argument("--export-only", action="store_true", help="export existing checkpoints without training")
    options = parser.parse_args(arguments)
    names = [one for name in options.names for one in (PATCH_RECIPES if name == "patches" else [name])]
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"there is no recipe for {', '.join(unknown)}; there are {', '.join(known)}")
    for name in names or known:
        if name in PATCH_RECIPES:
            recipe = PATCH_RECIPES[name]
            home = bundled.path(recipe.model).parent / "patches" / recipe.model
            folder = home if options.into is None else options.into / "patches" / home.name
            if options.export_only and not (options.work / name / "prompt.safetensors").is_file():
                parser.error(f"{name} is not learned yet in {options.work}: run it without --export-only")
            make_patch(recipe, options.work, folder)
            print(f"{name}: written to {folder}")
            continue
        home = bundled.path(name)
        checkpoint = options.work / f"{name}.pt"
        folder = home if options.into is None else options.into / home.name
        if name in LLAVA_RECIPES:
            if not options.export_only:
                train_llava(LLAVA_RECIPES[name], options.work)
            steps = export_llava(checkpoint, folder)
        elif name in MAE_RECIPES:
            if not options.export_only:
                train_mae(MAE_RECIPES[name], options.work)
            steps = export_mae(checkpoint, folder)
        else:
            if not options.export_only:
                train(RECIPES[name], options.work)
            steps = export(checkpoint, folder)
        print(f"{name}: {steps} steps, written to {folder}")


if __name__ == "__main__":
    main()
