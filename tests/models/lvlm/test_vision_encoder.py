"""The vision tower of a language model as an encoder: one square input, whatever its processor makes of images, and
attention that is what plain code gives.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import visprompt as vp
from visprompt.models.lvlm.square_input import Packing, packed_reader
from visprompt.models.lvlm.vision_encoder import encoder_of
from visprompt.testing import conformance
from visprompt.testing.conformance_lvlm import wrapped as made_and_wrapped
from visprompt.testing.tiny_lvlm import tiny_lvlm

TILED = ("llava-next", "llava-onevision", "idefics3", "smolvlm", "internvl")
PACKED = ("qwen2-vl", "qwen2-5-vl", "qwen3-vl", "qwen3-vl-moe")


def wrapped(name: str) -> tuple[Any, Any]:
    """A tiny model's module, and its wrapped form."""
    made, model = made_and_wrapped(name)
    return made.module, model


def images(count: int, seed: int = 0, wh: tuple[int, int] = (64, 64)) -> list[Image.Image]:
    return [conformance.image(wh, seed + number) for number in range(count)]


# -- towers that pack images ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PACKED)
def test_packing_is_the_processors_own(name: str) -> None:
    """For the same image, the model's processor and ours give the same sequence and tower output."""
    module, model = wrapped(name)
    reader, packing = packed_reader(model)
    side = reader.tower.side
    shown = images(2, 7, (side, side))
    theirs = model.processor.image_processor(images=shown, return_tensors="pt")
    pixels = torch.stack([reader.one(image, "model")["pixel_values"] for image in shown])
    assert torch.equal(packing.pack(pixels), theirs["pixel_values"])
    assert torch.equal(packing.grids(2, pixels.device), theirs["image_grid_thw"])
    processor = model.processor.image_processor
    plain = torch.stack([torch.from_numpy(np.asarray(image)).permute(2, 0, 1) / 255 for image in shown])
    mean, std = (torch.tensor(item)[:, None, None] for item in (processor.image_mean, processor.image_std))
    assert torch.allclose(pixels, (plain - mean) / std, atol=1e-5)
    with torch.no_grad():
        own = encoder_of(model).parts.embed({"pixel_values": pixels})
        whole: Any = module
        found = whole.get_image_features(theirs["pixel_values"], image_grid_thw=theirs["image_grid_thw"])
        tokens = torch.stack([item.mean(0) for item in found.pooler_output])
    assert torch.equal(own, tokens)


def test_gradients_go_through_the_packing() -> None:
    packing = Packing(side=16, patch=2, merge=2, frames=2)
    pixels = torch.randn(2, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    packed = packing.pack(pixels)
    assert packed.shape == (2 * 64, 3 * 2 * 2 * 2)
    assert torch.equal(packing.unpack(packed[:64]), pixels[0])
    packed.sum().backward()
    assert pixels.grad is not None
    assert torch.equal(pixels.grad, torch.full_like(pixels, 2.0))  # every pixel twice: two frames


def _plainly(module: Any, block: int, pixels: Tensor, packing: Packing) -> Tensor:
    """`[n, P]` attention received from all patches, mean over heads, from the queries and keys that the tower itself
    computes, whole windows at a time.
    """
    seen: dict[str, Any] = {}

    def look(owner: Any, args: Any, kwargs: Any) -> None:
        seen.update(hidden=args[0] if args else kwargs["hidden_states"], **kwargs)

    attention = module.model.visual.blocks[block].attn
    handle = attention.register_forward_pre_hook(look, with_kwargs=True)
    n, side, merge, window = len(pixels), packing.grid, packing.merge, 4
    try:
        with torch.no_grad():
            module.get_image_features(packing.pack(pixels), image_grid_thw=packing.grids(n, pixels.device))
    finally:
        handle.remove()
    hidden, ends = seen["hidden"], seen["cu_seqlens"].tolist()
    query, key, _ = attention.qkv(hidden).reshape(len(hidden), 3, attention.num_heads, -1).permute(1, 2, 0, 3)
    cos, sin = (item[None] for item in seen["position_embeddings"])

    def turned(item: Tensor) -> Tensor:
        first, second = item.chunk(2, dim=-1)
        return item * cos + torch.cat((-second, first), dim=-1) * sin

    logits = turned(query) @ turned(key).transpose(-1, -2) * attention.scaling
    whole = torch.zeros_like(logits)
    for low, high in itertools.pairwise(ends):
        whole[:, low:high, low:high] = logits[:, low:high, low:high].softmax(-1)
    received = whole.sum(1).mean(0).reshape(n, -1) / side**2  # [n, positions]
    order = []
    tokens = side // merge
    step = window if hasattr(module.model.visual, "fullatt_block_indexes") else tokens
    for top in range(0, tokens, step):
        for left in range(0, tokens, step):
            for row in range(top, min(top + step, tokens)):
                for column in range(left, min(left + step, tokens)):
                    order += [(row * merge + y) * side + column * merge + x for y in range(merge) for x in range(merge)]
    found = torch.zeros_like(received)
    found[:, order] = received
    return found.detach()


@pytest.mark.parametrize("name", PACKED)
def test_attention_of_packed_images_is_what_plain_code_gives(name: str) -> None:
    """Edits act in every block, with windows or without, on packed images, and as on single images."""
    module, model = wrapped(name)
    encoder, (reader, packing) = encoder_of(model), packed_reader(model)
    shown = images(3, 20, (64, 64))
    pixels = torch.stack([reader.one(image, "model")["pixel_values"] for image in shown])
    blocks = range(encoder.num_blocks)
    maps = vp.Runner(encoder, batch_size=3).attention([vp.Request(image) for image in shown])
    with torch.no_grad(), encoder.prompting([vp.VisualPrompt(shown[1])], read=blocks, stop=True) as encode:
        alone = encode(pixels[1:2]).attention
    for block in blocks:
        wanted = _plainly(module, block, pixels, packing)
        assert torch.allclose(wanted.sum(-1), torch.ones(3), atol=1e-5)
        found = torch.stack([item.values[block].mean(0) for item in maps])
        assert torch.allclose(found, wanted, atol=1e-6)
        assert torch.allclose(alone[block].mean(1), wanted[1:2], atol=1e-6)


def test_rows_of_packed_images_can_be_read_one_by_one() -> None:
    _, model = wrapped("qwen2-5-vl")
    encoder = encoder_of(model)
    prompts = [vp.VisualPrompt(image) for image in images(2, 5)]
    with torch.no_grad():
        mean, rows, few = (
            encoder.encode(prompts, read=[0, 3], read_rows=which).attention
            for which in ("readout", "patches", (200, 3))  # type: ignore[attr-defined]
        )
    for block in (0, 3):
        assert rows[block].shape == (2, 2, 256, 256)
        assert torch.allclose(rows[block].sum(-1), torch.ones(2, 2, 256), atol=1e-5)
        assert torch.allclose(rows[block].mean(2), mean[block], atol=1e-6)
        assert torch.allclose(few[block], rows[block][:, :, [3, 200]], atol=1e-6)
    assert (rows[0][0, 0, 0].reshape(16, 16)[8:] == 0).all()  # another window
    assert (rows[3][0, 0, 0] > 0).all()


def test_what_qwen_has_on_the_hub_gets_a_square_of_448() -> None:
    """A tiny model with the family's own patches, windows and size limits."""
    made = tiny_lvlm("qwen2-5-vl")
    config = made.module.config
    config.vision_config.update({"patch_size": 14, "window_size": 112})
    processor = made.processor.image_processor
    processor.patch_size, processor.size = 14, {"shortest_edge": 56 * 56, "longest_edge": 12845056}
    encoder = encoder_of(vp.wrap(type(made.module)(config).eval(), made.processor))
    (tile,) = encoder.geometry((640, 480)).tiles
    assert (tile.input_hw, tile.grid_hw, tile.patch_hw) == ((448, 448), (32, 32), (14.0, 14.0))
    (found,) = vp.Runner(encoder).attention(vp.Request(images(1)[0]))
    assert torch.allclose(found.values.sum(-1), torch.ones(4, 2), atol=1e-4)
    # A patch at the border between windows sees its own alone, and gets nothing from others: 8 × 8 patches each.
    with torch.no_grad():
        rows = encoder.encode([vp.VisualPrompt(images(1)[0])], read=[0], read_rows=(7 * 32 + 7,)).attention[0]
    seen = (rows[0, 0, 0] > 0).reshape(32, 32)
    assert seen[:8, :8].all()
    assert int(seen.sum()) == 64


def test_naflex_is_read_in_squares_without_padding() -> None:
    """For a square image, the model's own processor and ours give the same inputs, embeddings and maps."""
    _, model = conformance.wrapped("transformers-siglip2-naflex")
    encoder = encoder_of(model)
    (tile,) = encoder.geometry((90, 40)).tiles
    assert (tile.input_hw, tile.grid_hw) == ((64, 64), (8, 8))
    items = [vp.Request(image) for image in images(3, 2)]
    assert torch.allclose(vp.Runner(model).encode(items), vp.Runner(encoder).encode(items), atol=1e-6)
    own, found = (vp.Runner(one).attention(items, rows="summary") for one in (model, encoder))
    for one, other in zip(own, found, strict=True):
        assert torch.allclose(one.values, other.values, atol=1e-6)
    pixels = encoder.parts.reader.one(items[0].image, "model")["pixel_values"][None].requires_grad_()
    encoder.parts.embed({"pixel_values": pixels}).square().sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad != 0).float().mean() > 0.99


def test_what_packed_towers_do_not_offer_is_refused() -> None:
    _, model = wrapped("qwen2-vl")
    encoder, prompts = encoder_of(model), [vp.VisualPrompt(images(1)[0])]
    with pytest.raises(vp.UnsupportedError, match="not decomposed"):
        encoder.encode(prompts, decompose=[3])
    with pytest.raises(vp.UnsupportedError, match="packs its images"):
        encoder.encode(prompts, features=True)


# -- tiles ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TILED)
def test_a_tile_is_what_the_tower_gets(name: str) -> None:
    """A square image of the tower's own size: the same pixels and attention as in the model's own run of it."""
    module, model = wrapped(name)
    encoder = encoder_of(model)
    tile = encoder.geometry((640, 480)).tiles[0]
    (shown,) = images(1, 3, (tile.input_hw[1], tile.input_hw[0]))
    pixels = encoder.parts.reader.one(shown, "model")["pixel_values"]
    processor = model.processor.image_processor
    plain = torch.from_numpy(np.asarray(shown)).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(item)[:, None, None] for item in (processor.image_mean, processor.image_std))
    assert torch.allclose(pixels, (plain - mean) / std, atol=1e-5)
    kept: list[Tensor] = []
    last = encoder.tower.blocks[-1]
    handle = last.register_forward_hook(
        lambda *call: kept.append(call[-1][0] if isinstance(call[-1], tuple) else call[-1])
    )
    whole: Any = module
    size = {"image_sizes": torch.tensor([shown.size])} if name.startswith("llava") else {}
    tiles = {"idefics3": pixels[None, None], "smolvlm": pixels[None, None], "internvl": pixels[None]}.get(name)
    tiles = pixels.expand(1, 3, -1, -1, -1) if tiles is None else tiles
    try:
        with torch.no_grad():
            whole.get_image_features(tiles, **size)
            own = encoder.parts.embed({"pixel_values": pixels[None]})
    finally:
        handle.remove()
    assert torch.equal(kept[0][:1], kept[1]) or torch.allclose(kept[0][:1], kept[1], atol=1e-6)
    assert torch.allclose(own, kept[1][:, encoder.tower.prefix :].mean(1))


@pytest.mark.parametrize("name", [*TILED, "qwen2-5-vl"])
def test_squares_show_the_whole_image(name: str) -> None:
    _, model = wrapped(name)
    encoder = encoder_of(model)
    for fit, shown in (("model", 1.0), ("squash", 1.0), ("pad", 0.5)):
        (tile,) = encoder.geometry((100, 50), fit).tiles
        assert tile.scale_xy[0] * 100 == pytest.approx(tile.input_hw[1])
        assert tile.scale_xy[1] * 50 == pytest.approx(tile.input_hw[0] * shown)
        image = Image.new("RGB", (100, 50))
        image.paste((255, 255, 255), (50, 25, 100, 50))
        pixels = encoder.parts.reader.one(image, fit)["pixel_values"][0]
        x, y = (75 * tile.scale_xy[0] + tile.offset_xy[0], 37 * tile.scale_xy[1] + tile.offset_xy[1])
        bright = pixels[int(y), int(x)]
        assert bright == pytest.approx(float(pixels.max()), abs=0.3)
        assert bright > pixels[int(y), int(tile.input_hw[1] - x)] + 1


def test_a_processor_that_leaves_no_square_alone_is_refused() -> None:
    made = tiny_lvlm("qwen2-5-vl")
    made.processor.image_processor.size = {"shortest_edge": 64, "longest_edge": 144}
    model = vp.wrap(made.module, made.processor)
    with pytest.raises(vp.UnsupportedError, match="no square of whole tokens"):
        encoder_of(model)
