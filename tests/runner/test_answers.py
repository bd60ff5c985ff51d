"""Questions in batches, and what becomes of those that a server leaves unanswered."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import noise

import visprompt as vp
from visprompt.models.chat import Chat
from visprompt.runner.answers import Answer, Unanswered, answers_of, batches_of, chats_of, raise_unanswered


def chat(images: int = 1, video: bool = False) -> Chat:
    """A question about some images, or about the frames of a video."""
    return Chat(tuple(vp.VisualPrompt(noise((32, 32))) for _ in range(images)), "what?", video=video)


def test_one_chat_per_prompt_or_per_request_with_several_images() -> None:
    one = vp.Request(noise((32, 32)), region=[vp.Box(0, 0, 8, 8), vp.Box(8, 8, 20, 20)], query="a?")
    several = vp.Request([noise((32, 32)), noise((32, 32), seed=1)], query="b?")
    prompts = [(unit, (0, place)) for place, unit in enumerate(one.units())]
    prompts += [(unit, (1, place)) for place, unit in enumerate(several.units())]
    found = list(chats_of(prompts))
    assert [(len(item.prompts), item.text, place) for item, place in found] == [
        (1, "a?", (0, 0)),
        (1, "a?", (0, 1)),
        (2, "b?", (1, 0)),
    ]


def test_videos_and_images_do_not_mix() -> None:
    kinds = [chat(), chat(), chat(), chat(2, video=True), chat(2, video=True), chat(3, video=True), chat(2)]
    found = list(batches_of([(item, (number, 0)) for number, item in enumerate(kinds)], lambda: 2))
    assert [[place[0] for _, place in batch] for batch in found] == [[0, 1], [2], [3, 4], [5], [6]]


class HalfAServer:
    """Answers the first question of a batch."""

    def generate(self, chats: list[Chat], **settings: Any) -> Any:
        from visprompt.models.lvlm.generation import Generation

        raise vp.RemoteError("no", done={0: Generation("red", ("red",))}, failed={1: "too long"}, stopped=False)


def test_one_question_that_fails_does_not_cost_the_others_theirs() -> None:
    found = answers_of(HalfAServer(), [(chat(), (number, 0)) for number in range(3)], {})  # type: ignore[arg-type]
    assert isinstance(found[0], Answer)
    assert (found[0].text, found[0].index) == ("red", (0, 0))
    assert found[1:] == [Unanswered("too long", False), Unanswered("", False)]


def test_what_got_no_answer_is_raised_with_what_did() -> None:
    answer = Answer("red", ("red",), (0, 0))
    raise_unanswered({0: answer}, {})
    raise_unanswered({0: answer}, {1: Unanswered("", True)})  # it was not asked; its neighbour says why
    with pytest.raises(vp.RemoteError, match="too long") as error:
        raise_unanswered({0: answer}, {1: Unanswered("too long", True)})
    assert (error.value.done, error.value.failed, error.value.stopped) == ({0: answer}, {1: "too long"}, True)
