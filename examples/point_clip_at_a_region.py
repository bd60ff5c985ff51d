"""Points CLIP at a region in several ways, and shows which text it then finds and where it looks.

    python examples/point_clip_at_a_region.py
    python examples/point_clip_at_a_region.py dog.jpg 40,30,200,180 "a dog" "a cat" --model openai/clip-vit-base-patch16

Without arguments it takes a generated scene and a CLIP that ships with the package, so nothing is downloaded.
"""

import argparse
from pathlib import Path

import visprompt as vp
from visprompt.data.scenes import scene
from visprompt.plots import before_after, share_in_box, to_png

WAYS = ("no prompt", "circle", "crop", "falip")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", help="a file; by default a generated scene")
    parser.add_argument("box", nargs="?", help="x0,y0,x1,y1 in pixels of the image")
    parser.add_argument("texts", nargs="*", help="what may be in the box")
    parser.add_argument("--model", default="bundled:scenes-clip", help="what visprompt.load_model takes")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/point_clip_at_a_region.png"))
    given = parser.parse_args()

    if given.image:
        if not given.box or len(given.texts) < 2:
            parser.error("an image of your own needs a box and two texts or more")
        box, texts = vp.Box(*map(float, given.box.split(","))), given.texts
        request = vp.Request(given.image, region=box)
    else:
        world = scene(7, hard=True)
        box, texts = vp.Box(*world.objects[0].box_xyxy), [f"a {thing.name}" for thing in world.objects]
        request = vp.Request(world.pil, region=box)
        print(f"In the box is {texts[0]}.")

    model = vp.load_model(given.model)
    runners = {way: vp.Runner(model, None if way == WAYS[0] else vp.Prompter.from_name(way)) for way in WAYS}
    for way, runner in runners.items():
        chances = runner.score([request], texts).softmax(-1)[0].tolist()
        best = max(range(len(texts)), key=chances.__getitem__)
        print(f"{way:10} finds {texts[best]} ({chances[best]:.0%})")

    image, rendered = request.pil_image, runners["falip"].render([request])[0]
    maps = [runners[way].attention([request])[0].image_map() for way in ("no prompt", "falip")]
    before, after = (share_in_box(one, image.size, box.xyxy) for one in maps)
    print(f"Attention on the box in the last block: {before:.0%} without a prompt, {after:.0%} with FALIP.")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_bytes(to_png(before_after(image, rendered, *maps, box.xyxy, box.xyxy, label="falip")))
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
