"""The bundled LVLM loads with plain transformers, answers in one word, and is as good as its card says at least."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from visprompt import bundled
from visprompt.data.scenes import world
from visprompt.data.scenes.questions import KINDS, SceneQuestion, scene_questions

MEGABYTE = 1024 * 1024
FOLDER: Path = bundled.path("scenes-llava")


@pytest.fixture(scope="module")
def loaded() -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(FOLDER, local_files_only=True, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(FOLDER, local_files_only=True)


def _chat(question: str, *images: Any) -> list[dict[str, Any]]:
    parts = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]


def _reply(loaded: tuple[Any, Any], chats: list[list[dict[str, Any]]], **options: Any) -> list[str]:
    model, processor = loaded
    inputs = processor.apply_chat_template(
        chats, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", padding=True
    )
    ids = model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :]
    return processor.batch_decode(ids, skip_special_tokens=True)


def _replies(loaded: tuple[Any, Any], questions: list[SceneQuestion]) -> list[str]:
    return _reply(loaded, [_chat(one.text, one.image) for one in questions])


def test_folder_is_small_complete_and_float16() -> None:
    from safetensors import safe_open

    present = {file.name for file in FOLDER.iterdir()}
    needed = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert needed | {"preprocessor_config.json", "processor_config.json", "chat_template.jinja", "README.md"} <= present
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 12 * MEGABYTE
    with safe_open(FOLDER / "model.safetensors", framework="pt") as weights:
        kinds = {weights.get_tensor(key).dtype for key in weights.keys()}  # noqa: SIM118
    assert kinds == {torch.float16}


def test_it_is_plain_llava_with_a_clip_tower(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert type(processor).__name__ == "LlavaProcessor"
    assert type(model.model.vision_tower).__name__ == "CLIPVisionModel"
    assert type(model.model.language_model).__name__ == "LlamaModel"
    assert model.generation_config.do_sample in (False, None)
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id


@pytest.mark.parametrize("difficulty", KINDS)
def test_questions_are_answered(loaded: tuple[Any, Any], difficulty: str) -> None:
    questions = scene_questions("test", 1, 16 * len(KINDS[difficulty]), difficulty)
    right = defaultdict(list)
    for question, reply in zip(questions, _replies(loaded, questions), strict=True):
        right[question.kind].append(reply == question.answer)
    share = {kind: sum(results) / len(results) for kind, results in right.items()}
    assert min(share["colour"], share["shape"], share["presence"]) >= 0.8, share
    assert min(share["side"], share["leftmost"]) >= 0.5, share
    assert sum(share.values()) / len(share) >= 0.7, share
    # The card promises that something is left to gain from pointing.
    assert share["relation"] <= 0.9, share


def test_an_answer_is_one_word_and_then_the_end(loaded: tuple[Any, Any]) -> None:
    model, processor = loaded
    question = scene_questions("test", 1, 1)[0]
    inputs = processor.apply_chat_template(
        _chat(question.text, question.image),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    new = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :].tolist()
    assert len(new) == 2
    assert new[1] == processor.tokenizer.eos_token_id
    assert processor.decode(new, skip_special_tokens=True) in world.COLOURS


def test_prompt_is_what_the_training_saw(loaded: tuple[Any, Any]) -> None:
    llava_text = pytest.importorskip("zoo.llava_text", reason="the recipe is not part of an installed package")
    _, processor = loaded
    question = scene_questions("test", 1, 8)[7]
    ids = processor.apply_chat_template(
        _chat(question.text, question.image), add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"][0]
    import numpy as np

    row, ask = llava_text.encode(np.random.default_rng(0), question.text, question.answer, reword=False)
    start = [llava_text.BOS, llava_text.USER] + [llava_text.IMAGE] * 64
    assert list(ids) == [*start, *row[: ask + 1].tolist()]


def test_batches_answer_as_single_questions_do(loaded: tuple[Any, Any]) -> None:
    questions = scene_questions("test", 2, 8)
    assert _replies(loaded, questions) == [_replies(loaded, [one])[0] for one in questions]


def test_other_ways_of_chatting_are_taken(loaded: tuple[Any, Any]) -> None:
    image = world.scene(9, n_objects=1).pil
    text = "what colour is the object?"
    plain = _reply(loaded, [_chat(text, image)])
    asked = _chat(text, image)
    system = {"role": "system", "content": [{"type": "text", "text": "You are a helpful assistant."}]}
    assert _reply(loaded, [[system, *asked]]) == plain
    backwards = [{"role": "user", "content": asked[0]["content"][::-1]}]
    assert _reply(loaded, [backwards]) == plain
    earlier = [*asked, {"role": "assistant", "content": [{"type": "text", "text": plain[0]}]}]
    for chat in (
        [*earlier, {"role": "user", "content": [{"type": "text", "text": "is there a red star?"}]}],
        _chat("is there a red star?", image, world.scene(10).pil),
        [{"role": "user", "content": "Quo vadis, no image?"}],
    ):
        assert isinstance(_reply(loaded, [chat], max_new_tokens=2)[0], str)


def test_training_pass_equals_the_models_own_forward(loaded: tuple[Any, Any]) -> None:
    forward = pytest.importorskip("zoo.llava_forward", reason="the recipe is not part of an installed package")
    from zoo import llava_text
    from zoo.llava_samples import batch
    from zoo.shared import normalised

    model, _ = loaded
    made = {name: torch.from_numpy(value) for name, value in batch(1, 0, 3).items()}
    pixels = normalised(made["images"], torch.float32)
    with torch.no_grad():
        ours = forward.answer(model, forward.see(model, pixels), made["tokens"], made["ask"]).logits
        for image, slot in ((0, 0), (1, 4), (2, 9)):
            asked = made["tokens"][image, slot, : made["ask"][image, slot] + 2].tolist()
            start = [llava_text.BOS, llava_text.USER] + [llava_text.IMAGE] * 64
            ids = torch.tensor([start + asked])
            theirs = model(input_ids=ids, pixel_values=pixels[image : image + 1]).logits[0, -2:]
            assert torch.allclose(ours[image, slot, 2:], theirs, atol=1e-4)
