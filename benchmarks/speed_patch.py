"""The cost of a training step of a patch, relative to a plain forward and backward to the pixels: ViT-B/16, batch 8.

    python benchmarks/speed.py patch                         # timm's ViT and transformers' CLIP: CLS readout
    python benchmarks/speed.py patch --models siglip mae     # readouts: pooling probe, mean of the patches
    python benchmarks/speed.py patch --at -1 5 --markdown    # block 5 alone: later blocks do not run

The reference step (`plain`) is the model's own forward, with its own fused attention, and a backward from the readout
to the pixels: the minimum for any method that changes the image by gradients. Ours is a whole step of `visprompt fit
patch` without the loading of images: the neural prior computes the patch, positions are drawn, the patch is pasted, the
frozen encoder runs, the readout's attention is read, the divergence is propagated back to the prior's weights, and
AdamW updates these. Both run in one process in alternation; medians over rounds are reported (of ratios, the median of
each round's ratio), of wall and of processor time. Weights are random, which does not change the cost.

Memory is as in `speed.py tuning`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from visprompt.benchmarks.measuring import peak_above, print_table, ratio, rounds_of, saved_bytes

import visprompt as vp
from visprompt.data.scenes.unlabelled import generated
from visprompt.registry import settings as defaults_of
from visprompt.training.objectives.patch_attention import AttentionTarget
from visprompt.training.settings import settings_from

SIDE = 224
MODELS = ("timm", "clip", "siglip", "mae")
PLAIN = "plain"


@dataclass(frozen=True)
class Subject:
    """A frozen model, and its own forward.

    Args:
        model: the wrapped model.
        own: pixels `[n, 3, h, w]` → readout `[n, d]`.
    """

    model: vp.Model
    own: Callable[[Tensor], Tensor]


def timm_vit(depth: int) -> Subject:
    """timm's ViT, CLS readout."""
    import timm

    module = timm.create_model("vit_base_patch16_224", num_classes=0, depth=depth).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(module))
    return Subject(vp.wrap(module, transform), module)


def clip(depth: int) -> Subject:
    """transformers' CLIP, CLS readout."""
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=depth, num_attention_heads=12, patch_size=16
    )
    module = CLIPVisionModelWithProjection(config).eval()
    return Subject(vp.wrap(module, CLIPImageProcessor()), lambda pixels: module(pixel_values=pixels).image_embeds)


def siglip(depth: int) -> Subject:
    """transformers' SigLIP: no CLS, a pooling probe after the last block."""
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(num_hidden_layers=depth, image_size=SIDE)
    module = SiglipVisionModel(config).eval()
    return Subject(vp.wrap(module, SiglipImageProcessor()), lambda pixels: module(pixel_values=pixels).pooler_output)


def mae(depth: int) -> Subject:
    """transformers' ViTMAE without masking; the readout is the mean of the patches, which needs every attention row."""
    from transformers import ViTImageProcessor, ViTMAEConfig, ViTMAEModel

    module = ViTMAEModel(ViTMAEConfig(mask_ratio=0.0, num_hidden_layers=depth)).eval()

    def own(pixels: Tensor) -> Tensor:
        noise = torch.arange(196.0).expand(len(pixels), -1)  # sets the order of the patches; none is masked
        return module(pixel_values=pixels, noise=noise).last_hidden_state[:, 1:].mean(1)

    return Subject(vp.wrap(module, ViTImageProcessor()), own)


BUILD: dict[str, Callable[[int], Subject]] = {"timm": timm_vit, "clip": clip, "siglip": siglip, "mae": mae}


class Step:
    """A training step that can be repeated.

    Args:
        subject: the model.
        at: the block whose attention is trained, or `PLAIN`: forward and backward to the pixels alone.
        batch: number of images.
        size: side of the patch, tokens.
    """

    def __init__(self, subject: Subject, at: str, batch: int, size: float = 3.0) -> None:
        self.subject, self.at, self.count = subject, at, 0
        subject.model.module.requires_grad_(False)
        data = generated((SIDE, SIDE), sizes={"train": batch, "validation": 0, "test": 0}).train
        blocks = (-1,) if at == PLAIN else (int(at),)
        prompter: Any = vp.Prompter.from_name("patch", size=size, blocks=blocks)
        prompter.build(subject.model)
        settings = settings_from(dict(defaults_of(type(prompter))["training"]), {"batch_size": batch})
        self.objective = AttentionTarget(subject.model, prompter, {"train": data}, settings)
        samples: Any = self.objective.samples("train")
        collated = self.objective.collate([samples[(index, 0)] for index in range(batch)])
        assert collated is not None
        self.images = collated
        self.optimizer = torch.optim.AdamW(prompter.parameters.parameters(), lr=settings.learning_rate(batch))

    def __call__(self) -> None:
        """Forward and backward; with something to learn, an update as well."""
        pixels: Tensor = self.images["pixel_values"]
        if self.at == PLAIN:
            pixels = pixels.clone().requires_grad_()
            self.subject.own(pixels).square().sum().backward()
            return
        self.count += 1
        self.optimizer.zero_grad()
        draws = [self.count * len(pixels) + number for number in range(len(pixels))]
        with self.objective.loss(self.images, draws) as loss:
            (loss / len(pixels)).backward()
        self.optimizer.step()


def own_peak(name: str, depth: int, at: str, batch: int, size: float) -> int:
    """Peak memory of this process during a step, above its memory before the first step.

    Args:
        name: of the model, one of `MODELS`.
        depth: number of blocks.
        at: as in `Step`.
        batch: number of images.
        size: side of the patch, tokens.

    Returns:
        Bytes.
    """
    step = Step(BUILD[name](depth), at, batch, size)
    return peak_above(step, Step(step.subject, at, 1, size))  # one-time allocations, on one image


def peak_mib(name: str, depth: int, at: str, batch: int, size: float) -> float:
    """`own_peak` in a separate process, in MiB; the same arguments."""
    speed = Path(__file__).with_name("speed.py")
    command = [sys.executable, str(speed), "patch", "--models", name, f"--peak-of={at}", "--blocks", str(depth)]
    command += ["--batch", str(batch), "--size", str(size), "--threads", str(torch.get_num_threads())]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]) / 2**20


def main(arguments: list[str]) -> None:
    """Prints a table.

    Args:
        arguments: the command line after `patch`.
    """
    parser = argparse.ArgumentParser(prog="speed.py patch", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", choices=MODELS, nargs="+", default=["timm", "clip"])
    parser.add_argument("--at", nargs="+", default=["-1"], help="blocks whose attention is trained, one row for each")
    parser.add_argument("--size", type=float, default=3.0, help="of the patch, tokens")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--blocks", type=int, default=12, help="fewer than 12 for a quick look")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    parser.add_argument("--no-peak", action="store_true", help="leave out the processes that measure peak memory")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    if given.peak_of:
        print(own_peak(given.models[0], given.blocks, given.peak_of, given.batch, given.size))
        return
    rows = []
    for name in given.models:
        subject = BUILD[name](given.blocks)
        last = subject.model.num_blocks - 1
        # With a pooling probe only the probe's own attention can be trained.
        wanted = ["-1"] if subject.model.tower.readout == "probe" else list(dict.fromkeys(given.at))
        steps = {at: Step(subject, at, given.batch, given.size) for at in (PLAIN, *wanted)}
        times = rounds_of(dict(steps), given.rounds)
        for at, step in steps.items():
            way = PLAIN if at == PLAIN else f"patch, block {int(at) % (last + 1)} of 0–{last}"
            row = [name, subject.model.tower.readout, way, f"{median(wall for wall, _ in times[at]):.2f}"]
            row += ratio(times[at], times[PLAIN])
            row.append(f"{saved_bytes(step, subject.model.module) / 2**20:.1f}")
            print(*row, file=sys.stderr, flush=True)
            row.append("" if given.no_peak else f"{peak_mib(name, given.blocks, at, given.batch, given.size):.0f}")
            rows.append(row)
    head = [
        "model", "read through", "step", "wall s", "÷ plain, wall", "÷ plain, processor", "saved MiB", "peak MiB",
    ]  # fmt: skip
    what = f"Learning step of a patch, ViT-B/16, {given.blocks} blocks, batch {given.batch}"
    print_table(what, f"{given.rounds} rounds, wall and processor", head, rows, given.markdown)
