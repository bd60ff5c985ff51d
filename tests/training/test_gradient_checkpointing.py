"""`checkpointed`: the same gradients, fewer bytes kept, and nothing of it left on the model."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import visprompt as vp
from visprompt.testing.conformance import Crash, crashing, differences, image, snapshot
from visprompt.testing.tiny import tiny, tiny_names
from visprompt.training.gradient_checkpointing import checkpointed

IMAGE = image((96, 96))
#: packed images (NaFlex, SigLIP 2) cannot be trained through `prompting`
NAMES = [name for name in tiny_names() if tiny(name).has_attention and "naflex" not in name and "siglip2" not in name]


def wrapped(name: str) -> tuple[nn.Module, vp.Model]:
    made = tiny(name)
    model = vp.wrap(made.module, made.processor, made.tokenizer)
    made.module.requires_grad_(False)
    return made.module, model


def learned_for(model: vp.Model) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    blocks = len(model.tower.blocks)
    items = [torch.randn(1, 3, 32, generator=generator), torch.zeros(blocks - 1)]
    return [item.requires_grad_() for item in [*items, *torch.full((blocks,), 1.5).unbind()]]


def gradients(model: vp.Model, learned: Sequence[Tensor]) -> list[Tensor]:
    edits = tuple(
        vp.AttentionEdit(temperature=tau, rows="all", first_block=block, last_block=block)
        for block, tau in enumerate(learned[2:])
    )
    prompt = vp.VisualPrompt(IMAGE, tokens=vp.PromptTokens(learned[0], gate_logits=learned[1]), attention=edits)
    pixels = model.parts.reader.inputs([(IMAGE, "model")] * 2, model)["pixel_values"]
    with model.prompting([prompt] * 2) as encode:
        found = encode(pixels).embeddings
        return list(torch.autograd.grad((found * torch.linspace(-1, 2, found.shape[-1])).sum(), list(learned)))


def kept_bytes(model: vp.Model, learned: Sequence[Tensor]) -> int:
    """Of the tensors that autograd is given to keep, weights left out, that are still there after the forward pass."""
    seen: dict[int, int] = {}
    weights = {item.untyped_storage().data_ptr() for item in model.module.state_dict().values()}

    def pack(item: Tensor) -> Tensor:
        if item.untyped_storage().data_ptr() not in weights:
            seen[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
        return item

    pixels = model.parts.reader.inputs([(IMAGE, "model")] * 2, model)["pixel_values"]
    prompt = vp.VisualPrompt(IMAGE, tokens=vp.PromptTokens(learned[0], gate_logits=learned[1]))
    with (
        model.prompting([prompt] * 2) as encode,
        torch.autograd.graph.saved_tensors_hooks(pack, lambda item: item),
    ):
        encode(pixels)
    return sum(seen.values())


@pytest.mark.parametrize("name", NAMES)
def test_same_gradients_from_fewer_bytes(name: str) -> None:
    module, model = wrapped(name)
    learned = learned_for(model)
    wanted, bytes_without = gradients(model, learned), kept_bytes(model, learned)
    before = snapshot(module)
    with checkpointed(model):
        found, bytes_with = gradients(model, learned), kept_bytes(model, learned)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    assert bytes_with < 0.6 * bytes_without
    assert not differences(before, snapshot(module))


@pytest.mark.parametrize("name", ["transformers-dinov3", "open-clip-vit", "timm-eva02"])
def test_blocks_stay_out_of_training_mode(name: str) -> None:
    """Dropout, drop path and the jitter of positions are off, though transformers checkpoints in training mode only."""
    module, model = wrapped(name)
    with checkpointed(model):
        parts = {part for block in model.tower.blocks for part in block.modules()} - set(model.tower.blocks)
        others = set(module.modules()) - set(model.tower.blocks)
        assert parts
        assert not any(part.training for part in others)


@pytest.mark.parametrize("name", ["transformers-vit", "open-clip-vit", "timm-vit"])
def test_undone_when_something_raises(name: str) -> None:
    module, model = wrapped(name)
    learned, before, flag = learned_for(model), snapshot(module), timm.layers.use_reentrant_ckpt()
    attributes = [dict(vars(part)) for part in module.modules()]
    with pytest.raises(Crash), checkpointed(model), crashing(model.tower.sites[1].module):
        gradients(model, learned)
    assert not differences(before, snapshot(module))
    for part, then in zip(module.modules(), attributes, strict=True):
        now = vars(part)
        assert now.keys() == then.keys()
        assert all(
            now[key] is then[key] for key in ("training", "gradient_checkpointing", "grad_checkpointing") if key in now
        )
    assert timm.layers.use_reentrant_ckpt() == flag


@pytest.mark.parametrize("name", ["transformers-vit", "open-clip-vit", "timm-vit"])
def test_what_was_on_stays_on(name: str) -> None:
    made = tiny(name)
    module = made.module
    model = vp.wrap(module, made.processor, made.tokenizer)
    module.train()
    owner: Any = model.tower.blocks[0]
    switch = "gradient_checkpointing"
    if made.backend != "transformers":
        switch = "grad_checkpointing"
        owner = next(part for part in module.modules() if hasattr(part, switch) and owner in list(part.modules()))
    setattr(owner, switch, True)
    with checkpointed(model):
        pass
    assert getattr(owner, switch) is True
    assert all(part.training for part in module.modules())


def test_the_reentrant_way_is_off_for_timm() -> None:
    before = timm.layers.use_reentrant_ckpt()
    timm.layers.set_reentrant_ckpt(True)
    try:
        _, model = wrapped("timm-vit")
        learned = learned_for(model)
        with checkpointed(model):
            assert not timm.layers.use_reentrant_ckpt()
            gradients(model, learned)
        assert timm.layers.use_reentrant_ckpt()
    finally:
        timm.layers.set_reentrant_ckpt(before)


@pytest.mark.parametrize("name", ["transformers-vit", "timm-vit"])
def test_scopes_overlap(name: str) -> None:
    """The first to end does not switch off what the other still needs."""
    module, model = wrapped(name)
    owner: Any = model.tower.blocks[0] if name.startswith("transformers") else module
    switch = "gradient_checkpointing" if name.startswith("transformers") else "grad_checkpointing"
    first, second = checkpointed(model), checkpointed(model)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert getattr(owner, switch)
    second.__exit__(None, None, None)
    assert not getattr(owner, switch)
    with checkpointed(model), checkpointed(model):
        pass
    assert not getattr(owner, switch)


@pytest.mark.parametrize("name", ["transformers-vit", "open-clip-vit", "timm-vit"])
def test_threads(name: str) -> None:
    module, model = wrapped(name)
    learned = [learned_for(model) for _ in range(2)]
    wanted, before = gradients(model, learned[0]), snapshot(module)
    wrong: list[str] = []

    def work(mine: list[Tensor]) -> None:
        try:
            for _ in range(4):
                with checkpointed(model):
                    for one, other in zip(gradients(model, mine), wanted, strict=True):
                        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
        except Exception as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(mine,)) for mine in learned]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not differences(before, snapshot(module))


def test_a_model_without_a_switch_says_so() -> None:
    module, model = wrapped("timm-vit")
    del module.grad_checkpointing
    with pytest.raises(vp.UnsupportedError, match=r"no gradient checkpointing for the blocks"), checkpointed(model):
        pass
