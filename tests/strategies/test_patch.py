"""The learned patch: pasted where and as large as it should be, learned by gradients that reach nothing else, and in
use nothing but pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from visprompt.strategies.patch import Patch, PatchOptions

import visprompt as vp
from visprompt.data.labelled.dataset import Labelled, Splits
from visprompt.data.labelled.unlabelled import read_images, unlabelled
from visprompt.data.scenes.unlabelled import generated
from visprompt.geometry.geometry import Geometry, Tile
from visprompt.imaging.paste import random_colours
from visprompt.testing import conformance, conformance_lvlm
from visprompt.training import loop as fitting
from visprompt.training.objectives.patch_attention import AttentionTarget
from visprompt.training.patch.priors import Baked, ConvPrior
from visprompt.training.progress_images import IMAGE

#: CLS, pooling probe and mean readouts, with and without registers, of three libraries
MODELS = (
    "transformers-clip",
    "transformers-siglip",
    "transformers-dinov2-registers",
    "transformers-dinov3",
    "transformers-deit",
    "transformers-vit-mae",
    "open-clip-vit",
    "open-clip-siglip",
    "timm-vit",
    "timm-vit-mean",
    "timm-deit-distilled",
    "timm-beit",
)
FAST = {"batch_size": 8, "lr": 0.05, "warmup_epochs": 0, "progress": False}


def images(n: int = 16, seed: int = 0, wh: tuple[int, int] = (64, 64)) -> list[Image.Image]:
    return [conformance.image(wh, seed + number) for number in range(n)]


def data(train: int = 16, held: int = 8) -> Splits:
    parts = (unlabelled(images(train), name="train"), unlabelled(images(held, 100), name="held"))
    return Splits(*parts, None, "made up")


def made(array: np.ndarray | None = None, **options: Any) -> Patch:
    """A patch that is learned already: plain red, or an array of uint8 `[4, r, r]`."""
    prompter: Any = vp.Prompter.from_name("patch", **options)
    if array is None:
        array = np.zeros((4, 16, 16), dtype=np.uint8)
        array[[0, 3]] = 255
    prompter.parameters = Baked(torch.from_numpy(array))
    prompter.backbone = {"name": "elsewhere", "grid_hw": [8, 8]}
    return prompter  # type: ignore[no-any-return]


def painted(prompter: Patch, request: vp.Request, model: Any) -> np.ndarray:
    """Where a request's image, black, has become red."""
    (prompt,) = prompter.prompt(request, model)
    return np.asarray(prompt.image)[..., 0] > 127


def black(wh: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", wh)


class Grid:
    """A model of which only the geometry is known."""

    name, generates, supports = "grid", False, frozenset({"pixels"})

    def __init__(self, *tiles: Tile) -> None:
        self.tiles = tiles

    def has_tower(self, name: str) -> bool:
        return name == "vision"

    def require(self, acts_on: frozenset[str], strategy: str) -> None:
        assert acts_on == {"pixels"}

    def geometry_of(self, prompt: vp.VisualPrompt, tower: str | None = None) -> Geometry:
        return Geometry(prompt.image.size, self.tiles)


# -- where and how large --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("size", [2.0, 3.0])
def test_it_is_so_many_tokens_large_at_any_resolution(scale: float, size: float) -> None:
    model = Grid(Tile((scale, scale), (0.0, 0.0), (64, 64), (8, 8)))
    side = round(64 / scale)
    item = vp.Request(black((side, side)), region=vp.Point(side / 2, side / 2))
    found = painted(made(size=size), item, model)
    wanted = size * 8 / scale
    assert found.sum() == pytest.approx(wanted**2, rel=0.1)
    rows, columns = np.nonzero(found)
    assert (rows.mean() + 0.5, columns.mean() + 0.5) == pytest.approx((side / 2, side / 2))


def test_a_squashed_image_gets_a_patch_that_is_square_for_the_model() -> None:
    model = Grid(Tile((0.5, 1.0), (0.0, 0.0), (64, 64), (8, 8)))
    found = painted(made(size=2.0), vp.Request(black((128, 64)), region=vp.Point(64, 32)), model)
    rows, columns = np.nonzero(found)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (16, 32)


def test_of_several_tiles_the_coarsest_counts() -> None:
    whole = Tile((0.5, 0.5), (0.0, 0.0), (64, 64), (8, 8))
    corner = Tile((1.0, 1.0), (0.0, 0.0), (64, 64), (8, 8))
    found = painted(made(size=2.0), vp.Request(black((128, 128)), region=vp.Point(30, 30)), Grid(corner, whole))
    assert found.sum() == 32 * 32


@pytest.mark.parametrize("region", [vp.Box(8, 16, 56, 48), vp.Point(32, 32, 12)])
def test_centre_and_rim(region: Any) -> None:
    model = Grid(Tile((1.0, 1.0), (0.0, 0.0), (64, 64), (16, 16)))
    item = vp.Request(black((64, 64)), region=region)
    assert painted(made(size=1.0), item, model)[30:34, 30:34].all()
    rim = painted(made(size=1.0, place="rim", rim_marks=6), item, model)
    assert rim.sum() == (16 if isinstance(region, vp.Point) else 6 * 16)
    assert bool(rim[32, 32]) is isinstance(region, vp.Point)


def test_several_regions_together_are_several_marks() -> None:
    model = Grid(Tile((1.0, 1.0), (0.0, 0.0), (64, 64), (16, 16)))
    regions = [vp.Point(10, 10), vp.Point(50, 10), vp.Point(30, 50)]
    together = vp.Request(black((64, 64)), region=regions, regions_as="together")
    assert painted(made(size=1.0), together, model).sum() == 3 * 16
    each = made(size=1.0).prompt(vp.Request(black((64, 64)), region=regions), model)
    assert [int((np.asarray(one.image)[..., 0] > 0).sum()) for one in each] == [16, 16, 16]


def test_without_known_tokens_the_share_it_was_learned_with_counts() -> None:
    remote = vp.load_model("remote:some", base_url="http://127.0.0.1:9/v1")
    item = vp.Request(black((96, 64)), region=vp.Point(48, 32))
    assert painted(made(size=2.0), item, remote).sum() == 16 * 16  # 2 of 8 tokens of 64 pixels
    assert painted(made(size=2.0, size_share=0.5), item, remote).sum() == 32 * 32


def test_opacity_and_blending() -> None:
    model = Grid(Tile((1.0, 1.0), (0.0, 0.0), (64, 64), (8, 8)))
    item = vp.Request(Image.new("RGB", (64, 64), (100, 100, 100)), region=vp.Point(32, 32))

    def level(**options: Any) -> tuple[int, ...]:
        (prompt,) = made(**options).prompt(item, model)
        found: tuple[int, ...] = prompt.image.getpixel((32, 32))
        return found

    assert level() == (255, 0, 0)
    assert level(opacity=0.5) == (178, 50, 50)
    assert level(blending="add", opacity=0.2) == (151, 49, 49)
    assert level(opacity=0.0) == (100, 100, 100)


def test_the_image_of_the_request_stays_as_it_is() -> None:
    item = vp.Request(black((64, 64)), region=vp.Point(32, 32))
    (prompt,) = made().prompt(item, conformance.wrapped("transformers-clip")[1])
    assert np.asarray(prompt.image).any()
    assert not np.asarray(item.pil_image).any()
    assert prompt.label == "patch"


# -- on every kind of model -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*MODELS, "open-clip-resnet", "transformers-siglip2-naflex"])
def test_a_patch_from_elsewhere_works_and_can_be_switched_off(name: str) -> None:
    _, model = conformance.wrapped(name)
    items = conformance.requests()
    with torch.no_grad():
        plain = vp.Runner(model).encode(items)
        moved = vp.Runner(model, made()).encode(items)
        off = vp.Runner(model, made(opacity=0.0)).encode(items)
    assert ((moved - plain).abs().amax(dim=1) > 0).all()
    assert torch.equal(plain, off)


@pytest.mark.parametrize("name", ["llava", "qwen2-5-vl", "llava-next"])
def test_it_works_on_vision_language_models(name: str) -> None:
    _, model = conformance_lvlm.wrapped(name)
    plain = conformance_lvlm.first_logits(model, None)
    assert not torch.equal(plain, conformance_lvlm.first_logits(model, made()))
    assert torch.equal(plain, conformance_lvlm.first_logits(model, made(opacity=0.0)))


def test_it_composes_with_attention() -> None:
    _, model = conformance.wrapped("transformers-clip")
    items = conformance.requests()
    with torch.no_grad():
        alone = vp.Runner(model, made()).encode(items)
        both = vp.Runner(model, made() + vp.Prompter.from_name("falip")).encode(items)
    assert ((alone - both).abs().amax(dim=1) > 0).all()


# -- learning it ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", ["conv", "none"])
def test_gradients_reach_the_prior_alone(prior: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = conformance.wrapped("transformers-clip")
    seen: list[tuple[bool, bool]] = []
    original = fitting._Run._share_gradients

    def look(self: Any, *args: Any) -> Any:
        own = all(item.grad is not None and bool(item.grad.abs().sum() > 0) for item in self.weights.values())
        seen.append((own, all(item.grad is None for item in model.module.parameters())))
        return original(self, *args)

    monkeypatch.setattr(fitting._Run, "_share_gradients", look)
    vp.Prompter.from_name("patch", prior=prior).fit(model, data(8, 4), epochs=1, **FAST)
    assert seen == [(True, True)]


def test_the_prior_is_a_parameterisation_of_training() -> None:
    _, model = conformance.wrapped("transformers-clip")
    prompter: Any = vp.Prompter.from_name("patch", size=3.0)
    prompter.build(model)
    assert isinstance(prompter.parameters, ConvPrior)
    before = prompter.state()
    found = prompter.fit(model, data(), epochs=4, **{**FAST, "lr": 0.01})
    assert found.parameters["prompt"] > 10_000
    assert list(prompter.state()) == ["prompt.rgba"]
    assert prompter.state()["prompt.rgba"].shape == (4, 24, 24)
    assert not torch.equal(before["prompt.rgba"], prompter.state()["prompt.rgba"])


def test_a_seed_makes_a_patch() -> None:
    _, model = conformance.wrapped("timm-vit")
    one, two, three = (vp.Prompter.from_name("patch", prior="none") for _ in range(3))
    for prompter, seed in ((one, 0), (two, 0), (three, 1)):
        prompter.fit(model, data(8, 4), epochs=2, seed=seed, **FAST)
    states = [prompter.state()["prompt.rgba"] for prompter in (one, two, three)]  # type: ignore[attr-defined]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


# -- the loss itself --------------------------------------------------------------------------------------------------


def test_loss_and_figures_are_what_plain_code_gives() -> None:
    """Pasting, attention, Gaussian and divergence again, in numpy, from what the public interface gives."""
    from visprompt.training.patch.pasting import draw_marks, overlaid
    from visprompt.training.settings import FitSettings

    _, model = conformance.wrapped("transformers-clip")
    splits = data(4, 4)
    prompter = made(np.random.default_rng(0).integers(0, 256, (4, 24, 24), dtype=np.uint8), size=2.0)
    objective = AttentionTarget(model, prompter, {"train": splits.train}, FitSettings())
    dataset = objective.samples("train")
    batch: Any = objective.collate([dataset[(i, 0)] for i in range(4)])
    measured = objective.measure(batch)
    sums = {name: float(item) for name, item in measured.items() if item.numel() == 1}
    with objective.loss(batch, None) as loss:
        assert loss.item() == pytest.approx(sums["loss"], rel=1e-5)
    tile = model.geometry((64, 64)).tiles[0]
    marks = draw_marks(objective._fixed(batch), tile, 2.0)
    last, total, mass = model.num_blocks - 1, 0.0, 0.0
    for number in range(4):
        y, x = marks.centre_yx[number].tolist()
        image = splits.train.image(number)
        with torch.no_grad():
            (prompt,) = prompter.prompt(vp.Request(image, region=vp.Point(x, y, 1)), model)
            attention = model.encode([prompt], read=[last]).attention[last][0].mean(0).numpy()
        attention = attention / attention.sum()
        rows, columns = (np.arange(size) + 0.5 for size in tile.grid_hw)
        far = (rows[:, None] - y / tile.patch_hw[0]) ** 2 + (columns[None, :] - x / tile.patch_hw[1]) ** 2
        target = np.exp(-far / 2 / 0.7**2).reshape(-1) / np.exp(-far / 2 / 0.7**2).sum()
        total += float((target * np.log(target / attention)).sum())
        mass += float(attention @ overlaid(marks, tile)[number].numpy())
    assert total == pytest.approx(sums["loss"], rel=0.01)  # 8 bits on the way there, none on this one
    assert mass == pytest.approx(sums["mass"], rel=0.01)
    figures = objective.figures(measured)
    assert figures["gain"] == pytest.approx(sums["mass"] / sums["mass_without"] - 1)
    one_by_one = [objective.measure(objective.collate([dataset[(i, 0)]])) for i in range(4)]
    m, b = (np.array([float(one[name]) for one in one_by_one]) for name in ("mass", "mass_without"))
    off = m - m.mean() / b.mean() * b
    assert figures["gain_high"] - figures["gain"] == pytest.approx(1.96 * off.std(ddof=1) / 2 / b.mean(), rel=1e-3)


# -- saving -----------------------------------------------------------------------------------------------------------


def test_saved_and_loaded_it_is_the_same_and_small(tmp_path: Path) -> None:
    _, model = conformance.wrapped("transformers-clip")
    prompter: Any = vp.Prompter.from_name("patch", shape="square", ratio=0.6)
    prompter.fit(model, data(8, 4), out=tmp_path / "run", epochs=1, **FAST)
    again: Any = vp.Prompter.from_pretrained(tmp_path / "run")
    assert torch.equal(prompter.state()["prompt.rgba"], again.state()["prompt.rgba"])
    assert again.options == prompter.options
    assert (tmp_path / "run" / "prompt.safetensors").stat().st_size < 16_000
    image = Image.open(tmp_path / "run" / IMAGE)
    assert image.mode == "RGBA"
    assert np.array_equal(np.asarray(image).transpose(2, 0, 1), again.state()["prompt.rgba"].numpy())
    items = conformance.requests()
    with torch.no_grad():
        assert torch.equal(vp.Runner(model, prompter).encode(items), vp.Runner(model, again).encode(items))
    assert prompter.describe() == again.describe()
    finished = vp.Prompter.from_name("patch", shape="square", ratio=0.6)
    finished.fit(model, data(8, 4), out=tmp_path / "run", epochs=1, **FAST)  # had ended: nothing is trained
    assert torch.equal(finished.state()["prompt.rgba"], again.state()["prompt.rgba"])  # type: ignore[attr-defined]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["parts"][0]["record"]["task"] == "attention"


def test_a_run_that_died_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = conformance.wrapped("transformers-clip")
    settings = {"epochs": 2, "checkpoint_every": 1, **FAST}
    whole: Any = vp.Prompter.from_name("patch", prior="conv")
    whole.fit(model, data(), out=tmp_path / "whole", **settings)
    original = fitting._Run._step

    def dying(self: Any, *args: Any) -> float:
        if self.state.step == 3:
            raise KeyboardInterrupt
        return original(self, *args)

    died: Any = vp.Prompter.from_name("patch", prior="conv")
    with monkeypatch.context() as inner:
        inner.setattr(fitting._Run, "_step", dying)
        with pytest.raises(KeyboardInterrupt):
            died.fit(model, data(), out=tmp_path / "died", **settings)
    died.fit(model, data(), out=tmp_path / "died", **settings)
    assert torch.equal(whole.state()["prompt.rgba"], died.state()["prompt.rgba"])


def test_a_sweep_keeps_the_best(tmp_path: Path) -> None:
    _, model = conformance.wrapped("timm-vit")
    prompter: Any = vp.Prompter.from_name("patch", prior="none")
    found = prompter.fit(model, data(8, 4), sweep={"size": [1.0, 3.0]}, out=tmp_path, epochs=1, **FAST)
    assert found.sweep[0]["size"] == prompter.options.size
    assert (tmp_path / IMAGE).exists()


def test_transfer_is_measured_by_evaluate() -> None:
    _, one = conformance.wrapped("transformers-clip")
    _, other = conformance.wrapped("timm-vit")
    prompter: Any = vp.Prompter.from_name("patch", prior="none")
    prompter.fit(one, data(8, 4), epochs=1, **FAST)
    figures = prompter.evaluate(other, unlabelled(images(4)))
    assert figures.keys() == {"loss", "gain", "gain_low", "gain_high", "image_gain", "mass", "mass_without"}


# -- data -------------------------------------------------------------------------------------------------------------


def test_images_without_labels(tmp_path: Path) -> None:
    for number, image in enumerate(images(6)):
        path = tmp_path / ("deep/er" if number % 2 else "") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    (tmp_path / "notes.txt").write_text("no image")
    found = read_images(tmp_path, validation=0.34)
    assert (len(found.train), len(found.validation or ()), found.train.kind) == (4, 2, "images")
    (tmp_path / "parts" / "train").mkdir(parents=True)
    (tmp_path / "parts" / "val").mkdir()
    images(1)[0].save(tmp_path / "parts" / "train" / "a.png")
    images(1)[0].save(tmp_path / "parts" / "val" / "b.png")
    parts = read_images(tmp_path / "parts")
    assert (len(parts.train), len(parts.validation or ())) == (1, 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(vp.InvalidInputError, match="no images"):
        read_images(tmp_path / "empty")


def test_all_the_ways_to_give_images(tmp_path: Path) -> None:
    _, model = conformance.wrapped("timm-vit")
    prompter = made()
    images(1)[0].save(tmp_path / "one.png")
    masks = Labelled([(one, np.zeros((64, 64), np.uint8)) for one in images(5)], ("a", "b"), kind="segmentation")
    for given in (None, str(tmp_path), tmp_path, images(5), masks, unlabelled(images(5)), data(), "scenes:count"):
        splits = prompter.splits(model, given)
        assert (splits.train.kind, splits.train.classes) == ("images", ())
        assert splits.train.image(0).mode == "RGB"
        assert prompter.splits(model, splits) is splits
    with pytest.raises(vp.InvalidInputError, match="data is a folder"):
        prompter.splits(model, 3)


def test_generated_scenes_are_the_same_every_time_and_none_twice() -> None:
    one, two = generated((48, 40), sizes={"train": 3}), generated((48, 40), sizes={"train": 3})
    assert one.train.image(2).size == (48, 40)
    assert one.describe() == two.describe()
    assert np.array_equal(one.train.image(1), two.train.image(1))
    assert not np.array_equal(one.train.image(1), one.validation.image(1))  # type: ignore[union-attr]


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": "star"}, "shape is one of"),
        ({"size": 0}, "size is a number from"),
        ({"size_share": 2}, "size_share is a number"),
        ({"ratio": 1.0}, "ratio is a number"),
        ({"rim_marks": 0}, "rim_marks is a whole number"),
        ({"pixels": 4}, "pixels is a whole number"),
        ({"blocks": ()}, "blocks is one block or several"),
        ({"blocks": ("last",)}, "a block is a number"),
        ({"prior": "gan"}, "prior is one of"),
        ({"jitter_shift": -1}, "jitter_shift is a number"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(vp.InvalidInputError, match=message):
        vp.Prompter.from_name("patch", **options)


def test_untrained_and_foreign_weights_say_so() -> None:
    _, model = conformance.wrapped("timm-vit")
    item = vp.Request(black((64, 64)), region=vp.Point(32, 32))
    with pytest.raises(vp.InvalidInputError, match="learned nothing yet"):
        vp.Runner(model, vp.Prompter.from_name("patch")).encode(item)
    with pytest.raises(vp.InvalidInputError, match="needs a region"):
        vp.Runner(model, made()).encode(vp.Request(black((64, 64))))
    wrong = (
        {"prompt.tokens": torch.zeros(1, 2, 3)},
        *({"prompt.rgba": torch.zeros(shape, dtype=torch.uint8)} for shape in ((4, 0, 0), (4, 3, 5), (3, 5, 5))),
    )
    for state in wrong:
        with pytest.raises(vp.InvalidInputError, match="a patch is one tensor"):
            made().load_state(state)


def test_options_are_data() -> None:
    assert PatchOptions(blocks=[-2, -1]).blocks == (-2, -1)  # type: ignore[arg-type]
    assert PatchOptions(blocks=-1).blocks == (-1,)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({"opacity": 0.0}, {}, "nothing can be learned"),
        ({"colours": "random"}, {}, "when that is loaded"),
        ({}, {"sweep": {"place": ["rim", "centre"]}}, "place says how a patch is used"),
        ({}, {"seed": "two"}, "seed"),
        ({}, {"seed": None}, "seed"),
    ],
)
def test_what_would_learn_nothing_says_so(options: dict[str, Any], settings: dict[str, Any], message: str) -> None:
    _, model = conformance.wrapped("transformers-clip")
    prompter = vp.Prompter.from_name("patch", **options)
    with pytest.raises((vp.InvalidInputError, vp.UnknownNameError), match=message):
        prompter.fit(model, data(), **FAST, **settings)
    assert prompter.parameters is None


def test_what_fails_to_learn_leaves_what_was_learned() -> None:
    _, model = conformance.wrapped("transformers-clip")
    for array in (None, made().array()):
        prompter: Any = vp.Prompter.from_name("patch") if array is None else made()
        record = prompter.record
        with pytest.raises(vp.InvalidInputError, match=r"gone\.jpg"):
            prompter.fit(model, [*images(4), "gone.jpg"], epochs=1, **FAST)
        if array is None:
            assert prompter.parameters is None
            assert prompter.backbone is None
        else:
            assert np.array_equal(prompter.array(), array)
            assert prompter.backbone["name"] == "elsewhere"
            assert prompter.record is record


def test_the_control_is_measured_with_its_own_colours() -> None:
    """Not with the learned ones, which `edit` does not paste either."""
    _, model = conformance.wrapped("transformers-clip")
    held = data().validation
    assert held is not None
    learned, control = made(), made(colours="random")
    array = learned.array()
    array[:3] = np.rint(random_colours(array) * 255)[:3] / 255
    drawn = made(np.rint(array * 255).astype(np.uint8))
    figures = control.evaluate(model, held)
    assert figures["loss"] == pytest.approx(drawn.evaluate(model, held)["loss"], rel=1e-5)
    assert figures["loss"] != pytest.approx(learned.evaluate(model, held)["loss"], rel=1e-4)
