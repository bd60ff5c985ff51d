"""Temperatures and gates with memory-free gradients: values and gradients equal plain tensor code."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import visprompt as vp
from visprompt.attention.program import SiteProgram
from visprompt.attention.prompt_tokens import Gated
from visprompt.attention.temperature import can_temper, tempered_attention, tempered_mha
from visprompt.testing.conformance import image
from visprompt.testing.tiny import tiny, tiny_names

N, HEADS, QUERIES, WIDTH = 2, 3, 7, 8
SCALE = WIDTH**-0.5
IMAGE = image((96, 96))
NAMES = [name for name in tiny_names() if tiny(name).has_attention and "naflex" not in name and "siglip2" not in name]


def parts(packed: bool, seed: int = 0, kind: torch.dtype = torch.float32) -> tuple[Tensor, list[Tensor]]:
    """A leaf, and queries, keys and values from it: cut from one storage, or with a storage each."""
    leaf = torch.randn(N, QUERIES, 3, HEADS, WIDTH, generator=torch.Generator().manual_seed(seed)).to(kind)
    leaf.requires_grad_()
    cut = (leaf * 1).permute(2, 0, 3, 1, 4).unbind(0)
    return leaf, list(cut) if packed else [item.clone() for item in cut]


def bias(hidden: float | None) -> Tensor:
    made = torch.randn(1, HEADS, QUERIES, QUERIES, generator=torch.Generator().manual_seed(1))
    if hidden is not None:
        made[..., -2:] = hidden
    return made


def plainly(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, tau: Tensor) -> Tensor:
    logits = query @ key.transpose(-1, -2) * SCALE
    if mask is None:
        return (logits / tau).softmax(-1) @ value
    hidden = mask < -1e30
    return ((logits + mask.masked_fill(hidden, 0.0)) / tau).masked_fill(hidden, -torch.inf).softmax(-1) @ value


TAUS = {
    "one": lambda: torch.tensor(0.7).expand(N, 1, 1, 1),
    "per stream": lambda: torch.tensor([0.7, 1.6]).view(N, 1, 1, 1),
    "per head": lambda: torch.tensor([0.7, 1.6, 1.0]).view(1, HEADS, 1, 1).expand(N, -1, -1, -1),
}
MASKS: dict[str, Callable[[], Tensor | None]] = {
    "none": lambda: None,
    "bias": lambda: bias(None),
    "bias and -inf": lambda: bias(-torch.inf),
    "bias and the smallest number": lambda: bias(torch.finfo(torch.float32).min),
}


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kind", TAUS)
@pytest.mark.parametrize("mask", MASKS)
def test_inside_the_kernel(mask: str, kind: str, packed: bool) -> None:
    added = MASKS[mask]()
    slope = torch.randn(N, HEADS, QUERIES, WIDTH)
    results = []
    for tempered in (True, False):
        leaf, (query, key, value) = parts(packed)
        number = TAUS[kind]().clone().requires_grad_()
        if tempered:
            assert can_temper(query, key, added)

            def attend(queries: Tensor, over: Tensor | None, key: Tensor = key, value: Tensor = value) -> Tensor:
                return F.scaled_dot_product_attention(queries, key, value, attn_mask=over)

            found = tempered_attention(attend, query, key, value, added, number, SCALE)
        else:
            found = plainly(query, key, value, added, number)
        results.append([found, *torch.autograd.grad(found, [leaf, number], slope)])
        if tempered:
            with torch.no_grad():
                torch.testing.assert_close(
                    tempered_attention(attend, query, key, value, added, number, SCALE), found.detach()
                )
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mask", ["none", "bias"])
@pytest.mark.parametrize("learned", ["tau", "queries"])
def test_only_what_is_learned_gets_gradients(mask: str, learned: str) -> None:
    leaf, (query, key, value) = parts(True)
    tau = torch.full((N, 1, 1, 1), 0.7)
    if learned == "tau":
        query, key, value = (item.detach() for item in (query, key, value))
        tau.requires_grad_()

    def attend(queries: Tensor, over: Tensor | None) -> Tensor:
        return F.scaled_dot_product_attention(queries, key, value, attn_mask=over)

    found = tempered_attention(attend, query, key, value, MASKS[mask](), tau, SCALE)
    wanted = plainly(query, key, value, MASKS[mask](), tau)
    item = tau if learned == "tau" else leaf
    torch.testing.assert_close(
        *(torch.autograd.grad(one.square().sum(), item, retain_graph=True)[0] for one in (found, wanted)),
        atol=1e-5,
        rtol=1e-4,
    )


@pytest.mark.parametrize("mask", ["none", "bias"])
def test_bfloat16(mask: str) -> None:
    results = []
    for kind in (torch.bfloat16, torch.float32):
        leaf, (query, key, value) = parts(True, kind=kind)
        tau = torch.tensor(0.7, requires_grad=True)
        added = MASKS[mask]()
        added = None if added is None else added.to(kind)

        def attend(queries: Tensor, over: Tensor | None, key: Tensor = key, value: Tensor = value) -> Tensor:
            return F.scaled_dot_product_attention(queries, key, value, attn_mask=over)

        found = tempered_attention(attend, query, key, value, added, tau.expand(N, 1, 1, 1), SCALE)
        assert found.dtype == kind
        results.append([found, *torch.autograd.grad(found.float().square().sum(), [leaf, tau])])
    assert results[0][1].dtype == torch.bfloat16
    assert results[0][2].dtype == torch.float32
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one.float(), other, atol=0.05 * float(other.detach().abs().max()), rtol=0.05)


@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention(batch_first: bool) -> None:
    """Equal to the module at τ = 1, and to plain tensor code for other τ."""
    module = nn.MultiheadAttention(HEADS * WIDTH, HEADS, batch_first=batch_first)
    nn.init.normal_(module.in_proj_bias)
    hidden = torch.randn(QUERIES, N, HEADS * WIDTH)
    given = hidden.transpose(0, 1) if batch_first else hidden
    wanted = module(given, given, given, need_weights=False)[0]
    found = tempered_mha(module, hidden, torch.ones(N, 1, 1, 1))
    torch.testing.assert_close(found.transpose(0, 1) if batch_first else found, wanted)
    tau = torch.tensor([0.6, 1.7]).view(N, 1, 1, 1).requires_grad_()
    cut = F.linear(hidden, module.in_proj_weight, module.in_proj_bias).unflatten(-1, (3, HEADS, WIDTH))
    query, key, value = cut.permute(2, 1, 3, 0, 4).unbind(0)
    plain = module.out_proj(plainly(query, key, value, None, tau).permute(2, 0, 1, 3).flatten(-2))
    found = tempered_mha(module, hidden, tau)
    torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-4)
    items = [tau, *module.parameters()]
    slopes = [torch.autograd.grad(one.square().sum(), items) for one in (found, plain)]
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_others_hooks_on_saved_tensors_keep_working() -> None:
    """Hooks for offloading get the queries, not the quotient; checkpointing keeps nothing and recomputes it."""
    leaf, tau = torch.randn(N, QUERIES, 3, HEADS, WIDTH, requires_grad=True), torch.tensor(0.7, requires_grad=True)
    storages: list[StorageWeakRef] = []

    def block(item: Tensor) -> Tensor:
        cut = (item * 2).permute(2, 0, 3, 1, 4)
        storages.append(StorageWeakRef(cut.untyped_storage()))
        query, key, value = cut.unbind(0)
        found = tempered_attention(
            lambda queries, mask: F.scaled_dot_product_attention(queries, key, value),
            query,
            key,
            value,
            None,
            tau.expand(N, 1, 1, 1),
            SCALE,
        )
        return found.square()

    wanted = torch.autograd.grad(block(leaf).sum(), [leaf, tau])
    seen: list[int] = []

    def pack(item: Tensor) -> Tensor:
        seen.append(item.untyped_storage().data_ptr())
        return item.clone()

    storages.clear()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda item: item):
        found = block(leaf)
    # The projection, the attention's output, its normalisers, τ, and what the square keeps: no quotient.
    assert len(set(seen)) <= 5
    results = [torch.autograd.grad(found.sum(), [leaf, tau])]
    storages.clear()
    again = checkpoint(block, leaf, use_reentrant=False)
    assert storages[0].expired()
    results.append(torch.autograd.grad(again.sum(), [leaf, tau]))
    for result in results:
        for one, other in zip(result, wanted, strict=True):
            torch.testing.assert_close(one, other)


# -- gates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streams", [1, N])
def test_a_gate_is_the_mixture(streams: int) -> None:
    hidden, given = torch.randn(N, 6, 4).double().requires_grad_(), torch.randn(N, 2, 4).double().requires_grad_()
    logit = torch.randn(streams, 1, 1).double().requires_grad_()
    found = Gated.apply(hidden, given, logit, 1)
    gate = logit.sigmoid()
    wanted = torch.cat((hidden[:, :1], gate * hidden[:, 1:3] + (1 - gate) * given, hidden[:, 3:]), dim=1)
    torch.testing.assert_close(found, wanted)
    assert torch.autograd.gradcheck(lambda *items: Gated.apply(*items, 1), (hidden, given, logit))
    assert torch.autograd.gradgradcheck(lambda *items: Gated.apply(*items, 1), (hidden, given, logit))


def test_a_gate_in_bfloat16() -> None:
    """A nearly closed gate has a gradient too, although the mixture hardly contains the block's output."""
    hidden, given = torch.randn(N, 6, 4).bfloat16(), torch.randn(N, 2, 4).bfloat16()
    logit = torch.full((1, 1, 1), -7.0, requires_grad=True)
    slope = (hidden - torch.cat((given,) * 3, dim=1)).float()  # so that nothing cancels out
    (found,) = torch.autograd.grad(Gated.apply(hidden, given, logit, 1), logit, slope.bfloat16())
    gate = logit.sigmoid()
    wanted = (slope[:, 1:3] * gate * (1 - gate) * (hidden[:, 1:3] - given).float()).sum()
    torch.testing.assert_close(found.sum(), wanted, rtol=0.05, atol=1e-5)


# -- whole models -----------------------------------------------------------------------------------------------------


def learned_for(model: vp.Model) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    blocks = len(model.tower.blocks)
    items = [torch.randn(1, 3, 32, generator=generator), torch.randn(blocks - 1, generator=generator)]
    return [item.requires_grad_() for item in [*items, *(torch.rand(blocks, generator=generator) + 0.5).unbind()]]


def prompt_of(learned: Sequence[Tensor]) -> vp.VisualPrompt:
    edits = tuple(
        vp.AttentionEdit(temperature=tau, rows="all", first_block=block, last_block=block)
        for block, tau in enumerate(learned[2:])
    )
    return vp.VisualPrompt(IMAGE, tokens=vp.PromptTokens(learned[0], gate_logits=learned[1]), attention=edits)


def results_of(model: vp.Model, learned: Sequence[Tensor]) -> list[Tensor]:
    pixels = model.parts.reader.inputs([(IMAGE, "model")] * 2, model)["pixel_values"]
    with model.prompting([prompt_of(learned)] * 2) as encode:
        found = encode(pixels).embeddings
        loss = (found * torch.linspace(-1, 2, found.shape[-1])).sum()
        return [found, *torch.autograd.grad(loss, list(learned))]


def wrapped(name: str) -> vp.Model:
    made = tiny(name)
    made.module.requires_grad_(False)
    return vp.wrap(made.module, made.processor, made.tokenizer)


@pytest.mark.parametrize("name", NAMES)
def test_as_row_by_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way inside the kernel against the way that computes every row in plain code, on every encoder."""
    model = wrapped(name)
    learned, seen = learned_for(model), []
    real = SiteProgram.tau.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(SiteProgram, "tau", property(lambda self: (seen.append(1), real(self))[1]))
    found = results_of(model, learned)
    assert len(seen) >= len(model.tower.blocks)  # every block went this way
    monkeypatch.setattr(SiteProgram, "_tempers_alone", False)
    seen.clear()
    for one, other in zip(found, results_of(model, learned), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * max(1.0, float(other.detach().abs().max())), rtol=1e-4)
    assert not seen


def kept_bytes(model: vp.Model, learned: Sequence[Tensor], plain: bool) -> int:
    weights = {item.untyped_storage().data_ptr() for item in model.module.state_dict().values()}
    seen: dict[int, int] = {}

    def pack(item: Tensor) -> Tensor:
        storage = item.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return item

    pixels = model.parts.reader.inputs([(IMAGE, "model")] * 2, model)["pixel_values"]
    prompt = vp.VisualPrompt(IMAGE, tokens=vp.PromptTokens(learned[0])) if plain else prompt_of(learned)
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda item: item)
    with model.prompting([prompt] * 2) as encode, hooks:
        found = encode(pixels).embeddings
    assert found.requires_grad
    return sum(seen.values())


@pytest.mark.parametrize("name", NAMES)
def test_nothing_more_is_kept(name: str) -> None:
    """Compared with prompts without gates and temperatures, memory grows by a few numbers, not by a sequence."""
    model = wrapped(name)
    learned = learned_for(model)
    assert kept_bytes(model, learned, plain=False) <= kept_bytes(model, learned, plain=True) + 512


@pytest.mark.parametrize("name", ["open-clip-vit", "timm-beit", "timm-vit"])
def test_threads(name: str) -> None:
    """Threads with different temperatures on one model give the same results as each alone."""
    model = wrapped(name)
    learned = [learned_for(model) for _ in range(3)]
    with torch.no_grad():
        for factor, items in zip((0.5, 1.0, 2.0), learned, strict=True):
            for tau in items[2:]:
                tau.mul_(factor)
    alone = [results_of(model, items) for items in learned]
    wrong: list[Any] = []

    def work(index: int) -> None:
        try:
            for _ in range(4):
                for one, other in zip(results_of(model, learned[index]), alone[index], strict=True):
                    torch.testing.assert_close(one, other)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_multihead_attention_that_is_called_otherwise() -> None:
    """If attention weights are requested, rows are still recomputed."""
    model = wrapped("open-clip-vit")
    learned = learned_for(model)
    wanted = results_of(model, learned)
    for block in model.tower.blocks:
        attention: Any = block.attn

        def attended(q_x: Tensor, attention: Any = attention, **_: Any) -> Tensor:
            return attention(q_x, q_x, q_x)[0]

        block.attention = attended  # type: ignore[assignment]
    for one, other in zip(results_of(model, learned), wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4 * max(1.0, float(other.detach().abs().max())), rtol=1e-4)
