"""Asks a vision-language model a question and shows where its decoder looks while it answers, without and with FALIP.

    python examples/where_an_lvlm_looks.py
    python examples/where_an_lvlm_looks.py photo.jpg 40,30,200,180 "What is this?" --model Qwen/Qwen2.5-VL-3B-Instruct

Without arguments it asks a model that ships with the package about a generated scene. The question was chosen because
the model gets it wrong by itself and right with FALIP; `visprompt bench scenes-vqa` measures how often that happens.
"""

import argparse
from pathlib import Path

import visprompt as vp
from visprompt.data.scenes.questions import scene_questions
from visprompt.plots import to_png
from visprompt.plots.heatmaps import Look, Panel, answer_figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", help="a file; by default a generated scene")
    parser.add_argument("box", nargs="?", help="x0,y0,x1,y1 in pixels of the image: what the question is about")
    parser.add_argument("question", nargs="?")
    parser.add_argument("--model", default="bundled:scenes-llava", help="what visprompt.load_model takes")
    parser.add_argument("--block", type=int, help="decoder block to read; by default the one in the middle")
    parser.add_argument("--out", type=Path, default=Path("runs/examples/where_an_lvlm_looks.png"))
    given = parser.parse_args()

    if given.image:
        if not given.box or not given.question:
            parser.error("an image of your own needs a box and a question")
        image, box, question = given.image, vp.Box(*map(float, given.box.split(","))), given.question
    else:
        asked = scene_questions("test", difficulty="hard", count=6)[5]
        image, box, question = asked.image, vp.Box(*asked.target_boxes[0]), asked.text
        print(f"The right answer is {asked.answer}.")

    model = vp.load_model(given.model)
    block = model.tower.num_blocks // 2 if given.block is None else given.block
    request = vp.Request(image, region=box, query=question)
    looks = []
    for name, prompter in [("without", None), ("with FALIP", vp.Prompter.from_name("falip"))]:
        answer = vp.Runner(model, prompter).answer(request, blocks=[block])[0]
        found = answer.maps[0]
        share = float(found.mass(box).mean() / found.values.mean(1).sum())
        print(f"{name}: {question} {answer.text} ({share:.0%} of its attention to the image is on the box)")
        panel = Panel(f"block {block}\n{share:.0%} of the attention on the box", found.image_map())
        looks.append(Look(name, request.pil_image, request.pil_image, answer.text, (panel,), (), (box.xyxy,)))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_bytes(to_png(answer_figure(question, looks)))
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
