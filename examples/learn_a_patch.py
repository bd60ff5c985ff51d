"""Learns a small pattern that draws a model's attention to where it is pasted, from images without labels.

    python examples/learn_a_patch.py
    python examples/learn_a_patch.py photos/ --model facebook/dinov2-small --epochs 12

Without arguments it learns on a few generated scenes for some seconds, and compares the result with the patch that
ships with the package, which was learned in the same way for longer. patch-progress.png shows the patch at several
steps of the training.
"""

import argparse
from pathlib import Path

import visprompt as vp
from visprompt.data.scenes.unlabelled import generated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="images, with or without labels; by default generated scenes")
    parser.add_argument("--model", default="bundled:scenes-clip", help="what visprompt.load_model takes")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("runs/examples/learn_a_patch"))
    given = parser.parse_args()

    model = vp.load_model(given.model)
    data = given.folder or generated(sizes={"train": 100, "validation": 40, "test": 200})
    prompter = vp.Prompter.from_name("patch")
    fitted = prompter.fit(model, data, out=given.out, epochs=given.epochs)
    measured = {"learned just now": fitted.test or fitted.validation}
    if not given.folder:
        shipped = vp.Prompter.from_pretrained("bundled:patch-scenes-clip")
        measured["that ships"] = shipped.evaluate(model, data.test)
    for name, figures in measured.items():
        gain, low, high = (figures[key] for key in ("gain", "gain_low", "gain_high"))
        shares = f"{figures['mass_without']:.0%} to {figures['mass']:.0%} of the attention on the marked square"
        print(f"patch {name}: from {shares}, a gain of {gain:.2f} (95 % interval {low:.2f} to {high:.2f})")
    print(f"wrote {given.out / 'patch.png'} and {given.out / 'patch-progress.png'}")


if __name__ == "__main__":
    main()
