"""The training recipe: truth of captions, exact resumption, and images without any mark for the default model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("zoo", reason="the recipe is not part of an installed package")

from zoo import samples, text
from zoo.objective import contrastive
from zoo.train import RECIPES, train

TINY = replace(RECIPES["scenes-clip"], steps=4, batch_size=6, checkpoint_every=2, warmup_steps=1)


def _image(colour: int, shape: int, centre: tuple[float, float], placeless: bool = False) -> samples.SampleImage:
    attributes = np.full((6, 2), -9)
    attributes[0] = colour, shape
    state = np.array([1, 0, 0, 0, 0, 0])
    centres = np.full((6, 2), 0.5, dtype=np.float32)
    centres[0] = centre
    blank = np.zeros((64, 64, 3), dtype=np.uint8)
    return samples.SampleImage(blank, attributes, state, centres, np.zeros((64, 2), dtype=np.int64), placeless)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        # Close to the middle the nearer side is undecided, the other one false.
        (_image(0, 3, (0.2, 0.52)), [1, 1, 0, 0, -1, 0, 1, 1]),
        (_image(0, 3, (0.8, 0.9)), [1, 0, 1, 0, 1, 0, 1, 1]),
        (_image(0, 3, (0.5, 0.5), placeless=True), [1, -1, -1, -1, -1, 0, 1, 1]),
        (_image(1, 3, (0.2, 0.2)), [0, 0, 0, 0, 0, 0, 0, 1]),
    ],
)
def test_a_position_is_false_where_the_object_stands_on_the_other_side(
    image: samples.SampleImage, expected: list[int]
) -> None:
    left, right, top, bottom = range(4)
    captions = np.array(
        [(0, 3, -1), (0, 3, left), (0, 3, right), (0, 3, top), (0, 3, bottom), (0, 4, -1), (0, -1, -1), (-1, 3, -1)]
    )
    assert samples.truth([image], captions)[0].tolist() == expected


def test_the_default_model_never_sees_a_marked_image() -> None:
    recipe = RECIPES["scenes-clip"]
    for step in (0, recipe.steps // 2, recipe.steps):
        mixture = recipe.mixture(step)
        assert mixture.circled == mixture.blurred == 0.0
    annotated = RECIPES["scenes-clip-annotated"].mixture(0)
    assert (annotated.circled, annotated.blurred) == (0.12, 0.08)


def test_marked_images_count_only_the_marked_object() -> None:
    rng = np.random.default_rng(0)
    for kind in ("circled", "blurred"):
        mixture = samples.Mixture(single=0.0, zoom=0.0, **{kind: 1.0})
        for index in range(20):
            assert int((samples.image(rng, 1, index, mixture).state == 1).sum()) == 1


def test_a_batch_depends_on_its_step_only() -> None:
    mixture = samples.Mixture(single=0.2, zoom=0.3)
    first, again, other = (samples.batch(1, step, 5, mixture) for step in (7, 7, 8))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["images"], other["images"])


def test_captions_agree_with_the_tokenizer_that_ships() -> None:
    rng = np.random.default_rng(1)
    shipped = text.tokenizer()
    for colour, shape, position in ((0, 1, 2), (3, -1, -1), (7, 7, -1), (2, 5, 0)):
        words = text.wording(rng, colour, shape, position)
        ours = [i for i in text.encode(np.random.default_rng(5), words).tolist() if i not in (text.PAD, text.UNK)]
        assert shipped(words)["input_ids"] == ours


def test_perfect_similarities_have_no_loss_and_undecided_pairs_no_say() -> None:
    truth = torch.tensor([[1, 0, -1], [0, 1, 0]], dtype=torch.int8)
    logits = torch.tensor([[40.0, 0.0, 7.0], [0.0, 40.0, 0.0]], requires_grad=True)
    loss = contrastive(logits, truth, torch.ones(3))
    assert loss.item() < 1e-6
    worse = contrastive(logits.detach() * 0.01, truth, torch.ones(3))
    assert worse.item() > 0.3
    contrastive(torch.zeros(2, 3, requires_grad=True), truth, torch.ones(3)).backward()
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0, 2] == 0.0


def test_a_killed_training_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        unbroken = train(TINY, tmp_path / "a", dtype=torch.float32, threads=1)
        train(TINY, tmp_path / "b", dtype=torch.float32, threads=1, stop_at=3)  # the checkpoint is of step 2
        resumed = train(TINY, tmp_path / "b", dtype=torch.float32, threads=1)
    finally:
        torch.set_num_threads(threads)
    one, two = (torch.load(path, weights_only=True)["model"] for path in (unbroken, resumed))
    assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)


def test_the_annotated_model_needs_the_default_one_first(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train that first"):
        train(RECIPES["scenes-clip-annotated"], tmp_path)
