"""The cost of a prompt: FALIP on ViT-B/16 with many regions of one image, as ratios to one plain forward.

    python benchmarks/speed.py                       # transformers, 1 3 10 30 100 regions
    python benchmarks/speed.py --backend open_clip --regions 10
    python benchmarks/speed.py --markdown
    python benchmarks/speed.py tuning                # the cost of a training step of prompt tokens: speed_tuning.py
    python benchmarks/speed.py patch                 # the cost of a training step of a patch: speed_patch.py

All calls are measured in one process, in alternation (plain, shared, plain, shared, …), since machines drift; the ratio
of the shortest times is reported. `--clock cpu` measures processor time on one thread instead of wall time: slower, but
stable on a shared machine. Weights are random, which does not change the cost.

Columns: `shared` is the Runner's way (blocks before the first edit run once, readouts are folded into one sequence, the
last block computes the readout row alone); `expanded` shares the same blocks but runs the first edited block once per
region; `each` is one whole forward per region, as in the authors' code.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from visprompt.benchmarks.measuring import measure, peak_bytes, print_table

import visprompt as vp
from visprompt.models.preprocessing import ImagePixels


def build(backend: str) -> vp.Model:
    """A ViT-B/16 CLIP image tower with random weights, of one of the three backends."""
    torch.manual_seed(0)
    if backend == "transformers":
        from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

        config = CLIPVisionConfig(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            image_size=224,
            patch_size=16,
            projection_dim=512,
        )
        return vp.wrap(CLIPVisionModelWithProjection(config).eval(), CLIPImageProcessor())
    if backend == "open_clip":
        import open_clip

        module, _, transform = open_clip.create_model_and_transforms("ViT-B-16")
        return vp.wrap(module.eval(), transform)
    import timm

    module = timm.create_model("vit_base_patch16_clip_224", num_classes=0).eval()
    return vp.wrap(module, timm.data.create_transform(**timm.data.resolve_model_data_config(module)))


def prompts(model: vp.Model, regions: int) -> list[vp.VisualPrompt]:
    """FALIP prompts (the authors' settings: blocks 8 to 11) for random boxes of one image.

    Args:
        model: gives the geometry.
        regions: number of boxes.
    """
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (224, 224, 3), dtype=np.uint8))
    corners = random.integers(0, 140, (regions, 2))
    boxes = [vp.Box(x, y, x + 60, y + 60) for x, y in corners.tolist()]
    return vp.Prompter.from_name("falip", preset="paper").prompt(vp.Request(image, region=boxes), model)


def expanded(model: vp.Model, items: list[vp.VisualPrompt], cache: ImagePixels) -> Callable[[], Any]:
    """A function that encodes with shared blocks and without folding, for comparison.

    Args:
        model: the model.
        items: prompts on one image.
        cache: preprocessed pixels.
    """
    from dataclasses import replace

    plain = vp.Model(
        model.module, replace(model.parts, tower=replace(model.tower, foldable=False, norms=())), model.name
    )
    return lambda: plain.encode(items, cache=cache)


def own_peak(backend: str, regions: int, batch: int) -> float:
    """Peak memory of this process after one shared forward.

    Args:
        backend: the library.
        regions: number of regions; fewer than one: a plain forward.
        batch: regions per forward.

    Returns:
        GiB.
    """
    model = build(backend)
    items = prompts(model, max(regions, 1))
    if regions < 1:
        items = [items[0].with_(attention=())]
    with torch.no_grad():
        for start in range(0, len(items), batch):
            model.encode(items[start : start + batch])
    return peak_bytes() / 2**30


def peak_gib(backend: str, regions: int, batch: int) -> float:
    """`own_peak` in a separate process, so that other measurements do not count.

    Args:
        backend: the library.
        regions: number of regions; 0: a plain forward.
        batch: regions per forward.

    Returns:
        GiB.
    """
    command = [sys.executable, __file__, "--backend", backend, "--peak-of", str(regions or -1), "--batch", str(batch)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backend", choices=["transformers", "open_clip", "timm"], default="transformers")
    parser.add_argument("--regions", type=int, nargs="+", default=[1, 3, 10, 30, 100])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--batch", type=int, default=64, help="regions per forward, as in the Runner")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Prints a table."""
    if sys.argv[1:2] == ["tuning"]:
        from visprompt.benchmarks import speed_tuning

        speed_tuning.main(sys.argv[2:])
        return
    if sys.argv[1:2] == ["patch"]:
        from visprompt.benchmarks import speed_patch

        speed_patch.main(sys.argv[2:])
        return
    arguments = _parser().parse_args()
    if arguments.peak_of:
        print(own_peak(arguments.backend, arguments.peak_of, arguments.batch))
        return
    if arguments.clock == "cpu":
        torch.set_num_threads(1)
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    model = build(arguments.backend)
    rows = []
    with torch.no_grad():
        for count in arguments.regions:
            cache = ImagePixels()
            items = prompts(model, count)
            plain = [items[0].with_(attention=())]
            parts = [items[i : i + arguments.batch] for i in range(0, count, arguments.batch)]
            calls: dict[str, Callable[[], Any]] = {
                "plain": lambda plain=plain, cache=cache: model.encode(plain, cache=cache),  # type: ignore[misc]
                "shared": lambda parts=parts, cache=cache: [model.encode(part, cache=cache) for part in parts],  # type: ignore[misc]
            }
            if count <= 10:
                calls["expanded"] = expanded(model, items, cache)
                calls["each"] = lambda items=items, cache=cache: model.encode(items, share_prefix=False, cache=cache)  # type: ignore[misc]
            best = measure(calls, arguments.repeats if count <= 30 else 2, clock)
            ratio = {name: value / best["plain"] for name, value in best.items()}
            memory = [peak_gib(arguments.backend, regions, arguments.batch) for regions in (0, count)]
            rows.append(
                [
                    str(count),
                    f"{best['plain'] * 1e3:.0f}",
                    *(f"{ratio[name]:.2f}" if name in ratio else "" for name in ("shared", "expanded", "each")),
                    f"{count / best['shared']:.1f}",
                    f"{memory[1]:.2f}",
                    f"{memory[1] - memory[0]:.2f}",
                ]
            )
    head = [
        "regions",
        "plain ms",
        "shared ÷ plain",
        "expanded ÷ plain",
        "each ÷ plain",
        "regions/s",
        "peak GiB",
        "of it above plain",
    ]
    what = f"FALIP, ViT-B/16, {arguments.backend}"
    print_table(what, arguments.clock, head, rows, arguments.markdown)


if __name__ == "__main__":
    main()
