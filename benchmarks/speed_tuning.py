"""The cost of a training step with gated prompts and temperatures, relative to plain prompt tokens: ViT-B/16.

    python benchmarks/speed.py tuning                         # timm and transformers, float32 and bfloat16
    python benchmarks/speed.py tuning --models timm open_clip beit --rounds 5 --markdown

The reference step (`plain`) is a hand-written one: m learned tokens concatenated after CLS, the model's own blocks with
the model's own fused attention, a linear head; the model is frozen, one forward, one backward, one step of SGD. Ours is
the same with `model.prompting`: the prompt tokens, a gate between any two blocks, a temperature in every block. Both
run in one process in alternation; medians over rounds are reported (of ratios, the median of each round's ratio), of
wall and of processor time. Weights are random, which does not change the cost.

Memory: *saved* are the bytes of all tensors that autograd saves for the backward pass, without weights; *peak* is the
peak memory of a separate process, above its memory before the first step.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from visprompt.benchmarks.measuring import peak_above, print_table, ratio, rounds_of, saved_bytes

import visprompt as vp

SIDE, WIDTH, CLASSES = 224, 768, 100
MODELS = ("timm", "transformers", "mae", "open_clip", "beit")
WAYS = ("plain", "ours")


@dataclass(frozen=True)
class Subject:
    """A frozen model and a hand-written forward with prompt tokens.

    Args:
        model: the wrapped model.
        by_hand: `(pixels [n, 3, h, w], prompts [1, m, d])` → embeddings `[n, d]`.
    """

    model: vp.Model
    by_hand: Callable[[Tensor, Tensor], Tensor]


def behind_cls(hidden: Tensor, prompts: Tensor, own: int = 1) -> Tensor:
    """Inserts prompt tokens after the model's own leading tokens.

    Args:
        hidden: `[n, N, d]`.
        prompts: `[1, m, d]`.
        own: number of the model's leading tokens.

    Returns:
        `[n, N + m, d]`.
    """
    return torch.cat((hidden[:, :own], prompts.expand(len(hidden), -1, -1), hidden[:, own:]), dim=1)


def timm_vit(depth: int) -> Subject:
    """timm's ViT, CLS readout."""
    import timm

    module = timm.create_model("vit_base_patch16_224", num_classes=0, depth=depth).eval()

    def by_hand(pixels: Tensor, prompts: Tensor) -> Tensor:
        hidden = behind_cls(module.norm_pre(module._pos_embed(module.patch_embed(pixels))), prompts)
        for block in module.blocks:
            hidden = block(hidden)
        return module.norm(hidden)[:, 0]

    return Subject(vp.wrap(module, timm.data.create_transform(**timm.data.resolve_model_data_config(module))), by_hand)


def timm_beit(depth: int) -> Subject:
    """timm's BEiT: each block has a relative position bias, which is padded for the prompts; readout: mean of the
    patches.
    """
    import timm

    module = timm.create_model("beit_base_patch16_224", num_classes=0, depth=depth).eval()
    for block in module.blocks:
        nn.init.normal_(block.attn.relative_position_bias_table)

    def by_hand(pixels: Tensor, prompts: Tensor) -> Tensor:
        hidden = module.patch_embed(pixels)
        hidden = torch.cat((module.cls_token.expand(len(hidden), -1, -1), hidden), dim=1)
        hidden, m = behind_cls(hidden, prompts), prompts.shape[1]
        for block in module.blocks:
            bias = block.attn._get_rel_pos_bias()
            for dim in (-1, -2):
                front, rest = bias.narrow(dim, 0, 1), bias.narrow(dim, 1, bias.shape[dim] - 1)
                shape = [*bias.shape]
                shape[dim] = m
                bias = torch.cat((front, bias.new_zeros(shape), rest), dim=dim)
            block.attn._get_rel_pos_bias = lambda bias=bias: bias
            try:
                hidden = block(hidden)
            finally:
                del block.attn._get_rel_pos_bias
        return module.fc_norm(module.norm(hidden)[:, 1 + m :].mean(1))

    return Subject(vp.wrap(module, timm.data.create_transform(**timm.data.resolve_model_data_config(module))), by_hand)


def transformers_vit(depth: int) -> Subject:
    """transformers' ViT, CLS readout."""
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    module = ViTModel(ViTConfig(num_hidden_layers=depth), add_pooling_layer=False).eval()

    def by_hand(pixels: Tensor, prompts: Tensor) -> Tensor:
        hidden = behind_cls(module.embeddings(pixels), prompts)
        for layer in module.layers:
            hidden = layer(hidden)
        return module.layernorm(hidden)[:, 0]

    return Subject(vp.wrap(module, ViTImageProcessor()), by_hand)


def transformers_mae(depth: int) -> Subject:
    """transformers' ViTMAE without masking; readout: mean of the patches."""
    from transformers import ViTImageProcessor, ViTMAEConfig, ViTMAEModel

    module = ViTMAEModel(ViTMAEConfig(mask_ratio=0.0, num_hidden_layers=depth)).eval()

    def by_hand(pixels: Tensor, prompts: Tensor) -> Tensor:
        noise = torch.arange(196.0).expand(len(pixels), -1)
        hidden = behind_cls(module.embeddings(pixels, noise=noise)[0], prompts)
        for layer in module.layers:
            hidden = layer(hidden)
        return module.layernorm(hidden)[:, 1 + prompts.shape[1] :].mean(1)

    return Subject(vp.wrap(module, ViTImageProcessor()), by_hand)


def open_clip_vit(depth: int) -> Subject:
    """open_clip's image tower with its projection."""
    import open_clip

    module, _, transform = open_clip.create_model_and_transforms("ViT-B-16")
    visual = module.eval().visual
    visual.transformer.resblocks = visual.transformer.resblocks[:depth]

    def by_hand(pixels: Tensor, prompts: Tensor) -> Tensor:
        hidden = behind_cls(visual._embeds(pixels), prompts)
        for block in visual.transformer.resblocks:
            hidden = block(hidden)
        return visual.ln_post(hidden)[:, 0] @ visual.proj

    return Subject(vp.wrap(module, transform), by_hand)


BUILD: dict[str, Callable[[int], Subject]] = {
    "timm": timm_vit,
    "transformers": transformers_vit,
    "mae": transformers_mae,
    "open_clip": open_clip_vit,
    "beit": timm_beit,
}


class Step:
    """A training step that can be repeated.

    Args:
        subject: the model.
        way: `"plain"` or `"ours"`.
        batch: number of images.
        count: m, number of prompt tokens.
        half: whether to use bfloat16 autocast.
        temper: whether "ours" has temperatures.
        gated: whether "ours" has gates.
    """

    def __init__(
        self, subject: Subject, way: str, batch: int, count: int, half: bool, temper: bool = True, gated: bool = True
    ) -> None:
        self.subject, self.way, self.half = subject, way, half
        subject.model.module.requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randn(batch, 3, SIDE, SIDE, generator=generator)
        self.labels = torch.randint(CLASSES, (batch,), generator=generator)
        self.prompts = nn.Parameter(torch.randn(1, count, WIDTH, generator=generator) * 0.02)
        blocks = len(subject.model.tower.blocks)
        with torch.no_grad():
            features = subject.by_hand(self.pixels[:1], self.prompts).shape[-1]
        self.head = nn.Linear(features, CLASSES)
        learned: list[nn.Parameter] = [self.prompts, *self.head.parameters()]
        self.gates = nn.Parameter(torch.zeros(blocks - 1)) if gated else None
        self.temperatures = [nn.Parameter(torch.tensor(1.1)) for _ in range(blocks if temper else 0)]
        if way == "ours":
            learned += [item for item in (self.gates, *self.temperatures) if item is not None]
        self.optimizer = torch.optim.SGD(learned, lr=1e-3)
        self.image = Image.new("RGB", (SIDE, SIDE))

    def autocast(self) -> AbstractContextManager[Any]:
        """A bfloat16 autocast if `half`, otherwise a scope without effect."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.half)

    def loss(self, embeddings: Tensor) -> Tensor:
        """Cross-entropy of the linear head on embeddings `[n, d]`."""
        return F.cross_entropy(self.head(embeddings).float(), self.labels)

    def __call__(self) -> None:
        """Forward, backward, update."""
        self.optimizer.zero_grad()
        if self.way == "plain":
            with self.autocast():
                loss = self.loss(self.subject.by_hand(self.pixels, self.prompts))
            loss.backward()
        else:
            edits = tuple(
                vp.AttentionEdit(temperature=item, rows="all", first_block=block, last_block=block)
                for block, item in enumerate(self.temperatures)
            )
            prompt = vp.VisualPrompt(
                self.image, tokens=vp.PromptTokens(self.prompts, gate_logits=self.gates), attention=edits
            )
            with self.subject.model.prompting([prompt] * len(self.pixels)) as encode:
                with self.autocast():
                    loss = self.loss(encode(self.pixels).embeddings)
                loss.backward()
        self.optimizer.step()


def own_peak(name: str, depth: int, way: str, batch: int, count: int, half: bool) -> int:
    """Peak memory of this process during a step, above its memory before the first step.

    Args:
        name: of the model, one of `MODELS`.
        depth: number of blocks.
        way: `"plain"` or `"ours"`.
        batch: number of images.
        count: number of prompt tokens.
        half: whether to use bfloat16 autocast.

    Returns:
        Bytes.
    """
    step = Step(BUILD[name](depth), way, batch, count, half)
    return peak_above(step, Step(step.subject, way, 1, count, half))  # one-time allocations, on one image


def peak_mib(name: str, depth: int, way: str, batch: int, count: int, half: bool) -> float:
    """`own_peak` in a separate process, in MiB; the same arguments."""
    speed = Path(__file__).with_name("speed.py")
    command = [sys.executable, str(speed), "tuning", "--models", name, "--peak-of", way]
    command += [
        "--blocks",
        str(depth),
        "--batch",
        str(batch),
        "--prompts",
        str(count),
        "--dtype",
        "bfloat16" if half else "float32",
    ]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1]) / 2**20


def main(arguments: list[str]) -> None:
    """Prints a table.

    Args:
        arguments: the command line after `tuning`.
    """
    parser = argparse.ArgumentParser(prog="speed.py tuning", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", choices=MODELS, nargs="+", default=["timm", "transformers"])
    parser.add_argument("--dtype", choices=["both", "float32", "bfloat16"], default="both")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--blocks", type=int, default=12, help="fewer than 12 for a quick look")
    parser.add_argument("--parts", action="store_true", help="also ours without temperatures, without gates")
    parser.add_argument("--no-peak", action="store_true", help="leave out the processes that measure peak memory")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--peak-of", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    halves = {"both": [False, True], "float32": [False], "bfloat16": [True]}[given.dtype]
    torch.manual_seed(0)
    if given.peak_of:
        print(own_peak(given.models[0], given.blocks, given.peak_of, given.batch, given.prompts, halves[0]))
        return
    rows = []
    for name in given.models:
        subject = BUILD[name](given.blocks)
        ways: dict[str, dict[str, Any]] = {"plain": {}, "ours": {}}
        if given.parts:
            ways.update({"ours, no gates": {"gated": False}, "ours, no temperatures": {"temper": False}})
        steps = {
            (way, half): Step(subject, way.split(",")[0], given.batch, given.prompts, half, **options)
            for half in halves
            for way, options in ways.items()
        }
        times = rounds_of(dict(steps), given.rounds)
        for (way, half), step in steps.items():
            mine, both = times[way, half], half and (way, False) in times
            row = [name, "bfloat16" if half else "float32", way, f"{median(wall for wall, _ in mine):.2f}"]
            row += ratio(mine, times["plain", half])
            row += ratio(times[way, False], mine) if both else ["", ""]
            row.append(f"{saved_bytes(step, subject.model.module) / 2**20:.1f}")
            print(*row, file=sys.stderr, flush=True)
            peak = not given.no_peak and "," not in way
            row.append(f"{peak_mib(name, given.blocks, way, given.batch, given.prompts, half):.0f}" if peak else "")
            rows.append(row)
    head = [
        "model",
        "dtype",
        "step",
        "wall s",
        "÷ plain, wall",
        "÷ plain, processor",
        "float32 ÷ it, wall",
        "float32 ÷ it, processor",
        "saved MiB",
        "peak MiB",
    ]
    what = f"Training step, ViT-B/16, {given.blocks} blocks, {given.prompts} prompts, batch {given.batch}"
    print_table(what, f"{given.rounds} rounds, wall and processor", head, rows, given.markdown)
