"""The LVLM's recipe: batches from their step alone, no pointing in them, exact resumption, one vocabulary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("zoo", reason="the recipe is not part of an installed package")

from visprompt.data.scenes import questions as vqa
from visprompt.data.scenes.world import COLOURS, SHAPES, scene
from zoo import llava_samples as samples
from zoo import llava_text as text
from zoo.llava_export import export_llava, processor
from zoo.llava_forward import answer, see
from zoo.llava_train import LLAVA_RECIPES, measure, new_llava, spoken, train_llava
from zoo.shared import normalised

TINY = replace(LLAVA_RECIPES["scenes-llava"], steps=4, batch_size=3, checkpoint_every=2, warmup_steps=1, validate_on=0)


def test_every_question_can_be_said_in_the_vocabulary_and_fits_its_slot() -> None:
    rng = np.random.default_rng(0)
    spoken_by_us = processor().tokenizer
    for difficulty in vqa.DIFFICULTIES:
        for question in vqa.scene_questions("train", 1, 120, difficulty):
            row, ask = text.encode(rng, question.text, question.answer, reword=False)
            assert text.UNK not in row
            assert row[ask] == text.ASSISTANT
            words = spoken_by_us(question.text, add_special_tokens=True)["input_ids"]
            assert [*words, text.ASSISTANT, text.VOCABULARY[question.answer]] == row[: ask + 2].tolist()
            for _ in range(5):
                text.encode(rng, question.text, question.answer)  # raises if a wording is too long


def test_a_batch_depends_on_its_step_only() -> None:
    first, again, other = (samples.batch(1, step, 4) for step in (7, 7, 8))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["images"], other["images"])


def test_drawn_questions_are_different_and_balanced() -> None:
    rng = np.random.default_rng(1)
    answers: dict[str, list[str]] = {"presence": [], "count": []}
    for index in range(150):
        made = scene(5, "train", hard=True, index=index)
        drawn = samples.draw_questions(rng, made, vqa.KINDS["easy"])
        assert len(drawn) == len({one.text for one in drawn}) <= samples.SLOTS
        for one in drawn:
            if one.kind in answers:
                answers[one.kind].append(one.answer)
    assert 0.4 < np.mean([a == "yes" for a in answers["presence"]]) < 0.6
    assert np.mean([a == "1" for a in answers["count"]]) < 0.5


def test_light_changes_everywhere_alike() -> None:
    rng = np.random.default_rng(2)
    flat = np.full((64, 64, 3), 128, dtype=np.uint8)
    for _ in range(60):
        changed = samples.photometric(rng, flat).astype(float)
        # Noise is centred, the rest is the same at every pixel: halves of the image stay alike, whatever was drawn.
        assert abs(changed[:, :32].mean() - changed[:, 32:].mean()) < 1.5
        assert abs(changed[:32].mean() - changed[32:].mean()) < 1.5


def test_boxes_cover_the_patches_under_them() -> None:
    covered = samples.covered((8, 0, 24, 9)).reshape(8, 8)
    assert covered[0].tolist() == [False, True, True, *[False] * 5]
    assert not covered[1:].any()


@pytest.fixture(scope="module")
def small() -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(0)
    made = {name: torch.from_numpy(value) for name, value in samples.batch(2, 0, 3).items()}
    return new_llava().eval(), made


def test_a_question_does_not_hear_the_others(small: tuple[Any, dict[str, Any]]) -> None:
    model, made = small
    rows = see(model, normalised(made["images"], torch.float32))
    with torch.no_grad():
        together = answer(model, rows, made["tokens"], made["ask"]).logits
        alone = answer(model, rows, made["tokens"][:, 3:4], made["ask"][:, 3:4]).logits
    assert torch.allclose(together[:, 3:4], alone, atol=1e-5)


def test_a_strong_bias_makes_the_answer_depend_on_these_patches_only(small: tuple[Any, dict[str, Any]]) -> None:
    model, made = small
    bias = torch.zeros(3, samples.SLOTS, 64)
    bias[:, :, 10] = 40.0
    rows = see(model, normalised(made["images"], torch.float32))
    with torch.no_grad():
        before = answer(model, rows, made["tokens"], made["ask"], bias).logits
        rows[:, 40:] = torch.randn_like(rows[:, 40:])
        after = answer(model, rows, made["tokens"], made["ask"], bias).logits
    assert torch.allclose(before, after, atol=1e-4)


def test_empty_slots_have_no_say() -> None:
    tokens = torch.tensor([[[7, text.ASSISTANT, 9, 0], [0, 0, 0, 0]]])
    logits = torch.zeros(1, 2, 4, 12)
    logits[0, 0, 2, 9] = logits[0, 0, 3, text.EOS] = 50.0
    words, early, ends = spoken(logits, tokens, torch.tensor([[1, -1]]))
    assert words.item() < 1e-6
    assert early.item() > 1.0
    assert ends.item() < 1e-6


def test_measuring_counts_right_first_words(small: tuple[Any, dict[str, Any]]) -> None:
    model, _ = small
    held = samples.held_out(3, 0, "hard")
    found = measure(model, held)
    assert set(found) == set(vqa.KINDS["hard"])
    assert all(0.0 <= share <= 1.0 for share in found.values())


def test_a_killed_training_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        unbroken = train_llava(TINY, tmp_path / "a", dtype=torch.float32, threads=1)
        train_llava(TINY, tmp_path / "b", dtype=torch.float32, threads=1, stop_at=3)  # the checkpoint is of step 2
        resumed = train_llava(TINY, tmp_path / "b", dtype=torch.float32, threads=1)
    finally:
        torch.set_num_threads(threads)
    one, two = (torch.load(path, weights_only=True)["model"] for path in (unbroken, resumed))
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)
    assert export_llava(resumed, tmp_path / "folder") == 4
    assert {"model.safetensors", "chat_template.jinja"} <= {file.name for file in (tmp_path / "folder").iterdir()}


def test_words_are_numbered_as_in_the_weights_that_ship() -> None:
    assert len(text.VOCABULARY) == 76
    assert [text.VOCABULARY[word] for word in ("<image>", "what", "leftmost", ":")] == [6, 7, 38, 75]
    assert all(word in text.VOCABULARY for word in (*COLOURS, *SHAPES))
