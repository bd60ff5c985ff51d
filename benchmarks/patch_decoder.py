"""Does a language model's decoder look where a patch is that was learned on its vision tower alone?

    python benchmarks/patch_decoder.py                      # bundled:scenes-llava and the patch that ships for it
    python benchmarks/patch_decoder.py --model llava-hf/llava-1.5-7b-hf --patch runs/patch --count 200 --markdown

The attention gain as on encoders, of the decoder: the share of what falls on the image's image tokens that falls on
the marked ones while the answer is written (mean over heads and the answer's tokens), against the same tokens of the
image as it is. Places are squares of the patch's size anywhere in generated scenes, and questions are asked in turn
that have nothing to do with them. The circle is inscribed in the square; random patches have the patch's shape and
size, and colours drawn anew for every few images.
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

#: asked in turn
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
    """Share of every decoder block's attention over the image that falls on the marked tokens, `[n, B]`.

    Args:
        model: a vision-language model that sees an image in one tile.
        prompters: mark the images in turn; None: nothing does.
        images: any.
        size: of the marked square, tokens of the vision tower.
        seed: of the places.
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
    parser.add_argument("--patch", help="a saved patch; default: the one that ships for the model")
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
