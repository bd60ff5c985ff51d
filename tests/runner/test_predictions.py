"""`Runner.predict`: classes and class maps from a trained head; other methods of the runner still work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tinted_noise, wrapped_tiny
from PIL import Image

import visprompt as vp
from visprompt.data.labelled.dataset import Labelled
from visprompt.runner.predictions import Prediction

CLASSES = ("red", "green", "blue")


def halves(seed: int, wh: tuple[int, int] = (90, 64)) -> tuple[Image.Image, np.ndarray]:
    """Red on the left of a line, blue on its right."""
    line = 20 + 5 * seed
    pixels = np.random.default_rng(seed).integers(0, 40, (wh[1], wh[0], 3)).astype(np.uint8)
    pixels[:, :line, 0] += 200
    pixels[:, line:, 2] += 200
    mask = np.zeros((wh[1], wh[0]), dtype=np.uint8)
    mask[:, line:] = 1
    return Image.fromarray(pixels), mask


COLOURS = Labelled([(tinted_noise(seed), seed % 3) for seed in range(12)], CLASSES, name="colours")
HALVES = Labelled([halves(seed) for seed in range(8)], ("left", "right"), kind="segmentation", name="halves")
FAST: dict[str, Any] = {"batch_size": 4, "optimizer": "adamw", "warmup_epochs": 0, "progress": False}


def fitted(model: vp.Model, data: Labelled, **settings: Any) -> Any:
    prompter = vp.Prompter.from_name("vpt", prompts=2)
    prompter.fit(model, data, **{**FAST, "lr": 0.02, "epochs": 6, **settings})
    return prompter


@pytest.fixture(scope="module")
def trained() -> tuple[vp.Model, Any]:
    model = wrapped_tiny("transformers-clip")
    return model, fitted(model, COLOURS)


def test_classes(trained: tuple[vp.Model, Any]) -> None:
    model, prompter = trained
    runner = vp.Runner(model, prompter)
    found = runner.predict([vp.Request(tinted_noise(seed)) for seed in range(20, 26)])
    assert [item.label for item in found] == [CLASSES[seed % 3] for seed in range(20, 26)]
    assert [item.index for item in found] == runner.index == [(number, 0) for number in range(6)]
    with torch.no_grad():
        wanted = prompter.head(runner.encode(vp.Request(tinted_noise(20)))).softmax(-1)[0].numpy()
    np.testing.assert_allclose(found[0].probabilities, wanted, atol=1e-5)
    one = found[0]
    assert one.classes == CLASSES
    assert one.mask is None
    assert one.classes[one.number] == one.label
    assert one.probability == pytest.approx(one.probabilities.max())
    assert next(iter(one.top(2))) == one.label
    assert len(one.top(2)) == 2
    assert sum(one.top().values()) == pytest.approx(1)
    assert one.label in repr(one)


def test_it_is_what_was_measured(trained: tuple[vp.Model, Any]) -> None:
    """The head reads the same embeddings in a runner as in the loop."""
    model, prompter = trained
    unseen = Labelled([(tinted_noise(seed), seed * 7 % 3) for seed in range(30, 39)], CLASSES)
    found = vp.Runner(model, prompter).predict(vp.Request(unseen.image(index)) for index in range(9))
    right = [item.number == label for item, label in zip(found, unseen.labels, strict=True)]
    losses = [-np.log(item.probabilities[label]) for item, label in zip(found, unseen.labels, strict=True)]
    measured = prompter.evaluate(model, unseen)
    assert measured["accuracy"] == pytest.approx(np.mean(right))
    assert measured["loss"] == pytest.approx(np.mean(losses), rel=1e-3)


def test_saved_and_loaded(trained: tuple[vp.Model, Any], tmp_path: Path) -> None:
    model, prompter = trained
    prompter.save_pretrained(tmp_path)
    again = vp.Prompter.from_pretrained(tmp_path)
    requests = [vp.Request(tinted_noise(seed)) for seed in range(3)]
    for one, other in zip(vp.Runner(model, prompter).predict(requests), vp.Runner(model, again).predict(requests),
                          strict=True):  # fmt: skip
        assert one.label == other.label
        assert np.array_equal(one.probabilities, other.probabilities)


def test_everything_else_works_beside_it(trained: tuple[vp.Model, Any]) -> None:
    model, prompter = trained
    runner, plain = vp.Runner(model, prompter), vp.Runner(model)
    requests = [vp.Request(tinted_noise(0)), vp.Request(tinted_noise(1))]
    assert not torch.allclose(runner.encode(requests), plain.encode(requests))
    texts = ["a photo of a red", "a photo of a green"]
    with torch.no_grad():
        wanted = model.logits(runner.encode(requests), model.embed_text(texts))
    torch.testing.assert_close(runner.score(requests, texts), wanted)
    maps = runner.attention(requests)
    assert [item.values.shape for item in maps] == [item.values.shape for item in plain.attention(requests)]
    # What the readout gives to the prompt tokens is not in the map.
    assert all(bool((item.values.sum(-1) < 1).all()) for item in maps)
    assert len(runner.render(requests)) == 2


def test_in_a_composition(trained: tuple[vp.Model, Any]) -> None:
    model, prompter = trained
    request = vp.Request(tinted_noise(0), region=[vp.Box(4, 4, 40, 40), vp.Box(10, 20, 50, 50)])
    found = vp.Runner(model, vp.Prompter.from_name("blur") + prompter).predict(request)
    assert [item.index for item in found] == [(0, 0), (0, 1)]
    assert not np.array_equal(found[0].probabilities, found[1].probabilities)


def test_zero_shot_head() -> None:
    """Trained with class names: the head's probabilities are the softmax of the scores."""
    model = wrapped_tiny("open-clip-siglip")
    prompter = fitted(model, COLOURS, head="zero-shot", epochs=1)
    runner, request = vp.Runner(model, prompter), vp.Request(tinted_noise(0))
    scores = runner.score(request, [f"a photo of a {name}" for name in CLASSES])
    np.testing.assert_allclose(runner.predict(request)[0].probabilities, scores.softmax(-1)[0].numpy(), atol=1e-5)


def test_class_maps() -> None:
    """Maps are in pixels of each image, also for images of several shapes in one run."""
    model = wrapped_tiny("transformers-dinov2")
    prompter = fitted(model, HALVES, fit="squash", epochs=15, lr=0.005)
    scenes = [halves(1), halves(2, (70, 70)), halves(3, (64, 100))]
    runner = vp.Runner(model, prompter)
    found = runner.predict([vp.Request(image) for image, _ in scenes])
    for item, (image, mask) in zip(found, scenes, strict=True):
        assert item.mask is not None
        assert item.mask.dtype == np.uint8
        assert item.mask.shape == (image.height, image.width)
        assert (item.mask == mask).mean() > 0.85
        shares = [(item.mask == number).mean() for number in (0, 1)]
        np.testing.assert_allclose(item.probabilities, shares, atol=1e-6)
        assert item.label == ("left", "right")[int(np.argmax(shares))]
    alone = [runner.predict(vp.Request(image))[0] for image, _ in scenes]
    assert all((a.mask == b.mask).mean() > 0.999 for a, b in zip(alone, found, strict=True))
    assert runner.fit == "model"


def test_pixels_that_are_cropped_away_have_no_class() -> None:
    model = wrapped_tiny("transformers-clip")
    prompter = fitted(model, HALVES, epochs=1)
    (found,) = vp.Runner(model, prompter).predict(vp.Request(halves(0)[0]))
    assert found.mask is not None
    assert (found.mask[:, 13:77] < 2).all()
    assert (found.mask[:, :13] == 255).all()
    (found,) = vp.Runner(model, prompter, fit="pad").predict(vp.Request(halves(0)[0]))
    assert found.mask is not None
    assert (found.mask < 2).all()


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [None, "circle", "vpt", "circle+vpt"])
def test_without_a_head(name: str | None) -> None:
    model = wrapped_tiny("transformers-clip")
    prompter = None if name is None else vp.Prompter.from_name(name)
    reason = "learns nothing" if name in (None, "circle") else "not been trained"
    with pytest.raises(vp.InvalidInputError, match=rf"has none \(it .*{reason}"):
        vp.Runner(model, prompter).predict(vp.Request(tinted_noise(0), region=vp.Box(4, 4, 20, 20)))


def test_a_prompt_without_a_head() -> None:
    model = wrapped_tiny("transformers-clip")
    prompter: Any = vp.Prompter.from_name("vpt")
    prompter.build(model)
    with pytest.raises(vp.InvalidInputError, match="without one"):
        vp.Runner(model, prompter).predict(vp.Request(tinted_noise(0)))


def test_two_heads_and_ensembles(trained: tuple[vp.Model, Any]) -> None:
    model, prompter = trained
    with pytest.raises(vp.InvalidInputError, match="2 parts"):
        vp.Runner(model, prompter + prompter).predict(vp.Request(tinted_noise(0)))
    ensemble = vp.Ensemble([prompter, vp.Prompter.from_name("circle")])
    with pytest.raises(vp.InvalidInputError, match="ensemble"):
        vp.Runner(model, ensemble).predict(vp.Request(tinted_noise(0)))


def test_another_model(trained: tuple[vp.Model, Any]) -> None:
    with pytest.raises(vp.UnsupportedError, match="was learned on"):
        vp.Runner(wrapped_tiny("open-clip-vit"), trained[1]).predict(vp.Request(tinted_noise(0)))


def test_many_classes_need_wider_masks() -> None:
    names = tuple(str(number) for number in range(300))
    item = Prediction("7", 7, 1.0, np.eye(300, dtype=np.float32)[7], names)
    assert list(item.top(1)) == ["7"]
    model = wrapped_tiny("transformers-vit")
    data = Labelled([halves(0), halves(1)], names, kind="segmentation", ignore_index=999)
    prompter = fitted(model, data, epochs=1)
    (found,) = vp.Runner(model, prompter).predict(vp.Request(halves(0)[0]))
    assert found.mask is not None
    assert found.mask.dtype == np.uint16
