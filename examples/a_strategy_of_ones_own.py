"""Defines a strategy, `fade`, which takes the colour away from everything but the region, softly; uses and measures it.

    python examples/a_strategy_of_ones_own.py
    python examples/a_strategy_of_ones_own.py photo.jpg 40,30,200,180

It is measured on generated scenes, and one image (yours, if you name one) is written as the strategy changes it.
docs/adding-a-strategy.md says how a package offers its strategy by name, to the command line and to suites.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageFilter

import visprompt as vp
from visprompt.data.scenes import scenes


@dataclass(frozen=True)
class FadeOptions(vp.Options):
    softness: float = 0.03  # of the edge, as a share of the image's shorter side


class Fade(vp.Prompter):
    """Takes the colour away from everything but the region, with a soft edge."""

    Options = FadeOptions
    acts_on = frozenset({"pixels"})
    needs = frozenset({"region"})

    def edit(self, prompt: vp.VisualPrompt, model: vp.Model) -> vp.VisualPrompt:
        image = prompt.image
        inside = sum(region.rasterise(image.size) for region in prompt.regions).clip(0, 1)  # [height, width], 0 to 1
        blur = ImageFilter.GaussianBlur(self.options.softness * min(image.size))
        mask = Image.fromarray((255 * inside).astype("uint8")).filter(blur)
        return prompt.with_(image=Image.composite(image, image.convert("L").convert("RGB"), mask))


def main() -> None:
    model, worlds = vp.load_model("bundled:scenes-clip"), scenes(100, hard=True)
    requests = [vp.Request(one.pil, region=vp.Box(*one.objects[0].box_xyxy)) for one in worlds]
    texts = [[f"a {thing.name}" for thing in one.objects] for one in worlds]
    falip = vp.Prompter.from_name("falip")
    for name, prompter in [("none", None), ("fade", Fade()), ("falip", falip), ("fade+falip", Fade() + falip)]:
        runner = vp.Runner(model, prompter, progress=False)
        right = [int(runner.score([one], words).argmax()) == 0 for one, words in zip(requests, texts, strict=True)]
        print(f"{name:10} names the object in the box in {sum(right)} of {len(right)} scenes")

    if len(sys.argv) == 3:
        requests = [vp.Request(sys.argv[1], region=vp.Box(*map(float, sys.argv[2].split(","))))]
    out = Path("runs/examples/a_strategy_of_ones_own.png")
    out.parent.mkdir(parents=True, exist_ok=True)
    vp.Runner(model, Fade(FadeOptions(softness=0.05)), fit="pad").render(requests[:1])[0].save(out)
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
