"""The learned patches that ship: found by the weights of the model, used as asked, and never taken for another's."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import visprompt as vp
from visprompt import bundled
from visprompt.data.scenes.unlabelled import generated
from visprompt.data.scenes.world import scene
from visprompt.learned import bundled_prompts as lookup
from visprompt.models.lvlm.vision_encoder import encoder_of
from visprompt.persistence.model_card import figures_of
from visprompt.persistence.prompt_files import CARD, CONFIG, WEIGHTS
from visprompt.registry import get_class
from visprompt.tasks.base import run_hash
from visprompt.tasks.condition import Condition
from visprompt.tasks.referring import Referring
from visprompt.testing import conformance, conformance_lvlm
from visprompt.testing.chat_server import ChatServer, images

PATCHES = tuple(f"patch-{name}" for name in bundled.names())


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {name: vp.load_model(f"bundled:{name}") for name in bundled.names()}


def requests(count: int = 3) -> list[vp.Request]:
    drawn = [scene(700 + number, size_wh=(64, 64)) for number in range(count)]
    return [vp.Request(one.pil, region=vp.Box(*one.objects[-1].box_xyxy), query="what is it?") for one in drawn]


def shipped(name: str, **options: Any) -> Any:
    return vp.Prompter.from_pretrained(f"bundled:patch-{name}", **options)


def painted(prompter: vp.Prompter, model: Any, items: list[vp.Request] | None = None) -> np.ndarray:
    return np.stack([np.asarray(one.image) for one in prompter.prompt(items or requests(), model)])


# -- what ships -------------------------------------------------------------------------------------------------------


def test_every_bundled_model_has_one() -> None:
    assert bundled.patches() == PATCHES
    assert bundled.patch_path("bundled:patch-scenes-clip") == bundled.patch_path("patch-scenes-clip")
    with pytest.raises(ValueError, match="there are patch-scenes-clip"):
        bundled.patch_path("scenes-clip")


@pytest.mark.parametrize("name", PATCHES)
def test_a_folder_is_small_and_complete(name: str) -> None:
    folder = bundled.patch_path(name)
    assert {file.name for file in folder.iterdir()} == {CONFIG, WEIGHTS, CARD, "patch.png"}
    assert sum(file.stat().st_size for file in folder.iterdir()) < 100_000
    assert (folder / WEIGHTS).stat().st_size < 50_000
    content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    (part,) = content["parts"]
    assert part["backbone"]["name"] == f"bundled:{name.removeprefix('patch-')}"
    assert not any(str(value).startswith("/") for value in _leaves(content))
    found: Any = vp.Prompter.from_pretrained(f"bundled:{name}")
    seen = np.asarray(Image.open(folder / "patch.png"))
    assert np.array_equal(seen.transpose(2, 0, 1), found.state()["prompt.rgba"].numpy())
    assert figures_of(found.record)
    assert "vp.Prompter.from_pretrained" in (folder / CARD).read_text(encoding="utf-8")


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    return [leaf for item in value for leaf in _leaves(item)] if isinstance(value, list) else [value]


def test_another_name_gets_those_there_are() -> None:
    with pytest.raises(
        vp.UnknownNameError, match=r"did you mean 'bundled:patch-scenes-mae'.*Known: .*patch-scenes-clip"
    ):
        vp.Prompter.from_pretrained("bundled:patch-scene-mae")
    with pytest.raises(vp.UnknownNameError, match="bundled:patch-scenes-clip"):
        vp.Prompter.from_pretrained("bundled:scenes-clip")
    with pytest.raises(vp.InvalidInputError, match="revision are for hub ids"):
        vp.Prompter.from_pretrained("bundled:patch-scenes-clip", revision="main")


# -- finding it -------------------------------------------------------------------------------------------------------


def test_one_object_takes_each_models_own_patch(models: dict[str, Any]) -> None:
    prompter: Any = vp.Prompter.from_name("patch")
    for name in (*models, *reversed(models)):
        used = prompter.on(models[name])
        assert used.backbone["name"] == f"bundled:{name}"
        assert torch.equal(used.state()["prompt.rgba"], shipped(name).state()["prompt.rgba"])
        assert used.options == shipped(name).options
        assert np.array_equal(painted(prompter, models[name]), painted(shipped(name), models[name]))
    assert prompter.parameters is prompter.backbone is None
    assert prompter.record == {}
    marks = {name: shipped(name).state()["prompt.rgba"].numpy().tobytes() for name in models}
    assert len(set(marks.values())) == len(marks)


def test_it_is_found_through_every_way_of_running(models: dict[str, Any]) -> None:
    model, items = models["scenes-clip"], requests()
    found, wanted = vp.Runner(model, vp.Prompter.from_name("patch")), vp.Runner(model, shipped("scenes-clip"))
    assert torch.equal(found.encode(items), wanted.encode(items))
    assert torch.equal(found.score(items, ["a red star"]), wanted.score(items, ["a red star"]))
    assert np.array_equal(found.attention(items)[0].maps, wanted.attention(items)[0].maps)
    assert [np.asarray(one).tobytes() for one in found.render(items)] == [
        np.asarray(one).tobytes() for one in wanted.render(items)
    ]
    llava = models["scenes-llava"]
    answers = [
        vp.Runner(llava, one).generate(items[:1], max_new_tokens=3)
        for one in (vp.Prompter.from_name("patch"), shipped("scenes-llava"))
    ]
    assert answers[0] == answers[1]


def test_what_ships_draws_attention_to_places_it_has_not_seen(models: dict[str, Any]) -> None:
    """Its own figure, on other scenes than it was learned, chosen and measured on."""
    held = generated((64, 64), sizes={"train": 1, "validation": 0, "test": 40}, seed=77)
    prompter: Any = vp.Prompter.from_name("patch")
    found = prompter.evaluate(models["scenes-clip"], held)
    assert found["gain"] > 1
    assert found == shipped("scenes-clip").evaluate(models["scenes-clip"], held)
    assert prompter.parameters is None
    with pytest.raises(vp.InvalidInputError, match="nothing to measure"):
        prompter.evaluate(conformance.wrapped("timm-vit")[1], held)


def test_threads_with_one_object_and_two_models_do_not_mix(models: dict[str, Any]) -> None:
    prompter, names = vp.Prompter.from_name("patch"), ("scenes-clip", "scenes-mae", "scenes-clip-annotated")
    wanted = {name: painted(shipped(name), models[name]) for name in names}
    lookup._loaded.cache_clear()
    wrong: list[str] = []
    start = threading.Barrier(len(names))

    def work(name: str) -> None:
        start.wait(timeout=60)
        for _ in range(5):
            if not np.array_equal(painted(prompter, models[name]), wanted[name]):
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_copy_in_another_folder_and_type_is_the_same_model(tmp_path: Path, dtype: str) -> None:
    shutil.copytree(bundled.path("scenes-clip-annotated"), tmp_path / "mine")
    copied = vp.load_model(str(tmp_path / "mine"), dtype=dtype)
    used: Any = vp.Prompter.from_name("patch")
    assert used.on(copied).backbone["name"] == "bundled:scenes-clip-annotated"


def test_the_vision_part_alone_is_enough() -> None:
    from transformers import AutoImageProcessor, CLIPVisionModel

    folder = bundled.path("scenes-clip")
    module = CLIPVisionModel.from_pretrained(folder, local_files_only=True)
    alone = vp.wrap(module, AutoImageProcessor.from_pretrained(folder, local_files_only=True))
    prompter: Any = vp.Prompter.from_name("patch")
    assert prompter.on(alone).backbone["name"] == "bundled:scenes-clip"


def test_of_a_language_model_the_tower_counts(models: dict[str, Any]) -> None:
    llava, prompter = models["scenes-llava"], vp.Prompter.from_name("patch")
    assert prompter.on(encoder_of(llava)).backbone["name"] == "bundled:scenes-llava"  # type: ignore[attr-defined]
    changed = vp.load_model("bundled:scenes-llava")
    with torch.no_grad():
        for block in changed.tower_named("decoder").blocks:
            for item in block.parameters():
                item.mul_(1.5)
    assert prompter.on(changed).backbone["name"] == "bundled:scenes-llava"  # type: ignore[attr-defined]


def test_a_model_that_was_trained_further_is_another(models: dict[str, Any]) -> None:
    model = vp.load_model("bundled:scenes-clip")
    prompter: Any = vp.Prompter.from_name("patch")
    assert prompter.on(model) is not prompter
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for item in model.module.parameters():
            item += 0.1 * item.std() * torch.randn(item.shape, generator=generator) if item.numel() > 1 else 0
    assert prompter.on(model) is prompter
    with pytest.raises(vp.InvalidInputError, match=r"none ships for bundled:scenes-clip: learn one on it") as error:
        vp.Runner(model, prompter).encode(requests())
    for way in ("prompter.fit(model)", "visprompt fit patch", 'from_pretrained("bundled:patch-scenes-clip")', *PATCHES):
        assert way in str(error.value)
    moved = vp.Runner(model, shipped("scenes-clip")).encode(requests())
    assert not torch.equal(moved, vp.Runner(model).encode(requests()))


def test_models_of_another_shape_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from visprompt.models import identity

    for name in bundled.patches():
        lookup._loaded(name)

    def never(tower: Any) -> Any:
        raise AssertionError("weights were looked at")

    monkeypatch.setattr(identity, "_measured", never)
    prompter: Any = vp.Prompter.from_name("patch")
    for name in ("timm-vit", "open-clip-resnet"):
        model = conformance.wrapped(name)[1]
        assert prompter.on(model) is prompter
    assert prompter.on(conformance_lvlm.wrapped("qwen2-5-vl")[1]) is prompter


def test_weights_are_looked_at_once(models: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from visprompt.models import identity

    counted: list[int] = []
    original = identity._measured
    monkeypatch.setattr(identity, "_measured", lambda tower: counted.append(1) or original(tower))
    model = vp.load_model("bundled:scenes-mae")
    runner = vp.Runner(model, vp.Prompter.from_name("patch"))
    for _ in range(3):
        runner.encode(requests())
    assert len(counted) == 1


# -- options ----------------------------------------------------------------------------------------------------------


def another(name: str) -> tuple[Any, Any]:
    """Of an option that belongs to what was learned: the shipped value, and one that is not."""
    value = getattr(shipped("scenes-clip").options, name)
    others = {
        "size": (2.5, 3.5), "shape": ("circle", "square"), "ratio": (0.3, 0.7), "blending": ("over", "add"),
        "prior": ("conv", "none"), "pixels": (40, 41), "sigma_tokens": (0.7, 1.3), "blocks": ((-1,), (-2,)),
        "jitter_shift": (1.0, 0.5), "jitter_scale": (0.1, 0.2), "jitter_brightness": (0.1, 0.2),
    }  # fmt: skip
    return value, next(one for one in others[name] if one != value)


LEARNED = (
    "size", "shape", "ratio", "blending", "prior", "pixels", "sigma_tokens", "blocks", "jitter_shift", "jitter_scale",
    "jitter_brightness",
)  # fmt: skip


def test_an_option_belongs_to_learning_or_to_use() -> None:
    kind: Any = conformance.get_class("patch")
    assert {item.name for item in dataclasses.fields(kind.Options)} == {*LEARNED, *kind.free}
    assert not kind.free & {*LEARNED}


@pytest.mark.parametrize("name", LEARNED)
def test_an_option_of_learning_that_differs_is_refused_with_both_values(models: dict[str, Any], name: str) -> None:
    there, other = another(name)
    same: Any = vp.Prompter.from_name("patch", **{name: there})
    assert getattr(same.on(models["scenes-clip"]).options, name) == there
    prompter = vp.Prompter.from_name("patch", **{name: other})
    with pytest.raises(vp.InvalidInputError, match=r"ships for bundled:scenes-clip was learned with") as error:
        vp.Runner(models["scenes-clip"], prompter).encode(requests())
    assert f"{name}={there!r}, and {name}={other!r} is asked for" in str(error.value)
    assert "prompter.fit(model)" in str(error.value)
    with pytest.raises(vp.InvalidInputError, match=f"{name} belongs to what 'patch' has learned.*opacity, place"):
        shipped("scenes-clip", **{name: other})


def test_what_is_given_counts_even_if_it_is_the_default(
    models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shipped patch may have been learned with something else than the defaults."""
    for name in bundled.patches():
        lookup._loaded(name)
    patch: Any = lookup.prompt_for(get_class("patch"), models["scenes-clip"])
    default = vp.Prompter.from_name("patch").options.size
    monkeypatch.setattr(patch, "options", dataclasses.replace(patch.options, size=default + 1, opacity=0.7))
    left: Any = vp.Prompter.from_name("patch")
    assert left.on(models["scenes-clip"]).options == patch.options
    opaque: Any = vp.Prompter.from_name("patch", opacity=1.0)
    assert opaque.on(models["scenes-clip"]).options == dataclasses.replace(patch.options, opacity=1.0)
    given: Any = vp.Prompter.from_name("patch", size=default)
    with pytest.raises(vp.InvalidInputError, match="size"):
        given.on(models["scenes-clip"])


def test_options_of_use_are_free(models: dict[str, Any]) -> None:
    model = models["scenes-clip"]
    chosen: dict[str, Any] = {"place": "rim", "rim_marks": 6, "opacity": 0.5, "size_share": 0.2}
    asked: Any = vp.Prompter.from_name("patch", **chosen)
    used = asked.on(model).options
    assert {name: getattr(used, name) for name in chosen} == chosen
    learned = shipped("scenes-clip").options
    assert [getattr(used, name) for name in LEARNED] == [getattr(learned, name) for name in LEARNED]
    assert np.array_equal(painted(asked, model), painted(shipped("scenes-clip", **chosen), model))
    assert not np.array_equal(painted(asked, model), painted(vp.Prompter.from_name("patch"), model))
    with pytest.raises(vp.UnknownNameError, match="did you mean 'opacity'"):
        shipped("scenes-clip", opacty=1)
    with pytest.raises(vp.InvalidInputError, match="opacity is a number"):
        shipped("scenes-clip", opacity=2)


def test_every_preset_that_does_not_contradict_it_works(models: dict[str, Any]) -> None:
    from visprompt.registry import settings

    learned = shipped("scenes-clip").options
    presets = settings(conformance.get_class("patch"))["presets"]
    assert presets
    for preset, values in presets.items():
        clash = {name for name, value in values.items() if name in LEARNED and getattr(learned, name) != value}
        prompter: Any = vp.Prompter.from_name("patch", preset=preset)
        if clash:
            with pytest.raises(vp.InvalidInputError, match="was learned with"):
                prompter.on(models["scenes-clip"])
        else:
            assert prompter.on(models["scenes-clip"]) is not prompter


def test_switched_off_it_needs_no_patch(models: dict[str, Any]) -> None:
    off = vp.Prompter.from_name("patch", opacity=0.0)
    for model in (models["scenes-clip"], conformance.wrapped("timm-vit")[1]):
        plain = conformance.encode(model, None, requests())
        assert torch.equal(plain, vp.Runner(model, off).encode(requests()))
    with pytest.raises(vp.InvalidInputError, match="needs a region"):
        vp.Runner(models["scenes-clip"], off).encode(vp.Request(requests()[0].image))


# -- with others, and what rows say -----------------------------------------------------------------------------------


def test_compositions_and_ensembles(models: dict[str, Any]) -> None:
    model, items = models["scenes-clip"], requests()
    falip, crop, texts = vp.Prompter.from_name("falip"), vp.Prompter.from_name("crop"), ["a red star", "a blue ring"]
    both = vp.Runner(model, vp.Prompter.from_name("patch+falip", strength=2.0)).encode(items)
    assert torch.equal(
        both, vp.Runner(model, shipped("scenes-clip") + vp.Prompter.from_name("falip", strength=2.0)).encode(items)
    )
    assert not torch.equal(both, vp.Runner(model, falip).encode(items))
    joined = vp.Runner(model, vp.Prompter.from_name("patch|crop")).score(items, texts)
    alone = [vp.Runner(model, one).score(items, texts) for one in (shipped("scenes-clip"), crop)]
    assert torch.allclose(joined, alone[0] + alone[1])


def test_rows_depend_on_the_weights_that_ship(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("patch", "patch+falip", "patch|crop"):
        before = run_hash(Referring(), {"model": 1}, Condition(name), "data")
        assert before == run_hash(Referring(), {"model": 1}, Condition(name), "data")
        with monkeypatch.context() as inner:
            shutil.copytree(bundled.patch_path("patch-scenes-mae").parent, tmp_path / name / "patches")
            inner.setattr(bundled, "_HERE", tmp_path / name)
            _relearn(tmp_path / name / "patches" / "scenes-mae")
            lookup._config.cache_clear()
            assert before != run_hash(Referring(), {"model": 1}, Condition(name), "data")
        lookup._config.cache_clear()
        assert before == run_hash(Referring(), {"model": 1}, Condition(name), "data")


def test_rows_of_benchmarks_take_saved_ones(models: dict[str, Any], tmp_path: Path) -> None:
    """By name or folder, alone and joined; what is learned again is other rows."""
    shipped("scenes-clip").save_pretrained(tmp_path / "mine")
    mine = str(tmp_path / "mine")
    found, named = (
        Condition(f"{mine}+falip", {"strength": 2.0}),
        Condition("bundled:patch-scenes-clip+falip", {"strength": 2.0}),
    )
    assert found.describe()["members"] == named.describe()["members"]
    assert [one.name for one in Condition(f"{mine}|crop").members() if one is not None] == ["patch", "crop"]
    (member,) = Condition(mine, {"place": "rim"}).members()
    assert member is not None
    assert member.options.place == "rim"
    before = run_hash(Referring(), {"model": 1}, found, "data")
    _relearn(tmp_path / "mine")
    assert before != run_hash(Referring(), {"model": 1}, found, "data")
    with pytest.raises(vp.InvalidInputError, match="no preset"):
        Condition(mine, preset="full").members()
    with pytest.raises(vp.InvalidInputError, match="size belongs to what"):
        Condition(mine, {"size": 2.0}).members()
    with pytest.raises(vp.UnknownNameError, match="unknown strategy"):
        Condition("bundled:patch-scenes-clip+falp").members()


def _relearn(folder: Path) -> None:
    """Another patch in a folder, as another training would leave it."""
    found: Any = vp.Prompter.from_pretrained(folder)
    found.parameters.rgba[0, 0, 0] ^= 1
    found.save_pretrained(folder)


def test_exported_images_of_another_model_are_made_again(models: dict[str, Any], tmp_path: Path) -> None:
    from visprompt.data.questions.question import Question
    from visprompt.tasks.export import export

    path = tmp_path / "one.png"
    requests()[0].image.save(path)
    asked = [Question(id="1", images=(path,), text="what is it?", targets=(vp.Box(8, 8, 40, 40),))]
    seen = []
    for name in ("scenes-clip", "scenes-mae", "scenes-clip"):
        ((row,), errors) = export(asked, vp.Prompter.from_name("patch"), models[name], tmp_path / "out")
        assert not errors
        seen.append(np.asarray(Image.open(tmp_path / "out" / row["images"][0])).tobytes())
    assert seen[0] == seen[2] != seen[1]


# -- elsewhere --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["transformers-siglip", "timm-vit", "open-clip-resnet"])
def test_one_that_is_loaded_works_on_any_encoder(name: str) -> None:
    model, items = conformance.wrapped(name)[1], conformance.requests()
    moved = vp.Runner(model, shipped("scenes-clip")).encode(items)
    assert ((moved - conformance.encode(model, None, items)).abs().amax(dim=1) > 0).all()


@pytest.mark.parametrize("name", ["llava-next", "qwen2-5-vl"])
def test_one_that_is_loaded_works_on_language_models(name: str) -> None:
    model = conformance_lvlm.wrapped(name)[1]
    plain = conformance_lvlm.first_logits(model, None)
    assert not torch.equal(plain, conformance_lvlm.first_logits(model, shipped("scenes-llava")))


def test_a_server_gets_the_image_with_the_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ChatServer() as server:
        remote = vp.load_model("remote:some", base_url=server.base_url)
        (item,) = requests(1)
        with pytest.raises(vp.InvalidInputError, match=r"none ships for remote:some: take one .*another model"):
            vp.Runner(remote, vp.Prompter.from_name("patch")).generate([item])
        assert vp.Runner(remote, shipped("scenes-llava")).generate([item]) == ["red"]
        (got,) = images(server.bodies[-1])
    changed = (np.asarray(got).astype(int) != np.asarray(item.pil_image)).any(axis=-1)
    assert 0 < changed.mean() < 0.5
    (prompt,) = shipped("scenes-llava").prompt(item, remote)
    assert np.array_equal(np.asarray(got), np.asarray(prompt.image))


def test_a_composition_with_a_patch_is_saved_with_its_image(models: dict[str, Any], tmp_path: Path) -> None:
    model = models["scenes-clip"]
    both = shipped("scenes-clip", opacity=0.8) + vp.Prompter.from_name("falip", strength=2.0)
    both.save_pretrained(tmp_path / "both")
    image = np.asarray(Image.open(tmp_path / "both" / "patch.png"))
    assert np.array_equal(image, np.asarray(shipped("scenes-clip").image()))
    again = vp.Prompter.from_pretrained(tmp_path / "both")
    assert again.describe() == both.describe()
    assert torch.equal(vp.Runner(model, again).encode(requests()), vp.Runner(model, both).encode(requests()))
    rim: Any = vp.Prompter.from_pretrained(tmp_path / "both", place="rim", strength=3.0)
    assert (rim.parts[0].options.place, rim.parts[1].options.strength) == ("rim", 3.0)
    two = shipped("scenes-clip") + shipped("scenes-mae")
    two.save_pretrained(tmp_path / "two")
    second = np.asarray(Image.open(tmp_path / "two" / "1-patch.png"))
    assert np.array_equal(second, np.asarray(shipped("scenes-mae").image()))


def test_what_ships_can_be_saved_for_a_model(models: dict[str, Any], tmp_path: Path) -> None:
    prompter: Any = vp.Prompter.from_name("patch")
    with pytest.raises(vp.InvalidInputError, match="nothing to save"):
        prompter.save_pretrained(tmp_path / "none")
    prompter.on(models["scenes-mae"]).save_pretrained(tmp_path / "mae")
    again: Any = vp.Prompter.from_pretrained(tmp_path / "mae")
    assert torch.equal(again.state()["prompt.rgba"], shipped("scenes-mae").state()["prompt.rgba"])
    with pytest.raises(vp.InvalidInputError, match=r"learned nothing yet; what ships .*prompter\.on\(model\)"):
        prompter.array()
