"""Remote models under load and failures: order, limits, rate, retries, error messages, and the key."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any

import pytest
from helpers import remote_model
from PIL import Image

import visprompt as vp
from visprompt.models.chat import Chat
from visprompt.models.remote import client as remote_client
from visprompt.models.remote.parallel import STOP_AFTER
from visprompt.testing.chat_server import Body, ChatServer, Reply, completion, question, refusal

KEY = "sk-very-secret-0123456789abcdef"


def chat(text: str = "What colour?") -> Chat:
    return Chat((vp.VisualPrompt(Image.new("RGB", (24, 16), "teal")),), text)


# -- many at once ------------------------------------------------------------------------------------------------------


def test_answers_keep_their_order_and_requests_their_bound(server: ChatServer) -> None:
    together = threading.Barrier(3)

    def reply(body: Body, number: int) -> Reply:
        if number < 3:
            together.wait(20)
        time.sleep(0.08 if int(question(body)) % 3 == 0 else 0.01)
        return completion(question(body))

    server.reply = reply
    answers = remote_model(server, concurrency=3).generate([chat(str(number)) for number in range(14)])
    assert [int(answer.text) for answer in answers] == list(range(14))
    assert server.most_at_once == 3


def test_one_failure_does_not_cost_the_other_answers(server: ChatServer) -> None:
    server.reply = lambda body, number: (
        refusal(400, "bad image") if question(body) == "3" else completion(question(body))
    )
    with pytest.raises(vp.RemoteError, match="1 of 9 questions got no answer; the 8 answers") as caught:
        remote_model(server).generate([chat(str(number)) for number in range(9)])
    assert {at: answer.text for at, answer in caught.value.done.items()} == {i: str(i) for i in range(9) if i != 3}
    assert list(caught.value.failed) == [3]
    assert "bad image" in caught.value.failed[3]
    assert not caught.value.stopped


def test_nothing_more_is_asked_after_a_hopeless_failure(server: ChatServer) -> None:
    server.reply = lambda body, number: completion("red") if number < 4 else refusal(401, "no")
    with pytest.raises(vp.RemoteError, match=r"of [56] questions got no answer and nothing more was asked") as caught:
        remote_model(server, concurrency=2).generate([chat() for _ in range(50)])
    assert len(caught.value.done) == 4
    assert caught.value.stopped
    assert len(server.bodies) <= 6


def test_failures_one_after_another_end_the_run(server: ChatServer) -> None:
    server.reply = lambda body, number: refusal(400, "unknown field")
    with pytest.raises(vp.RemoteError, match="unknown field") as caught:
        remote_model(server, concurrency=1).generate([chat() for _ in range(50)])
    assert caught.value.stopped
    assert STOP_AFTER <= len(server.bodies) <= STOP_AFTER + 2


def test_the_pace_holds_for_retries_too(server: ChatServer) -> None:
    server.reply = lambda body, number: refusal(500, "no") if number == 1 else completion("red")
    model = remote_model(server, requests_per_minute=600, concurrency=4)
    begins = time.monotonic()
    model.generate([chat() for _ in range(4)])
    assert len(server.times) == 5
    for number, came in enumerate(sorted(server.times)):
        assert came >= begins + 0.1 * number


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_passing_failures_are_tried_again(server: ChatServer, status: int) -> None:
    server.reply = lambda body, number: refusal(status, "later") if number < 2 else completion("red")
    assert remote_model(server).generate([chat()])[0].text == "red"
    assert len(server.bodies) == 3


def test_the_server_says_how_long_to_wait(server: ChatServer) -> None:
    server.reply = lambda body, number: refusal(429, "later", Retry_After="0.7") if number == 0 else completion("red")
    remote_model(server).generate([chat()])
    assert server.times[1] - server.times[0] > 0.65


def test_a_slow_server_times_out_and_is_tried_again(server: ChatServer) -> None:
    def reply(body: Body, number: int) -> Reply:
        if number < 1:
            time.sleep(2.0)
        return completion("red")

    server.reply = reply
    assert remote_model(server, timeout=0.8).generate([chat()])[0].text == "red"
    assert len(server.bodies) >= 2


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (refusal(401, "who are you"), r"wants a key \(401\): who are you\. No key was sent.*OPENAI_API_KEY"),
        (refusal(404, "no such thing"), r"knows no model 'some/model'.*\(404\).*/v1"),
        (refusal(429, "quota used up", Retry_After="900"), r"limits requests.*quota.*wait 900 s.*requests_per_minute"),
        (refusal(413, "request body"), r"too large \(413\).*smaller"),
        (refusal(400, "maximum context length is 4096 tokens"), r"\(400\).*smaller or fewer"),
        (refusal(400, "'temperature' does not support 0"), r"temperature=None"),
        (refusal(500, "CUDA out of memory"), r"failed on its side, 3 attempts \(500\): CUDA out of memory"),
        ((422, {}, {"detail": "Unexpected fields"}), "Unexpected fields"),
        ((502, {}, "<h1>Bad gateway</h1>"), "Bad gateway"),
    ],
)
def test_what_the_server_refuses(server: ChatServer, reply: Reply, message: str) -> None:
    server.reply = lambda body, number: reply
    with pytest.raises(vp.RemoteError, match=message):
        remote_model(server).generate([chat()])


def test_no_answer_in_time(server: ChatServer) -> None:
    def reply(body: Body, number: int) -> Reply:
        time.sleep(0.6)
        return completion("red")

    server.reply = reply
    with pytest.raises(vp.RemoteError, match=r"no answer within 0\.2 s \(one attempt\): raise timeout"):
        remote_model(server, timeout=0.2, max_retries=0).generate([chat()])


def test_no_server(server: ChatServer) -> None:
    model = remote_model(server)
    server.close()
    with pytest.raises(vp.RemoteError, match=rf"{server.host} cannot be reached .*refused.*is the server running"):
        model.generate([chat()])


# -- the key -----------------------------------------------------------------------------------------------------------


def test_the_key_comes_from_the_environment_and_appears_nowhere(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", KEY + "\n")
    caplog.set_level(logging.DEBUG)
    # a server that repeats the key in its error, right where a long message would be cut
    server.reply = lambda body, number: refusal(401, "x" * (remote_client.MAX_WORDS - 15) + f" key: {KEY}")
    model = remote_model(server, key_env="MY_KEY")
    with pytest.raises(vp.RemoteError, match="does not accept the key from MY_KEY") as caught:
        model.generate([chat()])
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    server.reply = lambda body, number: [f'data: {{"error": {{"message": "{KEY}"}}}}\n\n']
    with pytest.raises(vp.RemoteError) as streamed:
        model.generate([chat()], stream=lambda number, text: None)
    shown = [repr(model), str(model.describe()), str(vars(model)), str(vars(model._endpoint)), caplog.text]
    for error in (caught.value, streamed.value):
        assert error.__context__ is None
        shown += [str(error), repr(error), str(error.failed)]
    for text in shown:
        assert KEY[:12] not in text


def test_the_standard_variable_is_used_and_a_placeholder_without(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote_model(server).generate([chat()])
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    remote_model(server).generate([chat()])
    assert [headers["Authorization"] for headers in server.headers] == ["Bearer no-key", f"Bearer {KEY}"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api_key": KEY}, "never an argument"),
        ({"key_env": KEY}, "name of an environment variable"),
        ({"key_env": "NOT_SET_ANYWHERE"}, "NOT_SET_ANYWHERE holds no key"),
        ({"key_env": "ODD_KEY"}, "odd characters"),
        ({"base_url": None}, "OPENAI_API_KEY holds no key"),
        ({"base_url": "127.0.0.1:8000/v1"}, "http://127"),
        ({"base_url": "http://127.0.0.1:port/v1"}, "base_url is"),
        ({"base_url": f"http://me:{KEY}@127.0.0.1/v1"}, "neither name nor password"),
        ({"timout": 3}, "did you mean 'timeout'"),
        ({"timeout": 0}, "timeout is a number above 0"),
        ({"concurrency": 0}, "concurrency is a whole number of at least 1"),
        ({"max_retries": 1.5}, "max_retries"),
        ({"requests_per_minute": -1}, "requests_per_minute"),
        ({"temperature": "hot"}, "temperature"),
        ({"seed": 1.5}, "seed"),
        ({"detail": "highest"}, "auto, low, high"),
        ({"extra_body": {"a": object()}}, "JSON"),
    ],
)
def test_settings_that_cannot_be_used(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.setenv("ODD_KEY", f"{KEY}\nX-Header: 1")
    with pytest.raises(vp.VispromptError, match=message) as caught:
        vp.load_model("remote:m", **{"base_url": server.base_url, **options})
    assert KEY not in str(caught.value)


def test_a_key_over_plain_http_to_elsewhere_is_warned_about(
    server: ChatServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.warns(UserWarning, match=r"example\.com unencrypted"):
        vp.load_model("remote:m", base_url="http://example.com/v1")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(vp.UnsupportedError, match=r'pip install "visprompt-toolkit\[remote\]"'):
        vp.load_model("remote:m", base_url="http://127.0.0.1:1/v1")


# -- through the runner ------------------------------------------------------------------------------------------------


def test_the_runner_keeps_what_came_and_asks_the_rest(server: ChatServer) -> None:
    server.reply = lambda body, number: refusal(400, "bad") if question(body) == "q5" else completion(question(body))
    requests = [vp.Request(Image.new("RGB", (24, 16)), query=f"q{number}") for number in range(12)]
    runner, kept = vp.Runner(remote_model(server), batch_size=3), list[str]()
    with pytest.raises(vp.RemoteError, match="1 of 12 questions got no answer") as caught:
        runner.answer(requests, on_answer=lambda answer: kept.append(answer.text))
    texts = {number: f"q{number}" for number in range(12) if number != 5}
    assert {number: answer.text for number, answer in caught.value.done.items()} == texts
    assert kept == list(texts.values())
    assert list(caught.value.failed) == [5]


def test_the_runner_stops_when_it_is_hopeless(server: ChatServer) -> None:
    server.reply = lambda body, number: completion("red") if number < 4 else refusal(401, "no")
    requests = (vp.Request(Image.new("RGB", (24, 16)), query="q") for _ in range(1000))
    with pytest.raises(vp.RemoteError, match="nothing more was asked") as caught:
        vp.Runner(remote_model(server, concurrency=1), batch_size=3).generate(requests)
    assert len(caught.value.done) == 4
    assert len(server.bodies) == 5


def test_a_batch_of_the_runner_has_work_for_all_threads(server: ChatServer) -> None:
    assert vp.Runner(remote_model(server, concurrency=50)).batch_size == 200
