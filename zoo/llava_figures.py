"""``python -m zoo.llava_figures``: the figures of the LVLM's card, measured on the bundled weights.

Per kind of question on the test split: per cent right with a 95 % interval, plain, with a dimmed image, and with
attention biases. An answer is right when its first word is right and ``<eos>`` follows. The bias is added to the
attention of all rows of the question on the patches of a box, in every block; `visprompt bench scenes-vqa` measures the
same with the package's own strategies.
"""

from __future__ import annotations

import argparse

import torch

from visprompt import bundled
from visprompt.data.scenes.questions import KINDS
from visprompt.utils.statistics import wilson
from zoo.llava_samples import held_out
from zoo.llava_train import answered


def main(arguments: list[str] | None = None) -> None:
    """Prints one table per difficulty.

    Args:
        arguments: the command line; None: that of the process.
    """
    from transformers import AutoModelForImageTextToText

    parser = argparse.ArgumentParser(prog="python -m zoo.llava_figures", description="Measure the bundled LVLM.")
    parser.add_argument("--n", type=int, default=1000, help="questions of each kind (default: 1000)")
    parser.add_argument("--split", default="test", help="test (default) or validation")
    parser.add_argument("--strength", type=float, default=4.0, help="of the bias (default: 4)")
    parser.add_argument("--bfloat16", action="store_true", help="faster on CPUs that have it")
    options = parser.parse_args(arguments)
    dtype = torch.bfloat16 if options.bfloat16 else torch.float32
    folder = bundled.path("scenes-llava")
    model = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    for difficulty, kinds in KINDS.items():
        data = held_out(options.n, 0, difficulty, options.split)
        target, wrong = (options.strength * torch.as_tensor(data[name]).float() for name in ("target", "wrong"))
        ways = torch.stack([torch.zeros_like(target), target, wrong], dim=1)
        plain, gold, astray = answered(model, data, dtype, biases=ways).unbind(1)
        dimmed = answered(model, data, dtype, dim=0.5)[:, 0]
        rows = {"plain": plain, "dimmed by half": dimmed, "gold box": gold, "wrong box": astray}
        asked = torch.as_tensor(data["kinds"])[:, 0]
        print(f"\n{difficulty}, {options.split}, n = {options.n} of each kind")
        print("| | " + " | ".join(rows) + " |\n|" + "---|" * (len(rows) + 1))
        for kind in kinds:
            cells = []
            for right in rows.values():
                hits = int(right[asked == KINDS["easy"].index(kind)].sum())
                low, high = wilson(hits, options.n)
                cells.append(f"{100 * hits / options.n:.1f} ({100 * low:.1f} to {100 * high:.1f})")
            print(f"| {kind} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
