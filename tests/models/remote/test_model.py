"""Remote models against a small server on loopback: requests, answers, and which strategies run."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import noise, remote_model
from PIL import Image

import visprompt as vp
from visprompt.models.chat import Chat
from visprompt.models.remote.messages import png_bytes
from visprompt.testing.chat_server import Body, ChatServer, Reply, chunk, completion, images, question, refusal
from visprompt.testing.conformance import ready


def chat(text: str = "What colour?", *shown: Image.Image, **options: Any) -> Chat:
    return Chat(tuple(vp.VisualPrompt(item) for item in shown or (noise((31, 17)),)), text, **options)


# -- what is sent ------------------------------------------------------------------------------------------------------


def test_the_server_gets_every_pixel_and_the_question(server: ChatServer) -> None:
    first, second = noise((31, 17), seed=1), noise((64, 40), seed=2)
    [answer] = remote_model(server, seed=7).generate(
        [chat("How many?", first, second, system="Be short.")], max_new_tokens=9
    )
    [body] = server.bodies
    assert answer.text == "red"
    assert answer.finished
    for given, got in zip((first, second), images(body), strict=True):
        assert (got.format, got.mode) == ("PNG", "RGB")
        assert np.array_equal(np.asarray(given), np.asarray(got))
    assert body["messages"][0] == {"role": "system", "content": "Be short."}
    assert [part["type"] for part in body["messages"][1]["content"]] == ["image_url", "image_url", "text"]
    assert question(body) == "How many?"
    assert (body["model"], body["max_tokens"], body["temperature"], body["seed"]) == ("some/model", 9, 0, 7)


def test_equal_images_are_equal_bytes_whatever_else_they_carry() -> None:
    plain, laden = noise((31, 17)), noise((31, 17))
    laden.info.update(icc_profile=b"some profile", dpi=(72, 72), comment="x")
    assert png_bytes(plain) == png_bytes(plain) == png_bytes(laden)
    assert laden.info["dpi"] == (72, 72)


def test_frames_of_a_video_go_as_images(server: ChatServer) -> None:
    frames = [noise((31, 17), seed=seed) for seed in range(3)]
    remote_model(server).generate([chat("What happens?", *frames, video=True)])
    for given, got in zip(frames, images(server.bodies[0]), strict=True):
        assert np.array_equal(np.asarray(given), np.asarray(got))


def test_options_of_the_model_and_of_one_call(server: ChatServer) -> None:
    model = remote_model(server, detail="high", extra_body={"top_k": 3}, temperature=None)
    model.generate([chat()])
    model.generate([chat()], temperature=0.5, detail=None, extra_body=None)
    first, second = server.bodies
    assert first["messages"][0]["content"][0]["image_url"]["detail"] == "high"
    assert first["top_k"] == 3
    assert "temperature" not in first
    assert "detail" not in second["messages"][0]["content"][0]["image_url"]
    assert "top_k" not in second
    assert second["temperature"] == 0.5


def test_a_image_above_the_limit_is_refused_and_not_made_smaller(server: ChatServer) -> None:
    with pytest.raises(vp.RemoteError, match=r"600×400 pixels is 0\.7 MiB.*max_image_bytes"):
        remote_model(server, max_image_bytes=500_000).generate([chat("?", noise((600, 400)))])
    assert not server.bodies


def test_the_newer_name_of_the_limit_is_found_out_once(server: ChatServer) -> None:
    def reply(body: Body, number: int) -> Reply:
        if "max_tokens" in body:
            return refusal(400, "'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.")
        return completion(str(body["max_completion_tokens"]))

    server.reply = reply
    model = remote_model(server)
    assert [model.generate([chat()], max_new_tokens=5)[0].text for _ in range(2)] == ["5", "5"]
    assert len(server.bodies) == 3


# -- answers -----------------------------------------------------------------------------------------------------------


def test_an_answer_cut_short_says_so(server: ChatServer) -> None:
    server.reply = lambda body, number: completion("the dog on the ", "length")
    [answer] = remote_model(server).generate([chat()])
    assert (answer.text, answer.finished) == ("the dog on the", False)


def test_an_answer_of_no_words_is_the_models_own(server: ChatServer) -> None:
    server.reply = lambda body, number: completion("")
    assert remote_model(server).generate([chat()])[0].text == ""


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (completion(None, "length"), "raise it"),
        (completion("", "length"), "max_new_tokens"),
        (completion(None), "empty answer"),
        (completion(None, "content_filter"), "content filter"),
        (completion(None, refusal="I cannot help with that."), "I cannot help"),
        ((200, {}, "<html>Welcome</html>"), r"no chat completion: <html>.*/v1"),
        ((200, {}, {"choices": []}), "no chat completion"),
    ],
)
def test_empty_answers(server: ChatServer, reply: Reply, message: str) -> None:
    server.reply = lambda body, number: reply
    with pytest.raises(vp.RemoteError, match=message):
        remote_model(server).generate([chat()])


def test_streaming_gives_the_pieces_in_the_calling_thread(server: ChatServer) -> None:
    server.reply = lambda body, number: [
        chunk("a "),
        chunk(None),
        chunk("red "),
        chunk("star", "stop"),
        "data: [DONE]\n\n",
    ]
    pieces: list[tuple[int, str, int]] = []
    [answer] = remote_model(server).generate(
        [chat()], stream=lambda at, text: pieces.append((at, text, threading.get_ident()))
    )
    assert answer.text == "a red star"
    assert pieces == [(0, text, threading.get_ident()) for text in ("a ", "red ", "star")]
    assert server.bodies[0]["stream"] is True


def test_streams_of_several_questions_do_not_mix(server: ChatServer) -> None:
    server.reply = lambda body, number: [*(chunk(f"{question(body)}{i} ") for i in range(5)), chunk("", "length")]
    pieces: dict[int, str] = {}

    def take(number: int, text: str) -> None:
        pieces[number] = pieces.get(number, "") + text

    answers = remote_model(server, concurrency=3).generate([chat(name) for name in "abcdef"], stream=take)
    for number, name in enumerate("abcdef"):
        assert pieces[number].strip() == answers[number].text == " ".join(f"{name}{i}" for i in range(5))
        assert not answers[number].finished


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ([], "broke off the stream"),
        (['data: {"error": {"message": "no memory"}}\n\n'], "no memory"),
        (["data: {\n\n"], "read"),
    ],
)
def test_a_stream_that_breaks_off_is_no_answer(server: ChatServer, tail: list[str], message: str) -> None:
    server.reply = lambda body, number: [chunk("a red"), *tail]
    with pytest.raises(vp.RemoteError, match=message):
        remote_model(server).generate([chat()], stream=lambda number, text: None)


def test_a_reader_that_raises_ends_the_stream(server: ChatServer) -> None:
    server.reply = lambda body, number: [chunk("a"), chunk("b", "stop")]

    def stop(number: int, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remote_model(server).generate([chat()], stream=stop)


# -- strategies --------------------------------------------------------------------------------------------------------


def request(image: Image.Image | None = None) -> vp.Request:
    if image is None:
        image = Image.new("RGB", (64, 48), "teal")
        image.paste((230, 30, 20), (12, 10, 36, 28))
    return vp.Request(image, region=vp.Box(8, 8, 40, 30), query="What colour?")


def test_every_strategy_runs_or_names_those_that_do(server: ChatServer) -> None:
    model = remote_model(server)
    for info in vp.list_strategies():
        prompter = vp.Prompter.from_name(info.name)
        if "map" in info.needs or "prompt" in info.needs or not prompter.acts_on <= model.supports:
            with pytest.raises(vp.UnsupportedError, match=r"(?i)strategies that work on it.*circle"):
                prompter.prompt(request(), model)
        else:
            [prompt] = ready(prompter, model).prompt(request(), model)
            model.generate([Chat((prompt,), "What colour?")])
            [got] = images(server.bodies[-1])
            assert np.array_equal(np.asarray(prompt.image), np.asarray(got)), info.name


def test_another_model_may_look_for_it(server: ChatServer) -> None:
    given = request()
    runner = vp.Runner(remote_model(server), vp.Prompter.from_name("api", auxiliary="bundled:scenes-clip"))
    assert runner.generate([given]) == ["red"]
    [got] = images(server.bodies[0])
    assert got.size == given.pil_image.size
    assert not np.array_equal(np.asarray(got), np.asarray(given.pil_image))


def test_attention_edits_and_maps_are_refused(server: ChatServer) -> None:
    model = remote_model(server)
    prompt = request().units()[0].adding(vp.AttentionEdit(temperature=0.5))
    with pytest.raises(vp.UnsupportedError, match=r"acts on attention.*circle"):
        model.generate([Chat((prompt,), "?")])
    learned = request().units()[0].with_(tokens=vp.PromptTokens(torch.zeros(1, 1, 1)))
    with pytest.raises(vp.UnsupportedError, match=r"acts on tokens.*circle"):
        model.generate([Chat((learned,), "?")])
    with pytest.raises(vp.UnsupportedError, match=r"attention cannot be read.*circle"):
        model.generate([chat()], read=(0,))
    assert not server.bodies


@pytest.mark.parametrize(
    "use",
    [
        lambda model: vp.Runner(model).encode(request()),
        lambda model: vp.Runner(model).score(request(), ["a", "b"]),
        lambda model: vp.Runner(model).attention(request()),
        lambda model: model.num_blocks,
        lambda model: model.weights_hash(),
        lambda model: model.unwrap(),
        lambda model: model.prompting(request().units()),
    ],
)
def test_what_needs_internals_is_one_clear_error(server: ChatServer, use: Callable[[Any], Any]) -> None:
    with pytest.raises(vp.UnsupportedError, match=r"is a remote model: .*circle"):
        use(remote_model(server))


def test_the_runner_asks_with_the_image_it_renders(server: ChatServer) -> None:
    image = noise((64, 48))
    runner = vp.Runner(remote_model(server), vp.Prompter.from_name("circle"))
    assert runner.generate([request(image)], max_new_tokens=5) == ["red"]
    [shown], [got] = runner.render([request(image)]), images(server.bodies[0])
    assert np.array_equal(np.asarray(shown), np.asarray(got))
    assert not np.array_equal(np.asarray(image), np.asarray(got))


def test_the_runner_streams(server: ChatServer) -> None:
    server.reply = lambda body, number: [chunk("a "), chunk("star", "stop")]
    assert list(vp.Runner(remote_model(server)).generate(request(), stream=True)) == ["a ", "star"]


def test_identity_tells_settings_apart(server: ChatServer) -> None:
    first = remote_model(server, extra_body={"top_k": 3}).describe()
    assert first["host"] == server.host
    assert first["name"] == "remote:some/model"
    assert json.loads(json.dumps(first)) == first
    for other in ({"extra_body": {"top_k": 4}}, {"temperature": 1.0}, {"seed": 1}, {"detail": "low"}):
        assert remote_model(server, **other).describe() != first
