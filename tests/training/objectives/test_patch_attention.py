"""Every family teaches a patch through the same code: the loss on a fixed set falls, attention under the patch rises,
gradients reach nothing but the patch, nothing behind the last block that is read is computed, and the model is as it
was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import visprompt as vp
from visprompt.attention import edited_rows
from visprompt.data.labelled.dataset import Splits
from visprompt.data.labelled.unlabelled import unlabelled
from visprompt.geometry.geometry import Tile
from visprompt.models.lvlm.vision_encoder import encoder_of
from visprompt.testing import conformance, conformance_lvlm
from visprompt.testing.conformance import differences, snapshot
from visprompt.testing.tiny import tiny
from visprompt.testing.tiny_lvlm import tiny_lvlm
from visprompt.training import loop as fitting
from visprompt.training.objectives.patch_attention import AttentionTarget
from visprompt.training.patch.pasting import draw_marks
from visprompt.training.settings import FitSettings

#: CLS, pooling probe and mean readouts, with registers and without, of three libraries
ENCODERS = (
    "transformers-clip",
    "transformers-siglip",
    "transformers-siglip2-naflex",
    "transformers-dinov2",
    "transformers-dinov3",
    "transformers-deit",
    "transformers-vit-mae",
    "open-clip-vit",
    "open-clip-siglip",
    "timm-vit",
    "timm-vit-mean",
    "timm-deit-distilled",
    "timm-dinov2-registers",
    "timm-beit",
)
#: vision towers: whole images, tiles, one packed sequence
WHOLE = ("llava", "paligemma", "paligemma-2", "gemma3", "internvl")
TILED = ("llava-next", "llava-onevision", "idefics3", "smolvlm")
PACKED = ("qwen2-vl", "qwen2-5-vl", "qwen3-vl")
LVLMS = (*WHOLE, *TILED, *PACKED)
FAST = {"batch_size": 8, "lr": 0.05, "warmup_epochs": 0, "evaluate_every": 100, "progress": False}


def wrapped(name: str) -> tuple[nn.Module, Any]:
    """A tiny model's module, and its wrapped form."""
    made, model = (conformance_lvlm if name in LVLMS else conformance).wrapped(name)
    return made.module, model


def images(count: int, seed: int = 0, wh: tuple[int, int] = (64, 64)) -> list[Image.Image]:
    return [conformance.image(wh, seed + number) for number in range(count)]


def data(train: int = 32, held: int = 16, wh: tuple[int, int] = (64, 64)) -> Splits:
    parts = (unlabelled(images(train, 0, wh), name="train"), unlabelled(images(held, 100, wh), name="held"))
    return Splits(*parts, None, "made up")


def patch(model: Any, **options: Any) -> Any:
    """Untrained, a quarter of the grid wide."""
    size = min(model.geometry((64, 64)).grid_hw) / 4
    prompter: Any = vp.Prompter.from_name("patch", **{"size": size, "shape": "full", "prior": "none", **options})
    prompter.build(model, 0)
    return prompter


def output_of(name: str, model: Any) -> Tensor:
    """What the whole model gives, without a prompt."""
    if name in LVLMS:
        return conformance_lvlm.first_logits(model, None)
    return conformance.encode(model, None, conformance.requests())


@contextmanager
def counted(*modules: nn.Module) -> Iterator[list[int]]:
    """How often each module came to its end."""
    calls = [0] * len(modules)

    def count(place: int) -> Any:
        def hook(*_: Any) -> None:
            calls[place] += 1

        return hook

    handles = [module.register_forward_hook(count(place)) for place, module in enumerate(modules)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def objective_of(model: Any, prompter: Any, splits: Splits, **settings: Any) -> AttentionTarget:
    return AttentionTarget(model, prompter, {"train": splits.train}, FitSettings(**settings))


def first_batch(objective: AttentionTarget, count: int = 4) -> Any:
    dataset = objective.samples("train")
    return objective.collate([dataset[(number, 0)] for number in range(count)])


# -- every family -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ENCODERS, *LVLMS])
def test_it_learns_and_nothing_else_changes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, model = wrapped(name)
    flags, state = [item.requires_grad for item in module.parameters()], snapshot(module)
    before = output_of(name, model)
    encoder, splits = encoder_of(model), data()
    prompter = patch(encoder)
    start = prompter.evaluate(encoder, splits.validation)  # the same places whenever it is measured
    reached: list[tuple[bool, bool]] = []
    original = fitting._Run._share_gradients

    def look(self: Any, *args: Any) -> Any:
        own = all(item.grad is not None and bool(item.grad.abs().sum() > 0) for item in self.weights.values())
        reached.append((own, all(item.grad is None for item in module.parameters())))
        return original(self, *args)

    monkeypatch.setattr(fitting._Run, "_share_gradients", look)
    first, last = encoder.tower.blocks[0], encoder.tower.sites[-1].module
    with counted(first, last) as calls:
        found = prompter.fit(encoder, splits, epochs=5, **FAST)
    assert found.validation["loss"] < start["loss"] - 0.01
    assert found.validation["gain"] > start["gain"] + 0.02
    assert reached == [(True, True)] * 20
    assert calls[0] > 20
    assert calls[1] == 0, "the module whose attention is read went on behind it"
    assert all(item.grad is None for item in module.parameters())
    assert [item.requires_grad for item in module.parameters()] == flags
    assert not differences(state, snapshot(module))
    assert torch.equal(before, output_of(name, model))


def test_a_strategy_takes_the_language_model_itself() -> None:
    """What it learned on the tower moves the answers of the whole."""
    _, model = wrapped("qwen2-5-vl")
    before = conformance_lvlm.first_logits(model, None)
    prompter: Any = vp.Prompter.from_name("patch", size=4.0)  # with its neural prior
    prompter.fit(model, data(16, 8), epochs=1, **FAST)
    assert torch.equal(before, conformance_lvlm.first_logits(model, None))
    assert not torch.equal(before, conformance_lvlm.first_logits(model, prompter))
    assert np.isfinite(prompter.evaluate(model, unlabelled(images(4)))["gain"])


# -- which rows -------------------------------------------------------------------------------------------------------


def _received(name: str, block: int, image: Image.Image) -> Tensor:
    """`[H, P]` mean over the patches' rows of a SigLIP's block, from a second model that is not wrapped."""
    made = tiny(name)
    module: Any = made.module
    kept: list[Tensor] = []
    if name.startswith("transformers"):
        module.vision_model.config._attn_implementation_internal = "eager"
        inputs = made.processor(images=[image], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            output = module.vision_model(inputs, output_attentions=True)
        return output.attentions[block][0].mean(1)
    trunk = module.visual.trunk if hasattr(module, "visual") else module
    attention = trunk.blocks[block].attn
    attention.fused_attn = False
    attention.attn_drop.register_forward_hook(lambda *call: kept.append(call[-1]))
    with torch.no_grad():
        trunk(made.processor(image)[None])
    return kept[0][0].mean(1)


@pytest.mark.parametrize("name", ["transformers-siglip", "open-clip-siglip"])
def test_blocks_in_front_of_a_probe(name: str) -> None:
    """They are read by what patches get from all patches, the last one by its probe; and they teach."""
    _, model = wrapped(name)
    (shown,) = images(1, 9)
    last = model.num_blocks - 1
    with torch.no_grad():
        found = model.encode([vp.VisualPrompt(shown)], read=[0, 2, last], read_rows="summary").attention
        probe = model.encode([vp.VisualPrompt(shown)], read=[last]).attention
    for block in (0, 2):
        assert torch.allclose(found[block][0], _received(name, block, shown), atol=1e-5)
    assert torch.equal(found[last], probe[last])
    (maps,) = vp.Runner(model).attention(vp.Request(shown), rows="summary")
    assert maps.blocks == tuple(range(model.num_blocks))
    assert torch.allclose(maps.values[2], found[2][0], atol=1e-6)
    with pytest.raises(vp.InvalidInputError, match='rows is "readout" or "summary"'):
        vp.Runner(model).attention(vp.Request(shown), rows="patches")  # type: ignore[arg-type]
    with pytest.raises(vp.InvalidInputError, match="no rows that 'readout' means"):
        model.encode([vp.VisualPrompt(shown)], read=[0])
    splits = data()
    prompter = patch(model, blocks=(2, -1))
    start = prompter.evaluate(model, splits.validation)
    with counted(model.tower.sites[-1].module) as calls:
        found = prompter.fit(model, splits, epochs=2, **FAST)
    assert found.validation["loss"] < start["loss"] - 0.01
    assert calls == [0]
    inner = patch(model, blocks=(1,))
    inner.evaluate(model, unlabelled(images(2)))
    with counted(model.tower.blocks[1], model.tower.blocks[2]) as calls:
        inner.fit(model, data(8, 4), epochs=1, **FAST)
    assert calls == [0, 0]


@pytest.mark.parametrize("name", ["transformers-clip", "transformers-dinov3", "timm-deit-distilled", "open-clip-vit"])
def test_inner_blocks_of_a_cls_are_read_by_its_row(name: str) -> None:
    _, model = wrapped(name)
    prompts = [vp.VisualPrompt(image) for image in images(2, 4)]
    with torch.no_grad():
        summary = model.encode(prompts, read=[0, 2], read_rows="summary").attention
        plain = model.encode(prompts, read=[0, 2]).attention
        rows = model.encode(prompts, read=[0, 2], read_rows=model.tower.readout_rows).attention
    for block in (0, 2):
        assert torch.equal(summary[block], plain[block])
        assert torch.allclose(rows[block].mean(2), plain[block], atol=1e-7)


# -- what is computed, and kept for the gradient ----------------------------------------------------------------------


def _kept(model: Any, **options: Any) -> tuple[float, Tensor, list[Tensor]]:
    """Loss, gradient, and what is kept for it, every storage once."""
    prompter = patch(model, **options)
    objective = objective_of(model, prompter, data(4, 2))
    batch = first_batch(objective)
    objective.measure(batch)  # verifies the model, which keeps more
    kept: dict[int, Tensor] = {}

    def keep(item: Tensor) -> Tensor:
        if not isinstance(item, nn.Parameter):
            kept[item.untyped_storage().data_ptr()] = item
        return item

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda item: item), objective.loss(batch, [1, 2, 3, 4]) as loss:
        # not backward(): the tiny models are shared, and would keep gradients of their own
        (own,) = prompter.parameters.parameters()
        (gradient,) = torch.autograd.grad(loss, own)
    return loss.item(), gradient, list(kept.values())


def whole_maps(kept: list[Tensor], heads: int, tokens: int) -> list[Any]:
    """Shapes of those that hold a number for every pair of tokens."""
    return [item.shape for item in kept if item.ndim > 2 and item.shape[-3] == heads and min(item.shape[-2:]) >= tokens]


@pytest.mark.parametrize("name", ["transformers-clip", "timm-vit", "open-clip-vit", "transformers-siglip"])
def test_only_the_row_that_is_read_is_kept(name: str) -> None:
    """No map of all rows to all columns, in no block."""
    _, model = wrapped(name)
    tokens = model.geometry((64, 64)).num_patches
    _, _, kept = _kept(model)
    assert len(kept) > 20
    assert not whole_maps(kept, model.tower.sites[-1].heads, tokens)


@pytest.mark.parametrize("name", ["transformers-vit-mae", "timm-vit-mean", "open-clip-siglip", "qwen2-5-vl"])
def test_many_rows_are_read_a_few_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over all patches' rows: with little memory it is computed again for the gradient, not kept."""
    _, model = wrapped(name)
    encoder = encoder_of(model)
    options = {"blocks": (1,)} if encoder.tower.readout == "probe" else {}
    tokens, heads = encoder.geometry((64, 64)).num_patches, encoder.tower.sites[-1].heads
    loss, gradient, kept = _kept(encoder, **options)
    assert whole_maps(kept, heads, tokens)
    monkeypatch.setattr(edited_rows, "MOST_LOGITS", 4 * heads * tokens * 5)
    again, same, kept = _kept(encoder, **options)
    assert again == pytest.approx(loss, rel=1e-6)
    assert torch.allclose(same, gradient, atol=1e-7 + 1e-4 * float(gradient.abs().max()))
    assert not whole_maps(kept, heads, tokens)


# -- how it is trained ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["transformers-clip", "timm-vit", "open-clip-vit", "llava", "qwen2-5-vl"])
def test_gradient_checkpointing_learns_the_same(name: str) -> None:
    _, model = wrapped(name)
    encoder = encoder_of(model)
    found = []
    for checkpointing in (False, True):
        prompter = patch(encoder, blocks=(1, -1))
        done = prompter.fit(encoder, data(8, 4), epochs=1, **FAST, checkpointing=checkpointing)
        found.append((done.validation["loss"], prompter.state()["prompt.rgba"].int()))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-4)
    assert (found[0][1] - found[1][1]).abs().max() <= 1


@pytest.mark.parametrize("name", ["transformers-clip", "timm-vit", "qwen2-5-vl"])
def test_mixed_precision_learns(name: str) -> None:
    _, model = wrapped(name)
    encoder, splits = encoder_of(model), data()
    prompter = patch(encoder)
    start = prompter.evaluate(encoder, splits.validation)
    found = prompter.fit(encoder, splits, epochs=2, **FAST, precision="bf16")
    assert found.validation["loss"] < start["loss"] - 0.01
    assert found.validation["gain"] > start["gain"] + 0.01


@pytest.mark.parametrize("name", ["transformers-siglip", "open-clip-vit", "qwen2-5-vl"])
def test_models_in_half_precision_teach(name: str) -> None:
    """The patch stays float32, and so do attention and loss."""
    made = tiny_lvlm(name) if name in LVLMS else tiny(name)
    made.module.to(torch.bfloat16)
    encoder = encoder_of(vp.wrap(made.module, made.processor, getattr(made, "tokenizer", None)))
    prompter = patch(encoder)
    objective = objective_of(encoder, prompter, data(4, 2))
    with objective.loss(first_batch(objective), [1, 2, 3, 4]) as loss:
        assert loss.dtype == torch.float32
        (own,) = prompter.parameters.parameters()
        (gradient,) = torch.autograd.grad(loss, own)
    assert gradient.dtype == torch.float32
    assert gradient.isfinite().all()
    assert gradient.any()


# -- padding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["transformers-clip", "timm-vit", "llava-next", "qwen2-5-vl"])
@pytest.mark.parametrize("wh", [(96, 48), (40, 90)])
def test_padding_gets_no_patch(name: str, wh: tuple[int, int]) -> None:
    _, model = wrapped(name)
    encoder = encoder_of(model)
    prompter = patch(encoder)
    objective = objective_of(encoder, prompter, data(4, 2, wh), fit="pad")
    batch = first_batch(objective)
    side = batch["pixel_values"].shape[-1]
    (tile,) = encoder.geometry(wh, "pad").tiles
    box = (*tile.offset_xy, *(tile.offset_xy[i] + tile.scale_xy[i] * wh[i] for i in (0, 1)))
    limit = tile.grid_hw[0] * tile.patch_hw[0]
    wanted = [min(max(item, 0.0), limit) for item in box]
    assert torch.allclose(batch["seen_xyxy"], torch.tensor([wanted] * 4), atol=1e-4)
    assert min(wanted[2] - wanted[0], wanted[3] - wanted[1]) < 0.6 * side
    seeds = list(range(400))
    marks = draw_marks(seeds, tile, 2.0, seen=torch.tensor([wanted] * 400))
    y, x = marks.centre_yx.unbind(1)
    assert wanted[0] <= float(x.min())
    assert float(x.max()) <= wanted[2]
    assert wanted[1] <= float(y.min())
    assert float(y.max()) <= wanted[3]
    assert float(x.max() - x.min()) > 0.9 * (wanted[2] - wanted[0]) - tile.patch_hw[1]
    assert float(y.max() - y.min()) > 0.9 * (wanted[3] - wanted[1]) - tile.patch_hw[0]
    assert np.isfinite(prompter.fit(encoder, data(8, 4, wh), epochs=1, **FAST, fit="pad").validation["gain"])


def test_places_are_the_same_where_all_of_the_input_is_seen() -> None:
    tile = Tile((1.0, 1.0), (0.0, 0.0), (48, 64), (6, 8))
    one = draw_marks(range(50), tile, 2.0, scale=0.1)
    other = draw_marks(range(50), tile, 2.0, scale=0.1, seen=torch.tensor([[0.0, 0.0, 64.0, 48.0]] * 50))
    assert torch.equal(one.centre_yx, other.centre_yx)
    strip = draw_marks(range(50), tile, 2.0, seen=torch.tensor([[30.0, 0.0, 33.0, 48.0]] * 50))
    assert ((strip.centre_yx[:, 1] >= 30) & (strip.centre_yx[:, 1] <= 33)).all()


# -- who cannot teach -------------------------------------------------------------------------------------------------


def test_models_that_cannot_teach_say_why() -> None:
    _, resnet = wrapped("open-clip-resnet")
    with pytest.raises(vp.UnsupportedError, match="a patch goes with every model"):
        vp.Prompter.from_name("patch").fit(resnet, data(8, 4), epochs=1, **FAST)
    remote = vp.load_model("remote:some", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(vp.UnsupportedError, match="no vision tower"):
        vp.Prompter.from_name("patch").fit(remote, data(8, 4), epochs=1, **FAST)
