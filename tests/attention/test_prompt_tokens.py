"""Prompt tokens in every tiny encoder: effect, positions, clean outputs, removed hooks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import visprompt as vp
from visprompt.attention.engine import open_scope
from visprompt.attention.program import SiteProgram
from visprompt.attention.prompt_tokens import Insertion
from visprompt.models.backends.transformers import find_blocks
from visprompt.models.site_checks import verify_prompt_tokens
from visprompt.testing.conformance import Crash, crashing, differences, image, snapshot
from visprompt.testing.tiny import Tiny, tiny, tiny_names

BLOCKS, WIDTH = 4, 32
NAMES = [name for name in tiny_names() if tiny(name).has_attention]
IMAGE = image((96, 96))
PLAIN = vp.VisualPrompt(IMAGE)


def tokens(blocks: int = 1, m: int = 3, seed: int = 0, gates: bool = False, **options: Any) -> vp.PromptTokens:
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(blocks, m, WIDTH, generator=generator)
    first = options.get("first_block", 0)
    logits = torch.randn(BLOCKS - 1 - first, generator=generator) if gates else None
    return vp.PromptTokens(made, gate_logits=logits, **options)


KINDS: dict[str, Callable[[], vp.PromptTokens]] = {
    "shallow": tokens,
    "deep": lambda: tokens(BLOCKS, seed=1),
    "gated": lambda: tokens(gates=True, seed=2),
    "from block 2": lambda: tokens(BLOCKS - 2, m=5, first_block=2, seed=3),
    "gated from block 1": lambda: tokens(m=2, gates=True, first_block=1, seed=4),
}


def temperatures(values: Any) -> tuple[vp.AttentionEdit, ...]:
    return tuple(
        vp.AttentionEdit(temperature=value, rows="all", first_block=block, last_block=block)
        for block, value in enumerate(values)
    )


@pytest.fixture(scope="module", params=NAMES)
def small(request: pytest.FixtureRequest) -> tuple[Tiny, vp.Model]:
    made = tiny(request.param)
    return made, vp.wrap(made.module, made.processor, made.tokenizer)


@torch.no_grad()
def embeddings(model: vp.Model, *prompts: vp.VisualPrompt, **options: Any) -> Tensor:
    return model.encode(list(prompts), **options).embeddings


# -- every encoder ----------------------------------------------------------------------------------------------------


def test_they_act_and_mix_in_a_batch(small: tuple[Tiny, vp.Model]) -> None:
    """Prompts of several kinds give the same in one batch as alone; without tokens they equal the plain model."""
    model = small[1]
    assert "tokens" in model.supports
    prompts = [PLAIN.with_(tokens=make()) for make in KINDS.values()]
    alone = [embeddings(model, prompt) for prompt in prompts]
    plain = embeddings(model, PLAIN)
    assert torch.equal(embeddings(model, PLAIN.with_(tokens=tokens(m=0))), plain)
    other = vp.VisualPrompt(image((144, 48)), tokens=prompts[0].tokens)  # another grid on models that vary it
    same_kind = PLAIN.with_(tokens=tokens(seed=7))
    batch = embeddings(model, PLAIN, *prompts, same_kind, other)
    wanted = torch.cat([plain, *alone, embeddings(model, same_kind), embeddings(model, other)])
    torch.testing.assert_close(batch, wanted, atol=1e-5, rtol=1e-4)
    for one in [*alone, batch[-2:-1]]:
        assert (one - plain).abs().max() > 1e-3
    assert (alone[0] - batch[-2]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["shallow", "deep", "from block 2"])
def test_positions_stay_right(small: tuple[Tiny, vp.Model], kind: str) -> None:
    """With the prompt tokens hidden from all other tokens, the output is that of the plain model."""
    model = small[1]
    insertion = Insertion(model.tower, [KINDS[kind]()])
    count, patches = insertion.count, model.geometry(IMAGE.size).num_patches
    sites, programs = [], {}
    for site in insertion.tower.sites:
        # Columns counted from the first prompt token on, so that a bias reaches these.
        sites.append(replace(site, prefix=site.prefix - site.prompts, prompts=0))
        if site.prompts:
            rows = torch.arange(site.prefix + patches)
            bias = torch.zeros(1, 1, 1, count + patches)
            bias[..., :count] = -1e9
            programs[sites[-1]] = SiteProgram(rows, torch.ones(1, site.heads, len(rows), dtype=torch.bool), bias=bias)
    tower = replace(insertion.tower, sites=tuple(sites), by_module={})
    inputs = model.parts.reader.inputs([(IMAGE, "model")], model)
    with torch.no_grad(), open_scope(tower, programs, tokens=insertion):
        hidden = model.parts.embed(inputs)
    torch.testing.assert_close(hidden, embeddings(model, PLAIN), atol=1e-5, rtol=1e-4)


def test_prompts_have_no_position(small: tuple[Tiny, vp.Model]) -> None:
    model, given = small[1], tokens(m=4)
    turned = vp.PromptTokens(given.tokens.flip(1))
    found = embeddings(model, PLAIN.with_(tokens=given), PLAIN.with_(tokens=turned))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


#: BEiT has a bias for CLS alone; SigLIP and I-JEPA have no CLS
WITH_CLS = [name for name in NAMES if not any(other in name for other in ("beit", "siglip", "ijepa"))]


@pytest.mark.parametrize("small", WITH_CLS, indirect=True)
def test_a_copy_of_cls_stays_one(small: tuple[Tiny, vp.Model]) -> None:
    """Prompt tokens are treated like CLS: not rotated, visible to every token, and every token is visible to them."""
    model = small[1]
    assert model.tower.prefix > 0
    seen: list[Tensor] = []

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    inputs = model.parts.reader.inputs([(IMAGE, "model")], model)
    with torch.no_grad():
        handle = model.tower.blocks[0].register_forward_pre_hook(look, with_kwargs=True)
        model.parts.embed(inputs)
        handle.remove()
        insertion = Insertion(model.tower, [vp.PromptTokens(seen[0][:, :1])])
        handle = model.tower.blocks[-1].register_forward_pre_hook(look, with_kwargs=True)
        with open_scope(insertion.tower, {}, tokens=insertion):
            model.parts.embed(inputs)
        handle.remove()
    last, own = seen[1], model.tower.prefix
    assert last.shape[1] == seen[0].shape[1] + 1
    torch.testing.assert_close(last[:, own], last[:, 0], atol=1e-5, rtol=1e-4)


def test_biases_and_masks_leave_prompts_alone() -> None:
    made = tiny("timm-beit")
    insertion = Insertion(vp.wrap(made.module, made.processor).tower, [tokens(m=2)])
    bias = torch.randn(1, 2, 5, 5)
    wide = insertion.widen_mask(bias, 1, 7)
    own = [0, 3, 4, 5, 6]
    assert torch.equal(wide[..., own, :][..., own], bias)
    assert wide[..., 1:3].eq(0).all()
    assert wide[..., 1:3, :].eq(0).all()
    seen = torch.tensor([[True, True, True, False, False]] * 2)
    assert insertion.widen_mask(seen, 2, 7).tolist() == [[True, True, True, True, True, False, False]] * 2
    assert insertion.widen_mask(wide, 1, 7) is wide


def test_with_attention_edits(small: tuple[Tiny, vp.Model]) -> None:
    """The columns of edits and maps are the patches' tokens, at any position in the prompt."""
    model = small[1]
    patches = model.geometry(IMAGE.size).num_patches
    first = model.num_blocks - 1
    with_tokens = PLAIN.with_(tokens=tokens())
    for column in (0, patches - 1):
        bias = np.zeros(patches, dtype=np.float32)
        bias[column] = 50.0
        edited = with_tokens.adding(vp.AttentionEdit(bias=bias, first_block=first))
        with torch.no_grad():
            whole = model.encode([edited, with_tokens, edited], read=[first])
            rows = model.encode([edited], read=[0], read_rows="patches") if first else None
        maps = whole.attention[first]
        assert maps.shape[-1] == patches
        assert maps[0, :, column].min() > 0.99
        assert maps[1, :, column].max() < 0.9
        # Prompt tokens get a share, but of a pooling head, which does not see them.
        assert model.tower.readout == "probe" or maps[1].sum(-1).max() < 0.999
        torch.testing.assert_close(maps[0], maps[2])
        assert rows is None or rows.attention[0].shape[-2:] == (patches, patches)
    region = vp.Request(IMAGE, region=vp.Box(20, 20, 60, 60))
    for prompter in ("circle", "falip", "circle+unleash"):
        items = vp.Prompter.from_name(prompter).prompt([region], model)
        found = embeddings(model, *(item.with_(tokens=tokens()) for item in items), with_tokens)
        assert torch.isfinite(found).all()
        assert (found[0] - found[1]).abs().max() > 1e-5


def test_temperatures_act_on_every_row(small: tuple[Tiny, vp.Model]) -> None:
    """Tempering inside the kernel and row by row agree, and a learned τ acts like a given number."""
    model = small[1]
    values = [0.5, 2.0, 1.5, 0.8]
    written = PLAIN.with_(tokens=tokens(gates=True), attention=temperatures(values))
    learned = PLAIN.with_(tokens=written.tokens, attention=temperatures(torch.tensor(values).unbind()))
    found = embeddings(model, written)
    with torch.no_grad():
        read = model.encode([written], read=[0], read_rows="all").embeddings  # reading takes the way row by row
    torch.testing.assert_close(embeddings(model, learned), found, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(read, found, atol=1e-5, rtol=1e-4)
    mixed = embeddings(model, written, PLAIN.with_(tokens=written.tokens), learned)
    torch.testing.assert_close(mixed[[0, 2]], found.expand(2, -1), atol=1e-5, rtol=1e-4)
    assert (mixed[1] - mixed[0]).abs().max() > 1e-4


def test_nothing_is_left(small: tuple[Tiny, vp.Model]) -> None:
    made, model = small
    prompt = PLAIN.with_(tokens=tokens(gates=True), attention=temperatures([0.5, 2.0, 1.5, 0.8]))
    wide = PLAIN.with_(tokens=vp.PromptTokens(torch.zeros(1, 2, WIDTH + 1)))
    before, state = embeddings(model, PLAIN), snapshot(made.module)
    embeddings(model, prompt)
    with pytest.raises(vp.InvalidInputError, match="made for another model"):
        embeddings(model, wide)
    with crashing(model.tower.sites[1].module), pytest.raises(Crash):
        embeddings(model, prompt)
    assert not differences(state, snapshot(made.module))
    assert torch.equal(embeddings(model, PLAIN), before)


def test_gradients_reach_what_is_learned_and_nothing_else(small: tuple[Tiny, vp.Model]) -> None:
    made, model = small
    if model.tower.padded:
        with pytest.raises(vp.UnsupportedError, match="packed"), model.prompting([PLAIN.with_(tokens=tokens())]):
            pass
        return
    learned = [torch.randn(1, 3, WIDTH), torch.zeros(BLOCKS - 1), *torch.ones(BLOCKS).unbind()]
    learned = [item.clone().requires_grad_() for item in learned]
    prompt = PLAIN.with_(
        tokens=vp.PromptTokens(learned[0], gate_logits=learned[1]), attention=temperatures(learned[2:])
    )
    made.module.requires_grad_(False)
    try:
        pixels = model.parts.reader.inputs([(IMAGE, "model")] * 2, model)["pixel_values"]
        with model.prompting([prompt] * 2) as encode:
            found = encode(pixels).embeddings
            (found * torch.linspace(-1, 2, found.shape[-1])).sum().backward()
        assert all(item.grad is not None and item.grad.ne(0).all() for item in learned)
        assert all(item.grad is None for item in made.module.parameters())
    finally:
        made.module.requires_grad_(True)


# -- against plain tensor code ----------------------------------------------------------------------------------------


def by_hand(blocks: Any, hidden: Tensor, own: int, given: vp.PromptTokens) -> Tensor:
    """The blocks with prompts in plain code, for models whose blocks take and return hidden states only."""
    p, m = given.tokens, given.count
    for index, block in enumerate(blocks):
        place = index - given.first_block
        if place == 0 or (place > 0 and len(p) > 1):
            rest = hidden[:, own + (m if place else 0) :]
            hidden = torch.cat((hidden[:, :own], p[place].expand(len(hidden), -1, -1), rest), dim=1)
        before, output = hidden, block(hidden)
        hidden = output[0] if isinstance(output, tuple) else output
        if given.gate_logits is not None and 0 <= place < len(given.gate_logits):
            g = given.gate_logits[place].sigmoid()
            mixed = g * hidden[:, own : own + m] + (1 - g) * before[:, own : own + m]
            hidden = torch.cat((hidden[:, :own], mixed, hidden[:, own + m :]), dim=1)
    return hidden


def hand_made(name: str, module: Any, pixels: Tensor, given: vp.PromptTokens) -> Tensor:
    if name == "timm-vit":
        hidden = module.norm_pre(module._pos_embed(module.patch_embed(pixels)))
        return module.norm(by_hand(module.blocks, hidden, 1, given))[:, 0]
    return module.layernorm(by_hand(module.layers, module.embeddings(pixels), 1, given))[:, 0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["timm-vit", "transformers-vit"])
def test_it_is_vpt(name: str, kind: str) -> None:
    made = tiny(name)
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    given = KINDS[kind]()
    with torch.no_grad():
        wanted = hand_made(name, made.module, pixels, given)
        model = vp.wrap(made.module, made.processor)
        found = model.embed_pixels(pixels, [PLAIN.with_(tokens=given)] * 2).embeddings
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["timm-vit", "transformers-vit", "open-clip-vit"])
def test_open_gates_and_temperature_one_are_vpt_shallow(name: str) -> None:
    made = tiny(name)
    model = vp.wrap(made.module, made.processor, made.tokenizer)
    given = tokens()
    opened = replace(given, gate_logits=torch.full((BLOCKS - 1,), float("inf")))
    gated = PLAIN.with_(tokens=opened, attention=temperatures(torch.ones(BLOCKS).unbind()))
    found, wanted = embeddings(model, gated), embeddings(model, PLAIN.with_(tokens=given))
    torch.testing.assert_close(found, wanted, atol=1e-6 if name == "open-clip-vit" else 0, rtol=0)


@pytest.mark.parametrize("name", ["timm-vit-mean", "transformers-vit-mae", "transformers-ijepa", "timm-beit"])
def test_pooling_with_the_prompts(name: str) -> None:
    """The prompts change the pooled output, also with closed gates."""
    made = tiny(name)
    model = vp.wrap(made.module, made.processor)
    found = embeddings(model, *(PLAIN.with_(tokens=tokens(pool=pool)) for pool in ("model", "with_prompts")))
    assert (found[0] - found[1]).abs().max() > 1e-3


# -- what leaves, scopes, threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["transformers-clip-vision", "transformers-dinov2", "transformers-siglip"])
def test_captured_states_have_no_prompts(name: str) -> None:
    made = tiny(name)
    model = vp.wrap(made.module, made.processor, made.tokenizer)
    vision = getattr(made.module, "vision_model", made.module)
    pixels = model.parts.reader.inputs([(IMAGE, "model")], model)["pixel_values"]
    with torch.no_grad():
        plain = vision(pixels, output_hidden_states=True)
        insertion = Insertion(model.tower, [tokens(gates=True)])
        with open_scope(insertion.tower, {}, tokens=insertion):
            found = vision(pixels, output_hidden_states=True)
    assert [item.shape for item in found.hidden_states] == [item.shape for item in plain.hidden_states]
    assert found.last_hidden_state.shape == plain.last_hidden_state.shape
    assert torch.equal(found.hidden_states[0], plain.hidden_states[0])
    assert not torch.equal(found.hidden_states[-2], plain.hidden_states[-2])


@pytest.mark.parametrize(
    "name",
    [
        "transformers-vit",
        "transformers-dinov3",
        "transformers-beit",
        "open-clip-vit",
        "timm-vit",
        "timm-eva02",
        "timm-beit",
    ],
)
def test_gradient_checkpointing(name: str) -> None:
    import timm

    made = tiny(name)
    model = vp.wrap(made.module, made.processor, made.tokenizer)
    made.module.requires_grad_(False)
    learned = [torch.randn(1, 3, WIDTH), torch.zeros(BLOCKS - 1), *torch.full((BLOCKS,), 1.5).unbind()]
    learned = [item.clone().requires_grad_() for item in learned]
    prompt = PLAIN.with_(
        tokens=vp.PromptTokens(learned[0], gate_logits=learned[1]), attention=temperatures(learned[2:])
    )
    pixels = model.parts.reader.inputs([(IMAGE, "model"), (image((144, 48)), "model")], model)["pixel_values"]

    def gradients() -> list[Tensor]:
        with model.prompting([prompt] * 2) as encode:
            found = encode(pixels).embeddings, encode(pixels + 0.1).embeddings  # two forwards do not mix
            return list(torch.autograd.grad((found[0] * found[1]).sum(), learned))

    wanted = gradients()
    switch_on_checkpointing(made)
    with monkeypatched_reentrant(timm):
        for found, item in zip(gradients(), wanted, strict=True):
            torch.testing.assert_close(found, item, atol=1e-5, rtol=1e-4)


def switch_on_checkpointing(made: Tiny) -> None:
    if made.backend == "transformers":
        made.module.gradient_checkpointing_enable()
        for layer in find_blocks(made.module):  # these alone: DINOv3 turns positions at random while it trains
            layer.training = True
    elif made.backend == "open_clip":
        made.module.set_grad_checkpointing()
    else:
        made.module.set_grad_checkpointing(True)


class monkeypatched_reentrant:
    """timm uses reentrant checkpointing by default."""

    def __init__(self, timm: Any) -> None:
        self.layers = timm.layers

    def __enter__(self) -> None:
        self.before = self.layers.use_reentrant_ckpt()
        self.layers.set_reentrant_ckpt(False)

    def __exit__(self, *_: Any) -> None:
        self.layers.set_reentrant_ckpt(self.before)


@pytest.mark.parametrize("name", ["transformers-vit", "open-clip-vit", "timm-vit", "timm-beit"])
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision(name: str, autocast: bool) -> None:
    made = tiny(name)
    model = vp.wrap(made.module, made.processor, made.tokenizer)
    made.module.requires_grad_(False)
    given = tokens(gates=True)
    taus = torch.full((BLOCKS,), 1.5, requires_grad=True)
    given.tokens.requires_grad_()
    prompt = PLAIN.with_(tokens=given, attention=temperatures(taus.unbind()))
    pixels = model.parts.reader.inputs([(IMAGE, "model")], model)["pixel_values"]
    with model.prompting([prompt]) as encode:
        wanted = encode(pixels).embeddings
    if not autocast:
        made.module.to(torch.bfloat16)
        pixels = pixels.to(torch.bfloat16)
    with model.prompting([prompt]) as encode, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = encode(pixels).embeddings
        (found.float() * torch.linspace(-1, 2, found.shape[-1])).sum().backward()
    torch.testing.assert_close(found.float(), wanted, atol=0.1 * float(wanted.detach().abs().max()), rtol=0)
    assert all(item.grad is not None and item.grad.isfinite().all() for item in (given.tokens, taus))


def test_reentrant_checkpointing_is_refused_not_silent() -> None:
    made = tiny("timm-vit")
    model = vp.wrap(made.module, made.processor)
    made.module.requires_grad_(False)
    made.module.set_grad_checkpointing(True)
    prompt = PLAIN.with_(tokens=vp.PromptTokens(torch.zeros(1, 2, WIDTH, requires_grad=True)))
    import timm

    before = timm.layers.use_reentrant_ckpt()
    timm.layers.set_reentrant_ckpt(True)
    try:
        with pytest.raises(vp.SiteNotReachedError, match="use_reentrant"), pytest.warns(match="requires_grad"):
            model.embed_pixels(torch.zeros(1, 3, 64, 64), [prompt])
    finally:
        timm.layers.set_reentrant_ckpt(before)


@pytest.mark.parametrize("name", ["transformers-dinov3", "open-clip-vit", "timm-eva02", "timm-beit"])
def test_threads(name: str) -> None:
    made = tiny(name)
    model = vp.wrap(made.module, made.processor, made.tokenizer)
    prompts = [PLAIN, *(PLAIN.with_(tokens=KINDS[kind]()) for kind in ("shallow", "gated"))]
    alone = [embeddings(model, prompt) for prompt in prompts]
    mixed: list[str] = []

    def work(index: int) -> None:
        try:
            for _ in range(5):
                if not torch.equal(embeddings(model, prompts[index]), alone[index]):
                    mixed.append(f"thread {index}")
        except Exception as error:
            mixed.append(f"thread {index}: {error}")

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not mixed


@pytest.mark.parametrize("name", ["transformers-vit", "open-clip-vit"])
def test_threads_that_train(name: str) -> None:
    """Blocks that are recomputed in one thread's backward pass do not get another thread's tokens."""
    made = tiny(name)
    model = vp.wrap(made.module, made.processor, made.tokenizer)
    made.module.requires_grad_(False)
    switch_on_checkpointing(made)
    pixels = model.parts.reader.inputs([(IMAGE, "model")], model)["pixel_values"]
    both_open = threading.Barrier(2)

    def gradient(seed: int, barrier: threading.Barrier | None) -> Tensor:
        given = tokens(seed=seed, m=2 + seed)
        given.tokens.requires_grad_()
        with model.prompting([PLAIN.with_(tokens=given)]) as encode:
            found = encode(pixels).embeddings
            if barrier is not None:
                barrier.wait(timeout=60)
            (found * torch.linspace(-1, 2, found.shape[-1])).sum().backward()
            if barrier is not None:
                barrier.wait(timeout=60)
        assert given.tokens.grad is not None
        return given.tokens.grad

    alone = [gradient(seed, None) for seed in range(2)]
    found: dict[int, Tensor] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: found.update({seed: gradient(seed, both_open)})) for seed in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(2):
        torch.testing.assert_close(found[seed], alone[seed], atol=1e-6, rtol=1e-5)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vit() -> vp.Model:
    made = tiny("transformers-vit")
    return vp.wrap(made.module, made.processor)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda: tokens(2), vp.InvalidInputError, "for 2 blocks"),
        (lambda: tokens(BLOCKS, first_block=1), vp.InvalidInputError, "there are 3"),
        (lambda: vp.PromptTokens(torch.zeros(1, 2, WIDTH), torch.zeros(5)), vp.InvalidInputError, "5 gates"),
        (lambda: tokens(BLOCKS, gates=True), vp.InvalidInputError, "deep prompts"),
        (lambda: tokens(tower="decoder"), vp.UnsupportedError, "decoder"),
        (lambda: tokens(pool="with_prompts"), vp.UnsupportedError, "read through cls"),
        (lambda: tokens(first_block=9), vp.InvalidInputError, "first_block"),
        (lambda: vp.PromptTokens(torch.zeros(2, WIDTH)), vp.InvalidInputError, "tensor"),
        (lambda: vp.PromptTokens(torch.zeros(1, 2, WIDTH), torch.zeros(1, 3)), vp.InvalidInputError, "gate_logits"),
        (lambda: tokens(pool="all"), vp.InvalidInputError, "pool"),
    ],
)
def test_what_does_not_fit_is_refused(vit: vp.Model, given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        embeddings(vit, PLAIN.with_(tokens=given()))


def test_a_model_without_blocks_names_what_it_takes() -> None:
    made = tiny("open-clip-resnet")
    model = vp.wrap(made.module, made.processor, made.tokenizer)
    with pytest.raises(vp.UnsupportedError, match=r"acts on tokens.*Strategies that work on it"):
        embeddings(model, PLAIN.with_(tokens=tokens()))


def test_kinds_do_not_mix_in_training(vit: vp.Model) -> None:
    prompts = [PLAIN.with_(tokens=tokens(m=m)) for m in (2, 3)]
    with pytest.raises(vp.InvalidInputError, match="one kind"), vit.prompting(prompts):
        pass


def test_tokens_that_go_nowhere_are_an_error(vit: vp.Model) -> None:
    insertion = Insertion(vit.tower, [tokens()])
    with (
        pytest.raises(vp.SiteNotReachedError, match="never got into block 0"),
        open_scope(insertion.tower, {}, tokens=insertion),
    ):
        vit.module.embeddings(torch.zeros(1, 3, 64, 64))


def test_tokens_without_an_effect_are_an_error(vit: vp.Model) -> None:
    class Deaf(nn.Module):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return vit.parts.embed(inputs) * 0

    parts = replace(vit.parts, embed=Deaf())
    with pytest.raises(vp.SiteNotReachedError, match=r"blocks \[0, 1, 2, 3\]"), torch.enable_grad():
        verify_prompt_tokens("deaf", parts, PLAIN.with_(tokens=tokens()), vit)
