"""A learned patch on LVLMs and remote models: it is in the image that they get, as large
as it should be, once for every region, and the answer is the model's own to that image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from visprompt.benchmarks.patch_decoder import decoder_masses

import visprompt as vp
from visprompt.data.scenes.world import scene
from visprompt.models.remote.model import RemoteModel
from visprompt.testing.chat_server import ChatServer, chunk, completion, images, question
from visprompt.testing.tiny_lvlm import TinyLvlm, tiny_lvlm, tiny_lvlm_names
from visprompt.training.patch.priors import Baked

SIDE = 96
QUESTION = "what is the red star on the left of the dog"


def grey(wh: tuple[int, int] = (SIDE, SIDE), seed: int = 0) -> Image.Image:
    """Noise without pure red."""
    values = np.random.default_rng(seed).integers(20, 200, (wh[1], wh[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def red(**options: Any) -> Any:
    """A patch as if it had been learned on an encoder with a grid of 8 × 8: all red."""
    prompter: Any = vp.Prompter.from_name("patch", **{"shape": "full", **options})
    values = torch.zeros((4, 24, 24), dtype=torch.uint8)
    values[[0, 3]] = 255
    prompter.parameters = Baked(values)
    prompter.backbone = {"name": "elsewhere", "grid_hw": [8, 8]}
    return prompter


def is_red(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return np.asarray((pixels[..., 0] == 255) & (pixels[..., 1] == 0) & (pixels[..., 2] == 0))


def extent(marked: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the marked pixels; asserts that they form a full rectangle."""
    rows, columns = np.nonzero(marked)
    found = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    assert marked[found[1] : found[3], found[0] : found[2]].all()
    return found


class Spy:
    """Records the arguments of a module's `generate`, and calls it."""

    def __init__(self, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[dict[str, Any]] = []
        original = module.generate

        def generate(*args: Any, **given: Any) -> Any:
            self.calls.append({key: item.clone() for key, item in given.items() if isinstance(item, torch.Tensor)})
            return original(*args, **given)

        monkeypatch.setattr(module, "generate", generate)

    def pixels(self) -> torch.Tensor:
        """Of the last call."""
        return self.calls[-1]["pixel_values"]


def patches_across(tiny: TinyLvlm, image: Image.Image) -> int:
    """Patches of the vision tower along a side of a square image, from what the model's authors' code says."""
    if tiny.name.startswith("qwen"):
        grid = tiny.processor.image_processor(images=[image], return_tensors="pt")["image_grid_thw"]
        return int(grid[0, 2])
    config: Any = tiny.module.config.vision_config
    sides = [item if isinstance(item, int) else item[0] for item in (config.image_size, config.patch_size)]
    return sides[0] // sides[1]


# -- models of transformers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny_lvlm_names())
def test_every_family_gets_it_three_of_its_patches_large(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = tiny_lvlm(name)
    model, image, prompter = vp.wrap(tiny.module, tiny.processor, name=name), grey(), red()
    item = vp.Request(image, region=vp.Box(36, 40, 60, 56), query=QUESTION)
    spy = Spy(model.module, monkeypatch)
    plain = vp.Runner(model).generate(item, max_new_tokens=2)
    before = spy.pixels()
    runner = vp.Runner(model, prompter)
    answers, [shown] = runner.generate(item, max_new_tokens=2), runner.render(item)
    sent = spy.pixels()
    assert not torch.equal(before, sent)
    # What is sent is what is shown.
    again = vp.Runner(model).generate(vp.Request(shown, query=QUESTION), max_new_tokens=2)
    assert torch.equal(spy.pixels(), sent)
    assert answers == again
    assert len(answers) == len(plain) == 1

    x0, y0, x1, y1 = extent(is_red(shown))
    assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((48, 48), abs=1)
    # Of an input that is not a whole number of patches the rest is ignored, which makes a patch a little larger.
    side = 3 * SIDE / patches_across(tiny, image)
    assert (x1 - x0, y1 - y0) == pytest.approx((side, side), abs=0.08 * side + 1)
    outside = np.ones((SIDE, SIDE), dtype=bool)
    outside[max(y0 - 1, 0) : y1 + 1, max(x0 - 1, 0) : x1 + 1] = False
    assert np.array_equal(np.asarray(shown)[outside], np.asarray(image)[outside])


@pytest.mark.parametrize("name", ["llava", "qwen2-5-vl", "internvl", "gemma3"])
def test_each_region_is_a_question_and_together_they_are_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = tiny_lvlm(name)
    model, prompter = vp.wrap(tiny.module, tiny.processor, name=name), red(size_share=0.125)
    regions = [vp.Box(8, 8, 32, 32), vp.Box(64, 60, 88, 84)]
    spots = [extent(is_red(item)) for item in vp.Runner(model, prompter).render(asked("each", regions))]
    assert spots == [(14, 14, 26, 26), (70, 66, 82, 78)]
    [both] = vp.Runner(model, prompter).render(asked("together", regions))
    wanted = np.zeros((SIDE, SIDE), dtype=bool)
    for x0, y0, x1, y1 in spots:
        wanted[y0:y1, x0:x1] = True
    assert np.array_equal(is_red(both), wanted)
    spy = Spy(model.module, monkeypatch)
    runner = vp.Runner(model, prompter, batch_size=2)
    assert len(runner.generate(asked("each", regions), max_new_tokens=2)) == 2
    together = runner.generate(asked("together", regions), max_new_tokens=2)
    assert len(together) == 1
    assert spy.calls[-1]["input_ids"].shape[0] == 1
    assert together == vp.Runner(model).generate(vp.Request(both, query=QUESTION), max_new_tokens=2)
    assert "".join(runner.generate(asked("together", regions), max_new_tokens=2, stream=True)).strip() == together[0]


@pytest.mark.parametrize("name", ["llava", "qwen2-5-vl"])
def test_of_several_images_the_one_with_a_region_is_marked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = tiny_lvlm(name)
    model, first, second = vp.wrap(tiny.module, tiny.processor, name=name), grey(seed=1), grey(seed=2)
    item = vp.Request([first, second], region=[None, vp.Box(36, 36, 60, 60)], query=QUESTION)
    shown = vp.Runner(model, red(size_share=0.25)).render(item)
    assert [bool(is_red(image).any()) for image in shown] == [False, True]
    assert extent(is_red(shown[1])) == (36, 36, 60, 60)
    spy = Spy(model.module, monkeypatch)
    answer = vp.Runner(model, red(size_share=0.25)).generate(item, max_new_tokens=2)
    sent = spy.pixels()
    assert answer == vp.Runner(model).generate(vp.Request(shown, query=QUESTION), max_new_tokens=2)
    assert torch.equal(spy.pixels(), sent)


def asked(regions_as: Any, regions: Any) -> vp.Request:
    return vp.Request(grey(), region=regions, regions_as=regions_as, query=QUESTION)


# -- the language model that ships with the package -------------------------------------------------------------------


@pytest.fixture(scope="module")
def llava() -> Any:
    return vp.load_model("bundled:scenes-llava")


def marked_scene(number: int) -> tuple[vp.Request, Image.Image]:
    drawn = scene(number)
    target = drawn.objects[0]
    item = vp.Request(drawn.pil, region=vp.Box(*target.box_xyxy), query=f"what colour is the {target.shape}?")
    return item, drawn.pil


@pytest.mark.parametrize("saved", ["bundled:patch-scenes-clip", "bundled:patch-scenes-llava", None])
def test_the_bundled_model_is_asked_about_the_marked_image(llava: Any, saved: str | None) -> None:
    prompter = vp.Prompter.from_name("patch") if saved is None else vp.Prompter.from_pretrained(saved)
    runner, plain = vp.Runner(llava, prompter), vp.Runner(llava)
    items = [marked_scene(number)[0] for number in range(4)]
    answers, shown = runner.generate(items, max_new_tokens=6), runner.render(items)
    assert all(answer.strip() for answer in answers)
    again = [vp.Request(image, query=item.query) for image, item in zip(shown, items, strict=True)]
    assert answers == plain.generate(again, max_new_tokens=6)
    for item, image in zip(items, shown, strict=True):
        changed = (np.asarray(image) != np.asarray(item.pil_image)).any(axis=-1)
        assert 20 < changed.sum() < 64 * 64 / 2
    assert "".join(runner.generate(items[0], max_new_tokens=6, stream=True)).strip() == answers[0].strip()


def test_it_goes_with_an_edit_of_the_decoder(llava: Any) -> None:
    item, image = marked_scene(3)
    prompter = vp.Prompter.from_pretrained("bundled:patch-scenes-llava")
    both = prompter + vp.Prompter.from_name("falip")
    [answer] = vp.Runner(llava, both).answer(item, blocks=[-1], max_new_tokens=4)
    [alone] = vp.Runner(llava, prompter).answer(item, blocks=[-1], max_new_tokens=4)
    assert answer.maps[0].mass(item.regions[0]).mean() > alone.maps[0].mass(item.regions[0]).mean()
    [prompt] = both.prompt(item, llava)
    assert not np.array_equal(np.asarray(prompt.image), np.asarray(image))
    assert prompt.attention


# -- models behind an API ---------------------------------------------------------------------------------------------


def remote(server: ChatServer) -> RemoteModel:
    model = vp.load_model("remote:some/model", base_url=server.base_url, max_retries=0)
    assert isinstance(model, RemoteModel)
    return model


def test_the_server_gets_the_image_with_the_patch(server: ChatServer) -> None:
    image = grey((80, 48))
    item = vp.Request(image, region=vp.Box(30, 14, 50, 34), query="what is under the mark?")
    assert vp.Runner(remote(server), red()).generate([item]) == ["red"]
    [body] = server.bodies
    [got] = images(body)
    assert (got.format, got.size, question(body)) == ("PNG", image.size, item.query)
    # Tokens of a server's model are not known: the share that three tokens have of a grid of eight.
    assert extent(is_red(got)) == (31, 15, 49, 33)
    rest = ~is_red(got)
    assert np.array_equal(np.asarray(got)[rest], np.asarray(image)[rest])


@pytest.mark.parametrize(("share", "side"), [(0.25, 12), (1.0, 48)])
def test_its_share_of_the_image_can_be_said(server: ChatServer, share: float, side: int) -> None:
    item = vp.Request(grey((80, 48)), region=vp.Point(40, 24), query="?")
    vp.Runner(remote(server), red(size_share=share)).generate([item])
    x0, y0, x1, y1 = extent(is_red(images(server.bodies[0])[0]))
    assert (x1 - x0, y1 - y0) == (side, side)


def test_each_and_together_on_a_server(server: ChatServer) -> None:
    server.reply = lambda body, number: completion(str(is_red(images(body)[0]).sum()))
    regions = [vp.Box(8, 8, 32, 32), vp.Box(64, 60, 88, 84)]
    runner = vp.Runner(remote(server), red(size_share=0.125))
    assert runner.generate(asked("each", regions)) == ["144", "144"]
    assert runner.generate(asked("together", regions)) == ["288"]
    assert len(server.bodies) == 3


def test_a_server_streams_the_answer_to_the_marked_image(server: ChatServer) -> None:
    server.reply = lambda body, number: [chunk("a "), chunk("star", "stop")]
    found = vp.Runner(remote(server), red()).generate(
        vp.Request(grey(), region=(20, 20, 60, 60), query="?"), stream=True
    )
    assert list(found) == ["a ", "star"]
    assert is_red(images(server.bodies[0])[0]).any()


def test_a_saved_patch_goes_to_a_server_and_an_unlearned_one_says_where_to_get_one(server: ChatServer) -> None:
    item = vp.Request(grey(), region=vp.Box(30, 30, 60, 60), query="?")
    with pytest.raises(vp.InvalidInputError, match=r'from_pretrained\("bundled:patch-scenes-clip"\)'):
        vp.Runner(remote(server), vp.Prompter.from_name("patch")).generate([item])
    assert not server.bodies
    vp.Runner(remote(server), vp.Prompter.from_pretrained("bundled:patch-scenes-clip")).generate([item])
    changed = (np.asarray(images(server.bodies[0])[0]) != np.asarray(item.pil_image)).any(axis=-1)
    assert changed.any()
    assert changed.sum() <= 36 * 36
    with pytest.raises(vp.InvalidInputError, match="region"):
        vp.Runner(remote(server), red()).generate([vp.Request(grey(), query="?")])


def test_the_decoder_looks_where_the_towers_patch_is(llava: Any) -> None:
    """The patch was trained on the vision tower's attention alone, not on answers."""
    patch = vp.Prompter.from_name("patch").on(llava)
    shown = [marked_scene(number)[1] for number in range(24)]
    masses = {
        name: decoder_masses(llava, marker, shown, 3.0)
        for name, marker in (("none", None), ("patch", [patch]), ("circle", [vp.Prompter.from_name("circle")]))
    }
    assert masses["none"].shape == (24, llava.num_blocks)
    mean = {name: item.mean(axis=0) for name, item in masses.items()}
    assert (mean["patch"] > mean["none"]).all()
    assert mean["patch"].mean() > mean["circle"].mean()
