"""The cost of reading and editing an LVLM's attention: `generate` of 32 tokens, as ratios to the plain call.

    python benchmarks/speed_lvlm.py
    python benchmarks/speed_lvlm.py --clock cpu --markdown

A LLaVA-shaped model with random weights (CLIP ViT-B/16 at 224 px, 196 image tokens, a Llama decoder of 12 blocks and
width 768: about 250 M parameters) answers one question about one image. All calls are measured in one process, in
alternation, since machines drift; the ratio of the shortest times is reported. Weights do not change the cost.

Rows: `read 1 block` keeps one decoder block's map for every token of the answer; `read all` every block's; `FALIP`
biases the text's attention in every block; `eager` is `output_attentions`: the whole model without a fused kernel,
every attention row of every block kept. Peak memory is measured in separate processes, above that of the plain call.
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
from visprompt.models.chat import Chat
from visprompt.models.lvlm.inputs import prepare
from visprompt.testing.tiny_lvlm import CHAT, chat_tokenizer, text_config

TOKENS = 32
BLOCK = 7


def build() -> vp.Model:
    """The LLaVA-shaped model with random weights, float32."""
    import transformers

    torch.manual_seed(0)
    tokenizer = chat_tokenizer(["<image>"])
    wide = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**wide, image_size=224, patch_size=16),
        text_config=transformers.LlamaConfig(
            **{**text_config(tokenizer), **wide, "num_key_value_heads": 12, "vocab_size": 32000, "eos_token_id": None}
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("@IMAGE@", "<image>"),
    )
    return vp.wrap(transformers.LlavaForConditionalGeneration(config).eval(), processor, name="llava-shaped")


def calls(model: vp.Model) -> dict[str, Callable[[], Any]]:
    """The functions to measure, by name; each answers one question."""
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    request = vp.Request(
        Image.fromarray(noise), region=vp.Box(60, 60, 150, 150), query="what is the dog on the left of"
    )
    plain = Chat((request.units()[0],), str(request.query))
    falip = Chat((vp.Prompter.from_name("falip").prompt(request, model)[0],), str(request.query))
    options: dict[str, Any] = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "eos_token_id": None}

    def eager() -> Any:
        model.module.set_attn_implementation("eager")
        try:
            inputs = prepare(model, [plain])  # type: ignore[arg-type]
            return model.module.generate(
                **inputs.tensors, **options, do_sample=False, output_attentions=True, return_dict_in_generate=True
            )
        finally:
            model.module.set_attn_implementation("visprompt_sdpa")

    return {
        "plain": lambda: model.generate([plain], **options),
        "read 1 block": lambda: model.generate([plain], read=[BLOCK], **options),
        "read all": lambda: model.generate([plain], read=range(model.num_blocks), **options),
        "FALIP": lambda: model.generate([falip], **options),
        "eager": eager,
    }


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints a table.

    Args:
        arguments: the command line; None: that of the process.
    """
    parser = argparse.ArgumentParser(description="The cost of reading and editing an LVLM's attention.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--peak", metavar="WAY", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.threads or options.clock == "cpu":
        torch.set_num_threads(options.threads or 1)
    model = build()
    ways = calls(model)
    if options.peak:
        ways["plain"]()
        before = peak_bytes()
        ways[options.peak]()
        print(peak_bytes() - before)
        return
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    seconds = measure(ways, options.repeats, clock)
    rows = []
    for name in ways:
        command = [sys.executable, __file__, "--peak", name]
        above = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
        rows.append([name, f"{seconds[name] / seconds['plain']:.3f}", f"{above / 2**20:.1f}"])
    millions = sum(item.numel() for item in model.module.parameters()) / 1e6
    what = f"LLaVA-shaped, {millions:.0f} M parameters, {TOKENS} tokens, plain {seconds['plain']:.2f} s"
    print_table(what, options.clock, ["way", "÷ plain", "peak memory above plain, MiB"], rows, options.markdown)


if __name__ == "__main__":
    main()
