"""From chats to a batch: every patch's token is found, with any padding."""

from __future__ import annotations

import pytest
from helpers import noise
from PIL import Image

import visprompt as vp
from visprompt.models.chat import Chat
from visprompt.models.lvlm.inputs import chat_text, image_token, media_of, prepare
from visprompt.testing.tiny_lvlm import tiny_lvlm


def chat(text: str = "what is this", *images: Image.Image) -> Chat:
    return Chat(tuple(vp.VisualPrompt(item) for item in images or (noise((96, 96)),)), text)


@pytest.fixture(scope="module", params=["llava", "qwen2-5-vl", "internvl"])
def model(request: pytest.FixtureRequest) -> vp.Model:
    small = tiny_lvlm(request.param)
    return vp.wrap(small.module, small.processor)


def test_patches_are_where_their_tokens_are(model: vp.Model) -> None:
    chats = [chat("what"), chat("what is the red star on the left of the dog", noise((150, 64)))]
    inputs = prepare(model, chats)  # type: ignore[arg-type]
    ids = inputs.tensors["input_ids"]
    assert inputs.length == ids.shape[1]
    token = image_token(model)  # type: ignore[arg-type]
    for row, (layout,) in enumerate(inputs.layouts):
        columns = inputs.columns[row]
        columns = columns[columns >= 0]
        assert len(columns) == layout.geometry.num_patches
        assert (ids[row][columns] == token).all()
        assert inputs.images[row].sum() == layout.length
    assert not (inputs.images & inputs.padding).any()


def test_shorter_chats_are_padded_on_the_left(model: vp.Model) -> None:
    inputs = prepare(model, [chat("what"), chat("what is the red star on the left of the dog")])  # type: ignore[arg-type]
    counts = inputs.padding.sum(dim=1)
    assert counts[0] > counts[1] == 0
    assert inputs.padding[0, : int(counts[0])].all()


def test_several_images_stand_one_after_the_other(model: vp.Model) -> None:
    inputs = prepare(model, [chat("which", noise((96, 96)), noise((64, 150), seed=1))])  # type: ignore[arg-type]
    first, second = inputs.layouts[0]
    counts = [item.geometry.num_patches for item in (first, second)]
    columns = inputs.columns[0]
    assert len(columns) == sum(counts)
    assert columns[: counts[0]].max() < columns[counts[0] :].min()


def test_only_the_vision_towers_part(model: vp.Model) -> None:
    inputs = prepare(model, [chat()])  # type: ignore[arg-type]
    media = media_of(inputs)
    assert "pixel_values" in media
    assert "input_ids" not in media
    assert all(media[name] is inputs.tensors[name] for name in media)


def test_a_question_may_not_hold_an_images_token(model: vp.Model) -> None:
    name = next(
        value
        for attribute in ("image_token", "boi_token")
        if isinstance(value := getattr(model.processor, attribute, None), str) and value
    )
    with pytest.raises(vp.InvalidInputError, match="stands for an image"):
        prepare(model, [chat(f"what is {name}")])  # type: ignore[arg-type]


def test_the_question_is_in_the_text(model: vp.Model) -> None:
    assert "how many dogs" in chat_text(model, chat("how many dogs"))  # type: ignore[arg-type]
