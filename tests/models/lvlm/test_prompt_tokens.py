"""Prompt tokens in the vision towers of LVLMs: every family, batches of many tiles, answers, scores, gradients."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import visprompt as vp
from visprompt.models.chat import Chat
from visprompt.models.lvlm.answer_likelihood import answer_ids, answer_log_probs, ending
from visprompt.models.lvlm.inputs import ChatInputs, media_of, prepare
from visprompt.models.site_checks import features_of
from visprompt.testing.conformance import Crash, crashing, differences, image, snapshot
from visprompt.testing.tiny_lvlm import tiny_lvlm, tiny_lvlm_names

QUESTION = "what is the red star"
PACKED = [name for name in tiny_lvlm_names() if name.startswith("qwen")]
NAMES = [name for name in tiny_lvlm_names() if name not in PACKED]
WIDTH, M = 32, 3
WIDE, TALL = image((96, 64)), image((50, 100))


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> Any:
    made = tiny_lvlm(request.param)
    made.module.requires_grad_(False)
    return vp.wrap(made.module, made.processor, name=request.param)


def tokens(model: Any, kind: str = "shallow", seed: int = 0, m: int = M) -> vp.PromptTokens:
    blocks = len(model.vision_tower.blocks)
    first = 1 if kind == "late" else 0
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(blocks if kind == "deep" else 1, m, WIDTH, generator=generator)
    gates = torch.randn(blocks - 1 - first, generator=generator) if kind == "gated" else None
    return vp.PromptTokens(made, gates, first_block=first)


def chat(*prompts: vp.VisualPrompt, text: str = QUESTION) -> Chat:
    return Chat(prompts, text)


def scores(model: Any, *chats: Chat) -> Tensor:
    return model.score(list(chats), ["red", "a dog"])


def features(model: Any, chats: list[Chat]) -> tuple[Tensor, ChatInputs]:
    inputs = prepare(model, chats)
    with torch.no_grad(), model.editing(chats, inputs):
        return features_of(model.module, media_of(inputs)), inputs


# -- every family -----------------------------------------------------------------------------------------------------


def test_they_act_and_mix_in_a_batch(model: Any) -> None:
    """Prompts of several kinds and images with different tiles give the same in one batch as alone."""
    plain = vp.VisualPrompt(WIDE)
    prompts = [plain.with_(tokens=tokens(model, kind)) for kind in ("shallow", "deep", "gated", "late")]
    others = [plain.with_(tokens=tokens(model, seed=7)), vp.VisualPrompt(TALL, tokens=tokens(model, seed=8))]
    chats = [chat(item) for item in (*prompts, plain, *others, vp.VisualPrompt(TALL))]
    before = scores(model, chat(plain))
    assert torch.equal(scores(model, chat(plain.with_(tokens=tokens(model, m=0)))), before)
    alone = torch.cat([scores(model, item) for item in chats])
    torch.testing.assert_close(scores(model, *chats), alone, atol=1e-4, rtol=1e-4)
    for place in (0, 1, 2, 3, 5):
        assert (alone[place] - before[0]).abs().max() > 1e-4
    assert (alone[6] - alone[7]).abs().max() > 1e-4
    assert torch.equal(scores(model, chat(plain)), before)


def test_images_of_one_chat_are_told_apart(model: Any) -> None:
    """An image without tokens beside one with tokens looks as it does without; tiles go by image."""
    plain, other = vp.VisualPrompt(WIDE), vp.VisualPrompt(TALL)
    first, second = (other.with_(tokens=tokens(model, seed=seed)) for seed in (1, 2))
    wanted, inputs = features(model, [chat(plain, other)])
    both, _ = features(model, [chat(first.with_(image=WIDE), second)])
    mixed, _ = features(model, [chat(plain, second)])
    start = sum(item.length for item in inputs.layouts[0][:1])
    torch.testing.assert_close(mixed[:start], wanted[:start], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mixed[start:], both[start:], atol=1e-4, rtol=1e-4)
    assert (both[:start] - wanted[:start]).abs().max() > 1e-3
    assert (both[start:] - wanted[start:]).abs().max() > 1e-3


def test_gradients_reach_what_is_learned_and_nothing_else(model: Any) -> None:
    blocks = len(model.vision_tower.blocks)
    learned = [torch.randn(1, M, WIDTH), torch.zeros(blocks - 1), *torch.ones(blocks).unbind()]
    learned = [item.clone().requires_grad_() for item in learned]
    edits = tuple(
        vp.AttentionEdit(temperature=tau, rows="all", first_block=block, last_block=block)
        for block, tau in enumerate(learned[2:])
    )
    prompt = vp.VisualPrompt(WIDE, tokens=vp.PromptTokens(learned[0], learned[1]), attention=edits)
    chats = [chat(prompt), chat(prompt.with_(image=TALL), text="a cat")]
    inputs = prepare(model, chats)
    answers = [answer_ids(model, text, ended=True) for text in ("red", "a big dog")]
    with model.editing(chats, inputs):
        log_probs = answer_log_probs(model, inputs, answers)
        (-log_probs.log_likelihood.sum()).backward()
    assert all(item.grad is not None and item.grad.ne(0).all() for item in learned)
    assert all(item.grad is None for item in model.module.parameters())
    assert log_probs.counted.sum(1).tolist() == [len(item) for item in answers]


def test_an_answer_is_what_greedy_decoding_writes_if_every_token_is_first(model: Any) -> None:
    prompt = vp.VisualPrompt(WIDE, tokens=tokens(model, "gated"))
    chats = [chat(prompt), chat(vp.VisualPrompt(TALL, tokens=tokens(model, "gated", 3)), text="a cat")]
    inputs = prepare(model, chats)
    with torch.no_grad(), model.editing(chats, inputs):
        output = model.module.generate(**inputs.tensors, max_new_tokens=4, do_sample=False, suppress_tokens=None)
    written = output[:, -4:].tolist()
    ends = ending(model)
    assert len(ends) == 1
    special = {*model.tokenizer.all_special_ids} - {*ends}  # random models write the tokens of images, too
    answers = [list(itertools.takewhile(lambda token: token not in special, row)) for row in written]
    answers = [row[: row.index(ends[0]) + 1] if ends[0] in row else row for row in answers]
    answers[1] = answers[1][:2]
    for own, asked, numbers in ((chats, inputs, [0, 1]), (chats[:1], prepare(model, chats[:1]), [0])):
        with torch.no_grad(), model.editing(own, asked):
            log_probs = answer_log_probs(model, asked, [answers[number] for number in numbers])
        assert log_probs.first_choice.all()
    wrong = [[(answers[0][0] + 1) % 20 + 1], answers[1]]
    with torch.no_grad(), model.editing(chats, inputs):
        log_probs = answer_log_probs(model, inputs, wrong)
    assert log_probs.first_choice.all(1).tolist() == [False, True]
    assert log_probs.log_likelihood[0, 1:].eq(0).all()


def test_answers_use_them_and_nothing_is_left(model: Any) -> None:
    plain, prompt = vp.VisualPrompt(WIDE), vp.VisualPrompt(WIDE, tokens=tokens(model, "deep"))
    before, state = scores(model, chat(plain)), snapshot(model.module)
    seen: list[int] = []
    answers = model.generate(
        [chat(plain), chat(prompt), chat(plain)], max_new_tokens=3, read=[0], stream=lambda n, text: seen.append(n)
    )
    assert answers[0].text == answers[2].text
    assert torch.equal(answers[0].attention[0], answers[2].attention[0])
    assert (answers[0].attention[0][:1] - answers[1].attention[0][:1]).abs().max() > 1e-6
    assert set(seen) <= {0, 1, 2}
    wide = vp.VisualPrompt(WIDE, tokens=vp.PromptTokens(torch.zeros(1, 2, WIDTH + 1)))
    with pytest.raises(vp.InvalidInputError, match="made for another model"):
        scores(model, chat(wide))
    with crashing(model.vision_tower.sites[1].module), pytest.raises(Crash):
        scores(model, chat(prompt))
    assert not differences(state, snapshot(model.module))
    assert torch.equal(scores(model, chat(plain)), before)


def test_with_edits_of_both_towers(model: Any) -> None:
    request = vp.Request(WIDE, region=vp.Box(20, 12, 60, 50), query=QUESTION)
    options: dict[str, Any]
    for name, options in (("falip", {}), ("falip", {"tower": "vision"}), ("circle+unleash", {})):
        (item,) = vp.Prompter.from_name(name, **options).prompt(request, model)
        with_tokens = item.with_(tokens=tokens(model))
        found = scores(model, chat(item), chat(with_tokens), chat(vp.VisualPrompt(WIDE, tokens=with_tokens.tokens)))
        assert torch.isfinite(found).all()
        assert (found[0] - found[1]).abs().max() > 1e-5
        assert (found[1] - found[2]).abs().max() > 1e-6


@pytest.mark.parametrize("name", ["llava-onevision", "smolvlm", "internvl"])
def test_frames_of_a_video_have_their_own(name: str) -> None:
    made = tiny_lvlm(name)
    model = vp.wrap(made.module, made.processor)
    plain = [vp.VisualPrompt(image((64, 64), seed)) for seed in range(3)]
    one = [item.with_(tokens=tokens(model)) if place == 1 else item for place, item in enumerate(plain)]
    wanted, found = (features(model, [Chat(tuple(item), QUESTION, video=True)])[0] for item in (plain, one))
    changed = (found - wanted).abs().amax(1) > 1e-3
    of_a_frame = len(changed) // 3  # behind the last one there may be a newline
    assert [bool(item.any()) for item in changed.split(of_a_frame)[:3]] == [False, True, False]


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PACKED)
def test_packed_towers_refuse_with_the_reason(name: str) -> None:
    made = tiny_lvlm(name)
    model = vp.wrap(made.module, made.processor, name=name)
    assert "tokens" not in model.supports
    given = vp.VisualPrompt(WIDE, tokens=vp.PromptTokens(torch.zeros(1, 2, WIDTH)))
    with pytest.raises(vp.UnsupportedError, match=r"packs the patches.*Strategies that work on it") as error:
        model.generate([chat(given)])
    assert "gated" not in str(error.value).partition("work on it")[2]


def test_the_tower_ends_where_the_features_are_taken(llava: Any) -> None:
    """LLaVA uses the second-last hidden state: deep prompts are for the blocks before it."""
    assert len(llava.vision_tower.blocks) == 3
    assert "tokens" in llava.supports
    assert "patches" in llava.vision_tower.readout
    four = vp.PromptTokens(torch.zeros(4, 2, WIDTH))
    with pytest.raises(vp.InvalidInputError, match="there are 3"):
        scores(llava, chat(vp.VisualPrompt(WIDE, tokens=four)))
    pooled = vp.PromptTokens(torch.zeros(1, 2, WIDTH), pool="with_prompts")
    with pytest.raises(vp.UnsupportedError, match="read through patches"):
        scores(llava, chat(vp.VisualPrompt(WIDE, tokens=pooled)))


def test_against_plain_tensor_code(llava: Any) -> None:
    given = tokens(llava, "gated")
    chats = [chat(vp.VisualPrompt(WIDE, tokens=given))]
    found, inputs = features(llava, chats)
    inner: Any = llava.module.model
    tower = getattr(inner.vision_tower, "vision_model", inner.vision_tower)
    with torch.no_grad():
        hidden = tower.pre_layrnorm(tower.embeddings(inputs.tensors["pixel_values"]))
        given_here = given.tokens
        for index, block in enumerate(tower.encoder.layers[:3]):
            out = block(torch.cat((hidden[:, :1], given_here, hidden[:, 1:]), dim=1), attention_mask=None)
            hidden, made = torch.cat((out[:, :1], out[:, 1 + M :]), dim=1), out[:, 1 : 1 + M]
            if index < 2:
                gate = given.gate_logits[index].sigmoid()  # type: ignore[index]
                given_here = gate * made + (1 - gate) * given_here
        wanted = inner.multi_modal_projector(hidden[:, 1:])[0]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_two_kinds_do_not_share_a_forward(llava: Any) -> None:
    two = [vp.VisualPrompt(WIDE, tokens=tokens(llava, m=m)) for m in (2, 3)]
    with pytest.raises(vp.InvalidInputError, match="one chat"):
        scores(llava, chat(*two))
    chats = [chat(item) for item in two]
    with pytest.raises(vp.InvalidInputError, match="one batch"), llava.editing(chats, prepare(llava, chats)):
        pass


def test_no_run_inside_anothers_prompts(llava: Any) -> None:
    chats = [chat(vp.VisualPrompt(WIDE, tokens=tokens(llava)))]
    inputs = prepare(llava, chats)
    with torch.no_grad(), llava.editing(chats, inputs):
        with pytest.raises(vp.InvalidInputError, match="leave that scope first"):
            scores(llava, chats[0])
        llava.module(**inputs.tensors)


def test_compiled_models_refuse_tokens() -> None:
    made = tiny_lvlm("llava")
    made.module.compile()
    model = vp.wrap(made.module, made.processor)
    with pytest.raises(vp.UnsupportedError, match="compile"):
        scores(model, chat(vp.VisualPrompt(WIDE, tokens=tokens(model))))


# -- other settings ---------------------------------------------------------------------------------------------------


def llava_with(layers: Any) -> Any:
    made: Any = tiny_lvlm("llava")
    config = copy.deepcopy(made.module.config)
    config.vision_feature_layer = layers
    config.text_config._attn_implementation = config.vision_config._attn_implementation = None
    torch.manual_seed(0)
    return vp.wrap(type(made.module)(config).eval(), made.processor)


def test_features_of_several_layers() -> None:
    """Hidden states between the blocks are returned without the tokens."""
    model = llava_with([1, -2])
    plain = features(model, [chat(vp.VisualPrompt(WIDE))])[0]
    late = vp.PromptTokens(torch.randn(1, M, WIDTH), first_block=1)
    for _ in range(2):
        found = features(model, [chat(vp.VisualPrompt(WIDE, tokens=late))])[0]
        assert found.shape == plain.shape
        assert (found - plain).abs().max() > 1e-4
    assert torch.equal(features(model, [chat(vp.VisualPrompt(WIDE))])[0], plain)


def test_features_in_front_of_all_blocks_take_no_tokens() -> None:
    model = llava_with(0)
    assert "tokens" not in model.supports
    with pytest.raises(vp.UnsupportedError, match="first block"):
        scores(model, chat(vp.VisualPrompt(WIDE, tokens=vp.PromptTokens(torch.zeros(1, 2, WIDTH)))))


@pytest.mark.parametrize("name", ["llava", "idefics3"])
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision(name: str, autocast: bool) -> None:
    made = tiny_lvlm(name)
    model: Any = vp.wrap(made.module, made.processor)
    chats = [chat(vp.VisualPrompt(WIDE, tokens=tokens(model)), vp.VisualPrompt(TALL))]
    wanted = features(model, chats)[0]
    if not autocast:
        made.module.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = features(model, chats)[0]
        assert torch.isfinite(scores(model, *chats)).all()
    torch.testing.assert_close(found.float(), wanted, atol=0.1 * float(wanted.abs().max()), rtol=0)
