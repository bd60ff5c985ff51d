"""`visprompt ask`, and `visprompt show` with a question, on a tiny LVLM in a folder, an encoder, and a server."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import visprompt as vp
from visprompt.cli import app as cli
from visprompt.cli import show_heatmap as cli_heat
from visprompt.data.scenes.questions import scene_questions
from visprompt.data.scenes.world import scene
from visprompt.geometry.geometry import Geometry, Tile
from visprompt.plots import heatmaps as plots_heat
from visprompt.testing.chat_server import ChatServer, chunk, completion, images
from visprompt.testing.tiny_lvlm import tiny_lvlm

RUNNER = CliRunner()
QUESTION = "What is the red star next to?"


def run(*words: str) -> tuple[str, str]:
    """Standard output and standard error of a command that works."""
    found = RUNNER.invoke(cli.app, list(words), catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout, found.stderr


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny-llava")
    made = tiny_lvlm("llava")
    made.module.save_pretrained(folder)  # type: ignore[operator]
    made.processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def image(tmp_path: Path) -> str:
    scene(3, hard=True).pil.save(tmp_path / "scene.png")
    return str(tmp_path / "scene.png")


def answer_of(folder: str, path: str, prompter: str | None = None, **options: object) -> str:
    made = None if prompter is None else vp.Prompter.from_name(prompter)
    request = vp.Request(path, query=QUESTION, regions_as="together", **options)  # type: ignore[arg-type]
    return str(vp.Runner(vp.load_model(folder), made).generate([request], max_new_tokens=6)[0])


class TestAsk:
    def test_prints_the_answer_and_nothing_else(self, llava: str, image: str) -> None:
        out, err = run("ask", image, QUESTION, "-m", llava, "--max-new-tokens", "6")
        assert out == answer_of(llava, image) + "\n"
        assert "cut at 6 tokens" in err

    def test_streams_the_same_answer(self, llava: str, image: str) -> None:
        words = ("ask", image, QUESTION, "-m", llava, "--max-new-tokens", "6")
        assert run(*words, "--stream")[0].strip() == run(*words)[0].strip()

    def test_json(self, llava: str, image: str) -> None:
        out, _ = run("ask", image, QUESTION, "-m", llava, "--max-new-tokens", "6", "--json")
        found = json.loads(out)
        assert found.keys() == {"question", "answer", "tokens", "finished"}
        assert (found["question"], found["answer"]) == (QUESTION, answer_of(llava, image))

    def test_a_strategy_acts_and_its_image_is_saved(self, llava: str, image: str, tmp_path: Path) -> None:
        save = tmp_path / "new" / "asked.png"
        words = ("ask", image, QUESTION, "-m", llava, "-r", "8,8,40,40", "--max-new-tokens", "6", "--save", str(save))
        out, err = run(*words, "-p", "circle", "-o", "width=3")
        made = vp.Prompter.from_name("circle", width=3)
        request = vp.Request(image, region=vp.Box(8, 8, 40, 40), query=QUESTION)
        (expected,) = vp.Runner(vp.load_model(llava), made).render([request])
        assert np.array_equal(np.asarray(Image.open(save)), np.asarray(expected))
        assert f"wrote {save}" in err
        assert out.strip()
        run(*words, "-p", "falip", "-o", "strength=2")
        (tinted,) = vp.Runner(vp.load_model(llava), vp.Prompter.from_name("falip", strength=2)).render([request])
        assert np.array_equal(np.asarray(Image.open(save)), np.asarray(tinted))

    def test_marks_of_several_regions_come_into_one_image(self, llava: str, image: str, tmp_path: Path) -> None:
        save = tmp_path / "som.png"
        places = ("-r", "2,2,30,30", "-r", "34,34,60,60")
        run("ask", image, "Which?", "-m", llava, *places, "-p", "som", "--save", str(save), "--max-new-tokens", "2")
        boxes = [vp.Box(2, 2, 30, 30), vp.Box(34, 34, 60, 60)]
        request = vp.Request(image, region=boxes, regions_as="together", query="Which?")
        (expected,) = vp.Runner(vp.load_model(llava), vp.Prompter.from_name("som")).render([request])
        assert np.array_equal(np.asarray(Image.open(save)), np.asarray(expected))

    def test_several_images_and_frames(self, llava: str, image: str, tmp_path: Path) -> None:
        other = tmp_path / "other.png"
        scene(4).pil.save(other)
        save = tmp_path / "both.png"
        out, _ = run("ask", image, str(other), QUESTION, "-m", llava, "--max-new-tokens", "6", "--save", str(save))
        request = vp.Request([image, str(other)], query=QUESTION)
        assert out.strip() == vp.Runner(vp.load_model(llava)).generate([request], max_new_tokens=6)[0]
        assert not save.exists()
        assert [Image.open(tmp_path / f"both-{number}.png").size for number in (1, 2)] == [(64, 64), (64, 64)]
        assert run("ask", image, str(other), QUESTION, "-m", llava, "--video", "--max-new-tokens", "2")[0].strip()


class TestBundled:
    """What somebody sees who names no model."""

    def test_it_answers_what_one_sees(self, tmp_path: Path) -> None:
        (question,) = scene_questions("test", seed=0, count=1)
        question.image.save(tmp_path / "scene.png")
        out, err = run("ask", str(tmp_path / "scene.png"), question.text)
        assert (out, err) == (question.answer + "\n", "")

    def test_it_shows_where_it_looks(self, tmp_path: Path) -> None:
        (question,) = scene_questions("test", seed=0, count=1)
        question.image.save(tmp_path / "scene.png")
        words = ("-m", "bundled:scenes-llava", "--out", str(tmp_path / "shown.png"))
        run("show", str(tmp_path / "scene.png"), question.text, *words)
        assert (tmp_path / "shown.png").exists()


class TestRemote:
    def test_a_server_gets_the_prompted_image(
        self, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("openai")
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        save = tmp_path / "asked.png"
        with ChatServer() as server:
            words = ("ask", image, QUESTION, "-m", "remote:m", "--base-url", server.base_url, "-p", "circle")
            server.reply = lambda body, number: completion("a blue moon")
            assert run(*words, "-r", "8,8,40,40", "--save", str(save))[0] == "a blue moon\n"
            server.reply = lambda body, number: [chunk("a "), chunk("moon"), chunk(None, "stop"), "data: [DONE]\n\n"]
            assert run(*words, "-r", "8,8,40,40", "--stream")[0] == "a moon\n"
            (sent,) = images(server.bodies[0])
        assert np.array_equal(np.asarray(sent.convert("RGB")), np.asarray(Image.open(save)))


class TestShow:
    def test_a_crop_is_said(self, llava: str, tmp_path: Path) -> None:
        wide = tmp_path / "wide.png"
        Image.new("RGB", (128, 64), "teal").save(wide)
        words = ("show", str(wide), QUESTION, "-m", llava, "--max-new-tokens", "2", "--out", str(tmp_path / "a.png"))
        with pytest.warns(UserWarning, match=r"the model saw \(32, 0, 96, 64\).*--fit pad"):
            run(*words)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            run(*words, "--fit", "pad")

    def test_where_a_decoder_looks(self, llava: str, image: str, tmp_path: Path) -> None:
        out = tmp_path / "shown.png"
        run("show", image, QUESTION, "-m", llava, "--out", str(out), "--max-new-tokens", "3")
        with Image.open(out) as plain:
            width, height = plain.size
        words = ("-p", "falip", "-r", "8,8,40,40", "--block", "0", "--block", "-1", "--max-new-tokens", "3")
        run("show", image, "-q", QUESTION, "-m", llava, *words, "--out", str(out))
        with Image.open(out) as two:
            assert two.width > 1.2 * width, "a column for the second block"
            assert two.height > 1.6 * height, "a row without, a row with"

    def test_maps_are_the_answers_own(self, llava: str, image: str, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[plots_heat.Look] = []
        monkeypatch.setattr(plots_heat, "answer_figure", lambda question, looks: seen.extend(looks))
        request = vp.Request(image, region=vp.Box(8, 8, 40, 40), query=QUESTION)
        model = vp.load_model(llava)
        cli_heat.answers(model, request, vp.Prompter.from_name("circle"), "circle", "model", [1], 4)
        assert [look.label for look in seen] == ["without", "with circle"]
        for look, made in zip(seen, (None, vp.Prompter.from_name("circle")), strict=True):
            (expected,) = vp.Runner(model, made).answer([request], blocks=[0, 1, 2, 3], max_new_tokens=4)
            block, mean = look.panels
            assert np.allclose(block.values, expected.maps[0].image_map(1))
            heads = expected.maps[0].values.mean(1)
            assert np.allclose(mean.values, expected.maps[0].geometry.to_map(heads.mean(0).numpy()))
            share = expected.maps[0].mass().mean(1)[1] / heads[1].sum()
            assert f"{heads[1].sum():.0%} of attention on the image" in block.title
            assert f"of it {float(share):.0%} in the region (even: " in block.title
            assert look.answer.startswith(expected.text)
            assert look.tiles == ()

    def test_where_an_encoder_looks_for_a_text(self, image: str, tmp_path: Path) -> None:
        out = tmp_path / "shown.png"
        text = "a red star"
        for words in ((text,), (text, "-r", "8,8,40,40"), ("-q", text, "-p", "api"), ("-q", text, "--block", "2")):
            run("show", image, *words, "--out", str(out))
            with Image.open(out) as shown:
                assert shown.width > 900
            out.unlink()

    def test_tiles_get_a_panel_each(self) -> None:
        image = scene(3).pil.resize((128, 64))
        tiles = tuple(Tile((2.0, 2.0), (-128.0 * number, 0.0), (128, 128), (4, 4)) for number in range(2))
        geometry = Geometry(image.size, tiles)
        values = np.linspace(0, 1, 32, dtype=np.float32)
        panel = plots_heat.Panel("block 1", geometry.to_map(values))
        boxes = [tile.seen_xyxy for tile in tiles]
        parts = tuple(plots_heat.TileMap(values[16 * i : 16 * i + 16].reshape(4, 4), boxes[i]) for i in range(2))
        look = plots_heat.Look("plain", image, image, "costs $5 or $6", (panel,), parts, (), "block 1")
        figure = plots_heat.answer_figure("How much?\n" + "long " * 60, [look])
        maps, tiled = figure.subfigs
        titles = [axes.get_title() for axes in tiled.axes if axes.get_title()]
        assert titles == ["tile 0: x 0–64, y 0–64", "tile 1: x 64–128, y 0–64"]
        assert [axes.get_xlim() for axes in tiled.axes[:2]] == [(0, 64), (64, 128)]
        for number in range(2):
            (_, drawn) = tiled.axes[number].images
            assert np.allclose(np.asarray(drawn.get_array()), parts[number].values)
            assert tuple(drawn.get_extent()) == (64 * number, 64 * number + 64, 64, 0)
        assert maps.get_supxlabel() == r"answer: costs \$5 or \$6"
        assert sum("attention per image token" in axes.get_ylabel() for axes in maps.axes + tiled.axes) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("ask", "IMAGE"), "a question comes after the images"),
        (("ask", "IMAGE", "IMAGE"), "a question comes after the images"),
        (("ask", "none.png", "What?"), "none.png"),
        (("ask", "IMAGE", "What?", "-r", "1,2,30,40"), "name one with --prompter"),
        (("ask", "IMAGE", "IMAGE", "What?", "-r", "1,2,30,40", "-p", "circle"), "regions go with one image"),
        (("ask", "IMAGE", "What?", "-p", "crcle"), "did you mean 'circle'"),
        (("ask", "IMAGE", "What?", "-p", "circle", "-m", "LLAVA"), "needs a region"),
        (("ask", "IMAGE", "What?", "--save", "x.jpg"), "--save should end in .png"),
        (("ask", "IMAGE", "What?", "--save", "IMAGE/x.png"), "is a file and not a"),
        (("ask", "IMAGE", "What?", "--base-url", "http://x/v1"), "--model remote:NAME"),
        (("ask", "IMAGE", "What?", "--json", "--stream"), "give one of them"),
        (("ask", "IMAGE", "What?", "--fit", "sqush"), "did you mean 'squash'"),
        (("ask", "IMAGE", "What?", "-m", "bundled:scenes-clip"), "is an encoder and writes no text"),
        (("ask", "IMAGE", "What?", "-m", "LLAVA", "--dtype", "int8"), "is not a floating type"),
        (("show", "IMAGE", "What?", "-q", "What?"), "given twice"),
        (("show", "IMAGE", "-m", "LLAVA", "-p", "none"), "answers questions: give one"),
        (("show", "IMAGE", "What?", "-m", "LLAVA", "--block", "9"), "9"),
        (("show", "IMAGE", "a star", "--block", "1", "--block", "2"), "one block"),
        (("show", "IMAGE", "-p", "none", "--block", "1", "--block", "2"), "one block"),
    ],
)
def test_mistakes_are_one_red_line(
    words: tuple[str, ...],
    message: str,
    image: str,
    llava: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = tuple(word.replace("IMAGE", image).replace("LLAVA", llava) for word in words)
    monkeypatch.setattr(sys, "argv", ["visprompt", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if "error:" in line]
    assert message in line
    assert "Traceback" not in err
