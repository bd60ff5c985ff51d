"""Classification and segmentation on tiny encoders: figures against plain loops, gradients only where something is
learned, features kept only where the tower is left alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tinted_noise, wrapped_tiny
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import visprompt as vp
from visprompt.data.labelled.dataset import Labelled
from visprompt.learned.strategy import Learned
from visprompt.testing.tiny import tiny, tiny_names
from visprompt.training.objectives.base import Objective
from visprompt.training.objectives.classification import Classification, zero_shot_head
from visprompt.training.objectives.encoder import Embedded
from visprompt.training.objectives.segmentation import Segmentation, confusion, segmentation_figures
from visprompt.training.objectives.select import objective_for
from visprompt.training.settings import FitSettings

NAMES = [name for name in tiny_names() if tiny(name).has_attention and "naflex" not in name]
CLASSES = ("red", "green", "blue")


def scene(seed: int) -> tuple[Image.Image, np.ndarray]:
    """Two squares on a dark ground; the upper rows are not labelled."""
    draws = np.random.default_rng(seed)
    pixels = draws.integers(0, 60, (80, 100, 3)).astype(np.uint8)
    mask = np.zeros((80, 100), dtype=np.uint8)
    for number in (1, 2):
        x, y = draws.integers(0, 60), draws.integers(0, 40)
        pixels[y : y + 36, x : x + 36] = (220 * (number == 1), 30, 220 * (number == 2))
        mask[y : y + 36, x : x + 36] = number
    mask[:4] = 255
    return Image.fromarray(pixels), mask


COLOURS = Labelled([(tinted_noise(seed), seed % 3) for seed in range(9)], CLASSES, name="colours")
SCENES = Labelled([scene(seed) for seed in range(8)], ("ground", *CLASSES[::2]), kind="segmentation", name="scenes")


def built(model: vp.Model, **options: Any) -> Learned:
    prompter = vp.Prompter.from_name("vpt", **{"prompts": 3, "dropout": 0.0, **options})
    assert isinstance(prompter, Learned)
    prompter.build(model)
    return prompter


def objective(model: vp.Model, prompter: Learned, data: Labelled, **settings: Any) -> Any:
    kind = objective_for(model, data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = kind(model, prompter, {"train": data, "validation": data}, FitSettings(**settings))
    prompter.head = made.head
    return made


def batch_of(made: Objective, indices: Any = range(4), split: Any = "train", epoch: int = 0) -> dict[str, Any]:
    samples = made.samples(split)
    batch = made.collate([samples[index, epoch] for index in indices])
    assert batch is not None
    return batch


@contextmanager
def frozen(model: vp.Model) -> Iterator[None]:
    """As the loop does it."""
    model.module.requires_grad_(False)
    try:
        yield
    finally:
        model.module.requires_grad_(True)


# -- every encoder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_prompt_and_head_alone(name: str, kind: str) -> None:
    model = wrapped_tiny(name)
    prompter = built(model)
    made = objective(model, prompter, COLOURS if kind == "classification" else SCENES)
    batch = batch_of(made)
    with frozen(model), made.loss(batch, [1, 2, 3, 4]) as loss:
        loss.backward()
    modules = prompter.trainable()
    assert set(modules) == {"prompt", "head"}
    for module in modules.values():
        for item in module.parameters():
            assert item.grad is not None
            assert item.grad.isfinite().all()
            assert item.grad.ne(0).any()
    assert all(item.grad is None for item in model.module.parameters())
    measured = made.measure(batch)
    assert int(measured["count"]) == 4
    figures = made.figures(measured)
    assert figures["loss"] == pytest.approx(float(loss.detach()) / 4, rel=1e-4)
    assert made.metric in figures


def test_sums_do_not_depend_on_the_batches() -> None:
    model = wrapped_tiny("transformers-clip")
    for data in (COLOURS, SCENES):
        made = objective(model, built(model), data)
        whole = made.measure(batch_of(made, range(8), "validation"))
        parts = [made.measure(batch_of(made, part, "validation")) for part in ((0, 1, 2), (3, 4), (5, 6, 7))]
        assert all(whole[name].dtype == parts[0][name].dtype for name in whole)
        for name, item in whole.items():
            torch.testing.assert_close(sum(part[name] for part in parts), item, rtol=1e-5, atol=1e-5)
        with made.loss(batch_of(made, range(8)), None) as loss:
            assert float(loss.detach()) == pytest.approx(float(whole["loss"]), rel=1e-5)


# -- classification ---------------------------------------------------------------------------------------------------


def test_figures_against_a_plain_loop() -> None:
    model = wrapped_tiny("timm-vit")
    data = Labelled(
        [(tinted_noise(seed), label) for seed, label in enumerate([0, 0, 0, 1, 2, 0, 1])], (*CLASSES, "grey")
    )
    prompter = built(model)
    made = objective(model, prompter, data)
    found = made.figures(made.measure(batch_of(made, range(7), "validation")))
    right, losses = [], []
    for index in range(7):
        with torch.no_grad():
            prompts = prompter.prompt([vp.Request(data.image(index))], model)
            logits = made.head(model.encode(prompts).embeddings)[0]
        losses.append(float(logits.logsumexp(0) - logits[data.labels[index]]))
        right.append(int(logits.argmax()) == data.labels[index])
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert found["accuracy"] == pytest.approx(np.mean(right))
    by_class = [np.mean([ok for ok, label in zip(right, data.labels, strict=True) if label == c]) for c in range(3)]
    assert found["class_accuracy"] == pytest.approx(np.mean(by_class))


@pytest.mark.parametrize(("name", "norm"), [("transformers-vit-mae", "layer"), ("transformers-vit", "none")])
def test_embeddings_that_are_means_are_standardised(name: str, norm: str) -> None:
    model = wrapped_tiny(name)
    assert objective(model, built(model), COLOURS).head.describe()["norm"] == norm
    assert objective(model, built(model), COLOURS, head="mlp").head.describe()["norm"] == norm


ZERO_SHOT = ["transformers-clip", "transformers-siglip", "open-clip-vit", "open-clip-siglip"]


@pytest.mark.parametrize("name", ZERO_SHOT)
def test_zero_shot_is_what_score_gives(name: str) -> None:
    """With one template to the letter; with several, the model's own logits for the averaged embedding."""
    model = wrapped_tiny(name)
    prompter = built(model, prompts=0)
    requests = [vp.Request(COLOURS.image(index)) for index in range(3)]
    one = zero_shot_head(model, CLASSES, ["a photo of a {}"])
    runner = vp.Runner(model)
    with torch.no_grad():
        images = runner.encode(requests)
    wanted = runner.score(requests, [f"a photo of a {name}" for name in CLASSES])
    torch.testing.assert_close(one(images), wanted, atol=1e-4, rtol=1e-4)
    several = zero_shot_head(model, CLASSES, ["a photo of a {}", "{}"])
    with torch.no_grad():
        unit = [F.normalize(model.embed_text([text.replace("{}", c) for c in CLASSES]), dim=-1) for text in
                ("a photo of a {}", "{}")]  # fmt: skip
        wanted = model.logits(images, (unit[0] + unit[1]) / 2)
    torch.testing.assert_close(several(images), wanted, atol=1e-4, rtol=1e-4)
    made = objective(model, prompter, COLOURS, head="zero-shot")
    found = made.figures(made.measure(batch_of(made, range(3), "validation")))
    labels = torch.tensor(COLOURS.labels[:3])
    assert found["loss"] == pytest.approx(float(F.cross_entropy(one(images), labels)), rel=1e-3)


def test_a_prompt_can_be_taught_for_class_names() -> None:
    model = wrapped_tiny("open-clip-vit")
    prompter = built(model)
    made = objective(model, prompter, COLOURS, head="zero-shot")
    with frozen(model), made.loss(batch_of(made), [0] * 4) as loss:
        loss.backward()
    (tokens,) = prompter.parameters.parameters()  # type: ignore[union-attr]
    assert tokens.grad is not None
    assert tokens.grad.ne(0).any()
    assert not list(made.head.parameters())


# -- kept features ----------------------------------------------------------------------------------------------------


def test_a_linear_probe_runs_the_tower_once() -> None:
    model = wrapped_tiny("transformers-vit")
    made = objective(model, built(model, prompts=0), COLOURS, batch_size=4)
    plain = batch_of(made)  # the model wants gradients here, so it may be about to change
    assert "pixel_values" in plain
    with frozen(model):
        kept = batch_of(made)
        assert isinstance(made.samples("train"), Embedded)
        assert made.samples("train") is made.samples("train")
        assert "pixel_values" not in kept
        for name in ("index", "label"):
            assert torch.equal(kept[name], plain[name])
        with made.loss(plain, None) as wanted, made.loss(kept, None) as found:
            torch.testing.assert_close(found, wanted)
            found.backward()
        fresh = COLOURS.subset(range(9))
        with torch.autocast("cpu", torch.bfloat16):
            again = objective(model, built(model, prompts=0), fresh, batch_size=4)
            assert torch.equal(batch_of(again)["embedding"], kept["embedding"])
    assert all(item.grad is not None and item.grad.ne(0).any() for item in made.head.parameters())


def test_the_runs_of_a_sweep_have_features_in_common() -> None:
    """As long as it is the same data, in the same fit, on the same weights."""
    model = wrapped_tiny("timm-vit")

    def embeddings(data: Labelled = COLOURS, **settings: Any) -> dict[int, Tensor]:
        made = objective(model, built(model, prompts=0), data, **settings)
        with frozen(model):
            found = made.samples("train")
        assert isinstance(found, Embedded)
        return found.embeddings

    first = embeddings(lr=0.1)
    assert embeddings(lr=0.2) is first
    assert embeddings(COLOURS.subset(range(3))) is not first
    squashed = embeddings(fit="squash")
    assert not torch.equal(squashed[0], first[0])
    with torch.no_grad():
        model.module.norm.bias.add_(1)  # type: ignore[union-attr, operator]
    assert not torch.equal(embeddings(fit="squash")[0], squashed[0])


@pytest.mark.parametrize(
    ("strategy", "options", "settings"),
    [
        ("vpt", {"prompts": 2}, {}),
        ("gated", {"prompts": 0}, {}),  # shapes the attention
        ("vpt", {"prompts": 0}, {"augment": "flip"}),
        ("vpt", {"prompts": 0}, {"epochs": 1}),
        ("vpt", {"prompts": 0}, {"max_steps": 3, "batch_size": 4}),
    ],
)
def test_no_features_are_kept_that_change_or_are_not_worth_it(
    strategy: str, options: dict[str, Any], settings: dict[str, Any]
) -> None:
    model = wrapped_tiny("transformers-vit")
    prompter: Any = vp.Prompter.from_name(strategy, **options)
    prompter.build(model)
    with frozen(model):
        assert "pixel_values" in batch_of(objective(model, prompter, COLOURS, **settings))


def test_images_that_cannot_be_read_stay_left_out() -> None:
    model = wrapped_tiny("transformers-vit")

    def broken() -> Image.Image:
        raise OSError("cut off")

    items = [(tinted_noise(0), 0), (broken, 1), (tinted_noise(2), 2)]
    made = objective(model, built(model, prompts=0), Labelled(items, CLASSES, on_bad="skip"))
    with frozen(model), pytest.warns(UserWarning, match="left out"):
        batch = batch_of(made, range(3))
    assert batch["index"].tolist() == [0, 2]
    assert made.collate([None, None]) is None


# -- segmentation -----------------------------------------------------------------------------------------------------


def loop_miou(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int, ignore: int) -> tuple[float, float]:
    """Class by class and pixel by pixel."""
    overlap, union, right, total = [0] * classes, [0] * classes, 0, 0
    for found, mask in pairs:
        for p, t in zip(found.ravel().tolist(), mask.ravel().tolist(), strict=True):
            if t == ignore:
                continue
            total += 1
            right += p == t
            for c in range(classes):
                overlap[c] += p == c and t == c
                union[c] += c in (p, t)
    shares = [a / b for a, b in zip(overlap, union, strict=True) if b]
    return sum(shares) / len(shares), right / total


def test_miou_against_a_plain_loop() -> None:
    draws = np.random.default_rng(0)
    pairs = [(draws.integers(-1, 4, (9, 7)), draws.choice([0, 1, 3, 255], (9, 7))) for _ in range(3)]
    counted = sum(confusion(found, mask, 6, 255) for found, mask in pairs)
    found = segmentation_figures(counted)  # type: ignore[arg-type]
    assert (found["miou"], found["pixel_accuracy"]) == pytest.approx(loop_miou(pairs, 6, 255))


@pytest.mark.parametrize("fit", ["model", "squash", "pad"])
def test_measured_in_the_pixels_of_the_image(fit: str) -> None:
    model = wrapped_tiny("transformers-clip")  # crops what is not square
    prompter = built(model)
    made = objective(model, prompter, SCENES, fit=fit)
    with torch.no_grad():
        made.head.out.weight.mul_(200)  # some of every class
    found = made.figures(made.measure(batch_of(made, range(3), "validation")))
    runner = vp.Runner(model, prompter, fit=fit)
    prompter.record = {"classes": list(SCENES.classes)}
    masks = [item.mask for item in runner.predict([vp.Request(SCENES.image(index)) for index in range(3)])]
    pairs = [(mask, np.asarray(SCENES.label(index))) for index, mask in enumerate(masks) if mask is not None]
    assert (found["miou"], found["pixel_accuracy"]) == pytest.approx(loop_miou(pairs, 3, 255), rel=1e-6)
    unseen = [int((mask == 255).sum()) for mask, _ in pairs]
    assert unseen == [20 * 80 if fit == "model" else 0] * 3


def test_the_loss_is_a_mean_over_labelled_pixels() -> None:
    model = wrapped_tiny("timm-vit")
    made = objective(model, built(model), SCENES)
    batch = batch_of(made, range(3))
    batch["label"][2] = made.ignore  # nothing of it is labelled
    with torch.no_grad():
        with made.loss(batch, None) as loss:
            pass
        with made.encoded(batch, None) as encoding:
            logits = made._logits(batch, encoding.features)
    assert logits.shape[-2:] == batch["pixel_values"].shape[-2:]
    wanted = [F.cross_entropy(logits[i : i + 1], batch["label"][i : i + 1], ignore_index=255) for i in range(2)]
    torch.testing.assert_close(loss, wanted[0] + wanted[1])


@pytest.mark.parametrize("head", [None, "linear"])
def test_it_learns_something(head: Any) -> None:
    model = wrapped_tiny("transformers-dinov2")
    prompter = built(model)
    made = objective(model, prompter, SCENES, head=head)
    batch = batch_of(made, range(8))
    weights = [item for module in prompter.trainable().values() for item in module.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=0.003 if head is None else 0.03)
    losses = []
    with frozen(model):
        for _ in range(12):
            optimizer.zero_grad()
            with made.loss(batch, list(range(8))) as loss:
                (loss / 8).backward()
            optimizer.step()
            losses.append(float(loss.detach()) / 8)
    assert losses[0] == pytest.approx(math.log(3), abs=0.2)
    assert losses[-1] < 0.75 * losses[0]


def test_an_input_that_is_no_whole_number_of_patches() -> None:
    """The rest, which the model ignores, gets what stands at the edge."""
    from visprompt.geometry.geometry import Tile
    from visprompt.training.objectives.segmentation import pixel_logits

    tile = Tile((1.0, 1.0), (0.0, 0.0), (30, 33), (3, 4), (8.0, 8.0))

    def head(features: Tensor, grid_hw: tuple[int, int], size_hw: tuple[int, int]) -> Tensor:
        assert grid_hw == (3, 4)
        return torch.arange(size_hw[0] * size_hw[1]).float().view(1, 1, *size_hw)

    logits = pixel_logits(head, torch.zeros(1, 12, 5), tile)
    assert logits.shape == (1, 1, 30, 33)
    assert torch.equal(logits[0, 0, :24, :32], torch.arange(24 * 32).float().view(24, 32))
    assert torch.equal(logits[0, 0, 24:, :32], logits[0, 0, 23:24, :32].expand(6, -1))


# -- which, and what is refused ---------------------------------------------------------------------------------------


def test_by_kind_of_data() -> None:
    model = wrapped_tiny("timm-vit")
    assert objective_for(model, COLOURS) is Classification
    assert objective_for(model, SCENES) is Segmentation
    answers = Labelled([(tinted_noise(0), ("What colour?", "red"))], (), kind="answers")
    with pytest.raises(vp.UnsupportedError, match="encoder"):
        objective_for(model, answers)


def test_what_is_refused() -> None:
    model = wrapped_tiny("timm-vit")
    with pytest.raises(vp.UnsupportedError, match=r'no text tower.*head="linear"'):
        objective(model, built(model), COLOURS, head="zero-shot")
    with pytest.raises(vp.InvalidInputError, match="one per pixel"):
        objective(model, built(model), SCENES, head="mlp")


def test_packed_images_are_refused() -> None:
    model = wrapped_tiny("transformers-siglip2-naflex")
    prompter: Any = vp.Prompter.from_name("vpt", prompts=0)
    with pytest.raises(vp.UnsupportedError, match="packed"):
        Classification(model, prompter, {"train": COLOURS}, FitSettings())
