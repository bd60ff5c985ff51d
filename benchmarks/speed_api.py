"""The cost of API's heatmaps, as a ratio to the plain forward of the same images and questions: CLIP ViT-B/16.

    python benchmarks/speed_api.py
    python benchmarks/speed_api.py --clock cpu --backend open_clip --markdown

All calls are measured in one process, in alternation, since machines drift; the ratio of the shortest times is
reported. Weights are random, which does not change the cost. All calls prepare the images in the same way.

Columns: `plain` embeds the images and the questions; `maps` also computes Ψ_cls and S of every image and question;
`strategy` is all of `api`: preparation of the images, maps, masks and overlays (`plain` includes the preparation too).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from visprompt.benchmarks.measuring import measure, print_table

import visprompt as vp
from visprompt.models.attribution import Question, attribute

QUESTION = "what does the small red sign on the left say and who is the person beside it looking at"


def build(backend: str) -> vp.Model:
    """A CLIP ViT-B/16 with its text tower and random weights, of one of the backends."""
    torch.manual_seed(0)
    import open_clip

    tokenizer = open_clip.get_tokenizer("ViT-B-16")
    if backend == "open_clip":
        module, _, transform = open_clip.create_model_and_transforms("ViT-B-16")
        return vp.wrap(module.eval(), transform, tokenizer)
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    config = CLIPConfig(
        vision_config={"patch_size": 16, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
        text_config={},
        projection_dim=512,
    )

    def tokenise(texts: list[str], **_: Any) -> Any:
        from transformers import BatchEncoding

        return BatchEncoding({"input_ids": tokenizer(texts)})

    return vp.wrap(CLIPModel(config).eval(), CLIPImageProcessor(), tokenise)


def material(count: int) -> tuple[list[Image.Image], list[str]]:
    """Random images of the model's input size, and questions."""
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (224, 224, 3), dtype=np.uint8)) for _ in range(count)]
    return images, [" ".join(random.permutation(QUESTION.split())) for _ in range(count)]


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backend", choices=["transformers", "open_clip"], default="transformers")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    if arguments.clock == "cpu":
        torch.set_num_threads(1)
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    model, prompter = build(arguments.backend), vp.Prompter.from_name("api")
    rows = []
    with torch.no_grad():
        for count in arguments.images:
            images, texts = material(count)
            requests = [vp.Request(item, query=text) for item, text in zip(images, texts, strict=True)]
            units = [unit for request in requests for unit in request.units()]
            questions = [Question(item, text) for item, text in zip(images, texts, strict=True)]
            calls: dict[str, Callable[[], Any]] = {
                "plain": lambda units=units, texts=texts: (model.encode(units), model.embed_text(texts)),  # type: ignore[misc]
                "maps": lambda questions=questions: attribute(model, questions),  # type: ignore[misc]
                "strategy": lambda units=units: prompter.edit_all(units, model),  # type: ignore[misc]
            }
            best = measure(calls, arguments.repeats, clock)
            ratio = {name: value / best["plain"] for name, value in best.items()}
            rows.append(
                [
                    str(count),
                    f"{best['plain'] * 1e3:.0f}",
                    f"{ratio['maps']:.3f}",
                    f"{ratio['strategy']:.3f}",
                    f"{count / best['strategy']:.1f}",
                ]
            )
    head = ["images", "plain ms", "maps ÷ plain", "strategy ÷ plain", "images/s"]
    what = f"API, ViT-B/16, {arguments.backend}"
    print_table(what, arguments.clock, head, rows, arguments.markdown)


if __name__ == "__main__":
    main()
