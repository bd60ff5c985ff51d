"""The fraction of a patch's attention gain that remains after saving the patch and the image in files of 8 bits.

    python benchmarks/patch_survival.py                            # learns a patch on bundled:scenes-clip, 400 scenes
    python benchmarks/patch_survival.py --patch runs/patch --markdown

Directly: the learned patch in floating point, pasted into the model's normalised input. In use: the saved patch of 8
bits, pasted into the image at its own resolution, the image rounded to 8 bits, written to a file and read, then the
model's processor. Both mark the same positions in the same images; the result is the ratio of the gains, with a 95 %
interval from a bootstrap over images. A patch from `--patch` has 8 bits already: the direct way then differs only in
the pasting.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from visprompt.benchmarks.measuring import print_table

import visprompt as vp
from visprompt.data.scenes.unlabelled import generated
from visprompt.learned.strategy import Learned
from visprompt.models.lvlm.vision_encoder import encoder_of
from visprompt.regions.shapes import Box
from visprompt.tasks.gain import marked_square
from visprompt.training.objectives.patch_attention import spread
from visprompt.training.patch.pasting import Marks, Normalisation, paste_batch
from visprompt.visual_prompt import Fit, VisualPrompt

#: (width, height), pixels: smaller than the bundled models' input, equal, larger, and not square
SIZES = ((48, 48), (64, 64), (100, 100), (224, 224), (500, 500), (160, 100), (300, 500), (1024, 768))
#: file formats: Pillow's format, and its options
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "PNG": ("PNG", {}),
    "JPEG 90": ("JPEG", {"quality": 90}),
    "JPEG 75": ("JPEG", {"quality": 75}),
}
_SEED, _RESAMPLES, _BATCH = 551, 2000, 50

Masses = NDArray[np.float64]


@dataclass(frozen=True)
class Survival:
    """The attention gain in the last block, on images of one size.

    Args:
        direct: gain of the patch in floating point at the model's input.
        used: gain of the patch after saving and reading the image.
        kept: `used / direct`.
        low: lower bound of the 95 % interval of `kept`.
        high: upper bound.
        count: number of images.
    """

    direct: float
    used: float
    kept: float
    low: float
    high: float
    count: int


class Way:
    """A set of images with a position in each, marked in several ways.

    Args:
        model: an encoder.
        images: of any sizes; the model's processor resizes them.
        size: side of the patch, tokens.
        fit: how an image is brought to the input's size.
        seed: of the positions.
    """

    def __init__(
        self,
        model: vp.Model,
        images: Sequence[Image.Image],
        size: float,
        *,
        fit: Fit = "model",
        seed: int = _SEED,
    ) -> None:
        self.model, self.images, self.size, self.fit = model, list(images), size, fit
        geometries = [model.geometry(image.size, fit) for image in self.images]
        self.boxes = [marked_square(item, size, [seed, number]) for number, item in enumerate(geometries)]
        self.tiles = [item.tiles[0] for item in geometries]
        self.under = np.stack([item.coverage(box) for item, box in zip(geometries, self.boxes, strict=True)])

    def direct(self, learned: Any) -> Masses:
        """The attention under a patch that is pasted into the model's input without rounding to 8 bits.

        Args:
            learned: a patch strategy in floating point.

        Returns:
            `[n]`, fractions of the readout's attention.
        """
        colours, options = Normalisation.of(self.model.parts.reader), learned.options
        found = []
        for start in range(0, len(self.images), _BATCH):
            part = slice(start, start + _BATCH)
            pixels = torch.stack(
                [self.model.parts.reader.one(image, self.fit)["pixel_values"] for image in self.images[part]]
            )
            with torch.no_grad():
                pasted = paste_batch(
                    pixels,
                    learned.patch(pixels.device),
                    self.marks(part),
                    colours,
                    opacity=options.opacity,
                    blending=options.blending,
                )
                found.append(self.spread_over(pasted))
        return np.asarray((np.concatenate(found) * self.under).sum(axis=1))

    def marks(self, part: slice) -> Marks:
        """The boxes of some images in pixels of the model's input."""
        centres, sides = [], []
        for box, tile in zip(self.boxes[part], self.tiles[part], strict=True):
            x, y = ((a + b) / 2 * s + o for a, b, s, o in zip(*halves(box), tile.scale_xy, tile.offset_xy, strict=True))
            centres.append((y, x))
            sides.append((self.size * tile.patch_hw[0], self.size * tile.patch_hw[1]))
        return Marks(torch.tensor(centres).double(), torch.tensor(sides).double(), torch.ones(len(centres)).double())

    def spread_over(self, pixels: Tensor) -> NDArray[np.float32]:
        """The last block's attention over the tokens of prepared inputs.

        Args:
            pixels: `[n, 3, h, w]`, normalised.

        Returns:
            `[n, P]`, each with sum 1.
        """
        last = self.model.num_blocks - 1
        blank = VisualPrompt(Image.new("RGB", (pixels.shape[-1], pixels.shape[-2])))
        with self.model.prompting([blank] * len(pixels), read=[last], stop=True) as encode:
            return spread(encode(pixels.to(self.model.device, self.model.dtype)).attention[last]).cpu().numpy()

    def used(self, prompter: vp.Prompter | None = None, kind: str = "PNG") -> Masses:
        """The attention at the same positions of images that are marked, written to a file and read.

        Args:
            prompter: marks them; None: no marker.
            kind: file format, one of `FILES`.

        Returns:
            `[n]`, fractions of the readout's attention.
        """
        images = self.images
        if prompter is not None:
            requests = [vp.Request(item, region=box) for item, box in zip(images, self.boxes, strict=True)]
            images = vp.Runner(self.model, prompter, fit=self.fit, progress=False).render(requests)
        seen = vp.Runner(self.model, fit=self.fit, batch_size=_BATCH, progress=False).attention(
            [vp.Request(as_file(image, kind)) for image in images], [-1]
        )
        spreads = np.concatenate([spread(item.values).numpy() for item in seen])
        return np.asarray((spreads * self.under).sum(axis=1))

    def compared(self, learned: Any, saved: vp.Prompter, kind: str = "PNG") -> Survival:
        """Compares the gain after files of one format with the direct gain.

        Args:
            learned: the patch in floating point.
            saved: the same patch, loaded from its file.
            kind: file format, one of `FILES`; the unmarked images pass through the same format.
        """
        unrounded, used = self.direct(learned), self.used(saved, kind)
        before = self.used()
        plain = before if kind == "PNG" else self.used(kind=kind)
        count = len(self.images)
        drawn = np.random.default_rng(0).integers(count, size=(_RESAMPLES, count))
        gains = [
            now[drawn].mean(axis=1) / without[drawn].mean(axis=1) - 1
            for now, without in ((used, plain), (unrounded, before))
        ]
        low, high = np.quantile(gains[0] / gains[1], [0.025, 0.975])
        direct, through = float(unrounded.mean() / before.mean() - 1), float(used.mean() / plain.mean() - 1)
        return Survival(direct, through, through / direct, float(low), float(high), count)


def halves(box: Box) -> tuple[tuple[float, float], tuple[float, float]]:
    """The top left and the bottom right corner of a box, each (x, y)."""
    return (box.x0, box.y0), (box.x1, box.y1)


def as_file(image: Image.Image, kind: str = "PNG") -> Image.Image:
    """The image after writing it to a file in memory and reading it, RGB.

    Args:
        image: the image.
        kind: file format, one of `FILES`.
    """
    form, options = FILES[kind]
    content = BytesIO()
    image.save(content, form, **options)
    content.seek(0)
    return Image.open(content).convert("RGB")


def learn(model: vp.Model, folder: str, data: Any = None, **settings: Any) -> tuple[Any, vp.Prompter]:
    """Learns a patch and saves it.

    Args:
        model: the model it is learned on.
        folder: where it is saved.
        data: as in `Patch.fit`.
        **settings: of `fit`.

    Returns:
        The patch in floating point, and the same loaded from its folder.
    """
    learned: Any = vp.Prompter.from_name("patch")
    # `Learned.fit`, since `Patch.fit` rounds the patch to 8 bits at the end.
    Learned.fit(learned, model, learned.splits(model, data), **settings)
    learned.save_pretrained(folder)
    return learned, vp.Prompter.from_pretrained(folder)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="bundled:scenes-clip", help="an encoder, or a model with a vision tower")
    parser.add_argument("--patch", help="a saved patch; without one, it is learned first, with the defaults")
    parser.add_argument("--count", type=int, default=400, help="scenes")
    parser.add_argument("--sizes", type=int, nargs="+", help="of square images, instead of the usual ones")
    parser.add_argument("--seed", type=int, default=_SEED, help="of scenes and positions")
    parser.add_argument("--fit", default="model", choices=["model", "pad", "squash"])
    parser.add_argument("--markdown", action="store_true")
    given = parser.parse_args()
    model = encoder_of(vp.load_model(given.model))
    if given.patch:
        learned: Any = vp.Prompter.from_pretrained(given.patch)
        saved: vp.Prompter = learned
    else:
        with tempfile.TemporaryDirectory() as folder:
            learned, saved = learn(model, folder)
    rows = []
    for wh in [(side, side) for side in given.sizes] if given.sizes else SIZES:
        data = generated(wh, seed=given.seed, sizes={"train": 1, "validation": 0, "test": given.count}).test
        assert data is not None
        images = [data.image(number) for number in range(given.count)]
        way = Way(model, images, learned.options.size, fit=given.fit, seed=given.seed)
        row = [f"{wh[0]}×{wh[1]}"]
        for kind in FILES:
            one = way.compared(learned, saved, kind)
            row += [f"{one.direct:.2f}"] if kind == "PNG" else []
            row.append(f"{one.used:.2f}: {one.kept:.3f} [{one.low:.3f}, {one.high:.3f}]")
        rows.append(row)
    head = ["image", "directly", *(f"{kind}: ÷ directly" for kind in FILES)]
    what = f"Attention gain of a patch in the last block of {given.model}, n = {given.count}, fit={given.fit}"
    print_table(what, "", head, rows, given.markdown)


if __name__ == "__main__":
    main()
