"""Options of an LVLM's `generate`: passed on, or refused with a reason."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

import visprompt as vp
from visprompt.models.chat import Chat
from visprompt.models.lvlm.generation import settings_of
from visprompt.models.lvlm.inputs import prepare
from visprompt.models.lvlm.text import Pieces, pieces_of
from visprompt.testing import conformance
from visprompt.testing.tiny_lvlm import tiny_lvlm

QUESTION = "what is the red star on the left of the dog"


@pytest.fixture(scope="module")
def model():
    made = tiny_lvlm("llava")
    return vp.wrap(made.module, made.processor)


@pytest.fixture
def runner(model):
    return vp.Runner(model)


def request(query: str = QUESTION) -> vp.Request:
    return vp.Request(conformance.image((96, 64)), query=query)


def test_a_generation_config_says_how_to_write(runner):
    hot = GenerationConfig(do_sample=True, temperature=50.0)
    written = {runner.generate(request(), max_new_tokens=6, generation_config=hot)[0] for _ in range(4)}
    assert len(written) > 1, "it wrote greedily"
    beams = GenerationConfig(num_beams=3)
    expected = runner.generate(request(), max_new_tokens=6, num_beams=3)
    assert runner.generate(request(), max_new_tokens=6, generation_config=beams) == expected
    with pytest.raises(vp.UnsupportedError, match="num_beams=1"):
        runner.answer(request(), blocks=[0], generation_config=beams)
    with pytest.raises(vp.InvalidInputError, match="max_new_tokens"):
        runner.generate(request(), generation_config=GenerationConfig(max_new_tokens=3))


def test_an_end_named_by_the_caller_ends_the_answer(model, runner):
    (whole,) = runner.answer(request(), max_new_tokens=6, blocks=[0])
    ids = written_ids(model, 6)
    (cut,) = runner.answer(request(), max_new_tokens=6, blocks=[0], eos_token_id=ids[2])
    place = ids.index(ids[2])
    assert cut.finished
    assert not whole.finished
    assert cut.tokens == whole.tokens[:place]
    assert torch.equal(cut.token_maps[0], whole.token_maps[0][: place + 1])


def test_a_criterion_ends_one_answer_of_a_batch(model, runner):
    """The padding after an answer, and its decoding steps, are not part of the answer."""
    asked = [request(), request("what is the")]
    plain = runner.answer(asked, max_new_tokens=6, blocks=[0])
    seen: list[int] = []

    def first_is_done(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen.append(len(seen))
        return torch.tensor([len(seen) >= 3, False])

    first, second = runner.answer(asked, max_new_tokens=6, blocks=[0], stopping_criteria=[first_is_done])
    assert first.finished
    assert not second.finished
    assert first.tokens == plain[0].tokens[:3]
    assert torch.equal(first.token_maps[0], plain[0].token_maps[0][:3])


def test_stop_strings_come_with_the_tokenizer(model):
    settings = settings_of(model.module, model.tokenizer, 6, False, False, {"stop_strings": ["."]})
    assert settings["tokenizer"] is model.tokenizer


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("num_return_sequences", 2, "one answer"),
        ("guidance_scale", 1.5, "second time"),
        ("prompt_lookup_num_tokens", 2, "draft"),
        ("max_length", 30, "max_new_tokens"),
        ("return_dict_in_generate", True, "set by visprompt"),
        ("max_new_tokens", 0, "positive"),
        ("blocks", 3, "list of blocks"),
    ],
)
def test_what_edits_and_maps_cannot_follow_is_refused(runner, option, value, words):
    with pytest.raises(vp.VispromptError, match=words):
        runner.answer(request(), **{option: value})


def test_a_stream_of_several_beams_is_refused(runner):
    with pytest.raises(vp.UnsupportedError, match="num_beams=1"):
        list(runner.generate(request(), stream=True, num_beams=2))


def test_a_question_must_not_hold_a_images_token(runner):
    with pytest.raises(vp.InvalidInputError, match="stands for an image"):
        runner.generate(request("what does <image> show"))


def test_a_prompt_beyond_the_decoders_context_warns():
    made = tiny_lvlm("llava")
    made.module.config.get_text_config().max_position_embeddings = 80
    runner = vp.Runner(vp.wrap(made.module, made.processor))
    with pytest.warns(UserWarning, match="more than the 80"):
        runner.generate(request(QUESTION * 4), max_new_tokens=1)


def test_a_second_pass_in_chunks_within_one_scope_has_the_edits_where_the_first_had_them(model):
    asked = vp.Request(conformance.image((96, 64)), region=vp.Box(20, 12, 60, 50), query=QUESTION)
    chats = [Chat(tuple(vp.Prompter.from_name("falip").prompt(asked, model)), QUESTION)]
    inputs = prepare(model, chats)

    def first_logits():
        how = {"max_new_tokens": 2, "do_sample": False, "prefill_chunk_size": 9}
        return model.module.generate(**inputs.tensors, **how, output_logits=True, return_dict_in_generate=True).logits[
            0
        ]

    with torch.no_grad(), model.editing(chats, inputs):
        assert torch.equal(first_logits(), first_logits())


def test_an_option_that_no_loader_knows_is_named():
    with pytest.raises(vp.InvalidInputError, match="foo"):
        vp.load_model("bundled:scenes-llava", foo=3)


def test_a_refused_module_is_left_as_it_was():
    made = tiny_lvlm("llava")
    before = made.module.config._attn_implementation
    with pytest.raises(vp.UnsupportedError, match="language head"):
        vp.wrap(made.module.model, made.processor)
    assert made.module.config._attn_implementation == before


def test_an_ensemble_sums_the_scores_of_its_members(model):
    asked = vp.Request(conformance.image((96, 64)), region=vp.Box(20, 12, 60, 50), query=QUESTION)
    one, other, both = (
        vp.Runner(model, vp.Prompter.from_name(name)).score(asked, ["red", "dog"])
        for name in ("circle", "box", "circle|box")
    )
    torch.testing.assert_close(both, one + other)


def test_the_pieces_of_a_character_of_several_tokens_make_it():
    class Bytes:
        def decode(self, ids, skip_special_tokens):
            return bytes(ids).decode(errors="replace")

    assert pieces_of(Bytes(), list("aé".encode())) == ("a", "", "é")
    assert "".join(pieces_of(Bytes(), list("😀é!".encode()))) == "😀é!"


def written_ids(model, count: int) -> list[int]:
    inputs = prepare(model, [Chat(tuple(request().units()), QUESTION)])
    with torch.no_grad():
        rows = model.module.generate(**inputs.tensors, max_new_tokens=count, do_sample=False)
    return rows[0, inputs.length :].tolist()


def test_a_stream_that_ends_within_a_character_shows_what_the_answer_has():
    class Bytes:
        def decode(self, ids, skip_special_tokens=True):
            return bytes(ids).decode(errors="replace")

    shown: list[str] = []
    streamer = Pieces(Bytes(), 1, 1, lambda number, text: shown.append(text))
    for token in (0, *"aé".encode()[:-1]):
        streamer.put(torch.tensor([token]))
    assert shown == ["a"]
    streamer.end()
    assert "".join(shown) == Bytes().decode(list("aé".encode()[:-1]))
