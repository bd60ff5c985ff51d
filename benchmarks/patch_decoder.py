"""Attention gain in an LVLM's decoder of a patch that was learned on its vision tower alone.

    python benchmarks/patch_decoder.py                      # bundled:scenes-llava and its bundled patch
    python benchmarks/patch_decoder.py --model llava-hf/llava-1.5-7b-hf --patch runs/patch --count 200 --markdown

The attention gain is defined as on encoders, for the decoder: the fraction of the attention on image tokens that falls
on the marked ones during the answer (mean over heads and the answer's tokens), compared with the same tokens of the
unmarked image. The marked squares have the patch's size and random positions in generated scenes; the questions do not
refer to them. The circle is inscribed in the square; random patches have the patch's shape and size, and random colours
that change every few images.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from visprompt.benchmarks.measuring import print_table

import visprompt as vp
from visprompt.data.scenes.unlabelled import generated
from visprompt.tasks.gain import Masses, marked_square, mass_on, random_patch, summary

#: each image gets the next one
QUESTIONS = (
    "what colour is the leftmost object?",
    "how many objects are there?",
    "is there a red star?",
    "what shape is the topmost object?",
)
_SEED, _RANDOM = 552, 16


def decoder_masses(
    model: Any, prompters: Sequence[vp.Prompter] | None, images: Sequence[Image.Image], size: float, seed: int = _SEED
) -> Masses:
    """The fraction of every decoder block's attention on the image that falls on the marked tokens.

    Args:
        model: a vision-language model that sees an image in one tile.
        prompters: mark the images in turn; None: no marker.
        images: any images.
        size: side of the marked square, tokens of the vision tower.
        seed: of the positions.

    Returns:
        `[n, B]`, a value per image and block.
    """
    found: list[Masses] = []
    runners = [vp.Runner(model, one, batch_size=16, progress=False) for one in prompters or [None]]
    for number, image in enumerate(images):
        tower = model.geometry_of(vp.VisualPrompt(image), tower="vision")
        box = marked_square(tower, size, [seed, number])
        asked = vp.Request(image, region=box if prompters else None, query=QUESTIONS[number % len(QUESTIONS)])
        [seen] = runners[number % len(runners)].attention(asked)
        found.append(mass_on(seen.values.float().numpy(), seen.geometry.coverage(box)))
    return np.stack(found)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="bundled:scenes-llava")
    parser.add_argument("--patch", help="a saved patch; default: the bundled one for the model")
    parser.add_argument("--count", type=int, default=500, help="scenes")
    parser.add_argument("--side", type=int, default=64, help="of the scenes, pixels")
    parser.add_argument("--markdown", action="store_true")
    given = parser.parse_args()
    model: Any = vp.load_model(given.model)
    patch: Any = vp.Prompter.from_pretrained(given.patch) if given.patch else vp.Prompter.from_name("patch").on(model)
    data = generated(
        (given.side, given.side), seed=_SEED, sizes={"train": 1, "validation": 0, "test": given.count}
    ).test
    assert data is not None
    images = [data.image(number) for number in range(given.count)]
    without = decoder_masses(model, None, images, patch.options.size)
    markers: dict[str, list[vp.Prompter]] = {
        "patch": [patch],
        "random patches": [random_patch(patch, seed) for seed in range(_RANDOM)],
        "red circle": [vp.Prompter.from_name("circle")],
    }
    rows = []
    for label, prompters in markers.items():
        masses = decoder_masses(model, prompters, images, patch.options.size)
        gains = summary(masses, without, range(without.shape[1]))
        rows.append([label, *(f"{one.gain:.2f} [{one.low:.2f}, {one.high:.2f}]" for one in gains)])
    head = ["marker", *(f"block {block}" for block in range(without.shape[1]))]
    what = f"Attention gain in the decoder of {given.model}, n = {given.count}"
    print_table(what, "", head, rows, given.markdown)


if __name__ == "__main__":
    main()
